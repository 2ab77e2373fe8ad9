"""A vault of many files, and an old one: what a cold machine pays.

FOLIOFS_LONG=1: a million files in 10,000 directories and one directory of 100,000; otherwise a tenth of each."""
import subprocess

import pytest

import figures
from conftest import wait_for
from figures import KIB, MIB, Bench
from vault_lib import LONG

FILES, WIDE = (1000000, 100000) if LONG else (100000, 10000)
# Each commit takes some ms, and pruning keeps the list of heads short only after minutes.
AGE_FILES, AGE_COMMITS = 5000, 2000 if LONG else 400


def make(bench, *what):
    """By the library, straight into the folder that the server serves."""
    exe = bench.exe.parents[1] / "tests" / "bench" / "mkvault"
    work = bench.stage.folder("mkvault")
    subprocess.run([exe, bench.server.root, work, *map(str, what)], check=True, timeout=1500)
    subprocess.run(["chmod", "-R", "a+rwX", bench.server.root], check=True)


@pytest.mark.limit(1800 if LONG else 240)
def test_many_files(stage, build):
    with Bench(stage, build) as bench:
        make(bench, "files", FILES, 100)
        make(bench, "wide", WIDE)
        a = bench.machine("a", "poll=3600")
        with bench.measure() as w:
            listing = figures.list_all(a.mnt / "tree" / "dir-77")
        print(f"ls -l of one directory of 100 in {FILES}: {w} (bound 25 requests, 1 MiB, 3 s)")
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


def cold_listing(bench, name):
    """(requests for heads, all other requests) of a mount with nothing cached and an ls -lR on it, by the server's log."""
    logged = len(bench.server.requests())
    m = bench.machine(name, "poll=3600")
    assert figures.list_all(m.mnt / "tree").count(b"\n-rw") == AGE_FILES
    rows = bench.log_since(logged)
    m.umount()
    heads = sum(method == "GET" and path.startswith("/heads/") for method, path, _, _ in rows)
    print(f"mount and ls -lR, {name}: {heads} heads read, {len(rows) - heads} other requests")
    return heads, len(rows) - heads


@pytest.mark.limit(900 if LONG else 240)
def test_an_old_vault_is_read_like_a_new_one(stage, build):
    """The tree must not cost more for its age.  Heads are counted apart: a first look reads each one that is listed, and
    here, where all commits are made within a minute or two, none is old enough to have been pruned."""
    with Bench(stage, build) as bench:
        make(bench, "files", AGE_FILES, 100)
        _, fresh = cold_listing(bench, "fresh")
        make(bench, "age", AGE_FILES, AGE_COMMITS)
        heads, old = cold_listing(bench, "old")
        print(f"after {AGE_COMMITS} commits: {old} requests, fresh {fresh} (bound 3 times)")
        assert old <= 3 * fresh
        assert heads <= AGE_COMMITS + 50


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
