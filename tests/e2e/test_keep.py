"""What a user keeps on a device: pins, the cache and its limits, over real mounts."""
import configparser
import json
import os
import random
import re
import shutil
import socket
import subprocess

import pytest
import vault_lib
from conftest import wait_for
from folder import allocated_bytes, files as files_below
from vault_lib import BUSY, DAMAGED, FULL, NOT_MOUNTED, OFFLINE, OK, USAGE

MIB = 1 << 20


@pytest.fixture(name="site", params=["nginx"])
def site_(stage, request):
    with vault_lib.store(stage, request.param) as s:
        yield vault_lib.Vault(stage, s)


def ask(m, code, *args):
    done = m.machine.run(*args)
    assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    return done


def make_tree(top, seed):
    r = random.Random(seed)
    files = {"big": r.randbytes(3 * MIB + 77), "empty": b"", "deep/er/one": b"1"}
    files |= {f"many/{i}": r.randbytes(r.randrange(9000)) for i in range(60)}
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "link").symlink_to("deep/er/one")
    os.setxattr(top / "big", "user.note", b"x")
    return files


def check_tree(top, files):
    found = {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file() and not p.is_symlink()}
    assert found == files
    assert os.readlink(top / "link") == "deep/er/one" and os.getxattr(top / "big", "user.note") == b"x"


def is_complete(m):
    s = m.status()
    return s["pins"] and s["pins_current"] and s["pinned_bytes"] and s["pinned_present_bytes"] == s["pinned_bytes"] and not s["pin_error"]


def xattr(path):
    return os.getxattr(path, "user.foliofs.pin").decode()


def test_a_pinned_tree_with_what_others_add_is_read_with_the_server_killed_and_after_a_remount(site):
    with site.machine("a").mount() as a:
        (a.dir / "d").mkdir()
        files = make_tree(a.dir / "d", 1)
        (a.dir / "other").write_bytes(bytes(MIB))
        a.sync()
        b = site.machine("b").mount("poll=1")
        dry = ask(b, OK, "pin", "--dry-run", "--json", b.dir / "d")
        sizes = json.loads(dry.stdout)
        assert sizes["files"] == len(files) + 1 and sizes["missing_bytes"] > 3 * MIB and b.status()["pins"] == 0
        done = ask(b, OK, "pin", b.dir / "d")
        assert f"{len(files) + 1} files" in done.stdout and "to fetch" in done.stdout
        assert xattr(b.dir / "d") == "100%" and xattr(b.dir / "d/many/7") == "100% inherited"
        with pytest.raises(OSError):
            xattr(b.dir / "other")
        assert b"user.foliofs" not in b"".join(map(os.fsencode, os.listxattr(b.dir / "d")))
        # Others add, change and remove.
        files["new/er"] = random.Random(2).randbytes(MIB)
        (a.dir / "d/new").mkdir()
        (a.dir / "d/new/er").write_bytes(files["new/er"])
        files["big"] = b"changed" + files["big"][7:]
        with open(a.dir / "d/big", "r+b") as f:
            f.write(b"changed")
        (a.dir / "d/empty").unlink()
        del files["empty"]
        a.sync()
        wait_for(lambda: (b.dir / "d/new/er").exists() and is_complete(b), 20, "what others did is here")
    site.store.away()
    check_tree(b.dir / "d", files)
    b.unmount()
    # No server, memory empty: everything is in the cache.
    b = site.machine("b").mount()
    check_tree(b.dir / "d", files)
    assert "d" in os.listdir(b.dir) and b.status()["pins"] == 1
    with pytest.raises(OSError):
        (b.dir / "other").read_bytes()
    ask(b, OK, "unpin", b.dir / "d")
    assert b.status()["pins"] == 0
    b.unmount()


