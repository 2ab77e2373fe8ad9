#!/usr/bin/env python3
"""Writers of one file through the kernel, side by side: O_DIRECT, because the kernel lets cached writes of a file in only one
after the other.  1, 2 and 4 processes write parts of their own of one file of a mounted vault; each write is on the disk
(in the journal) when it returns.  Prints what they reach together, as many times what one does, and beside it the same on a
plain file of the same disk (O_DIRECT and O_DSYNC).  Best of the rounds, in turns.

	NF_BUILD=build python3 tests/bench/parallel_direct.py [--mib N] [--kib N] [--rounds N]"""
import argparse
import mmap
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "tests/lib")]
from conftest import Stage  # noqa: E402
from vault_lib import Vault, store  # noqa: E402

WRITERS = (1, 2, 4)


def write_part(path, flags, start, end, piece, go):
    """In a process of its own: no interpreter lock between the writers."""
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT | flags)
    buf = mmap.mmap(-1, piece)
    buf.write(os.urandom(piece))
    os.read(go, 1)
    for at in range(start, end, piece):
        assert os.pwrite(fd, buf, at) == piece
    os.close(fd)


def seconds(path, flags, total, piece, nr):
    """From the moment all are ready until the last has ended."""
    go, start = os.pipe()
    children = []
    for i in range(nr):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                write_part(path, flags, i * total // nr, (i + 1) * total // nr, piece, go)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    time.sleep(0.1)
    begin = time.monotonic()
    os.write(start, b"g" * nr)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    taken = time.monotonic() - begin
    os.close(go)
    os.close(start)
    assert not failed
    return taken


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--mib", type=int, default=64, help="written in each run")
    args.add_argument("--kib", type=int, default=256, help="of one write")
    args.add_argument("--rounds", type=int, default=5)
    o = args.parse_args()
    total, piece = o.mib << 20, o.kib << 10
    stage = Stage()
    try:
        with store(stage, "file") as s:
            with Vault(stage, s).machine("one").mount("write_back=1h", "memory=256M") as m:
                where = {"vault": (m.dir / "file", 0), "plain file": (stage.dir / "plain", os.O_DSYNC)}
                best = {(name, n): 1e9 for name in where for n in WRITERS}
                for path, _ in where.values():
                    path.write_bytes(b"")
                    os.truncate(path, total)
                for name, (path, flags) in where.items():
                    seconds(path, flags, total, piece, 1)  # the file is there afterwards, on both
                for _ in range(o.rounds):
                    for (name, n), before in best.items():
                        best[name, n] = min(before, seconds(*where[name], total, piece, n))
        for name in where:
            rates = [total / best[name, n] / 1e6 for n in WRITERS]
            print(f"{name}, writes of {o.kib} KiB: 1 writer {rates[0]:.0f} MB/s; "
                  + "; ".join(f"{n} writers {r / rates[0]:.2f} times that" for n, r in zip(WRITERS[1:], rates[1:])))
    finally:
        stage.end()


if __name__ == "__main__":
    main()
