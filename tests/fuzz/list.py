#!/usr/bin/env python3
"""Prints the fuzz targets, one "layer:name:file" a line: tests/fuzz/fuzz_X.c.

The first line of a target names the layer it is linked with: /* layer: store */
"""
import pathlib
import re
import sys

for path in sorted(pathlib.Path(sys.argv[1]).glob("fuzz_*.c")):
    first = path.read_text().splitlines()[0]
    m = re.fullmatch(r"/\* layer: (\w+) \*/", first)
    if not m:
        sys.exit(f"{path}: the first line must be /* layer: NAME */")
    print(f"{m.group(1)}:{path.stem.removeprefix('fuzz_')}:{path.name}")
