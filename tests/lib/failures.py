"""What failed, in few lines: read from what meson, pytest and the steps of run.sh left behind.

failures.py LINES KIND FILE [KIND FILE]...   KIND: meson (testlog.json), junit (XML), text (NAME.txt)

Prints at most LINES lines of output of the failed tests, then one line for each: its name and its cause.
Standard library only."""

import json
import os
import re
import sys
import xml.etree.ElementTree as ET

NAMES_MAX = 10
WIDTH = 180
# Where a report begins, and what nobody needs of it.
CAUSE = re.compile(r'ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|^not ok|^E  |Assert|assertion'
                   r'|^\S+:\d+:[FE]:|: error: |FAILED')
SHADOW = re.compile(r'^(=>|  )0x[0-9a-f]+:|^Shadow byte|^  [A-Z][\w ]+:\s+[0-9a-f]{2}( [0-9a-f]{2})*\s*$')
NOISE = re.compile(r'^ok \d+|^# seed \d+: |^\s*$|^=+$')


def useful(text):
    """The lines worth a look: from the first report on; without one, the last."""
    lines = [line.rstrip()[:WIDTH] for line in text.splitlines() if not SHADOW.match(line)]
    lines = [line for line in lines if not NOISE.match(line)]
    first = next((i for i, line in enumerate(lines) if CAUSE.search(line)), None)
    return lines, first


def cut(text, nr):
    lines, first = useful(text)
    if len(lines) <= nr:
        return lines
    if first is None:
        return lines[-nr:]
    # Seeds are printed before what they led to.
    return lines[max(0, min(first - 1, len(lines) - nr)):][:nr]


def cause(text, result):
    lines, first = useful(text)
    summary = [line for line in lines if line.startswith('SUMMARY: ')]
    if summary:
        return f'{result}: {summary[0]}'
    if first is not None:
        return f'{result}: {lines[first].strip()}'
    return f'{result}: {lines[-1].strip()}' if lines else result


def meson(path):
    with open(path, encoding='utf-8') as file:
        for line in file:
            test = json.loads(line)
            if test['result'] not in ('OK', 'SKIP', 'EXPECTEDFAIL'):
                output = test.get('stdout', '') + '\n' + test.get('stderr', '')
                yield test['name'], f'{test["result"]} after {test["duration"]:.0f} s', output


def junit(path):
    for case in ET.parse(path).iter('testcase'):
        for bad in case:
            if bad.tag in ('failure', 'error'):
                name = f'{case.get("classname", "").replace(".", "/")}.py::{case.get("name")}'
                yield name, f'{bad.tag} after {float(case.get("time", 0)):.0f} s', bad.text or bad.get('message', '')


def text(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        yield os.path.basename(path).removesuffix('.txt'), 'failed', file.read()


def main():
    room = int(sys.argv[1])
    found = []
    for kind, path in zip(sys.argv[2::2], sys.argv[3::2]):
        try:
            found += {'meson': meson, 'junit': junit, 'text': text}[kind](path)
        except (OSError, ValueError, KeyError, ET.ParseError) as error:
            found.append((path, 'unreadable', str(error)))
    shown = found[:max(1, room // 8)]
    for name, result, output in shown:
        print(f'-- {name}: {result}')
        for line in cut(output, room // len(shown) - 1):
            print(f'   {line}')
    for name, result, output in found[:NAMES_MAX]:
        print(f'FAILED  {name}: {cause(output, result)}'[:WIDTH])
    if len(found) > NAMES_MAX:
        print(f'FAILED  and {len(found) - NAMES_MAX} more')


main()
