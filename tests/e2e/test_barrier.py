"""Order without waiting: the barrier ioctl (include/foliofs/ioctl.h) and renames, against kill -9; and with the link cut at random, too
(NF_E2E_CUTS, cuts_lib.py).

The mount dies at a random moment; what a new mount finds, and what another machine finds on the server, must be
a moment of the past: of each file a prefix of its groups."""
import contextlib
import errno
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from conftest import detach, wait_for
from cli_lib import Site
from test_toyfs import Toy

SEED = int(os.environ.get("NF_SEED", "1"))
TURNS = int(os.environ.get("NF_E2E_BARRIER_TURNS", "200" if os.environ.get("FOLIOFS_LONG") else "8"))
BARRIER = 0xF101  # _IO(0xf1, 1)
A_AT, B_AT, SIZE = 0, 300000, 400000
OPTIONS = ["--write-back", "150ms", "--poll", "1h"]


class Vault(Site):
    """A vault as the tests below use a filesystem."""
    remote = True

    def __init__(self, stage, build):
        super().__init__(stage, build)
        self.init()

    def start(self):
        self.mount(*OPTIONS)

    def stop(self):
        self.umount()

    def sync(self):
        """Another machine finds it."""
        self.run("sync", self.mnt, timeout=60)

    def die(self):
        pid = self.daemon()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.daemon() is None, what="daemon is gone")
        detach(self.mnt)

    def other_machine(self):
        shutil.rmtree(self.home)
        self.home.mkdir()


class ToyFs(Toy):
    remote = False

    def start(self):
        self.mount()

    def stop(self):
        self.umount()

    def sync(self):
        pass

    def die(self):
        self.kill()


@pytest.fixture(params=[Vault, ToyFs], ids=["vault", "toyfs"])
def fs(request, stage, build):
    f = request.param(stage, build)
    f.start()
    try:
        yield f
    finally:
        if isinstance(f, Vault) and f.daemon():
            os.kill(f.daemon(), signal.SIGKILL)


class Busy:
    """Runs STEP again and again in a thread until the mount dies under it."""

    def __init__(self, step):
        self.stop = False
        self.turns = 0
        self.step = step
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while not self.stop:
                self.step(self.turns + 1)
                self.turns += 1

    def end(self):
        self.stop = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def opened(path, flags):
    """A descriptor; closing it after the mount has died is an error nobody minds."""
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def generation(f, at):
    return struct.unpack("<Q", os.pread(f.fileno(), 8, at))[0]


@pytest.mark.limit(60 + TURNS * 4)
def test_what_came_after_a_barrier_is_never_there_without_what_came_before(fs):
    rng = random.Random(SEED)
    print("seed", SEED)
    file, other = fs.mnt / "file", fs.mnt / "other"
    with open(file, "wb", buffering=0) as f:
        f.write(bytes(SIZE))
        os.fsync(f.fileno())
    fs.sync()
    last = 0
    seen = []
    for turn in range(TURNS):
        with opened(file, os.O_RDWR) as f, opened(other, os.O_WRONLY | os.O_CREAT) as o:
            def step(n, f=f, base=last):
                os.pwrite(f, struct.pack("<Q", base + n), A_AT)
                fcntl.ioctl(f, BARRIER)
                os.pwrite(f, struct.pack("<Q", base + n), B_AT)
                fcntl.ioctl(f, BARRIER)
                time.sleep(0.001)

            def sync(n, o=o, f=f):
                """Makes the daemon store at times of its own."""
                os.pwrite(o, b"x", n)
                os.fsync(o if n % 3 else f)
                time.sleep(0.01)

            threads = [Busy(step), Busy(sync)]
            time.sleep(rng.uniform(0.05, 0.7))
            fs.die()
            for t in threads:
                t.end()
        if fs.remote and turn % 3 == 2:
            fs.other_machine()
        fs.start()
        with open(file, "rb", buffering=0) as f:
            a, b = generation(f, A_AT), generation(f, B_AT)
            assert os.fstat(f.fileno()).st_size == SIZE
        assert a - 1 <= b <= a, f"turn {turn}, seed {SEED}: A is {a}, B is {b}"
        assert a <= last + threads[0].turns + 1
        last = max(last + threads[0].turns + 1, a)
        seen.append(a)
    fs.stop()
    assert len(set(seen)) > 1, "nothing was ever stored"


