"""The link's states over a real mount: servers that are none, a suspended machine, a limited and a metered line."""
import errno
import os
import signal
import time

import pytest
import vault_lib
from conftest import is_mounted, wait_for
from stubserver import Stub
from vault_lib import OK

MIB = 1 << 20
TIMEOUT_S = 2
# A request that does not move, the probe that is to tell whether it is the server's fault, and a slow machine.
READ_MAX_S = 2 * TIMEOUT_S + 20


class Where:
    """A stub as the store of a vault."""

    def __init__(self, stub):
        self.url = f"dav://127.0.0.1:{stub.port}/v/"
        self.auth = None


@pytest.fixture(name="stub")
def stub_():
    with Stub("none") as s:
        yield s


@pytest.fixture(name="portal")
def portal_():
    with Stub("portal") as s:
        yield s


@pytest.fixture(name="vault")
def vault_(stage, stub):
    yield vault_lib.Vault(stage, Where(stub))
    stub.fault = "none"
    for d in stage.daemons:
        d.end()


def change_everything(top):
    """Every kind of modification there is; gives what is to be there afterwards."""
    (top / "new").write_bytes(b"made offline")
    (top / "dir").mkdir(mode=0o750)
    (top / "dir/sub").mkdir()
    os.rename(top / "renamed-from", top / "dir/renamed")
    os.link(top / "linked", top / "dir/second-name")
    os.symlink("../new", top / "dir/link")
    os.mkfifo(top / "dir/fifo")
    os.chmod(top / "linked", 0o640)
    os.utime(top / "linked", ns=(10**18, 10**18))
    os.setxattr(top / "linked", "user.tag", b"offline")
    os.removexattr(top / "linked", "user.old")
    with open(top / "cut", "r+b") as f:
        f.truncate(5)
    with open(top / "grown", "r+b") as f:
        f.truncate(100000)
        f.seek(70000)
        f.write(b"at the end")
        os.fsync(f.fileno())
    with open(top / "written", "r+b") as f:
        f.seek(3)
        f.write(b"XYZ")
    os.unlink(top / "removed")
    os.rmdir(top / "removed-dir")
    os.replace(top / "winner", top / "loser")


def check_changes(top):
    assert (top / "new").read_bytes() == b"made offline"
    assert (top / "dir").stat().st_mode & 0o777 == 0o750 and (top / "dir/sub").is_dir()
    assert (top / "dir/renamed").read_bytes() == b"from" and not (top / "renamed-from").exists()
    st = (top / "dir/second-name").stat()
    assert st.st_ino == (top / "linked").stat().st_ino and st.st_nlink == 2
    assert st.st_mode & 0o777 == 0o640 and st.st_mtime_ns == 10**18
    assert os.getxattr(top / "linked", "user.tag") == b"offline" and os.listxattr(top / "linked") == ["user.tag"]
    assert os.readlink(top / "dir/link") == "../new" and (top / "dir/fifo").is_fifo()
    assert (top / "cut").read_bytes() == b"to be"
    assert (top / "grown").read_bytes() == b"grow".ljust(70000, b"\0") + b"at the end".ljust(30000, b"\0")
    assert (top / "written").read_bytes() == b"oldXYZld"
    assert not (top / "removed").exists() and not (top / "removed-dir").exists() and not (top / "winner").exists()
    assert (top / "loser").read_bytes() == b"winner"


def first_files(top):
    for name, data in {"renamed-from": b"from", "linked": b"l", "cut": b"to be cut", "grown": b"grow", "written": b"oldoldld",
                       "removed": b"r", "winner": b"winner", "loser": b"loser", "cached": b"cached"}.items():
        (top / name).write_bytes(data)
    (top / "removed-dir").mkdir()
    os.setxattr(top / "linked", "user.old", b"x")


def quiet(stub):
    """Until nothing was asked for a second: what is unasked goes on."""
    seen, since = len(stub.log), time.monotonic()

    def is_quiet():
        nonlocal seen, since
        if len(stub.log) != seen:
            seen, since = len(stub.log), time.monotonic()
        return time.monotonic() > since + 1
    wait_for(is_quiet, 10, "nothing to be asked")


def set_fault(stub, kind, portal):
    """Every request is answered as KIND says; a redirection leads to a page to log in to."""
    stub.location = f"http://127.0.0.1:{portal.port}/login?from="
    stub.status = 500
    stub.fault = kind


@pytest.mark.parametrize("kind", ["portal", "redirect", "stall", "status"])
def test_a_server_that_is_none_is_a_disconnection_and_nothing_is_lost(stub, portal, vault, kind):
    with vault.machine("a").mount("poll=1") as a:
        (a.dir / "uncached").write_bytes(os.urandom(MIB))
        a.sync()
    m = vault.machine("b")
    b = m.mount(f"timeout={TIMEOUT_S}", "poll=1", "write_back=1")
    first_files(b.dir)
    b.sync()
    size = (b.dir / "uncached").stat().st_size
    set_fault(stub, kind, portal)
    begun = time.monotonic()
    with pytest.raises(OSError) as e:
        (b.dir / "uncached").read_bytes()
    assert e.value.errno == errno.ENETDOWN and time.monotonic() - begun < READ_MAX_S
    wait_for(lambda: b.status()["link"] in ("disconnected", "probing"), 10, "disconnected")
    # Once that is known nobody waits.
    wait_for(lambda: b.status()["link"] == "disconnected", 20, "disconnected")
    begun = time.monotonic()
    change_everything(b.dir)
    check_changes(b.dir)
    assert (b.dir / "cached").read_bytes() == b"cached"
    # More than twenty calls: had each waited for one time-out it were 40 s.
    assert time.monotonic() - begun < 20
    s = b.status()
    assert not s["safe_to_switch_off"] and s["safe_in_s"] is None and s["pending_ops"] > 10
    assert m.run("sync", b.dir).returncode == vault_lib.OFFLINE
    begun = time.monotonic()
    assert m.run("umount", b.dir).returncode == OK and not is_mounted(b.dir)
    assert time.monotonic() - begun < 40
    # A mount without it: at once, with everything that was done.
    begun = time.monotonic()
    b = m.mount(f"timeout={TIMEOUT_S}", "poll=1", "write_back=1")
    assert time.monotonic() - begun < 20
    check_changes(b.dir)
    stub.fault = "none"
    wait_for(lambda: b.status()["safe_to_switch_off"], 45, "everything is sent")
    assert b.status()["safe_in_s"] == 0
    assert len((b.dir / "uncached").read_bytes()) == size
    b.unmount()
    with vault.machine("c").mount() as c:
        check_changes(c.dir)


