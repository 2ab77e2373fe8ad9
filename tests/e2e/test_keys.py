"""`foliofs key rekey`: a new root key and a new key epoch."""
import json
import os
import shutil
import time

import pytest
from test_reader import reader
from vault_lib import ERROR, KEY, OK, PASSWORD, USAGE, Vault, store


def epochs(s):
    """The epochs that heads on the store are sealed under."""
    return {int.from_bytes(p.read_bytes()[4:8], "little") for p in (s.root / "heads").iterdir()}


def secret_file(stage, name, text):
    path = stage.dir / name
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def wait_for_keys(m, state, epoch, timeout_s=60):
    until = time.monotonic() + timeout_s
    while (m.status()["keys"], m.status()["key_epoch"]) != (state, epoch):
        assert time.monotonic() < until, m.status()
        time.sleep(0.2)


def generations(s):
    """How many headers stand in each generation, {number: count}."""
    return {int(p.name, 16): len(list(p.iterdir())) for p in (s.root / "header").iterdir() if p.is_dir()}


def wait_for_error(m, name, timeout_s=60):
    until = time.monotonic() + timeout_s
    while m.status()["last_error"] != name:
        assert time.monotonic() < until, m.status()
        time.sleep(0.2)


@pytest.mark.limit(300)
def test_new_keys_shut_out_the_old_ones_and_lose_nothing(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a, b = v.machine("a"), v.machine("b")
        cost = ("--kdf-cost", "15")
        with b.mount() as m:
            (m.dir / "old").write_text("before")
            m.sync()
        done = b.run("key", s.url, "add", "--new-password-file", secret_file(stage, "other", "another pass"), *cost)
        assert done.returncode == OK, done.stderr
        with a.mount() as early:
            assert (early.dir / "old").read_text() == "before"
            done = b.run("key", s.url, "rekey", "--json", *cost)
            assert done.returncode == OK, done.stderr
            said = json.loads(done.stdout)
            assert (said["epoch"], said["keys_let_go"]) == (2, 1), said
            assert b.run("ls", s.url, password="another pass").returncode == KEY
            done = b.run("ls", s.url, "--recovery", password=said["recovery"])
            assert done.returncode == OK, done.stderr
            with b.mount() as m:
                assert (m.dir / "old").read_text() == "before"
                (m.dir / "new").write_text("after")
                m.sync()
            assert 2 in epochs(s)
            # The middle: one file under each epoch.
            assert reader(stage, s, "cat", "/old") == b"before"
            assert reader(stage, s, "cat", "/new") == b"after"
            # Who is mounted with the keys of before says so, reads on, and keeps what is written.
            (early.dir / "mine").write_text("kept")
            wait_for_error(early, "KEY_CHANGED")
            assert early.try_sync() == KEY
            assert (early.dir / "old").read_text() == "before"
        with a.mount() as m:
            assert (m.dir / "mine").read_text() == "kept"
            assert (m.dir / "new").read_text() == "after"
            m.sync()
        assert reader(stage, s, "cat", "/mine") == b"kept"
        reader(stage, s, "check")
        # Once more, on a device that knows the epoch before; nothing else can be opened in between.
        done = a.run("key", s.url, "rekey", *cost)
        assert done.returncode == OK and said["recovery"] not in done.stdout, done.stderr
        done = b.run("key", s.url, "list")
        assert done.returncode == OK and "key epoch 3\n" in done.stdout, (done.stdout, done.stderr)
        assert b.run("ls", s.url, "--recovery", password=said["recovery"]).returncode == KEY
        assert PASSWORD not in done.stdout


@pytest.mark.limit(300)
def test_running_mounts_take_the_keys_of_a_rekey_elsewhere(stage):
    """One machine sees what was written under the new keys, the other was offline; neither is mounted again."""
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a, b, c = v.machine("a"), v.machine("b"), v.machine("c")
        with a.mount() as sees, c.mount() as away:
            (away.dir / "first").write_text("before")
            away.sync()
            assert a.run("sync", sees.dir).returncode == OK
            assert c.run("offline", away.dir).returncode == OK
            (away.dir / "offline").write_text("written without the server")
            assert sees.status()["keys"] == "current" and sees.status()["key_epoch"] == 1
            done = b.run("key", s.url, "rekey", "--json")
            assert done.returncode == OK, done.stderr
            with b.mount() as m:
                (m.dir / "new").write_text("after")
                m.sync()
                assert 2 in epochs(s)
                sees.sync()
                wait_for_keys(sees, "current", 2)
                assert (sees.dir / "new").read_text() == "after"
                (sees.dir / "later").write_text("by who was mounted before")
                sees.sync()
                assert c.run("online", away.dir).returncode == OK
                away.sync()
                wait_for_keys(away, "current", 2)
                assert (away.dir / "later").read_text() == "by who was mounted before"
                m.sync()
                assert (m.dir / "offline").read_text() == "written without the server"
        for name, text in (("first", "before"), ("offline", "written without the server"), ("new", "after"),
                           ("later", "by who was mounted before")):
            assert reader(stage, s, "cat", "/" + name) == text.encode()
        reader(stage, s, "check")
        # What the two remember is the new header: without the server too.  How much is under the old keys is counted.
        with c.mount() as m:
            assert (m.dir / "later").read_text() == "by who was mounted before"
            assert "old_key_packs" not in m.status()
            done = c.run("gc", m.dir, "--dry-run", "--json")
            assert done.returncode == OK, done.stderr
            found = json.loads(done.stdout)
            assert 0 < found["old_packs"] < found["live_packs"] and found["old_bytes"] > 0, found
            said = m.status()
            assert (said["old_key_packs"], said["old_key_bytes"]) == (found["old_packs"], found["old_bytes"])
            assert "under older keys" in c.run("status", m.dir).stdout
            assert "under older keys" in c.run("gc", m.dir, "--dry-run").stdout
            # The collector seals it again.
            done = c.run("gc", m.dir, "--json")
            assert done.returncode == OK, done.stderr
            sealed = json.loads(done.stdout)
            assert 0 < sealed["resealed_bytes"] <= found["old_bytes"], sealed
            done = c.run("gc", m.dir, "--dry-run", "--json")
            assert json.loads(done.stdout)["old_bytes"] == 0, done.stdout
            assert "under older keys" not in c.run("status", m.dir).stdout
            assert (m.dir / "offline").read_text() == "written without the server"
        reader(stage, s, "check", options=["--newest-keys-only"])


@pytest.mark.limit(300)
def test_what_is_there_is_sealed_again_when_it_is_asked_for(stage):
    """With `rekey --now` nothing needs the old keys any more, snapshots and older commits included, while another machine that
    was away has something unsent; mounted, the vault's own daemon does it."""
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a, b = v.machine("a"), v.machine("b")
        data = os.urandom(3 << 20)
        with b.mount() as away:
            with a.mount() as m:
                (m.dir / "dir").mkdir()
                (m.dir / "dir" / "data").write_bytes(data)
                (m.dir / "text").write_text("old text")
                m.sync()
                assert a.run("snapshot", m.dir, "create", "before").returncode == OK
                (m.dir / "text").write_text("new text")
                m.sync()
                assert b.run("sync", away.dir).returncode == OK
                assert b.run("offline", away.dir).returncode == OK
                with open(away.dir / "dir" / "data", "r+b") as f:
                    f.write(b"CHANGED")
                with open(away.dir / "unsent", "wb") as f:
                    f.write(data[::-1])
                    f.flush()
                    os.fsync(f.fileno())  # sealed, in the journal
                # Mounted here: the keys are new, the rest is the daemon's.
                done = a.run("key", s.url, "rekey", "--now")
                assert done.returncode == ERROR and "mounted here" in done.stderr and "key epoch 2." in done.stdout, done
            done = a.run("key", s.url, "rekey", "--now", "--json")
            assert done.returncode == OK, done.stderr
            said = [json.loads(line) for line in done.stdout.splitlines()]
            assert said[0]["epoch"] == 3 and said[1]["resealed_bytes"] > 3 << 20 and said[1]["left_bytes"] == 0, said
            reader(stage, s, "check", options=["--newest-keys-only"])
            assert reader(stage, s, "cat", "/dir/data", options=["--newest-keys-only"]) == data
            # What is not a rekey has nothing to wait for.
            assert a.run("key", s.url, "list", "--now").returncode == USAGE
            assert b.run("online", away.dir).returncode == OK
            away.sync()
            wait_for_keys(away, "current", 3)
            assert (away.dir / "text").read_text() == "new text"
            done = b.run("gc", away.dir, "--json")
            assert done.returncode == OK and json.loads(done.stdout)["resealed_bytes"] > 3 << 20, (done.stdout, done.stderr)
            reader(stage, s, "check", options=["--newest-keys-only"])
            assert reader(stage, s, "cat", "/dir/data") == b"CHANGED" + data[7:]
            assert reader(stage, s, "cat", "/unsent") == data[::-1]
            assert reader(stage, s, "cat", "/text") == b"new text"
        assert b"before" in reader(stage, s, "snapshots", options=["--newest-keys-only"])


@pytest.mark.limit(300)
def test_a_key_changed_elsewhere_is_said_and_stops_nothing(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a, b = v.machine("a"), v.machine("b")
        with a.mount() as m:
            (m.dir / "f").write_text("one")
            m.sync()
            done = b.run("key", s.url, "change", "--new-password-file", secret_file(stage, "new", "another pass"), "--kdf-cost", "15")
            assert done.returncode == OK, done.stderr
            assert a.run("offline", m.dir).returncode == OK
            assert a.run("online", m.dir).returncode == OK
            wait_for_keys(m, "removed", 1)
            assert "was removed or changed" in a.run("status", m.dir).stdout
            (m.dir / "f").write_text("two")
            m.sync()
            assert m.status()["last_error"] == ""
        assert a.run("ls", s.url).returncode == KEY
        assert a.run("cat", s.url, "/f", password="another pass").stdout == "two"


@pytest.mark.limit(300)
def test_a_mount_writes_the_header_that_two_key_changes_at_once_come_to(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a, b, c = v.machine("a"), v.machine("b"), v.machine("c")
        other = s.root.with_name("other")
        shutil.copytree(s.root, other)
        for who, url, name in ((b, s.url, "of b"), (c, f"file://{other}", "of c")):
            done = who.run("key", url, "add", "--new-password-file", secret_file(stage, name, name), "--kdf-cost", "15")
            assert done.returncode == OK, done.stderr
        newest = max(generations(s))
        for p in (other / "header" / f"{newest:08x}").iterdir():
            shutil.copy(p, s.root / "header" / f"{newest:08x}")
        shutil.rmtree(other)
        assert generations(s)[newest] == 2
        with a.mount() as m:
            m.sync()
            until = time.monotonic() + 60
            while newest + 1 not in generations(s):
                assert time.monotonic() < until, (generations(s), m.status())
                time.sleep(0.2)
            assert m.status()["keys"] == "current"
        # One header says it all.
        assert generations(s)[newest + 1] == 1
        for older in [g for g in generations(s) if g <= newest]:
            shutil.rmtree(s.root / "header" / f"{older:08x}")
        for password in (PASSWORD, "of b", "of c"):
            assert v.machine("judge " + password[-1]).run("ls", s.url, password=password).returncode == OK
