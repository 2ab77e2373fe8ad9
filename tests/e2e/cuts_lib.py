"""NF_E2E_CUTS=SEED: the mounted tests as they are, while each mount's link is cut and joined at random.

    NF_E2E_CUTS=7 python3 -m pytest tests/e2e

The fault filter (src/store/fault.h, cut=) stands between every mount and its store; no two mounts and no two seeds have the same
cuts.  Who reads what is not here waits for the connection (`-o link_wait`); a command that says that the server is away is given
again, as a person would.  At the end of each test the link is whole: every machine that took part mounts once more, sends what it
still has, and then all of them, a machine that knows nothing and the second reader (tests/reader) see one tree, byte for byte.

What does not run so is listed below with the reason, and printed at the end of the run."""
import fnmatch
import os
import pathlib
import subprocess
import sys
import time

import tree_lib

SEED = int(os.environ["NF_E2E_CUTS"]) if os.environ.get("NF_E2E_CUTS") else None
UP_MS, DOWN_MS = 700, 400
# Short times, so that there is always something on the way; what a test says itself counts.
OPTIONS = {"link_wait": "60s", "poll": "300ms", "write_back": "300ms"}
# A test may take so many times as long.
SLOWER = 6

COUNTS = "counts requests or bytes, or measures time"
LINK = "is about the link itself, and breaks it in its own way"
EXIT = "asks for the exit codes and words of commands without a mount, or of a mount that fails"
NO_VAULT = "no vault is mounted"
LATER = "is of a later part of the work, not of the first vault end to end"
# By pattern of file::test; the first that fits counts.  None: it runs.
WHICH = [
    ("test_cuts.py::*", LINK),
    ("test_badinput.py::test_a_full_disk*", None),
    ("test_badinput.py::test_a_cached_block*", None),
    ("test_badinput.py::test_a_full_server*", LINK),
    ("test_badinput.py::*", EXIT),
    ("test_barrier.py::test_what_came_after*vault*", None),
    ("test_barrier.py::test_a_rename_over*vault*", None),
    ("test_crash.py::*", None),
    ("test_fsx.py::*", None),
    ("test_mmap.py::*", None),
    ("test_one_path.py::*", None),
    ("test_programs.py::*", None),
    ("test_reader.py::*", None),
    ("test_real.py::*", None),
    ("test_secrecy.py::test_the_search*", NO_VAULT),
    ("test_secrecy.py::*", None),
    ("test_writers.py::*", None),
    ("test_cli.py::test_the_link_follows*", LINK),
    ("test_cli.py::test_offline_by_command*", LINK),
    ("test_cli.py::test_a_known_vault_*", LINK),
    ("test_cli.py::test_a*vault_at_a_known_address*", EXIT),
    ("test_cli.py::test_a_header_of_before*", EXIT),
    ("test_cli.py::test_a_state_of_before*", EXIT),
    ("test_cli.py::test_a_damaged_header*", EXIT),
    ("test_cli.py::test_a_lost_header*", EXIT),
    ("test_cli.py::test_of_a_damaged_journal*", EXIT),
    ("test_cli.py::test_a_store_that_lost*", EXIT),
    ("test_cli.py::test_a_runtime_directory*", EXIT),
    ("test_cli.py::test_check_finds*", EXIT),
    ("test_cli.py::test_configuration_by_name*", EXIT),
    ("test_cli.py::test_the_life_of_keys*", EXIT),
    ("test_cli.py::*", None),
    ("test_age.py::*", COUNTS),
    ("test_latency.py::*", COUNTS),
    ("test_requests.py::*", COUNTS),
    ("test_scale.py::*", COUNTS),
    ("test_stall.py::*", LINK),
    ("test_front.py::*", NO_VAULT),
    ("test_store_*.py::*", NO_VAULT),
    ("*", LATER),
]

mounts = 0
lost = {}      # how often each mount lost its link
left_out = {}  # reason: [test]


def reason_against(node):
    """Why the test NODE does not run here, or None."""
    name = f"{pathlib.Path(node.path).name}::{node.name}"
    return next(why for pattern, why in WHICH if fnmatch.fnmatch(name, pattern))


def select(items):
    chosen = []
    for node in items:
        why = reason_against(node)
        if why is None:
            chosen.append(node)
        else:
            left_out.setdefault(why, []).append(f"{pathlib.Path(node.path).stem}::{node.name.split('[')[0]}")
    items[:] = chosen


def summary():
    yield f"link cut at random, seed {SEED}: {mounts} mounts lost it {sum(lost.values())} times"
    for why, names in left_out.items():
        yield f"not run, {why}: {', '.join(sorted(set(names)))}"


def through(url):
    """URL as the next mount reaches it."""
    global mounts
    if SEED is None:
        return url
    mounts += 1
    return f"fault+{url}?seed={SEED * 1000 + mounts}&cut={UP_MS}:{DOWN_MS}"


def options(given):
    named = [o.split("=")[0] for o in given]
    return [*given, *(f"{k}={v}" for k, v in OPTIONS.items() if SEED is not None and k not in named)]


def again_while(is_away, what, timeout_s=240):
    """WHAT() until its result is none for which IS_AWAY()."""
    end = time.monotonic() + timeout_s
    while True:
        result = what()
        if SEED is None or not is_away(result) or time.monotonic() > end:
            return result
        time.sleep(0.2)


def note_lost(key, counters):
    lost[key] = counters.get("store.link_lost", 0)


def compare(vault, machines, read):
    """MACHINES (mount(), with dir, sync() and status()) send what they have, and agree with each other and with what READ(out)
    extracts."""
    mounted = [m.mount() for m in machines]
    for m in mounted:
        m.sync()
    for _ in range(20):
        if len({m.status()["fingerprint"] for m in mounted}) == 1:
            break
        for m in mounted:
            m.sync()
    assert len({m.status()["fingerprint"] for m in mounted}) == 1, "the machines do not come to one head"
    trees = [tree_lib.survey(m.dir) for m in mounted]
    for m, tree in zip(mounted[1:], trees[1:]):
        wrong = tree_lib.differences(trees[0], tree)
        assert not wrong, (m.dir, wrong)
    for m in mounted:
        m.unmount()
    out = vault.stage.dir / f"extracted-{id(vault)}"
    read(out)
    wrong = tree_lib.differences(trees[0], tree_lib.survey(out))
    assert not wrong, wrong


def extract(root, secret, password, out):
    """By the second reader; it also looks at every object."""
    secret.write_text(password)
    reader = pathlib.Path(__file__).resolve().parents[1] / "reader/foliofs_reader.py"
    for args in (["check"], ["extract", out]):
        done = subprocess.run([sys.executable, reader, "--passphrase-file", secret, root, *args], capture_output=True,
                              timeout=600, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
