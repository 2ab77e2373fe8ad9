"""A vault of many files: what a cold machine pays.

FOLIOFS_LONG=1: a million files in 10,000 directories and one directory of 100,000; otherwise a tenth of each."""
import subprocess

import pytest

import figures
from conftest import wait_for
from figures import KIB, MIB, Bench
from vault_lib import LONG

FILES, WIDE = (1000000, 100000) if LONG else (100000, 10000)


@pytest.mark.limit(1800 if LONG else 240)
def test_many_files(stage, build):
    with Bench(stage, build) as bench:
        figures.make_vault(bench, "files", FILES, 100)
        figures.make_vault(bench, "wide", WIDE)
        with bench.measure() as w:
            a = bench.machine("a", "poll=3600")
            listing = figures.list_all(a.mnt / "tree" / "dir-77")
        print(f"mount and ls -l of one directory of 100 in {FILES}: {w} (bound 25 requests, 1 MiB, 3 s)")
        assert listing.count(b"\n-rw") == 100
        assert w.requests <= 25 and w.received <= MIB and w.seconds <= 3

        b = bench.machine("b", "poll=2")
        (b.mnt / "tree" / "dir-5" / "file-500").stat()
        with bench.measure() as w:
            (a.mnt / "tree" / "dir-5" / "new").write_text("new")
            a.sync()
        print(f"one new file: {w} (bound 128 KiB)")
        assert w.sent <= 128 * KIB
        with bench.measure() as w:
            wait_for(lambda: (b.mnt / "tree" / "dir-5" / "new").exists(), 20, "the news")
        print(f"another mount learns of it: {w} (bound 10 requests)")
        assert w.requests <= 10
        b.umount()

        with bench.measure() as w:
            found = subprocess.run(["find", a.mnt, "-type", "f"], stdout=subprocess.PIPE, check=True).stdout
        assert found.count(b"\n") == FILES + WIDE + 1
        peak = a.memory_peak_bytes()
        print(f"find: {w}, peak {peak / MIB:.0f} MiB (bound 256 MiB)")
        assert peak < 256 * MIB


@pytest.mark.limit(1200 if LONG else 240)
def test_memory_stays_bounded_while_much_is_written(stage, build):
    """With every option as it comes, the cost of the passphrase too: that memory is a child's."""
    with Bench(stage, build, init=()) as bench:
        m = bench.machine("a")
        figures.big_file(m.mnt / "big", 4096 if LONG else 1024)
        m.sync()
        peak = m.memory_peak_bytes()
        print(f"copied in: peak {peak / MIB:.0f} MiB (bound 256 MiB)")
        assert peak < 256 * MIB
