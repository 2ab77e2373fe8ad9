"""Random operations on one file of a vault (fsxlike.c), while it commits every second with little memory and a
small cache; afterwards the file is the same to another mount and to another machine.

NF_E2E_FSX_OPS and NF_E2E_FSX_SEED say how many and which; FOLIOFS_LONG=1: a million of each."""
import os
import shutil
import signal
import subprocess

import pytest

from test_cli import Site

OPS = int(os.environ.get("NF_E2E_FSX_OPS", "1000000" if os.environ.get("FOLIOFS_LONG") else "15000"))
SEED = int(os.environ.get("NF_E2E_FSX_SEED", "1"))

# What works with what: a block, plain and sealed, must fit into an eighth of the memory.
MODES = [("buffered", "16K", "4M"), ("mmap", "4K", "4M"), ("append", "32K", "4M"), ("direct", "4K", "4M"),
         ("two", "1M", "16M"), ("mixed", "4K", "4M"), ("mixed", "16K", "4M"), ("mixed", "1M", "16M")]


@pytest.fixture
def site(stage, build):
    s = Site(stage, build)
    s.init()
    try:
        yield s
    finally:
        pid = s.daemon()
        if pid:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.limit(max(120, OPS // 100))
@pytest.mark.parametrize("mode,block,memory", MODES)
def test_random_operations_match_an_array_of_bytes(site, build, mode, block, memory):
    options = ["--write-back", "1s", "--memory", memory, "--cache-size", "32M", "--block-size", block]
    want = site.stage.dir / "want"
    file = site.mnt / "file"

    site.mount(*options)
    done = subprocess.run([build / "tests/e2e/fsxlike", "-n", str(OPS), "-s", str(SEED), "-o", want, mode, file],
                          capture_output=True, text=True, timeout=max(100, OPS // 100), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site.umount()

    site.mount(*options)
    assert file.read_bytes() == want.read_bytes()
    site.run("sync", site.mnt)
    site.umount()

    # As on another machine.
    shutil.rmtree(site.home)
    site.home.mkdir()
    site.mount(*options)
    assert file.read_bytes() == want.read_bytes()
    site.umount()
