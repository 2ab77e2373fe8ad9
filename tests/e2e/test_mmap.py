"""One page changed through a mapping on one machine and by write() on another: both changes stay."""
import mmap
import os
import random
import subprocess
import sys

import pytest
from conftest import wait_for
from vault_lib import KINDS, Vault, size, store

PAGES = 4
PAGE = mmap.PAGESIZE


def versions(folder):
    """Content of the file and of every conflict copy of it."""
    return [p.read_bytes() for p in sorted(folder.iterdir())]


@pytest.mark.limit(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_change_and_a_change_from_elsewhere_are_both_kept(stage, kind):
    """The mapping is dirty in the kernel when the other's version is taken over: nothing of it may overwrite that."""
    rounds = size("MMAP_ROUNDS", 30 if kind == "file" else 6, 1000)
    rnd = random.Random(11)
    with store(stage, kind) as s:
        v = Vault(stage, s)
        # No program is started while the mapping is dirty: a child that closes the descriptor it inherited has the
        # kernel write the pages, and then both sides have committed.
        with v.machine("a").mount("poll=100ms", "fsync=remote") as a, \
                v.machine("b").mount("poll=100ms", "fsync=remote") as b:
            (a.dir / "d").mkdir()
            model = bytearray(rnd.randbytes(PAGES * PAGE - 100))
            (a.dir / "d/f").write_bytes(model)
            a.sync()
            wait_for(lambda: (b.dir / "d/f").exists(), 20, "the file at b")
            with open(a.dir / "d/f", "r+b") as f, open(b.dir / "d/f", "r+b", buffering=0) as g, \
                    mmap.mmap(f.fileno(), 0) as view:
                for n in range(rounds):
                    wait_for(lambda: os.pread(g.fileno(), len(model), 0) == model, 20, f"round {n}: a's at b")
                    page = rnd.randrange(PAGES) * PAGE
                    here, there = sorted(rnd.sample(range(0, PAGE - 200, 40), 2))
                    if n % 2:
                        here, there = there, here
                    mine, other = bytes([n % 251 + 1]) * rnd.randint(1, 30), bytes([(n + 7) % 251 + 1]) * rnd.randint(1, 30)
                    os.pwrite(g.fileno(), other, page + there)
                    view[page + here:page + here + len(mine)] = mine
                    os.fsync(g.fileno())
                    model[page + there:page + there + len(other)] = other
                    model[page + here:page + here + len(mine)] = mine
                    wait_for(lambda: view[page + there:page + there + len(other)] == other, 20, f"round {n}: b's in a's mapping")
                    assert view[:] == model, f"round {n}"
                    view.flush()
                    os.fsync(f.fileno())
            wait_for(lambda: (b.dir / "d/f").read_bytes() == model, 20, "all at b")
            assert versions(a.dir / "d") == [bytes(model)], "no conflict copy was needed"


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", KINDS)
def test_changes_committed_on_both_sides_are_kept_side_by_side(stage, kind):
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("a").mount("sync=manual") as a, v.machine("b").mount("sync=manual") as b:
            (a.dir / "d").mkdir()
            (a.dir / "d/f").write_bytes(bytes(8192))
            a.sync()
            b.sync()
            with open(a.dir / "d/f", "r+b") as f, mmap.mmap(f.fileno(), 0) as view:
                view[10:15] = b"first"
                view.flush()
            with open(b.dir / "d/f", "r+b") as f:
                f.seek(50)
                f.write(b"second")
            b.sync()
            a.sync()
            b.sync()
            for m in a, b:
                found = versions(m.dir / "d")
                assert any(x[10:15] == b"first" for x in found), found
                assert any(x[50:56] == b"second" for x in found), found
            assert sorted(versions(a.dir / "d")) == sorted(versions(b.dir / "d"))


@pytest.mark.limit(120)
def test_a_mapping_writes_only_what_changed(stage):
    """Seen in what a commit must carry: nothing at all for a page whose bytes are as they were."""
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("a").mount("sync=manual") as a:
            data = os.urandom(1 << 20)
            (a.dir / "f").write_bytes(data)
            a.sync()
            with open(a.dir / "f", "r+b") as f, mmap.mmap(f.fileno(), 0) as view:
                for at in range(0, len(data), PAGE):
                    view[at:at + 1] = data[at:at + 1]
                view.flush()
                assert a.status()["pending_ops"] == 0
                view[5000:5001] = bytes([data[5000] ^ 1])
                view.flush()
                a.sync()
            assert (a.dir / "f").read_bytes() == data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


# Opened for writing alone and emptied: written past the kernel's pages (src/vault/past.c).
WRITER = """
import os, sys
path, rounds, pages, page = sys.argv[1], *map(int, sys.argv[2:])
w = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.ftruncate(w, pages * page)
print("ready", flush=True)
sys.stdin.readline()
r = os.open(path, os.O_RDONLY)
for n in range(rounds):
    what, at = bytes([n % 251 + 1]) * 64, n * 37 % pages * page + n * 11 % 32 * 128
    os.pwrite(w, what, at)
    found = os.pread(r, 64, at)
    assert found == what, f"round {n}: {found[:4]} read at {at} after {what[:4]} was written"
"""


@pytest.mark.limit(300)
def test_a_mapping_and_a_write_past_the_kernels_pages_both_change_a_page(stage):
    """Every other 64 bytes of each page are one process's, the rest the other's."""
    rounds = size("PAST_ROUNDS", 3000, 100000)
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("one").mount() as m:
            path = m.dir / "f"
            argv = [sys.executable, "-c", WRITER, path, str(rounds), str(PAGES), str(PAGE)]
            with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
                assert p.stdout.readline() == "ready\n"
                mine = {}
                with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as view:
                    p.stdin.write("go\n")
                    p.stdin.flush()
                    n = 0
                    while p.poll() is None:
                        at = n * 13 % PAGES * PAGE + n * 7 % 32 * 128 + 64
                        mine[at] = bytes([n % 250 + 2]) * 64
                        view[at:at + 64] = mine[at]
                        n += 1
                        back = n * 5 % PAGES * PAGE + n * 3 % 32 * 128 + 64
                        assert view[back:back + 64] == mine.get(back, bytes(64)), f"store {n}: the mapping lost {back}"
                    assert p.returncode == 0
                    now = view[:]
            theirs = {k * 37 % PAGES * PAGE + k * 11 % 32 * 128: bytes([k % 251 + 1]) * 64 for k in range(rounds)}
            want = bytearray(PAGES * PAGE)
            for at, what in (mine | theirs).items():
                want[at:at + 64] = what
            assert now == want, "in the mapping"
            assert path.read_bytes() == want
            m.sync()
        with v.machine("another").mount() as m:
            assert (m.dir / "f").read_bytes() == want
