#!/usr/bin/env python3
"""Checks the models of the commit protocol with spin.

Each case names a model, its scope (-D...) and the verdict we expect: `holds`, after an exhaustive
search, or the name of the assertion that must fail.  A case that takes a rule away (M_...) or shows
a limit (W_...) must fail, at that very assertion.  See docs/internals/protocol.md.

    run.py [--long] [--jobs N] [--only WORD]
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# name -> what the text of the failed assertion, as pan prints it, contains
ASSERTIONS = {
    'lost': '((go&reported)==reported)',          # something reported is not on the store
    'not one leaf': '((finished<2)||',            # all ended, but not on one leaf with everything
    'endless': '(my!=255)',                       # out of names
    'rollback': '>=((seen>>',                     # an honest store looks rolled back
    'twice': '!=((go>>(u*',                       # a dot brings operations that are in already
    'order': '(ord[i]==ord[j])',                  # equal vectors, different trees
    'pack gone': 're:rep&',                       # a pack of a reported commit is deleted
    'snapshot gone': 're:jc&64',                    # a snapshot names a deleted pack
    'hole': '(jc&128)',                           # a kept commit names a deleted pack
    'dangling': '((need[hx[i]]& ~(present))==0)', # a head names a deleted pack
}

# model, scope, verdict.  The flag after a comma is the rule taken away or the witness.
CASES = [
    ('commit', 'K=2 F=0 C=0 H=8 STRICT', 'holds'),
    ('commit', 'K=1 F=1 C=1 H=8 STRICT', 'holds'),
    ('commit', 'K=1 F=1 C=1 H=8 STRICT SLOW', 'holds'),
    ('commit', 'K=1 F=0 C=1 H=6 STRICT PRUNE', 'holds'),
    ('commit', 'K=1 F=1 C=0 H=6 STRICT PRUNE', 'holds'),
    ('commit', 'K=1 F=0 C=0 H=6 STRICT PRUNE SPLIT', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=0 F=1', 'holds'),
    ('gc', 'ROUNDS=2 MERGES=0 F=0 P=7', 'holds'),
    ('gc', 'ROUNDS=2 MERGES=0 F=0 MOVE', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=0 F=0 LATE', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=0 F=0 RESTART', 'holds'),

    ('commit', 'K=1 F=0 C=0 H=8, M_NO_TIE', 'endless'),
    ('commit', 'K=1 F=0 C=0 H=8, M_TORN_IS_BAD', 'not one leaf'),
    ('commit', 'K=2 F=1 C=0 H=8, M_AMEND', 'lost'),
    ('commit', 'K=2 F=0 C=1 H=8, M_FREEZE_AFTER', 'lost'),
    ('commit', 'K=2 F=1 C=0 H=8, M_BUILD_UNCONFIRMED', 'lost'),
    ('commit', 'K=1 F=1 C=0 H=8, M_RETRY_AS_NEXT', 'twice'),
    ('commit', 'K=1 F=1 C=0 H=8, M_REMEMBER_SENT', 'rollback'),
    ('commit', 'K=1 F=1 C=0 H=8, M_REPORT_EARLY', 'lost'),
    ('commit', 'K=1 F=1 C=0 H=8, M_REPORT_UNMERGED', 'not one leaf'),
    ('commit', 'K=1 F=1 C=0 H=8 SLOW, M_FIRST_LOOK', 'not one leaf'),
    ('commit', 'K=1 F=1 C=0 H=8, W_ORDER', 'order'),
    ('commit', 'K=1 F=1 C=0 H=6 PRUNE, M_NO_RELIST', 'rollback'),
    ('commit', 'K=1 F=1 C=0 H=6 PRUNE, M_PRUNE_EQUAL', 'lost'),
    ('commit', 'K=2 F=0 C=0 H=7 PRUNE, M_PRUNE_BY_SEQ', 'lost'),
    ('commit', 'K=1 F=1 C=0 H=6 PRUNE SPLIT, M_PRUNE_YOUNG', 'rollback'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_TAKE_OFF', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_NO_SECOND_CHECK', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_ONLY_EXISTENCE', 'pack gone'),
    ('gc', 'ROUNDS=2 MERGES=0 F=0, M_ONLY_CONDEMNED', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_ONE_STEP', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_NO_SECOND_LOOK', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=1, M_FIRST_LOOK', 'pack gone'),
    ('gc', 'ROUNDS=2 MERGES=0 F=0 MOVE, M_PLACE_LOST', 'snapshot gone'),
    ('gc', 'ROUNDS=2 MERGES=0 F=0 MOVE, M_NO_SECOND_CHECK', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=0 F=0 LATE, M_LIST_LATE', 'hole'),
    ('gc', 'ROUNDS=1 MERGES=0 F=0 RESTART, M_RESTART_IS_REPORT', 'pack gone'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, M_NO_FIRST_CHECK', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0, W_DANGLING', 'dangling'),
]

LONG = [
    ('commit', 'K=2 F=0 C=1 H=8 STRICT', 'holds'),
    ('commit', 'K=2 F=0 C=1 H=8 STRICT TOGETHER', 'holds'),
    ('commit', 'N=3 K=1 F=0 C=0 H=8', 'holds'),
    ('gc', 'ROUNDS=1 MERGES=1 F=0 LATE', 'holds'),
    ('commit', 'K=1 F=1 C=0 H=6 STRICT PRUNE SPLIT', 'holds'),
]


def run_case(case, limits):
    """Returns (line to print, is it as expected)."""
    model, scope, expected = case
    seconds, megabytes = limits
    flags = ['-D' + f for f in scope.replace(',', '').split()]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='foliofs-spin-') as d:
        shutil.copy(os.path.join(HERE, model + '.pml'), d)
        made = subprocess.run(['spin', '-a'] + flags + [model + '.pml'], cwd=d, capture_output=True, text=True,
                              timeout=60)
        if made.returncode or 'rror' in made.stdout + made.stderr:
            return f'{model} {scope}: spin: {made.stdout}{made.stderr}', False
        subprocess.run(['gcc', '-O2', '-w', '-DSAFETY', '-DCOLLAPSE', '-DVECTORSZ=512', f'-DMEMLIM={megabytes}',
                        '-o', 'pan', 'pan.c'], cwd=d, check=True, timeout=120)
        try:
            # options: depth, size of the hash table as a power of two
            ran = subprocess.run(['./pan', '-m100000', '-w22'], cwd=d, capture_output=True, text=True,
                                 timeout=seconds)
            out = ran.stdout + ran.stderr
        except subprocess.TimeoutExpired:
            out = f'pan: no end within {seconds} s, Search not completed\nerrors: 0\n'
    verdict = judge(out)
    number = {w: (re.search(p, out) or [None, '?'])[1] for w, p in (
        ('states', r'(\d+) states, stored'), ('depth', r'depth reached (\d+)'))}
    good = verdict == expected
    return (f'{"ok  " if good else "BAD "} {model:6} {scope:42} states {number["states"]:>9} depth {number["depth"]:>4}'
            f' {time.monotonic() - began:5.1f} s  {verdict}' + ('' if good else f'   EXPECTED {expected}')), good


def judge(out):
    violated = re.search(r'pan:\s*1:\s*(.*)', out)
    if violated:
        text = violated[1]
        for name, part in ASSERTIONS.items():
            if part.startswith('re:') and re.search(part[3:], text) or part in text:
                return name
        return 'unexpected: ' + text
    if 'Search not completed' in out or 'max search depth too small' in out or 'errors: 0' not in out:
        return 'not exhaustive'
    return 'holds'


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--long', action='store_true', help='also the larger scopes (minutes, up to 4 GB)')
    ap.add_argument('--jobs', type=int, default=2)
    ap.add_argument('--only', default='', help='only cases that contain this word')
    args = ap.parse_args()
    for tool in ('spin', 'gcc'):
        if not shutil.which(tool):
            print(f'{tool} is missing: the models were NOT checked', file=sys.stderr)
            return 1
    print('N writers (2), K operations each, F faults, C crashes, H names; after the comma the rule taken away')
    failed = ran = 0
    for cases, jobs, limits in ((CASES, args.jobs, (200, 1500)), (LONG if args.long else [], 1, (1500, 4000))):
        cases = [c for c in cases if args.only in ' '.join(c)]
        with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
            for line, good in pool.map(lambda c: run_case(c, limits), cases):
                print(line, flush=True)
                ran += 1
                failed += not good
    print(f'{ran} runs, {failed} not as expected')
    return 1 if failed or not ran else 0


if __name__ == '__main__':
    sys.exit(main())
