#!/usr/bin/env python3
"""Compares every #include below src/ with the layer table in meson.build."""
import ast
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
build = (root / "meson.build").read_text()
table = re.search(r"# layers-begin\nlayers = (.*?)# layers-end", build, re.S).group(1)
rows = ast.literal_eval(re.sub(r"dep_\w+", lambda m: repr(m.group()), table))
may = {name: set(below) | {name} for name, below, _ in rows}

bad = 0
seen = 0
for path in sorted((root / "src").rglob("*.[ch]")):
    folder = path.relative_to(root / "src").parts[0]
    if folder not in may:
        print(f"{path}: folder {folder} is not in the layer table")
        bad += 1
        continue
    for n, line in enumerate(path.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not m:
            continue
        seen += 1
        target = m.group(1).split("/")[0]
        if target == "foliofs":
            continue
        if "/" not in m.group(1):
            print(f"{path}:{n}: write the folder: {m.group(1)}")
            bad += 1
        elif target not in may[folder]:
            print(f"{path}:{n}: layer {folder} may not include from {target}")
            bad += 1
for path in sorted((root / "include/foliofs").glob("*.h")):
    for n, line in enumerate(path.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if m and not m.group(1).startswith("foliofs/"):
            print(f"{path}:{n}: a public header includes only public headers")
            bad += 1
print(f"{seen} includes checked, {bad} wrong")
sys.exit(1 if bad or not seen else 0)
