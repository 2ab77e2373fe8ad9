"""The store stalls: nobody waits for it but who reads what only it has, and who does can be killed.

FOLIOFS_LONG=1: one GET is held for 30 s; otherwise for a few.  Each step is done by a process of its own, over and over while
the request is held.  A step that waited for it would take as long as it is held; the figures are the medians and the longest."""
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest

import figures
from conftest import wait_for
from figures import MIB, Bench
from vault_lib import size

BOUND_S = 0.1
# On any machine, with nothing held.
GRACE_S = 10
FILES = 50

# Runs until its standard input ends; prints how long each step took.
PROCESS = r'''
import json, os, select, sys, time
what, top, me = sys.argv[1], sys.argv[2], os.getpid()
def synced(i):
    fd = os.open(f"{top}/synced-{me}", os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, b"z" * 3000, i % 10 * 3000)
    start = time.monotonic()
    os.fsync(fd)
    os.close(fd)
    return time.monotonic() - start
def read(i):
    with open(f"{top}/warm", "rb") as f:
        assert len(f.read()) == 1 << 20
def create(i):
    os.close(os.open(f"{top}/made-{me}-{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
fd = os.open(f"{top}/written-{me}", os.O_RDWR | os.O_CREAT)
step = {
    "stat": lambda i: os.stat(f"{top}/d/f{i % 50}"),
    "readdir": lambda i: os.listdir(f"{top}/d"),
    "cached read": read,
    "create": create,
    "write": lambda i: os.pwrite(fd, b"y" * 5000, i % 100 * 5000),
    "fsync": synced,
}[what]
took = []
while len(took) < 10 or not select.select([sys.stdin], [], [], 0.02)[0]:
    start = time.monotonic()
    alone = step(len(took))
    took.append(alone if what == "fsync" else time.monotonic() - start)
print(json.dumps(took))
'''
STEPS = ("stat", "readdir", "cached read", "create", "write", "fsync")


@contextlib.contextmanager
def a_cold_machine(stage, build):
    """(bench, machine): names and `warm` are cached there, the contents of all other files are not."""
    with Bench(stage, build) as bench:
        m = bench.machine("a")
        (m.mnt / "d").mkdir()
        for i in range(FILES):
            (m.mnt / "d" / f"f{i}").write_bytes(b"x" * 1000)
        (m.mnt / "warm").write_bytes(os.urandom(MIB))
        m.sync()
        # Packs of their own.
        for name in ("big", "other"):
            figures.big_file(m.mnt / name, 8)
            m.sync()
        # A request is given up and made again after this time.
        cold = bench.machine("b", "timeout=60")
        figures.list_all(cold.mnt)
        (cold.mnt / "warm").read_bytes()
        yield bench, cold
        assert (cold.mnt / "big").read_bytes() == (m.mnt / "big").read_bytes()


@contextlib.contextmanager
def others_go_on(top, hold_s, alone=None):
    """Processes do all STEPS at least for HOLD_S seconds, ten times, and longer than the body takes.  What is held is held until all of
    them have ended, so one that waited for it would never do.  How long a step takes on this machine anyhow is seen by doing
    the same when nothing is held: ALONE, medians; gives these."""
    medians = {}
    processes = {}
    end = time.monotonic() + hold_s
    try:
        for name, what, where in [(what, what, top) for what in STEPS] + [("fsync of the disk", "fsync", top.parent)]:
            processes[name] = subprocess.Popen([sys.executable, "-c", PROCESS, what, where], stdin=subprocess.PIPE,
                                               stdout=subprocess.PIPE, text=True)
        yield medians
        time.sleep(max(0, end - time.monotonic()))
        for name, p in processes.items():
            took = json.loads(p.communicate("\n", timeout=50)[0])  # the mounts' time-out is 60 s
            medians[name] = statistics.median(took)
            print(f"{name}: {len(took)} times, median {statistics.median(took) * 1000:.2f} ms, longest "
                  f"{max(took) * 1000:.1f} ms (bound 100 ms; {sum(t >= BOUND_S for t in took)} above it)")
            assert medians[name] < max(BOUND_S, 5 * alone[name] if alone else GRACE_S) and len(took) >= 10
    finally:
        for p in processes.values():
            p.kill()
            p.wait()


def is_killed_at_once(reader):
    start = time.monotonic()
    reader.kill()
    wait_for(lambda: reader.poll() is not None, 5, "the reader's end")
    print(f"kill of the stalled reader: {(time.monotonic() - start) * 1000:.0f} ms")


@pytest.mark.limit(240)
def test_one_held_request_holds_up_nobody_else(stage, build):
    hold_s = size("HOLD_S", 3, 30)
    with a_cold_machine(stage, build) as (bench, cold):
        print("nothing is held:")
        with others_go_on(cold.mnt, hold_s) as alone:
            pass
        print("one GET is held:")
        bench.proxy.hold("GET /packs/")
        start = time.monotonic()
        reader = subprocess.Popen(["cat", cold.mnt / "big"], stdout=subprocess.DEVNULL)
        try:
            wait_for(bench.proxy.held, 5, "the request")
            with others_go_on(cold.mnt, hold_s, alone):
                # Nor does one who needs the store, for another file.
                begun = time.monotonic()
                assert len((cold.mnt / "other").read_bytes()) == 8 * MIB
                print(f"8 MiB not cached: {(time.monotonic() - begun) * 1000:.0f} ms")
            assert reader.poll() is None
            print(f"held for {time.monotonic() - start:.1f} s")
            is_killed_at_once(reader)
        finally:
            reader.kill()
            reader.wait()
            bench.proxy.release()


@pytest.mark.limit(120)
def test_a_server_that_stops_holds_up_nobody_who_does_not_need_it(stage, build):
    hold_s = size("HOLD_S", 2, 20)
    with a_cold_machine(stage, build) as (bench, cold):
        with others_go_on(cold.mnt, hold_s) as alone:
            pass
        os.killpg(bench.server.process.pid, signal.SIGSTOP)
        reader = subprocess.Popen(["cat", cold.mnt / "big"], stdout=subprocess.DEVNULL)
        try:
            with others_go_on(cold.mnt, hold_s, alone):
                pass
            assert reader.poll() is None
            is_killed_at_once(reader)
        finally:
            reader.kill()
            reader.wait()
            os.killpg(bench.server.process.pid, signal.SIGCONT)
