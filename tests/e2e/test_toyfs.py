"""The example filesystem (examples/toyfs), which is on the public library alone, through the kernel."""
import contextlib
import os
import pathlib
import random
import subprocess
import time

import pytest

from conftest import detach, wait_for

SEED = int(os.environ.get("NF_SEED", "1"))
OPS = int(os.environ.get("NF_E2E_FSX_OPS", "1000"))


class Toy:
    def __init__(self, stage, build):
        self.stage = stage
        self.exe = build / "examples/toyfs"
        self.store = stage.folder("store")
        self.mnt = stage.folder("mnt")
        self.key = stage.dir / "key"
        self.key.write_bytes(os.urandom(32))
        self.d = None

    def mount(self):
        self.d = self.stage.daemon([self.exe, self.key, self.store, self.mnt], mount=self.mnt, ready="ready")

    def umount(self):
        assert self.d.unmount() == 0, self.d.stderr()

    def kill(self):
        self.d.kill()
        detach(self.mnt)

    def refused(self):
        p = subprocess.run([self.exe, self.key, self.store, self.mnt], capture_output=True, text=True, timeout=20,
                           check=False)
        assert p.returncode == 1
        return p.stderr


@pytest.fixture
def toy(stage, build):
    t = Toy(stage, build)
    t.mount()
    return t


@pytest.mark.limit(max(60, OPS // 50))
@pytest.mark.parametrize("mode", ["mmap", "direct", "mixed"])
def test_random_operations_match_an_array_of_bytes_and_a_remount(toy, build, mode):
    want, file = toy.stage.dir / "want", toy.mnt / "file"
    done = subprocess.run([build / "tests/e2e/fsxlike", "-n", str(OPS), "-s", str(SEED), "-l", "393216", "-o", want,
                           mode, file], capture_output=True, text=True, timeout=max(50, OPS // 50), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert file.read_bytes() == want.read_bytes()
    toy.umount()
    toy.mount()
    assert file.read_bytes() == want.read_bytes()
    toy.umount()


def test_names_files_and_times_survive_a_remount(toy):
    for i in range(40):
        (toy.mnt / f"file {i}").write_bytes(b"%d" % i * i)
    for i in range(0, 40, 3):
        (toy.mnt / f"file {i}").unlink()
    (toy.mnt / "file 1").rename(toy.mnt / "file 2")
    (toy.mnt / "file 4").chmod(0o640)
    os.utime(toy.mnt / "file 4", (1e9, 1e9))
    os.truncate(toy.mnt / "file 5", 100000)
    with open(toy.mnt / "file 5", "rb") as f:
        os.fsync(f.fileno())
    want = {p.name: (p.read_bytes(), p.stat().st_mode) for p in toy.mnt.iterdir()}
    assert want["file 2"][0] == b"1" and want["file 5"][0] == b"5" * 5 + bytes(99995)
    toy.umount()
    toy.mount()
    assert {p.name: (p.read_bytes(), p.stat().st_mode) for p in toy.mnt.iterdir()} == want
    assert want["file 4"][1] & 0o777 == 0o640


def test_an_open_file_outlives_its_name_and_leaves_nothing(toy):
    with open(toy.mnt / "f", "w+b", buffering=0) as f:
        f.write(b"a" * 300000)
        os.fsync(f.fileno())
        (toy.mnt / "f").unlink()
        f.write(b"b" * 10)
        assert os.pread(f.fileno(), 400000, 0) == b"a" * 300000 + b"b" * 10
    wait_for(lambda: not any(toy.store.iterdir()), what="blocks are removed")


def test_the_store_holds_neither_contents_nor_names(toy):
    marker = b"a sentence nobody else should read"
    (toy.mnt / "secret plans").write_bytes(marker * 5000)
    toy.umount()
    files = list(toy.store.iterdir())
    assert len(files) >= 4
    for p in files:
        assert marker[:12] not in p.read_bytes() and b"secret" not in p.read_bytes()


def test_another_key_and_changed_bytes_are_refused(toy):
    (toy.mnt / "f").write_bytes(bytes(200000))
    toy.umount()
    blocks = sorted(p for p in toy.store.iterdir() if p.name.count("-") == 2)
    other = bytearray(blocks[1].read_bytes())
    other[100] ^= 1
    blocks[1].write_bytes(other)
    toy.mount()
    with open(toy.mnt / "f", "rb", buffering=0) as f:
        assert os.pread(f.fileno(), 1000, 0) == bytes(1000)
        with pytest.raises(OSError):
            os.pread(f.fileno(), 1000, 70000)
    # One block in place of another.
    toy.umount()
    blocks[1].write_bytes(blocks[0].read_bytes())
    toy.mount()
    with open(toy.mnt / "f", "rb", buffering=0) as f, pytest.raises(OSError):
        os.pread(f.fileno(), 1000, 70000)
    toy.umount()
    toy.key.write_bytes(os.urandom(32))
    assert "authentication tag" in toy.refused()


def test_what_was_synced_is_there_after_a_kill_and_leftovers_are_swept(toy):
    rng = random.Random(SEED)
    data = {}
    for turn in range(6):
        for i in range(4):
            body = rng.randbytes(rng.randrange(1, 300000))
            with open(toy.mnt / f"f{i}", "wb", buffering=0) as f:
                f.write(body)
                os.fsync(f.fileno())
            data[f"f{i}"] = body
        with contextlib.suppress(OSError), open(toy.mnt / f"not synced {turn}", "wb", buffering=0) as f:
            f.write(rng.randbytes(500000))
            time.sleep(rng.random() * 0.05)
        toy.kill()
        toy.mount()
        for name, body in data.items():
            assert (toy.mnt / name).read_bytes() == body, (turn, name, SEED)
    toy.umount()
    toy.mount()
    left = {p.name for p in toy.store.iterdir()}
    assert not any(p.endswith(".new") for p in left)


def test_a_file_that_cannot_be_stored_says_so_at_fsync(toy, stage):
    """The store's directory is made read-only for our user by taking it away."""
    with open(toy.mnt / "f", "w+b", buffering=0) as f:
        f.write(b"x" * 1000)
        moved = stage.dir / "moved"
        toy.store.rename(moved)  # the daemon has it open: still fine
        os.fsync(f.fileno())
        for p in moved.iterdir():
            p.unlink()
        moved.rmdir()            # now nothing can be made in it
        f.write(b"y" * 1000)
        with pytest.raises(OSError):
            os.fsync(f.fileno())
    toy.kill()
    pathlib.Path(toy.store).mkdir()
