"""The commands as a person types them: exit codes, messages, and what stays behind."""
import contextlib
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

import cuts_lib
import tree_lib
from conftest import ROOT, is_mounted, wait_for
from cli_lib import PASS, Site
from vault_lib import (BUSY, DAMAGED, DENIED, ERROR, EXITS, FOREIGN, KEY, MOUNT, NO_VAULT, NOT_MOUNTED, OFFLINE, OK,
                       USAGE, servers)

COMMANDS = ["init", "mount", "umount", "status", "sync", "offline", "online", "pin", "unpin", "cache", "key", "ls", "cat", "get", "check", "gc", "snapshot",
            "stats", "regions", "requests", "map", "trace"]


@pytest.fixture
def site(stage, build):
    s = Site(stage, build)
    yield s
    s.settle()
    pid = s.daemon()
    if pid:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def vault(site):
    site.init()
    return site


def test_help_names_every_command_and_every_exit_code(site):
    out = site.run("--help").stdout
    for c in COMMANDS:
        assert re.search(rf"^  {c} ", out, re.M)
    listed = re.findall(r"^  (\w+) +\S", out.split("Commands:")[1].split("STORE is")[0], re.M)
    assert listed == COMMANDS
    codes = [int(n) for n in re.findall(r"^  (\d+) ", out.split("Exit codes:")[1], re.M)]
    assert codes == list(EXITS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(site, command):
    out = site.run(command, "--help", password=None).stdout
    assert out.startswith(f"Usage: foliofs {command} ") and "--help" in out


def test_the_version_names_the_libraries(site):
    out = site.run("--version").stdout
    for word in ("foliofs ", "libcurl/", "libfuse 3", "OpenSSL ", "zstd "):
        assert word in out


@pytest.mark.parametrize("args", [("nonsense",), ("init",), ("mount", "--nonsense", "a", "b"), ("ls", "a", "b", "c"),
                                  ("status", "-x"), ("mount", "a", "b", "-o", "nonsense=1"),
                                  ("mount", "a", "b", "-o", "cache_size=big"), ("mount", "a", "b", "-o", "fsync=never"),
                                  ("mount", "a", "b", "--timeout"), ("mount", "a", "b", "--memory", "8M"), ("init", "dav://u:p@h/x"), ("key", "s", "sing")])
def test_what_is_not_understood_is_refused_by_name(site, args):
    err = site.run(*args, code=USAGE).stderr
    for word in ("nonsense", "big", "never", "timeout", "memory", "sing"):
        if any(word in a for a in args) and args[0] != "key":
            assert word in err


def test_mount_prints_nothing_and_umount_returns_when_the_daemon_is_gone(vault):
    p = vault.mount()
    assert p.stdout == "" and p.stderr == "" and is_mounted(vault.mnt)
    (vault.mnt / "f").write_text("hello")
    vault.umount()
    assert not is_mounted(vault.mnt) and vault.daemon() is None
    run = pathlib.Path(vault.env["XDG_RUNTIME_DIR"]) / "foliofs"
    assert list(run.iterdir()) == []
    vault.mount()
    assert (vault.mnt / "f").read_text() == "hello"
    vault.umount("--wait")
    assert vault.run("cat", vault.store, "/f").stdout == "hello"


def test_init_twice_changes_nothing(vault):
    before = sorted(p for p in vault.store.rglob("*"))
    vault.init(code=BUSY)
    assert sorted(vault.store.rglob("*")) == before


def test_no_vault_no_store_no_server(site):
    site.stage.folder("store")
    site.mount(code=NO_VAULT)
    site.run("ls", site.stage.dir / "nowhere", code=NO_VAULT)
    site.run("ls", "dav://127.0.0.1:9/x", "--timeout", "2", code=OFFLINE)
    site.run("ls", "dav://example.invalid/x", code=ERROR)  # not in the clear


def test_a_wrong_passphrase_has_its_own_code(vault):
    vault.mount(code=KEY, password="wrong one")
    vault.run("ls", vault.store, code=KEY, password="wrong one")
    assert not is_mounted(vault.mnt)


def test_without_a_terminal_and_a_passphrase_it_says_so(vault):
    assert "--password-file" in vault.mount(code=USAGE, password=None).stderr


def test_the_prompt_does_not_echo(vault):
    pid, fd = pty.fork()
    if pid == 0:
        env = dict(vault.env)
        del env["FOLIOFS_PASSWORD"]
        os.execve(vault.exe, ["foliofs", "ls", str(vault.store)], env)
    seen = b""
    while b": " not in seen:
        seen += os.read(fd, 1000)
    os.write(fd, b"wrong" + b"\x15" + PASS.encode() + b"x\x7f\n")
    with contextlib.suppress(OSError):
        while chunk := os.read(fd, 1000):
            seen += chunk
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == OK
    assert PASS.encode() not in seen and b"wrong" not in seen


def test_password_files_must_be_private(vault):
    f = vault.stage.dir / "pw"
    f.write_text(PASS + "\nsecond line\n")
    f.chmod(0o644)
    assert "chmod 600" in vault.run("ls", vault.store, "--password-file", f, code=USAGE, password=None).stderr
    f.chmod(0o600)
    vault.run("ls", vault.store, "--password-file", f, password=None)
    vault.run("ls", vault.store, f"--password-command=cat {f}", password=None)
    vault.run("ls", vault.store, "--password-command", "false", code=USAGE, password=None)
    creds = vault.stage.folder("creds")
    shutil.copy(f, creds / "foliofs-password")
    vault.run("ls", vault.store, password=None, env={"CREDENTIALS_DIRECTORY": str(creds)})


def test_the_life_of_keys(vault):
    def ids(**kw):
        return {s["id"]: s for s in json.loads(vault.run("key", vault.store, "list", "--json", **kw).stdout)}

    new = vault.stage.dir / "new"
    new.write_text("another pass")
    new.chmod(0o600)
    key = vault.stage.dir / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    cost = ("--kdf-cost", "15")
    before = ids()
    assert sorted(s["kind"] for s in before.values()) == ["passphrase", "recovery"]
    vault.run("key", vault.store, "add", "--new-password-file", new, "--label", "laptop", *cost)
    vault.run("ls", vault.store, password="another pass")
    added = ids()
    assert [s["label"] for i, s in added.items() if i not in before] == ["laptop"]
    vault.run("key", vault.store, "add", "--new-key-file", key, *cost)
    vault.run("ls", vault.store, "--key-file", key, password=None)
    new.write_text("third pass")
    vault.run("key", vault.store, "change", "--new-password-file", new, *cost, password="another pass")
    vault.run("ls", vault.store, password="third pass")
    vault.run("ls", vault.store, password="another pass", code=KEY)
    assert sorted(s["label"] for s in ids().values()) == ["", "first", "laptop", "recovery"]
    text = vault.run("key", vault.store, "recovery", *cost).stdout.split()[-1]
    vault.run("ls", vault.store, "--recovery", password=text)
    vault.run("ls", vault.store, "--recovery", password=text[:-1], code=KEY)
    for i, s in ids().items():
        if s["kind"] != "passphrase" or s["label"] == "first":
            vault.run("key", vault.store, "remove", i[:8], password="third pass")
    vault.run("ls", vault.store, code=KEY)
    (last,) = ids(password="third pass")
    vault.run("key", vault.store, "remove", last, password="third pass", code=BUSY)
    vault.run("key", vault.store, "remove", "00ff", password="third pass", code=USAGE)


def test_a_lost_header_is_put_back_by_a_machine_that_remembers_it(vault):
    def restore(**kw):
        return vault.run("key", vault.store, "restore", **kw)

    vault.mount()
    (vault.mnt / "f").write_text("kept")
    vault.run("sync", vault.mnt)
    vault.umount()
    assert "has a header already" in restore(code=BUSY).stderr
    shutil.rmtree(vault.store / "header")
    for lost in (vault.mount(code=NO_VAULT), vault.run("ls", vault.store, code=NO_VAULT),
                 vault.run("key", vault.store, "list", code=NO_VAULT)):
        assert "restore" in lost.stderr and "init" not in lost.stderr
    stranger = {"XDG_STATE_HOME": str(vault.stage.dir / "elsewhere")}
    assert "remembers no header" in restore(code=NO_VAULT, env=stranger).stderr
    before = tree_lib.survey(vault.store)
    for env in ({}, stranger):
        assert "whose header is gone" in vault.init(code=BUSY, env=env).stderr
    restore(code=KEY, password="not this one")
    assert not tree_lib.differences(before, tree_lib.survey(vault.store))
    assert "generation 1" in restore().stdout
    assert vault.run("cat", vault.store, "f", env=stranger).stdout == "kept"
    for damaged in (vault.store / "header").rglob("*"):
        if damaged.is_file():
            damaged.write_bytes(b"not a header")
    assert "restore" in vault.mount(code=DAMAGED).stderr
    restore()
    vault.mount()
    shutil.rmtree(vault.store / "header")
    (vault.mnt / "g").write_text("written while it was gone")
    vault.run("offline", vault.mnt)
    restore()
    vault.run("online", vault.mnt)
    vault.run("sync", vault.mnt)
    vault.umount()
    assert vault.run("cat", vault.store, "g", env=stranger).stdout == "written while it was gone"
    shutil.rmtree(vault.store)
    vault.store.mkdir()
    assert "nothing of a vault" in restore(code=NO_VAULT).stderr and not list(vault.store.iterdir())


@pytest.mark.parametrize("mounted", (True, False))
def test_a_store_that_lost_what_came_last_gets_it_again(vault, mounted):
    vault.mount()
    (vault.mnt / "f").write_text("one")
    vault.run("sync", vault.mnt)
    before = vault.stage.dir / "before"
    shutil.copytree(vault.store, before)
    (vault.mnt / "f").write_text("two")
    vault.run("sync", vault.mnt)
    if not mounted:
        vault.umount()
    shutil.rmtree(vault.store)
    before.rename(vault.store)
    if not mounted:
        assert f"check {vault.store} --repair" in vault.mount(code=FOREIGN).stderr
    said = vault.run("check", vault.mnt if mounted else vault.store, "--repair").stdout
    # A mount may not have looked since: then it commits on top of it.
    assert re.search("the newest commit was gone|the newest head, is missing", said) and ": 0 problems" in said
    if not mounted:
        vault.mount()
    assert (vault.mnt / "f").read_text() == "two"
    (vault.mnt / "g").write_text("later")
    vault.run("sync", vault.mnt)
    vault.umount()
    secret = vault.stage.dir / "judge-secret"
    cuts_lib.extract(vault.store, secret, PASS, vault.stage.dir / "extracted")
    assert (vault.stage.dir / "extracted" / "f").read_text() == "two"


def test_of_a_damaged_journal_what_comes_before_the_damage_is_sent_and_the_rest_is_kept(vault):
    vault.mount()
    vault.umount()
    for names in (["first"], [f"f{i}" for i in range(50)]):
        vault.mount("--offline")
        for name in names:
            (vault.mnt / name).write_text(name)
        vault.umount()
    journal = next(vault.home.rglob("journal"))
    last = max(journal.glob("*.seg"), key=lambda f: f.stat().st_size)
    was = last.read_bytes()
    last.write_bytes(was[:len(was) // 2] + bytes([was[len(was) // 2] ^ 1]) + was[len(was) // 2 + 1:])
    damaged = last.read_bytes()
    for _ in range(2):
        assert f"check {vault.store} --repair" in vault.mount(code=DAMAGED).stderr
    assert last.read_bytes() == damaged
    said = vault.run("check", vault.store, "--repair").stdout
    (aside,) = journal.glob("damaged-*")
    assert f"in {aside}" in said and (aside / last.name).read_bytes() == damaged
    vault.mount()
    vault.run("sync", vault.mnt)
    assert (vault.mnt / "first").read_text() == "first"
    vault.umount()
    assert vault.run("cat", vault.store, "first").stdout == "first"
    vault.run("cache", vault.store, "wipe", code=BUSY)
    vault.run("cache", vault.store, "wipe", "--force")
    assert not aside.exists()


def test_the_recovery_key_that_init_prints_opens_the_vault(site):
    text = re.search(r"(?:[A-Z2-7]{7}-){7}[A-Z2-7]{7}", site.init().stdout).group()
    site.run("ls", site.store, "--recovery", password=text)


def test_a_vault_in_use_and_a_mount_point_in_use(vault):
    vault.mount()
    vault.mount(code=BUSY)
    other = vault.stage.folder("other")
    assert "in use" in vault.run("mount", vault.store, other, code=BUSY).stderr
    with open(vault.mnt / "held", "w") as f:
        f.write("x")
        vault.umount(code=BUSY)
        assert is_mounted(vault.mnt)
    vault.run("ls", vault.store)  # reading goes on beside it
    vault.umount()


def test_mount_points_that_cannot_be(vault):
    vault.run("mount", vault.store, vault.stage.dir / "nodir", code=MOUNT)
    f = vault.stage.dir / "file"
    f.touch()
    vault.run("mount", vault.store, f, code=MOUNT)
    vault.run("status", vault.mnt, code=NOT_MOUNTED)
    vault.umount(code=NOT_MOUNTED)


def test_another_vault_at_a_known_address_is_refused(vault):
    shutil.rmtree(vault.store)
    vault.init(env={"XDG_STATE_HOME": str(vault.stage.dir / "elsewhere")})
    err = vault.mount(code=FOREIGN).stderr
    remembered = pathlib.Path(re.search(r"remove (\S+) and", err).group(1))
    vault.run("ls", vault.store, code=FOREIGN)
    remembered.unlink()
    vault.mount()
    vault.umount()


def test_a_header_of_before_is_refused(vault):
    old = vault.stage.dir / "old"
    shutil.copytree(vault.store, old)
    vault.run("key", vault.store, "recovery", "--kdf-cost", "15")
    shutil.rmtree(vault.store)
    shutil.move(old, vault.store)
    vault.mount(code=FOREIGN)


def test_a_state_of_before_is_refused(vault):
    old = vault.stage.dir / "old"
    shutil.copytree(vault.store, old)
    vault.mount()
    (vault.mnt / "f").write_text("newer")
    vault.umount("--wait")
    shutil.rmtree(vault.store)
    shutil.move(old, vault.store)
    vault.mount(code=FOREIGN)
    vault.run("ls", vault.store, code=FOREIGN)


def test_a_damaged_header_is_not_opened(vault):
    for f in (vault.store / "header").rglob("*"):
        if f.is_file():
            f.write_bytes(f.read_bytes()[:100])
    vault.mount(code=DAMAGED)


def test_a_killed_daemon_loses_nothing_that_was_synced(vault):
    vault.mount("-o", "sync=manual")
    with open(vault.mnt / "f", "w") as f:
        f.write("kept")
        f.flush()
        os.fsync(f.fileno())
    os.kill(vault.daemon(), signal.SIGKILL)
    wait_for(lambda: vault.daemon() is None, what="daemon's end")
    assert "umount" in vault.run("status", vault.mnt, code=NOT_MOUNTED).stderr
    assert "umount" in vault.mount(code=MOUNT).stderr
    vault.umount()
    vault.mount()
    assert (vault.mnt / "f").read_text() == "kept"
    vault.umount()


def test_status_tells_what_is_not_on_the_server(vault):
    vault.mount("-o", "sync=manual,noatime,_netdev,x-systemd.automount,nofail")
    s = vault.status()
    assert s["version"] == 1 and s["all_on_server"] and s["connected"]
    (vault.mnt / "f").write_bytes(os.urandom(300_000))
    s = vault.status()
    assert not s["all_on_server"] and s["pending_ops"] + s["pending_files"] > 0
    assert re.search(r"safe to switch off +no", vault.run("status", vault.mnt).stdout)
    vault.run("sync", vault.mnt / "f")
    s = vault.status()
    assert s["all_on_server"] and s["pending_bytes"] == 0 and re.match(r"\w{5}-", s["fingerprint"])
    assert re.search(r"safe to switch off +yes", vault.run("status", vault.mnt).stdout)
    assert "fuse.calls" in vault.run("stats", vault.mnt).stdout
    assert "# TYPE foliofs_fuse_calls_total counter" in vault.run("stats", vault.mnt, "--prometheus").stdout
    assert vault.run("regions", vault.mnt).stdout.startswith("REGION")
    assert vault.run("requests", vault.mnt).stdout.startswith("REQUEST")
    vault.umount()


def test_the_fingerprint_is_checked_at_first_use(vault):
    vault.mount()
    (vault.mnt / "f").write_text("x")
    vault.run("sync", vault.mnt)
    good = vault.status()["fingerprint"]
    vault.umount()
    fresh = {"XDG_STATE_HOME": str(vault.stage.dir / "s"), "XDG_CACHE_HOME": str(vault.stage.dir / "c")}
    vault.mount("--expect", "aaaaa-aaaaa-aaaaa-aaaaa", env=fresh, code=FOREIGN)
    vault.mount("--expect", good, env=fresh)
    vault.umount()


def test_trace_shows_events_until_it_is_interrupted(vault):
    vault.mount()
    p = subprocess.Popen([vault.exe, "trace", vault.mnt], env=vault.env, stdout=subprocess.PIPE, text=True)
    try:
        # What comes before it listens is not seen.
        for n in range(60):
            (vault.mnt / "f").write_text(f"{n}")
            vault.run("sync", vault.mnt)
            if select.select([p.stdout], [], [], 0.5)[0]:
                break
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=30)
    finally:
        p.kill()
        p.wait()
    assert p.returncode == OK and out.strip()
    vault.umount()


def test_the_control_socket_is_private(vault):
    vault.mount()
    (sock,) = (pathlib.Path(vault.env["XDG_RUNTIME_DIR"]) / "foliofs").glob("*.sock")
    assert stat.S_IMODE(sock.stat().st_mode) == 0o600
    assert stat.S_IMODE(sock.parent.stat().st_mode) == 0o700
    vault.umount()


def test_a_runtime_directory_of_others_is_not_used(vault):
    d = pathlib.Path(vault.env["XDG_RUNTIME_DIR"]) / "foliofs"
    d.mkdir(exist_ok=True)
    d.chmod(0o755)
    vault.mount(code=MOUNT)
    assert not is_mounted(vault.mnt)


def test_signals_unmount_and_leave(vault):
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        vault.mount()
        (vault.mnt / "f").write_text(str(sig))
        os.kill(vault.daemon(), sig)
        wait_for(lambda: vault.daemon() is None and not is_mounted(vault.mnt), what="daemon's end")
        vault.mount()
        assert (vault.mnt / "f").read_text() == str(sig)
        vault.umount()


def test_reading_without_a_mount(vault):
    vault.mount()
    d = vault.mnt / "d"
    d.mkdir()
    (d / "big").write_bytes(data := os.urandom(3_000_000))
    (d / "link").symlink_to("big")
    for i in range(300):
        (d / f"n{i}").write_text(str(i))
    vault.umount("--wait")
    names = [e["name"] for e in json.loads(vault.run("ls", vault.store, "d", "--json").stdout)]
    assert names == sorted(["big", "link"] + [f"n{i}" for i in range(300)])
    to = vault.stage.dir / "out"
    vault.run("get", vault.store, "/d", to)
    assert (to / "big").read_bytes() == data and os.readlink(to / "link") == "big" and (to / "n7").read_text() == "7"
    vault.run("cat", vault.store, "/nothing", code=ERROR)
    vault.run("cat", vault.store, "/d", code=ERROR)


def test_check_finds_what_is_damaged(vault):
    vault.mount()
    (vault.mnt / "f").write_bytes(os.urandom(200_000))
    vault.umount("--wait")
    r = json.loads(vault.run("check", vault.store, "--read-data", "--json").stdout)
    assert r["problems"] == [] and r["inodes"] >= 2 and r["blocks"] >= 1
    pack = max((p for p in (vault.store / "packs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    assert "/f" in vault.run("check", vault.store, "--read-data", code=DAMAGED).stdout
    pack.unlink()
    vault.run("check", vault.store, code=DAMAGED)


def largest_pack(vault):
    return max((p for p in (vault.store / "packs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_check_repairs_from_the_cache_on_a_mount_and_without(vault):
    data = os.urandom(400_000)
    vault.mount()
    (vault.mnt / "f").write_bytes(data)
    vault.run("sync", "-q", vault.mnt)
    assert json.loads(vault.run("check", vault.mnt, "--json").stdout)["problems"] == []
    largest_pack(vault).unlink()
    assert "/f: blocks" in vault.run("check", vault.mnt, code=DAMAGED).stdout
    said = vault.run("check", vault.mnt, "--repair").stdout
    assert "put on the store again" in said and said.endswith("older versions put beside what is lost\n")
    vault.run("check", vault.mnt, "--read-data")
    vault.umount("--wait")
    largest_pack(vault).unlink()
    vault.run("check", vault.store, code=DAMAGED)
    r = json.loads(vault.run("check", vault.store, "--repair", "--json").stdout)
    assert r["left"] == 0 and r["repaired"] > 0
    vault.run("check", vault.store, "--read-data")
    # With nothing of it anywhere the file is lost, and stays named.
    largest_pack(vault).unlink()
    bare = {"XDG_CACHE_HOME": str(vault.stage.dir / "bare"), "XDG_STATE_HOME": str(vault.stage.dir / "bare-state")}
    assert "/f: no kept commit" in vault.run("check", vault.store, "--repair", code=DAMAGED, env=bare).stdout
    assert vault.run("check", vault.store, "--repair").stdout.count("repaired") == 1
    vault.mount()
    assert (vault.mnt / "f").read_bytes() == data


def test_a_webdav_server_with_a_password(site):
    right, wrong = site.stage.dir / "right", site.stage.dir / "wrong"
    right.write_text("s3cret\n")
    wrong.write_text("other\n")
    right.chmod(0o600)
    wrong.chmod(0o600)
    with servers.start("apache", auth=("me", "s3cret")) as s:
        url = f"dav://me@127.0.0.1:{s.port}/vault"
        site.run("init", url, "--kdf-cost", "15", "--dav-password-file", wrong, code=DENIED)
        site.run("init", url, "--kdf-cost", "15", "--dav-password-file", right)
        site.run("mount", url, site.mnt, "-o", f"dav_password_file={right}")
        (site.mnt / "f").write_text("over the wire")
        assert "s3cret" not in site.run("status", site.mnt).stdout
        site.umount("--wait")
        site.run("mount", url, site.mnt, "-o", f"dav_password_file={wrong}", code=DENIED)
        assert site.run("cat", url, "/f", "--dav-password-file", right).stdout == "over the wire"
    site.run("ls", url, "--dav-password-file", right, "--retries", "1", "--timeout", "2", code=OFFLINE,
             env={"XDG_STATE_HOME": str(site.stage.dir / "none")})


def test_configuration_by_name(vault):
    conf = vault.home / ".config/foliofs"
    conf.mkdir(parents=True)
    (conf / "config").write_text(f"# mine\n[work]\nstore = {vault.store}\ndir = {vault.mnt}\nro = true\npoll = 2s\n")
    vault.run("mount", "work")
    s = vault.status()
    assert s["read_only"] and s["poll_ms"] == 2000
    with pytest.raises(OSError):
        (vault.mnt / "f").write_text("x")
    vault.umount()
    vault.run("mount", "play", code=USAGE)
    (conf / "config").write_text(f"[work]\nstore = {vault.store}\ndir = {vault.mnt}\ncolour = red\n")
    assert "config:4: unknown key: colour" in vault.run("mount", "work", code=USAGE).stderr


def test_mount_foliofs_as_mount8_calls_it(vault):
    link = vault.stage.dir / "mount.foliofs"
    link.symlink_to(vault.exe)
    vault.run(vault.store, vault.mnt, "-o", "rw,noauto,user,cache_size=1G", exe=link)
    assert is_mounted(vault.mnt)
    vault.umount()


def test_a_store_by_a_relative_path(vault):
    vault.run("mount", "store", vault.mnt, cwd=vault.stage.dir)
    vault.umount()
    vault.run("ls", "./store", cwd=vault.stage.dir)


def test_a_known_vault_mounts_without_its_store(vault):
    vault.mount()
    (vault.mnt / "f").write_text("here")
    vault.umount("--wait")
    away = f"fault+{vault.store}?offline"
    vault.run("mount", away, vault.mnt)
    assert (vault.mnt / "f").read_text() == "here"
    (vault.mnt / "g").write_text("later")
    assert not vault.status()["connected"]
    vault.run("sync", vault.mnt, code=OFFLINE)
    vault.umount()
    vault.mount()
    assert (vault.mnt / "g").read_text() == "later"
    vault.umount()


def test_a_known_vault_on_a_disk_that_is_away_mounts_offline_and_goes_on_when_it_is_back(vault):
    vault.mount()
    (vault.mnt / "f").write_text("here")
    vault.umount("--wait")
    away = vault.store.with_name("elsewhere")
    vault.store.rename(away)
    said = vault.mount(code=NO_VAULT).stderr
    assert "mount --offline" in said and "init" not in said
    vault.run("mount", "--offline", vault.store, vault.mnt, "-o", "poll=300ms")
    assert (vault.mnt / "f").read_text() == "here"
    (vault.mnt / "g").write_text("later")
    vault.run("online", vault.mnt)
    vault.run("sync", vault.mnt, code=OFFLINE)
    assert not vault.status()["connected"] and not vault.store.exists()
    away.rename(vault.store)
    wait_for(lambda: vault.run_once("sync", vault.mnt).returncode == OK, 120, "the disk is seen again")
    vault.store.rename(away)
    (vault.mnt / "h").write_text("without it")
    vault.run("sync", vault.mnt, code=OFFLINE)
    away.rename(vault.store)
    wait_for(lambda: vault.run_once("sync", vault.mnt).returncode == OK, 120, "the disk is seen again")
    vault.umount()
    shutil.rmtree(vault.home / ".cache")
    vault.mount()
    assert [(vault.mnt / n).read_text() for n in "fgh"] == ["here", "later", "without it"]
    vault.umount()


def test_in_front_it_tells_systemd(vault):
    import socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(vault.stage.dir / "notify"))
        s.settimeout(20)
        d = vault.stage.daemon([vault.exe, "mount", "-f", vault.store, vault.mnt], mount=vault.mnt,
                               env=dict(vault.env, NOTIFY_SOCKET=str(vault.stage.dir / "notify")))
        assert s.recv(100) == b"READY=1"
        d.signal(signal.SIGTERM)
        assert s.recv(100) == b"STOPPING=1"
        assert d.wait() == OK


def test_a_snapshot_is_made_listed_looked_at_mounted_and_removed(vault, stage):
    vault.mount()
    (vault.mnt / "f").write_text("old")
    assert vault.run("snapshot", vault.mnt, "list").stdout == ""
    vault.run("snapshot", vault.mnt, "create", "before the change")
    (vault.mnt / "f").write_text("new")
    (vault.mnt / "g").write_text("more")
    vault.run("snapshot", vault.mnt, "create", "after")
    assert {s["name"] for s in json.loads(vault.run("snapshot", vault.mnt, "list", "--json").stdout)} == \
        {"before the change", "after"}
    for args, why in ((("create", "after"), "there is a snapshot called"), (("remove", "no"), "there is no such snapshot"),
                      (("create", "a/b"), "cannot be called")):
        assert why in vault.run("snapshot", vault.mnt, *args, code=ERROR).stderr
    assert "say: " in vault.run("snapshot", vault.mnt, "create", code=USAGE).stderr
    at = ("--snapshot", "before the change")
    assert vault.run("cat", vault.store, "f", *at).stdout == "old"
    assert "no such snapshot" in vault.run("cat", vault.store, "f", "--snapshot", "never", code=ERROR).stderr
    assert vault.run("cat", vault.store, "f").stdout == "new"
    vault.umount()
    vault.mount(*at)
    assert sorted(os.listdir(vault.mnt)) == ["f"] and (vault.mnt / "f").read_text() == "old"
    with pytest.raises(OSError, match="Read-only"):
        (vault.mnt / "f").write_text("x")
    vault.run("sync", vault.mnt)
    assert (vault.mnt / "f").read_text() == "old"
    vault.umount()
    reader = subprocess.run([sys.executable, ROOT / "tests" / "reader" / "foliofs_reader.py", "--passphrase-file",
                             "/dev/stdin", vault.store, "snapshots"], input=PASS, capture_output=True, text=True,
                            timeout=60)
    assert reader.returncode == 0, reader.stderr
    assert sorted(line.split(maxsplit=3)[3] for line in reader.stdout.splitlines()) == ["after", "before the change"]
    vault.mount()
    vault.run("snapshot", vault.mnt, "remove", "after")
    assert "after" not in vault.run("snapshot", vault.mnt, "list").stdout
    vault.umount()


def test_offline_by_command_nothing_is_sent_and_online_sends_it(vault):
    vault.mount("--write-back", "100ms", "--poll", "100ms")
    (vault.mnt / "f").write_text("before")
    vault.run("sync", vault.mnt)
    vault.run("offline", vault.mnt)
    assert vault.status()["link"] == "held" and "offline by command" in vault.run("status", vault.mnt).stdout
    (vault.mnt / "f").write_text("after")
    (vault.mnt / "d").mkdir()
    vault.run("sync", vault.mnt, code=OFFLINE)
    time.sleep(0.5)
    assert vault.run("cat", vault.store, "/f").stdout == "before"
    assert (vault.mnt / "f").read_text() == "after" and not vault.status()["all_on_server"]
    vault.run("online", vault.mnt)
    wait_for(lambda: vault.status()["all_on_server"], 20)
    assert vault.status()["link"] == "connected"
    assert vault.run("cat", vault.store, "/f").stdout == "after"
    vault.umount()
    vault.mount("--offline")
    assert vault.status()["link"] == "held" and (vault.mnt / "f").read_text() == "after"
    vault.umount()


def test_the_link_follows_a_server_that_goes_and_comes_back(site):
    fast = ("--poll", "200ms", "--write-back", "100ms")
    with servers.start("apache") as s:
        url = f"dav://127.0.0.1:{s.port}/vault"
        site.run("init", url, "--kdf-cost", "15")
        site.run("mount", url, site.mnt, *fast)
        (site.mnt / "f").write_text("one")
        site.run("sync", site.mnt)
        assert site.status()["link"] == "connected"
        s.halt()
        wait_for(lambda: site.status()["link"] == "disconnected", 30)
        begun = time.monotonic()
        with open(site.mnt / "h", "w") as f:
            f.write("three")
            f.flush()
            os.fsync(f.fileno())
        assert (site.mnt / "f").read_text() == "one"
        site.run("sync", site.mnt, code=OFFLINE)
        assert time.monotonic() - begun < 20
        site.umount()
        begun = time.monotonic()
        site.run("mount", url, site.mnt, *fast)
        print(f"a mount without the server: {time.monotonic() - begun:.2f} s")
        assert (site.mnt / "h").read_text() == "three" and site.status()["link"] == "disconnected"
        s.start()
        wait_for(lambda: site.status()["all_on_server"], 60)
        assert site.run("cat", url, "/h").stdout == "three"
        site.umount()


def test_a_mirror_is_a_vault_of_its_own_and_catches_up(vault):
    mirror = vault.stage.dir / "mirror"

    def in_step():
        return vault.status()["mirror_in_step"]

    vault.mount("--mirror", mirror, "--write-back", "100ms")
    wait_for(in_step, 20)
    (vault.mnt / "f").write_text("one")
    vault.run("sync", vault.mnt)
    assert vault.run("cat", mirror, "/f").stdout == "one"
    assert "mirror               in step" in vault.run("status", vault.mnt).stdout
    vault.umount()
    vault.mount()
    (vault.mnt / "f").write_text("two")
    (vault.mnt / "big").write_bytes(os.urandom(300000))
    vault.umount("--wait")
    # Behind what this device has seen.
    vault.run("cat", mirror, "/f", code=FOREIGN)
    assert vault.run("cat", mirror, "/f", env={"XDG_STATE_HOME": str(vault.stage.dir / "none")}).stdout == "one"
    vault.mount("--mirror", mirror)
    wait_for(in_step, 20)
    assert vault.run("cat", mirror, "/f").stdout == "two"
    vault.run("check", mirror, "--read-data")
    vault.umount()


def test_gc_frees_what_no_kept_commit_needs_on_a_mount_and_without(vault):
    keep = ["--keep-heads", "1", "--keep-days", "0", "--lease-days", "0", "--grace", "0"]
    vault.mount()
    f = vault.mnt / "f"
    for i in range(3):
        f.write_bytes(os.urandom(2 << 20))
        vault.run("sync", "-q", vault.mnt)
    before = json.loads(vault.run("gc", vault.mnt, "--json", "--dry-run", *keep).stdout)
    assert before["dead_bytes"] > 4 << 20 and before["deleted_packs"] == 0
    assert "would be condemned" in vault.run("gc", vault.mnt, "--dry-run", *keep).stdout
    assert json.loads(vault.run("gc", vault.mnt, "--json", *keep).stdout)["dead_bytes"] == before["dead_bytes"]
    data = f.read_bytes()
    vault.umount()
    gone = json.loads(vault.run("gc", vault.store, "--json", *keep).stdout)
    assert gone["deleted_bytes"] >= before["dead_bytes"]
    vault.run("check", vault.store, "--read-data")
    vault.mount()
    assert f.read_bytes() == data
    assert "is not a time" in vault.run("gc", vault.mnt, "--grace", "soon", code=USAGE).stderr


def test_a_daemon_that_ends_leaves_the_control_socket_of_the_next_mount(vault):
    """A device number is free again as soon as its mount has gone, so a new mount may have it before the old daemon has ended."""
    vault.mount()
    name, = (pathlib.Path(vault.env["XDG_RUNTIME_DIR"])).rglob("*.sock")
    pid = vault.daemon()
    name.unlink()
    with socket.socket(socket.AF_UNIX) as of_the_next:
        of_the_next.bind(str(name))
        subprocess.run(["umount", vault.mnt], check=True)
        wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), what="the daemon's end")
        assert name.is_socket()
    name.unlink()


def test_a_command_waits_for_a_mount_that_does_not_listen_yet_and_says_at_once_that_one_has_died(vault):
    """A daemon mounts first and listens then.  As between the two: its socket has another name for a while."""
    vault.mount()
    name, = pathlib.Path(vault.env["XDG_RUNTIME_DIR"]).rglob("*.sock")
    name.rename(name.with_suffix(".later"))
    asked = subprocess.Popen([vault.exe, "status", vault.mnt], env=vault.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
    time.sleep(0.5)
    name.with_suffix(".later").rename(name)
    out, err = asked.communicate(timeout=30)
    assert (asked.returncode, err) == (OK, "") and out.strip()
    os.kill(vault.daemon(), signal.SIGKILL)
    wait_for(lambda: vault.daemon() is None, what="the daemon's end")
    assert "has died" in vault.run("status", vault.mnt, code=NOT_MOUNTED).stderr
    vault.umount()