@pytest.mark.limit(60 + TURNS * 4)
def test_a_rename_over_a_file_always_comes_with_its_data(fs):
    rng = random.Random(SEED)
    print("seed", SEED)
    file, new, other = fs.mnt / "config", fs.mnt / "config.new", fs.mnt / "other"

    def content(n):
        return b"%d\n" % n * (1000 + n % 7 * 5000)

    file.write_bytes(content(0))
    with open(file, "rb") as f:
        os.fsync(f.fileno())
    fs.sync()
    last = 0
    for turn in range(TURNS):
        with opened(other, os.O_WRONLY | os.O_CREAT) as o:
            def step(n, base=last):
                new.write_bytes(content(base + n))
                os.rename(new, file)
                time.sleep(0.002)

            def sync(n, o=o):
                os.pwrite(o, b"x", n)
                os.fsync(o)

            threads = [Busy(step), Busy(sync)]
            time.sleep(rng.uniform(0.05, 0.7))
            fs.die()
            for t in threads:
                t.end()
        if fs.remote and turn % 3 == 2:
            fs.other_machine()
        fs.start()
        got = file.read_bytes()
        n = int(got[:20].split(b"\n")[0] or b"-1")
        assert got == content(n), f"turn {turn}, seed {SEED}: {len(got)} bytes, begins with {got[:20]}"
        last += threads[0].turns + 1
    fs.stop()


def test_regions_shows_two_groups_after_a_barrier(stage, build):
    v = Vault(stage, build)
    v.mount("--write-back", "1h")
    try:
        with open(v.mnt / "f", "w+b", buffering=0) as f:
            f.write(b"a" * 50000)
            ino = os.fstat(f.fileno()).st_ino
            fcntl.ioctl(f.fileno(), BARRIER)
            os.pwrite(f.fileno(), b"b" * 50000, 100000)

            def rows():
                lines = v.run("regions", v.mnt).stdout.splitlines()
                at = {name: i for i, name in enumerate(lines[0].split())}
                return [(line.split()[at["GROUP"]], line.split()[at["S"]], line.split()[at["DIRTY,"]])
                        for line in lines[1:] if int(line.split()[at["INODE"]], 16) == ino]

            assert rows() == [("1", "D", "0-c350"), ("2", "D", "186a0-249f0")]
            os.fsync(f.fileno())
            assert rows() == []
    finally:
        v.umount()


def test_who_may_ask_for_a_barrier(fs):
    (fs.mnt / "f").write_bytes(b"abc")
    with open(fs.mnt / "f", "r+b") as f:
        fcntl.ioctl(f.fileno(), BARRIER)
        for unknown in [0xF1FF, 0xC004F1FE]:
            with pytest.raises(OSError) as e:
                fcntl.ioctl(f.fileno(), unknown, bytearray(4))
            assert e.value.errno == errno.ENOTTY
    if fs.remote:
        with open(fs.mnt / "f", "rb") as f, pytest.raises(OSError) as e:
            fcntl.ioctl(f.fileno(), BARRIER)
        assert e.value.errno == errno.EBADF
        fd = os.open(fs.mnt, os.O_RDONLY)
        with pytest.raises(OSError) as e:
            fcntl.ioctl(fd, BARRIER)
        os.close(fd)
        assert e.value.errno == errno.ENOTTY
    fs.stop()


def test_the_example_program(fs, build):
    p = subprocess.run([build / "examples/barrier", fs.mnt / "j"], capture_output=True, text=True, timeout=20,
                       check=False)
    assert (p.returncode, p.stderr) == (0, "")
    assert (fs.mnt / "j").read_bytes()[4096:] == b"the data\n"
    fs.stop()
