"""What fsync acknowledged survives a power cut beneath the cache directory: a file system on a loop device, ended by its shutdown
ioctl without a flush of its log, the daemon killed, the file system mounted again (its own journal is replayed), then the vault.

    cache   state and cache on the disk that is cut; Apache elsewhere, reachable or not when the machine is back
    store   the directory store on the same disk

In the end no canary is found on the disk, in no file and in no block that was ever written (test_secrecy.py).

Writers note what was promised on another disk (promise_lib.py).  What counts is what they had noted before the ioctl: an fdatasync
that is under way at that moment may return 0 on both file systems though its data is gone (a program that appends to a plain file of
theirs and calls fdatasync loses its last record in one of six rounds).

Needs root, loop devices, both file systems in the kernel, mkfs.ext4 and mkfs.xfs; says what is missing if it cannot be."""
import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time

import pytest
import test_secrecy
from conftest import is_mounted
from promise_lib import check, check_database, end, start_database, start_writers
from vault_lib import Vault, size, store

FILESYSTEMS = ("ext4", "xfs")
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number
NOLOGFLUSH = 2
# The cache leaves a tenth of the disk free otherwise: with a small disk it would hold nothing.
OPTIONS = ("min_free=64M",)
WRITERS = 2
ROUNDS = size("CUTS", 2, 50)


def why_not(kind):
    """What this machine lacks for a disk of its own, or None."""
    found = subprocess.run(["losetup", "-f"], capture_output=True, text=True, timeout=60, check=False)
    if found.returncode or not os.path.exists(found.stdout.strip()):
        return f"no loop device: {found.stderr.strip() or found.stdout.strip()}"
    with open("/proc/filesystems") as f:
        known = kind in f.read().split()
    load = shutil.which("modprobe")
    if not known and (not load or subprocess.run([load, kind], capture_output=True, timeout=60, check=False).returncode):
        return f"the kernel has no {kind}"
    return None


class Disk:
    def __init__(self, stage, kind):
        lacking = why_not(kind)
        if lacking:
            pytest.skip(lacking)
        self.dir = stage.folder("disk")
        self.image = stage.dir / "disk.img"
        with open(self.image, "wb") as f:
            f.truncate(400 << 20)
        subprocess.run([f"mkfs.{kind}", "-q", self.image], check=True, timeout=60)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.dir], check=True, timeout=60)

    def cut(self):
        fd = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)

    def unmount(self):
        for _ in range(50):
            if subprocess.run(["umount", self.dir], stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", self.dir], check=True, timeout=60)


@contextlib.contextmanager
def disk(stage, kind):
    d = Disk(stage, kind)
    try:
        yield d
    finally:
        for daemon in stage.daemons:
            daemon.end()
        if is_mounted(d.dir):
            d.unmount()


def forget_after(note, length):
    """What was acknowledged after the cut began does not count; what was begun does."""
    text = note.read_text()
    late = [line for line in text[length:].splitlines(keepends=True) if line.startswith("begin")]
    note.write_text(text[:length] + "".join(late))


def looks(m, notes, note, away=False):
    looked = check(m.dir / "d", notes, away)[0]
    if not away:
        check_database(m.dir / "d" / "db", note)
    return looked


def scan_image(path, needles):
    """Every block of the disk that was ever written, whatever it belongs to now.  Bytes looked at."""
    looked = at = 0
    with open(path, "rb", buffering=0) as f:
        while True:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                return looked
            data = os.pread(f.fileno(), 8 << 20, at)
            for what, needle in needles:
                assert needle not in data, f"{what} on the disk near {at}"
            looked += len(data)
            at += max(len(data) - 4096, 1) if len(data) == 8 << 20 else len(data)


@pytest.mark.limit(300 + 30 * ROUNDS)
@pytest.mark.parametrize("cut", ("cache", "store"))
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_every_promise_is_kept_when_the_power_goes(stage, kind, cut):
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    note = stage.dir / "note-db"
    looked = without = 0
    for n in [*notes, note]:
        n.touch()
    with disk(stage, kind) as d, store(stage, "apache" if cut == "cache" else "file") as s:
        if cut == "store":
            s.root = d.dir / "v"
            s.url = f"file://{s.root}"
        v = Vault(stage, s)
        laptop = v.machine("laptop")
        laptop.home = d.dir / "laptop"
        laptop.home.mkdir()
        with laptop.mount(*OPTIONS) as m:
            (m.dir / "d").mkdir()
            test_secrecy.plant(m.dir)
            m.sync()
        for n in range(ROUNDS):
            m = laptop.mount(*OPTIONS, "poll=300ms", "write_back=1s")
            looked += looks(m, notes, note)
            # Not synced: it lies in the journal, or nowhere, when the power goes.
            (m.dir / f"{test_secrecy.NAME}-{n % 3}").write_bytes(test_secrecy.CONTENT * 900)
            writers = start_writers(m.dir / "d", notes)
            writers.append(start_database(m.dir / "d" / "db", note, "wal" if n % 4 == 3 else "delete"))
            try:
                until = time.monotonic() + 0.7 + 0.23 * (n % 4)
                while time.monotonic() < until:
                    # Commits run beside the writers, and are hit too.
                    if n % 2:
                        m.try_sync()
                    time.sleep(0.05)
                sizes = [n.stat().st_size for n in [*notes, note]]
                d.cut()
            finally:
                m.kill()
                end(writers)
            for path, until in zip([*notes, note], sizes):
                forget_after(path, until)
            d.unmount()
            d.mount()
            if cut == "cache" and n % 2:
                s.away()
                with laptop.mount(*OPTIONS) as m:
                    without += looks(m, notes, note, away=True)
                s.back()
        with laptop.mount(*OPTIONS) as m:
            last, made = check(m.dir / "d", notes)
            rows = check_database(m.dir / "d" / "db", note)
            m.sync()
        with v.machine("other").mount() as m:
            assert check(m.dir / "d", notes) == (last, made)
            assert check_database(m.dir / "d" / "db", note) == rows
        needles = [x for c in test_secrecy.CANARIES for x in test_secrecy.forms(c)]
        assert test_secrecy.scan(laptop.home, needles) > 1
        d.unmount()
        assert scan_image(d.image, needles) > 1 << 20
        d.mount()
    assert made > ROUNDS * WRITERS and rows > ROUNDS
    print(f"{kind}, {cut}: {ROUNDS} cuts, {made} fsyncs and {rows} transactions acknowledged, looked at {looked + 2 * last} times "
          f"and {without} times without the server, none lost")
