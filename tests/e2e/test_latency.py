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


def curl_ranges(bench, path, mib):
    """Eight curls, which fetch the file together, each its eighth by ranges of 1 MiB on one connection."""
    per = mib // 8
    jobs = []
    for i in range(8):
        args = ["curl", "-sf"]
        for j in range(per):
            start = (i * per + j) * MIB
            if j:
                args.append("--next")
            args += ["-sf", "-o", "/dev/null", "-r", f"{start}-{start + MIB - 1}",
                     f"http://127.0.0.1:{bench.proxy.port}/{path}"]
        jobs.append(subprocess.Popen(args))
    assert all(j.wait(60) == 0 for j in jobs)


@pytest.mark.limit(180)
def test_a_sequential_reader_keeps_the_line_busy(bench):
    m = bench.machine("a")
    figures.big_file(m.mnt / "big", READ_MIB)
    m.sync()
    figures.big_file(bench.server.root / "raw", READ_MIB)
    (bench.server.root / "raw").chmod(0o644)
    best = 0.0
    for attempt in range(3):  # other load on the machine hits either side
        with bench.measure() as curls:
            curl_ranges(bench, "raw", READ_MIB)
        cold = bench.machine(f"b{attempt}")
        with bench.measure() as w:
            subprocess.run(["dd", f"if={cold.mnt}/big", "of=/dev/null", "bs=1M", "status=none"], check=True)
        best = max(best, curls.seconds / w.seconds)
        print(f"cold read of {READ_MIB} MiB: {w}; 8 curls: {curls.seconds:.2f} s; "
              f"ratio {curls.seconds / w.seconds:.2f} (bound 0.6)")
        cold.umount()
        # Requests large enough to carry the delay.
        assert w.received / w.requests >= 1000 * KIB
    assert best >= 0.6
