"""Runs storetool; where it is: NF_BUILD, or build/ of the tree."""
import json
import os
import pathlib
import subprocess

from conftest import ROOT

TOOL = pathlib.Path(os.environ.get("NF_BUILD", ROOT / "build")) / "tests/e2e/storetool"


def tool_lines(*args, timeout=60, env=None):
    done = subprocess.run([str(TOOL), *map(str, args)], capture_output=True, text=True,
                          timeout=timeout, check=False, env=env)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tool(*args, **kw):
    lines = tool_lines(*args, **kw)
    assert len(lines) == 1, lines
    return lines[0]


def body(name, length):
    """The bytes storetool puts under NAME (tests/lib/conform.h)."""
    mask = (1 << 64) - 1
    h = 5381
    for c in name.encode():
        h = (h * 33 + c) & mask
    out = bytearray()
    for i in range(0, length, 8):
        x = (h + i // 8 + 1) & mask
        for _ in range(2):
            x ^= x >> 32
            x = x * 0xd6e8feb86659fd93 & mask
        out += (x ^ x >> 32).to_bytes(8, "little")
    return bytes(out[:length])
