"""A small disk under state and cache, a tmpfs: nothing is accepted that does not fit, what fsync acknowledged is there after a kill,
deleting works while it is full, and all goes on when there is room again.  Needs root, for the tmpfs."""
import contextlib
import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from folder import allocated_bytes
from stubserver import Stub
from vault_lib import Vault, size, store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system")
MIB = 1 << 20
DISK = 48
WRITERS = 3
# What the account spares on a disk of 48 MiB: an eighth, and writers leave all of it.
SPARE = DISK * MIB // 8
# Files of random bytes until it is full; a line in NOTE for each that fsync acknowledged, and the errno at the end.
FILLER = r'''
import os, random, sys
folder, note, me, count, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
log = open(note, "a", buffering=1)
seed = 1000 * me
try:
    for n in range(count):
        rnd = random.Random(seed + n)
        data = rnd.randbytes(rnd.choice((300, 5000, 40000, most)))
        name = f"{folder}/w{me}-{n}"
        with open(name, "wb", buffering=0) as f:
            at = 0
            while at < len(data):
                at += f.write(data[at:at + 70000])
            os.fsync(f.fileno())
        log.write(f"{n}\n")
except OSError as e:
    log.write(f"errno {e.errno}\n")
'''


def small_disk(machine, mib=DISK):
    machine.env()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "none", machine.home], check=True, timeout=30)


@contextlib.contextmanager
def on_small_disk(stage, machine, mib=DISK):
    small_disk(machine, mib)
    try:
        yield
    finally:
        for d in stage.daemons:
            d.end()
        subprocess.run(["umount", "-l", machine.home], check=True, timeout=30)


def start(folder, note, me, count, most):
    return subprocess.Popen([sys.executable, "-c", FILLER, folder, note, str(me), str(count), str(most)])


def content(me, n, most):
    rnd = random.Random(1000 * me + n)
    return rnd.randbytes(rnd.choice((300, 5000, 40000, most)))


def noted(note):
    """(numbers acknowledged, errno or None)"""
    lines = note.read_text().split("\n")[:-1]
    failed = [int(x.split()[1]) for x in lines if x.startswith("errno")]
    return [int(x) for x in lines if not x.startswith("errno")], failed[0] if failed else None


def free(disk):
    s = os.statvfs(disk)
    return s.f_bavail * s.f_frsize


class Watcher(threading.Thread):
    """What is free and what the cache takes, seen from outside all the while.  `greedy_s`: the longest time in which the cache took
    more than KEPT while less than MIN_FREE was free."""
    MIN_FREE, KEPT, MOST = 64 * MIB, 2 * MIB, 8 * MIB

    def __init__(self, disk, cache):
        super().__init__()
        self.disk, self.cache = disk, cache
        self.least_free, self.most_cached, self.looks, self.greedy_s = 1 << 60, 0, 0, 0.0
        self.ending = threading.Event()

    def run(self):
        since = None
        while not self.ending.wait(0.02):
            room, cached, now = free(self.disk), allocated_bytes(self.cache, self.MOST), time.monotonic()
            self.least_free = min(self.least_free, room)
            self.most_cached = max(self.most_cached, cached)
            self.looks += 1
            since = (since or now) if room < self.MIN_FREE and cached > self.KEPT else None
            self.greedy_s = max(self.greedy_s, now - since if since else 0)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.join()


def all_there(folder, notes, most, every=1):
    n = 0
    for me, note in enumerate(notes):
        for i in noted(note)[0][::every]:
            assert (folder / f"w{me}-{i}").read_bytes() == content(me, i, most), (me, i)
            n += 1
    return n