def test_a_file_shows_whether_it_is_on_the_server_and_whether_it_is_here(site):
    def state(path):
        return os.getxattr(path, "user.foliofs.state").decode()

    with site.machine("a").mount() as a:
        f = a.dir / "file"
        ask(a, OK, "offline", a.dir)
        f.write_bytes(random.Random(5).randbytes(MIB))
        assert state(f) == "dirty"
        ask(a, OK, "online", a.dir)
        a.sync()
        assert f.read_bytes() == random.Random(5).randbytes(MIB)
        assert state(f) in ("clean", "cold")  # what was sent need not be in the cache
        ask(a, OK, "cache", a.dir, "drop")
        assert state(f) == "cold"
        ask(a, OK, "pin", "-q", f)
        assert state(f) == "pinned"
        assert os.listxattr(f) == []
        for change in (lambda: os.setxattr(f, "user.foliofs.state", b"clean"), lambda: os.removexattr(f, "user.foliofs.state")):
            with pytest.raises(PermissionError):
                change()
        # Who copies it with its attributes copies none of ours.
        subprocess.run(["cp", "-a", f, a.dir / "copy"], check=True)
        assert os.listxattr(a.dir / "copy") == []
        b = site.machine("b").mount()
        assert state(b.dir / "file") == "cold"
        assert (b.dir / "file").read_bytes() == random.Random(5).randbytes(MIB)
        assert state(b.dir / "file") == "clean"
        with pytest.raises(OSError):
            state(b.dir)
        b.unmount()


