#!/usr/bin/env python3
"""Prints the test programs of one suite, one "layer:name:path" a line.

tests/unit/<layer>/check_X.c is linked with <layer> and what is below it; so
are tests/model/<layer>/model_X.c and tests/crash/<layer>/crash_X.c.  Nothing is
registered anywhere: a test exists because its file does.
"""
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
prefix = sys.argv[2]
for path in sorted(root.glob(f"*/{prefix}_*.c")):
    print(f"{path.parent.name}:{path.stem}:{path.parent.name}/{path.name}")