@pytest.mark.limit(240)
@pytest.mark.parametrize("where", ("manual", "offline"))
def test_writers_fill_the_disk_and_all_that_fsync_acknowledged_survives_a_kill(stage, where):
    """Nothing goes to the server, so everybody is told at once, though `space_wait` is long."""
    most = 300000
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    with store(stage, "file") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        options = ["space_wait=600s"] + (["sync=manual"] if where == "manual" else [])
        with on_small_disk(stage, m):
            t = m.mount(*options)
            if where == "offline":
                assert m.run("offline", t.dir).returncode == 0
            assert os.statvfs(t.dir).f_bavail * os.statvfs(t.dir).f_frsize < DISK * MIB
            with Watcher(m.home, m.home / "cache") as w:
                writers = [start(t.dir, n, i, 10000, most) for i, n in enumerate(notes)]
                for p in writers:
                    assert p.wait(200) == 0
            assert [noted(n)[1] for n in notes] == [errno.ENOSPC] * WRITERS
            assert sum(len(noted(n)[0]) for n in notes) > 50
            # The spare room was left, but for pages that the disk rounds up to.
            assert w.looks > 3 and w.least_free > SPARE // 2, (w.least_free, w.looks)
            assert free(m.home) < SPARE + 4 * MIB
            assert t.counters()["journal.space_refused"] > 0
            t.kill()
            t = m.mount(*options)
            if where == "offline":
                assert m.run("offline", t.dir).returncode == 0
            assert all_there(t.dir, notes, most) > 50
            # Full as it is: to write is refused, to delete, to shorten and to move works.
            with pytest.raises(OSError) as refused:
                (t.dir / "more").write_bytes(os.urandom(8 * MIB))
            assert refused.value.errno == errno.ENOSPC
            with open(t.dir / "mapped", "w+b") as f:
                f.truncate(8 * MIB)
                with mmap.mmap(f.fileno(), 8 * MIB) as mem, pytest.raises(OSError) as refused:
                    for at in range(0, len(mem), 4096):
                        mem[at:at + 8] = os.urandom(8)
                    mem.flush()
                assert refused.value.errno == errno.ENOSPC
            (t.dir / "mapped").unlink()
            gone = [f"w0-{i}" for i in noted(notes[0])[0][:20]]
            for name in gone[2:]:
                (t.dir / name).unlink()
            os.truncate(t.dir / gone[0], 0)
            os.rename(t.dir / gone[1], t.dir / "moved")
            for path in (t.dir / gone[0], t.dir):
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
            t.kill()
            # The server is there again: everything goes, and there is room.
            t = m.mount()
            t.sync()
            assert not any((t.dir / name).exists() for name in gone[1:])
            (t.dir / "more").write_bytes(bytes(8 * MIB))
            t.sync()
            t.unmount()
            with v.machine("other").mount() as other:
                assert (other.dir / "more").read_bytes() == bytes(8 * MIB)
                assert (other.dir / gone[0]).read_bytes() == b""
                for me in range(1, WRITERS):
                    for i in noted(notes[me])[0]:
                        assert (other.dir / f"w{me}-{i}").read_bytes() == content(me, i, most)


@pytest.mark.limit(300)
def test_more_than_the_disk_holds_goes_through_it_while_the_server_takes_it(stage):
    """Several times the disk: the writers wait for the server and hear of nothing.  The cache keeps to its limits."""
    count, most = size("FULL_FILES", 60, 300), 3 * MIB
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    with store(stage, "apache") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        with on_small_disk(stage, m, 110):
            t = m.mount("cache_size=8M", "min_free=64M", "memory=16M", "bwlimit_up=40M")
            (t.dir / "first").write_bytes(os.urandom(6 * MIB))
            t.sync()
            assert allocated_bytes(m.home / "cache") > 4 * MIB
            with Watcher(m.home, m.home / "cache") as w:
                writers = [start(t.dir, n, i, count, most) for i, n in enumerate(notes)]
                for p in writers:
                    assert p.wait(280) == 0
            assert [noted(n) for n in notes] == [(list(range(count)), None)] * WRITERS
            waits = t.counters()["journal.space_waits"]
            print(f"{waits} waits, least free {w.least_free >> 20} MiB, most cached {w.most_cached >> 20} MiB, {w.looks} looks, "
                  f"{w.greedy_s:.2f} s over min_free")
            assert waits > 0
            assert 0 < w.most_cached <= 8 * MIB + MIB and w.greedy_s < 5
            t.sync()
            t.unmount()
        with v.machine("other").mount() as other:
            assert all_there(other.dir, notes, most) == count * WRITERS


