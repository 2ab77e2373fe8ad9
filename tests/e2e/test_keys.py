"""`foliofs key rekey`: a new root key and a new key epoch."""
import json
import time

import pytest
from test_reader import reader
from vault_lib import KEY, OK, PASSWORD, Vault, store


def epochs(s):
    """The epochs that heads on the store are sealed under."""
    return {int.from_bytes(p.read_bytes()[4:8], "little") for p in (s.root / "heads").iterdir()}


def secret_file(stage, name, text):
    path = stage.dir / name
    path.touch(mode=0o600)
    path.write_text(text)
    return path


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
