#!/usr/bin/env python3
"""The manual page of one command, from its --help: page.py FOLIOFS COMMAND OUT"""
import re
import subprocess
import sys

exe, command, out = sys.argv[1:]
text = subprocess.run([exe, command, "--help"], check=True, capture_output=True, text=True).stdout
head, options = text.split("\nOptions:\n")
usage, _, about = head.partition("\n\n")


def roff(s):
    return re.sub(r"^([.'])", r"\\&\1", s.replace("\\", "\\e").replace("-", "\\-"), flags=re.M)


lines = [f'.TH FOLIOFS\\-{command.upper()} 1 "" "foliofs" "User Commands"', ".SH NAME",
         f"foliofs\\-{command} \\- {roff(about.splitlines()[0].rstrip('.'))}", ".SH SYNOPSIS",
         f".B {roff(usage.removeprefix('Usage: '))}", ".RI [ OPTION ...]", ".SH DESCRIPTION", roff(about.strip()),
         ".SH OPTIONS"]
for line in options.splitlines():
    left, right = re.match(r"  (.{34})\s*(.*)", line).groups() if len(line) > 36 and line[36] == " " else \
        re.match(r"\s*(.+?)\s{1,}(?=\S*\s)(.*)", line).groups()
    lines += [".TP", f".B {roff(left.strip())}", roff(right.strip())]
lines += [".SH EXIT STATUS", "See", ".BR foliofs (1)."]
with open(out, "w", encoding="utf-8") as f:
    f.write("\n".join(lines) + "\n")