def test_pins_go_on_where_they_stopped_when_the_server_is_back(site):
    with site.machine("a").mount() as a:
        (a.dir / "d").mkdir()
        files = make_tree(a.dir / "d", 3)
        a.sync()
    with site.machine("b").mount("bwlimit_down=250K", "timeout=3") as b:
        os.listdir(b.dir / "d")
        p = subprocess.Popen([vault_lib.program(), "pin", str(b.dir / "d")], env=b.machine.env(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
        wait_for(lambda: b.status()["pinned_present_bytes"] > 150000, 30, "it has begun")
        site.store.away()
        p.wait(60)
        said = p.stderr.read()
        p.stderr.close()
        assert p.returncode == OFFLINE and "is pinned, but not complete yet" in said
        assert xattr(b.dir / "d") != "100%"
        part = b.status()["pinned_present_bytes"]
        assert 0 < part < b.status()["pinned_bytes"]
        site.store.back()
        wait_for(lambda: is_complete(b), 40, "the rest")
        site.store.away()
        check_tree(b.dir / "d", files)
        site.store.back()


def test_pins_larger_than_the_cache_are_refused_and_nothing_else_suffers(site):
    with site.machine("a").mount() as a:
        (a.dir / "d").mkdir()
        files = make_tree(a.dir / "d", 4)
        a.sync()
    with site.machine("b").mount("cache_size=2M") as b:
        done = ask(b, FULL, "pin", b.dir / "d")
        assert "cache_size is 2.0 MiB" in done.stderr and done.stdout == ""
        assert b.status()["pins"] == 0
        ask(b, OK, "pin", "-q", b.dir / "d/many")
        check_tree(b.dir / "d", files)
        assert b.status()["cache_used_bytes"] <= 2 * MIB
        done = ask(b, 1, "pin", b.dir / "d/many")
        assert "already" in done.stderr
        ask(b, 1, "unpin", b.dir / "d")
        ask(b, NOT_MOUNTED, "pin", site.stage.dir)
        ask(b, USAGE, "pin")
        listed = json.loads(ask(b, OK, "pin", "--list", "--json", b.dir).stdout)
        assert [p["path"] for p in listed] == ["d/many"] and listed[0]["present_bytes"] == listed[0]["bytes"]
        assert "d/many" in ask(b, OK, "pin", "--list", b.dir).stdout


def test_cache_info_drop_and_verify(site):
    with site.machine("a").mount() as a:
        files = {}
        for name in ("x", "y"):
            (a.dir / name).mkdir()
            files[name] = make_tree(a.dir / name, name)
        a.sync()
    with site.machine("b").mount() as b:
        ask(b, OK, "pin", "-q", b.dir / "x")
        check_tree(b.dir / "y", files["y"])
        info = json.loads(ask(b, OK, "cache", b.dir, "info", "--json").stdout)
        assert info["pinned_bytes"] > 3 * MIB and info["clean_bytes"] > 3 * MIB and info["limit_bytes"] == 10 << 30
        assert info["used_bytes"] == info["pinned_bytes"] + info["clean_bytes"] and info["disk_free_bytes"] > 0
        text = ask(b, OK, "cache", b.dir, "info").stdout
        assert "hit rate" in text and "(min_free)" in text
        freed = json.loads(ask(b, OK, "cache", b.dir, "drop", b.dir / "y/big", "--json").stdout)["freed_bytes"]
        assert 3 * MIB - 65536 <= freed <= 3 * MIB + 65536
        assert "freed" in ask(b, OK, "cache", b.dir, "drop").stdout
        after = json.loads(ask(b, OK, "cache", b.dir, "info", "--json").stdout)
        assert after["pinned_bytes"] == info["pinned_bytes"] and after["clean_bytes"] < 100000
        assert "all good" in ask(b, OK, "cache", b.dir, "verify").stdout
        packs = [p for p, st in files_below(b.machine.home / "cache/foliofs") if p.parent.parent.name == "packs" and st.st_size > MIB]
        assert packs
        for p in packs:
            with open(p, "r+b") as f:
                f.seek(MIB // 2)
                f.write(b"damage")
        done = ask(b, DAMAGED, "cache", b.dir, "verify")
        assert "/x/big: blocks" in done.stdout and "were damaged" in done.stdout
        wait_for(lambda: is_complete(b), 20, "the pinned one is fetched again")
        ask(b, OK, "cache", b.dir, "verify")
        ask(b, USAGE, "cache", b.dir, "polish")
        ask(b, BUSY, "cache", b.dir, "wipe")
        ask(b, BUSY, "cache", site.store.url, "wipe")


def words_of(folder):
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_wipe_leaves_nothing_that_opens_and_asks_before_it_loses_something(site):
    machine = site.machine("a")
    with machine.mount() as a:
        files = make_tree(a.dir, 9)
        a.sync()
        ask(a, OK, "pin", "-q", a.dir / "many")
    header = next((machine.home / "state").rglob("header")).read_bytes()
    assert header in words_of(machine.home)
    with machine.mount("sync=manual") as a:
        (a.dir / "unsent").write_bytes(b"only here")
    done = machine.run("cache", site.store.url, "wipe")
    assert done.returncode == BUSY and "not on the server" in done.stderr
    with machine.mount() as a:
        assert (a.dir / "unsent").read_bytes() == b"only here"
        a.sync()
        a.kill()
    # It was not closed: who knows.
    assert machine.run("cache", site.store.url, "wipe").returncode == BUSY
    with machine.mount() as a:
        a.sync()
    assert machine.run("cache", site.store.url, "wipe").returncode == OK
    left = {p.name for p in machine.home.rglob("*") if p.is_file() and p.parent.name != "stores"}
    assert left <= {"lock", "clean", "pin", "state"}, left
    assert header not in words_of(machine.home)
    site.store.away()
    done = machine.run("mount", site.store.url, machine.folder())
    assert done.returncode == OFFLINE
    site.store.back()
    with machine.mount() as a:
        files["unsent"] = b"only here"
        check_tree(a.dir, files)
        assert a.status()["pins"] == 0
    # Forced, what was not sent is lost; nothing else is, and the device works on.
    with machine.mount("sync=manual") as a:
        (a.dir / "doomed").write_bytes(b"x")
    assert machine.run("cache", site.store.url, "wipe", "--force").returncode == OK
    with machine.mount() as a:
        check_tree(a.dir, files)
        (a.dir / "later").write_bytes(b"y")
        a.sync()
    with site.machine("b").mount() as b:
        files["later"] = b"y"
        check_tree(b.dir, files)
    assert site.machine("c").run("cache", site.store.url, "wipe").returncode == 1


@pytest.fixture(name="disk")
def disk_(stage):
    """A disk of 128 MiB for a cache, which others may fill."""
    where = stage.folder("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128M,mode=0700", "none", where], check=True)
    yield where
    for d in stage.daemons:
        d.end()
    subprocess.run(["umount", "-l", where], check=True)


def free(disk):
    s = os.statvfs(disk)
    return s.f_bavail * s.f_frsize


def test_the_limits_hold_with_files_open_and_when_others_fill_the_disk_and_all_recovers(site, disk):
    data = random.Random(5).randbytes(24 * MIB)
    with site.machine("a").mount() as a:
        for i in range(6):
            (a.dir / f"f{i}").write_bytes(data[i * 4 * MIB:(i + 1) * 4 * MIB])
        a.sync()
    cache = disk / "cache"
    with site.machine("b").mount(f"cache_dir={cache}", "cache_size=16M", "min_free=80M", "memory=16M") as b:
        ask(b, OK, "pin", "-q", b.dir / "f0")
        opened = [open(b.dir / f"f{i}", "rb") for i in range(6)]
        r = random.Random(6)

        def read_all():
            for f in opened:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(120):
                at = r.randrange(6 * 16) * (MIB // 4)
                f = opened[at // (4 * MIB)]
                f.seek(at % (4 * MIB))
                assert f.read(MIB // 4) == data[at:at + MIB // 4]
                assert allocated_bytes(cache, 16 * MIB) <= 16 * MIB and free(disk) >= 80 * MIB

        def cached():
            return json.loads(ask(b, OK, "cache", b.dir, "info", "--json").stdout)["used_bytes"]
        ask(b, OK, "cache", b.dir, "drop")
        read_all()
        assert cached() > 10 * MIB
        # Others take so much that the cache must shrink below its own limit; the pinned file stays.
        (disk / "others").write_bytes(bytes(40 * MIB))
        wait_for(lambda: free(disk) >= 80 * MIB, 20, "room is made")
        assert 4 * MIB <= cached() <= 8 * MIB and is_complete(b)
        # All of it: the cache cannot help it, keeps what is pinned, and everything is still read and written.
        (disk / "more").write_bytes(bytes(free(disk) - 2 * MIB))
        for i, f in enumerate(opened):
            f.seek(0)
            assert f.read() == data[i * 4 * MIB:(i + 1) * 4 * MIB]
        (b.dir / "new").write_bytes(data[:MIB])
        assert (b.dir / "new").read_bytes() == data[:MIB] and is_complete(b)
        (disk / "others").unlink()
        (disk / "more").unlink()
        ask(b, OK, "cache", b.dir, "drop")
        read_all()
        assert cached() > 6 * MIB
        b.sync()
        for f in opened:
            f.close()
    site.store.away()
    with site.machine("b").mount(f"cache_dir={cache}", "cache_size=16M", "min_free=80M") as b:
        assert (b.dir / "f0").read_bytes() == data[:4 * MIB]
    site.store.back()


def test_the_unit_mounts_by_name_tells_when_it_is_ready_and_sends_before_it_stops(site, build):
    unit = build / "docs/foliofs@.system.service"
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str
    parsed.read(unit)
    service = parsed["Service"]
    assert service["Type"] == "notify" and "network.target" in parsed["Unit"]["After"]
    if shutil.which("systemd-analyze"):
        here = site.stage.folder("unit") / "foliofs@.service"
        here.write_text(re.sub(r"=-?\S*/foliofs ", lambda m: m.group().replace(m.group().lstrip("=-"), f"{vault_lib.program()} "),
                               unit.read_text()))
        subprocess.run(["systemd-analyze", "verify", "--man=no", here], check=True, timeout=60)
    machine = site.machine("a")
    where = machine.folder()
    machine.env()
    config = machine.home / "config/foliofs"
    config.mkdir()
    secret = machine.home / "secret"
    secret.touch(mode=0o600)
    secret.write_text(site.password + "\n")
    (config / "config").write_text(f"[work]\nstore = {site.store.url}\ndir = {where}\npassword_file = {secret}\nwrite_back = 60\n")
    env = {k: v for k, v in machine.env().items() if k != "FOLIOFS_PASSWORD"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(site.stage.dir / "notify"))
        listener.settimeout(30)
        argv = service["ExecStart"].replace("%i", "work").split()
        assert argv[0].endswith("/bin/foliofs") and argv[1:3] == ["mount", "-f"]
        daemon = site.stage.daemon([vault_lib.program(), *argv[1:]], mount=where, timeout_s=30,
                                   env=env | {"NOTIFY_SOCKET": listener.getsockname()})
        assert listener.recv(100) == b"READY=1"
        (where / "file").write_bytes(b"to be sent first")
        stop = service["ExecStop"].lstrip("-").replace("%i", "work").split()
        limit = float(stop[stop.index("--timeout") + 1])
        assert limit < float(service["TimeoutStopSec"])
        done = subprocess.run([vault_lib.program(), *stop[1:]], env=env, timeout=60, capture_output=True, text=True, check=False)
        assert done.returncode == OK, done.stderr
        assert daemon.wait(20) == 0 and listener.recv(100) == b"STOPPING=1"
    with site.machine("b").mount() as b:
        assert (b.dir / "file").read_bytes() == b"to be sent first"
