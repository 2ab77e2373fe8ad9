"""50 ms more for every request, over a real server."""
import subprocess

import pytest

import figures
from figures import KIB, MIB, Bench

DELAY_S = 0.05
READ_MIB = 256


@pytest.fixture
def bench(stage, build):
    with Bench(stage, build, "apache", DELAY_S) as b:
        yield b


@pytest.mark.limit(180)
def test_small_files_do_not_wait_for_each_other(bench):
    m = bench.machine("a")
    with bench.measure() as local:
        figures.small_files(m.mnt / "s")
    with bench.measure() as w:
        m.sync()
    print(f"copied in {local.seconds:.2f} s, sync {w} (bound 10 s)")
    assert w.seconds <= 10
    cold = bench.machine("b")
    with bench.measure() as w:
        assert figures.list_all(cold.mnt / "s").count(b"\n-rw") == 5000
    print(f"cold ls -lR: {w} (bound 3 s)")
    assert w.seconds <= 3


def curls(bench, per_job):
    """Eight curls at once; PER_JOB(i) names what the i-th fetches, on one connection: (path, range or None)."""
    jobs = []
    for i in range(8):
        args = ["curl"]
        for nr, (path, part) in enumerate(per_job(i)):
            args += (["--next"] if nr else []) + ["-sf", "-o", "/dev/null"] + (["-r", part] if part else [])
            args.append(f"http://127.0.0.1:{bench.proxy.port}/{path}")
        jobs.append(subprocess.Popen(args))
    assert all(j.wait(60) == 0 for j in jobs)


def ranges_of_1_mib(i):
    """The file together, each its eighth."""
    per = READ_MIB // 8
    return [("raw", f"{at * MIB}-{(at + 1) * MIB - 1}") for at in range(i * per, (i + 1) * per)]


def a_whole_file(i):
    return [(f"raw{i}", None)]


@pytest.mark.limit(180)
def test_a_sequential_reader_keeps_the_line_busy(bench):
    m = bench.machine("a")
    figures.big_file(m.mnt / "big", READ_MIB)
    m.sync()
    for name, mib in [("raw", READ_MIB)] + [(f"raw{i}", READ_MIB // 8) for i in range(8)]:
        figures.big_file(bench.server.root / name, mib)
        (bench.server.root / name).chmod(0o644)
    best = best_of_whole = 0.0
    for attempt in range(3):  # other load on the machine hits either side
        with bench.measure() as ranges:
            curls(bench, ranges_of_1_mib)
        with bench.measure() as whole:
            curls(bench, a_whole_file)
        cold = bench.machine(f"b{attempt}")
        with bench.measure() as w:
            subprocess.run(["dd", f"if={cold.mnt}/big", "of=/dev/null", "bs=1M", "status=none"], check=True)
        best = max(best, ranges.seconds / w.seconds)
        best_of_whole = max(best_of_whole, whole.seconds / w.seconds)
        print(f"cold read of {READ_MIB} MiB: {w}; 8 curls by ranges of 1 MiB: {ranges.seconds:.2f} s; "
              f"ratio {ranges.seconds / w.seconds:.2f} (bound 0.6); 8 curls, a whole file each: {whole.seconds:.2f} s; "
              f"ratio {whole.seconds / w.seconds:.2f}")
        cold.umount()
        # Requests large enough to carry the delay.
        assert w.received / w.requests >= 1000 * KIB
    print(f"best ratios: {best:.2f} and {best_of_whole:.2f}")
    assert best >= 0.6