def test_a_suspended_machine_goes_on_as_if_nothing_had_been(stub, vault):
    with vault.machine("a").mount("poll=1") as a, vault.machine("b").mount("poll=1", f"timeout={TIMEOUT_S}", "write_back=1") as b:
        (a.dir / "uncached").write_bytes(os.urandom(MIB))
        a.sync()
        wait_for((b.dir / "uncached").exists, 10, "b sees it")
        (b.dir / "mine").write_bytes(b"written before")
        b.daemon.signal(signal.SIGSTOP)
        try:
            (a.dir / "meanwhile").write_bytes(b"by another")
            a.sync()
            time.sleep(2 * TIMEOUT_S)  # longer than any of its time-outs
        finally:
            b.daemon.signal(signal.SIGCONT)
        assert len((b.dir / "uncached").read_bytes()) == MIB
        wait_for((b.dir / "meanwhile").exists, 20, "what others did")
        b.sync()
        a.machine.run("sync", a.dir)
        wait_for((a.dir / "mine").exists, 20, "what it did")
        assert b.status()["link"] == "connected" and not [n for n in os.listdir(b.dir) if "conflict" in n]


def test_a_metered_mount_sends_and_asks_nothing_unasked_and_reads_what_it_needs(stub, vault):
    with vault.machine("a").mount("poll=1") as a:
        (a.dir / "big").write_bytes(os.urandom(MIB))
        a.sync()
        with vault.machine("b").mount("sync=manual", "poll=1", "write_back=1") as b:
            quiet(stub)  # what a mount itself does
            (b.dir / "mine").write_bytes(b"not sent")
            (a.dir / "theirs").write_bytes(b"x")
            a.sync()
            a.unmount()
            # Nobody but b is there now.
            quiet(stub)
            before = len(stub.log)
            time.sleep(3)
            assert stub.log[before:] == []
            s = b.status()
            assert s["pending_ops"] and not s["safe_to_switch_off"] and s["safe_in_s"] is None
            assert "foliofs sync" in b.machine.run("status", b.dir).stdout
            assert len((b.dir / "big").read_bytes()) == MIB
            assert {row[0] for row in stub.log[before:]} == {"GET"}
            assert "theirs" not in os.listdir(b.dir)
            b.sync()
            wait_for(lambda: "theirs" in os.listdir(b.dir), 10, "what others did comes with it")
            assert b.status()["safe_to_switch_off"] and "PUT" in {row[0] for row in stub.log[before:]}
            quiet(stub)
            before = len(stub.log)
            time.sleep(2)
            assert stub.log[before:] == []


@pytest.mark.limit(120)
def test_what_a_sync_of_a_metered_mount_could_not_send_goes_with_the_next_one(stub, vault):
    with vault.machine("a").mount("sync=manual") as a:
        (a.dir / "f").write_bytes(b"x" * 100000)
        stub.verbs, stub.status, stub.fault = ("PUT",), 507, "status"
        assert a.try_sync() != OK
        stub.fault = "none"
        a.sync(30)
        assert a.status()["safe_to_switch_off"]
    with vault.machine("b").mount() as b:
        assert (b.dir / "f").read_bytes() == b"x" * 100000


def test_a_limited_line_is_not_used_faster(stub, vault):
    rate = 400 << 10
    with vault.machine("a").mount("bwlimit_up=400K", "write_back=60") as a:
        (a.dir / "big").write_bytes(os.urandom(3 * MIB // 2))
        assert not a.status()["safe_to_switch_off"]
        before, begun = len(stub.log), time.monotonic()
        a.sync()
        spent = time.monotonic() - begun
        sent = sum(n for verb, _, n in stub.log[before:] if verb == "PUT")
        assert sent > MIB and spent > 0.8 * (sent - rate / 4) / rate
        measured = a.status()["upload_bytes_per_s"]
        assert 0.5 * min(rate, sent / spent) < measured < 1.3 * rate
        # From the measured rate: how long it will take.
        (a.dir / "more").write_bytes(os.urandom(2 * MIB))
        s = a.status()
        assert not s["safe_to_switch_off"] and 0.5 * 2 * MIB / measured < s["safe_in_s"] < 60 + 4 * 2 * MIB / measured
        # ... and who cannot wait for that is told, stays mounted, and loses nothing.
        begun = time.monotonic()
        done = a.machine.run("umount", "--wait", "--timeout", "1", a.dir)
        assert done.returncode != OK and time.monotonic() - begun < 30 and is_mounted(a.dir)
        assert "not everything is on the server" in done.stderr
    with vault.machine("b").mount("bwlimit_down=400K") as b:
        begun = time.monotonic()
        assert len((b.dir / "big").read_bytes()) == 3 * MIB // 2
        assert time.monotonic() - begun > 0.8 * (3 * MIB // 2 - rate / 4) / rate