@pytest.mark.limit(240)
def test_a_full_server_and_then_a_full_disk_lose_nothing_and_go_on_when_there_is_room(stage):
    most = 300000
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    with Stub("none") as stub:
        class Where:
            url = stub.url + "v"
        v = Vault(stage, Where)
        m = v.machine("m")
        with on_small_disk(stage, m, 32):
            t = m.mount("space_wait=2s", "write_back=500ms")
            stub.fault, stub.status, stub.times, stub.verbs = "status", 507, None, ("PUT",)
            for p in [start(t.dir, n, i, 10000, most) for i, n in enumerate(notes)]:
                assert p.wait(200) == 0
            assert [noted(n)[1] for n in notes] == [errno.ENOSPC] * WRITERS
            all_there(t.dir, notes, most)
            t.kill()
            t = m.mount("write_back=500ms")
            stub.fault = "none"
            all_there(t.dir, notes, most)
            # Whoever writes now waits for what the server takes, and hears of nothing.
            t.sync()
            (t.dir / "more").write_bytes(bytes(8 * MIB))
            t.sync()
            t.unmount()
        with v.machine("other").mount() as other:
            assert all_there(other.dir, notes, most, 8) > 2
            assert (other.dir / "more").read_bytes() == bytes(8 * MIB)


@pytest.mark.limit(180)
def test_who_waits_for_room_can_be_killed_and_others_are_not_held_up(stage):
    with Stub("none") as stub:
        class Where:
            url = stub.url + "v"
        v = Vault(stage, Where)
        m = v.machine("m")
        with on_small_disk(stage, m, 32):
            t = m.mount("space_wait=600s", "write_back=500ms", "timeout=600s")
            (t.dir / "there").write_bytes(b"there")
            t.sync()
            stub.fault, stub.status, stub.times, stub.verbs = "status", 507, None, ("PUT",)
            writer = start(t.dir, stage.dir / "note", 0, 10000, 300000)
            until = time.monotonic() + 100
            while t.counters().get("journal.space_waits", 0) == 0:
                assert time.monotonic() < until and writer.poll() is None
                time.sleep(0.05)
            # It waits, and nobody else does.
            assert (t.dir / "there").read_bytes() == b"there"
            assert len(os.listdir(t.dir)) > 5
            (t.dir / "there").unlink()
            assert writer.poll() is None
            writer.send_signal(signal.SIGTERM)
            assert writer.wait(30) == -signal.SIGTERM
            stub.fault = "none"
            t.sync()
            t.unmount()


@pytest.mark.limit(180)
def test_a_mount_without_the_server_works_on_a_disk_that_never_has_min_free(stage):
    names = {f"{d}/{f}" for d in ("a", "b") for f in range(40)}
    with store(stage, "apache") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        with on_small_disk(stage, m):
            with m.mount() as t:
                for d in ("a", "b"):
                    (t.dir / d).mkdir()
                for name in names:
                    (t.dir / name).write_bytes(name.encode() * 2000)
                t.sync()
                (t.dir / "a/1").unlink()
                os.rename(t.dir / "a/2", t.dir / "b/moved")
            names = names - {"a/1", "a/2"} | {"b/moved"}
            assert 0 < allocated_bytes(m.home / "cache", 16 * MIB) < 17 * MIB
            s.away()
            with m.mount() as t:
                assert {f"{d}/{f}" for d in ("a", "b") for f in os.listdir(t.dir / d)} == names
                assert all((t.dir / n).stat().st_size > 2000 for n in names)
                (t.dir / "a/new").write_bytes(b"new")
                (t.dir / "b/3").unlink()
            s.back()
            with m.mount() as t:
                t.sync()
        with v.machine("other").mount() as other:
            assert {f"{d}/{f}" for d in ("a", "b") for f in os.listdir(other.dir / d)} == names - {"b/3"} | {"a/new"}
            assert (other.dir / "b/moved").read_bytes() == b"a/2" * 2000
