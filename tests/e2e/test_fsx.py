"""Random operations on one file of a vault (fsxlike.c), while it commits every second with the least memory and a
small cache; afterwards the file is the same to another mount and to another machine.

NF_E2E_FSX_OPS and NF_E2E_FSX_SEED say how many and which; FOLIOFS_LONG=1: a million of each."""
import subprocess

import pytest

from vault_lib import Vault, size, store

OPS = size("FSX_OPS", 15000, 1000000)
SEED = size("FSX_SEED", 1, 1)
MODES = [("buffered", "16K"), ("mmap", "4K"), ("append", "32K"), ("direct", "4K"), ("two", "1M"), ("mixed", "4K"), ("mixed", "16K"),
         ("mixed", "1M")]


def run_random(stage, build, mode, block, ops, *more):
    options = ["write_back=1s", "memory=16M", "cache_size=32M", f"block_size={block}"]
    want = stage.dir / "want"
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("one").mount(*options) as m:
            done = subprocess.run([build / "tests/e2e/fsxlike", "-n", str(ops), "-s", str(SEED), "-o", want, *more, mode,
                                   m.dir / "file"],
                                  capture_output=True, text=True, timeout=max(100, OPS // 100), check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        with v.machine("one").mount(*options) as m:
            assert (m.dir / "file").read_bytes() == want.read_bytes()
            m.sync()
        with v.machine("another").mount(*options) as m:
            assert (m.dir / "file").read_bytes() == want.read_bytes()


@pytest.mark.limit(max(120, OPS // 100))
@pytest.mark.parametrize("mode,block", MODES)
def test_random_operations_match_an_array_of_bytes(stage, build, mode, block):
    run_random(stage, build, mode, block, OPS)


@pytest.mark.limit(max(120, OPS // 100))
@pytest.mark.parametrize("block", ["2M", "4M"])
def test_a_file_of_several_of_the_largest_blocks_matches_too(stage, build, block):
    # The whole file is compared after each operation: they are fewer.
    run_random(stage, build, "mixed", block, max(300, OPS // 100), "-l", str(9 << 20))
