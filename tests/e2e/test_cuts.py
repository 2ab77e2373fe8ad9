"""The link is cut and joined at random (seeded) while programs work: each of them succeeds, and in the end server and machines agree
byte for byte.

A server is behind a proxy that breaks connections off or lets nothing pass; a directory behind the fault filter, which drops one
operation in so many and loses answers.  NF_E2E_CUT_SEED replays.

The other mounted tests run with cuts too (cuts_lib.py): a few of them here, with FOLIOFS_LONG=1 all."""
import contextlib
import errno
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import proxy
import pytest
import test_real
import tree_lib
from conftest import wait_for
from vault_lib import KINDS, LONG, Vault, size, store

SEED = size("CUT_SEED", random.SystemRandom().randrange(10**6), 1)
FEW = KINDS if LONG else ("file", "apache", "nginx")
FAULTS = "drop=0.04&lostreply=0.02&late=300:0.05&name=packs/&name=heads/"


# What the ordinary run takes of the mounted tests.
FEW_TESTS = ["test_one_path.py", "test_programs.py::test_copies_by_cp_tar_and_rsync_lose_nothing",
             "test_programs.py::test_a_removed_file_lives_as_long_as_it_is_open", "test_cli.py::test_reading_without_a_mount",
             "test_mmap.py::test_changes_committed_on_both_sides_are_kept_side_by_side[nginx]"]


@pytest.mark.limit(14400 if LONG else 300)
def test_the_mounted_tests_pass_while_their_links_are_cut():
    here = pathlib.Path(__file__).parent
    which = [here] if LONG else [here / t for t in FEW_TESTS]
    env = {k: v for k, v in os.environ.items() if k != "FOLIOFS_LONG"}
    p = subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *which],
                         env=env | {"NF_E2E_CUTS": str(SEED)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         start_new_session=True)
    try:
        said = p.communicate()[0]
    finally:
        if p.poll() is None:
            # It cleans up behind itself.
            p.send_signal(signal.SIGTERM)
            p.wait(60)
    print(said)
    assert p.returncode == 0, said


class Way:
    """One machine's way to the store, cut by a thread of its own."""

    def __init__(self, where, seed):
        self.rnd = random.Random(seed)
        self.cuts = 0
        self.stopped = threading.Event()
        self.proxy = None
        if where.server:
            self.proxy = proxy.start(where.server.port)
            self.url = where.url.replace(f":{where.server.port}/", f":{self.proxy.port}/")
        else:
            self.url = f"fault+{where.url}?seed={seed}&{FAULTS}"
        self.thread = None

    def run(self):
        while self.proxy and not self.stopped.wait(self.rnd.uniform(0.05, 0.8)):
            self.rnd.choice((self.proxy.cut, self.proxy.cut, self.proxy.mute))()
            self.cuts += 1
            self.stopped.wait(self.rnd.uniform(0.05, 1.0))
            self.proxy.join()

    def cutting(self):
        self.stopped.clear()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def calm(self):
        self.stopped.set()
        if self.thread:
            self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calm()
        if self.proxy:
            self.proxy.stop()


class Through:
    """A store as one machine reaches it."""

    def __init__(self, where, way):
        self.where, self.url = where, way.url

    def __getattr__(self, name):
        return getattr(self.where, name)


@contextlib.contextmanager
def machine(vault, name, seed):
    m = vault.machine(name)
    with Way(vault.store, seed) as way:
        m.vault = type("Reached", (), {"store": Through(vault.store, way), "stage": vault.stage, "password": vault.password})()
        yield m, way


def until_done(m, timeout_s=240):
    wait_for(lambda: m.try_sync() == 0, timeout_s, "everything on the server")


@pytest.mark.limit(1200 if LONG else 400)
@pytest.mark.parametrize("kind", FEW)
def test_programs_work_while_the_link_is_cut(stage, kind):
    source = stage.dir / "source"
    source.mkdir()
    tree_lib.real_files(source / "real", size("CUT_FILES", 400, 3000))
    tree_lib.odd_things(source / "odd")
    want = tree_lib.survey(source)
    print(f"seed {SEED}")
    with store(stage, kind) as s:
        v = Vault(stage, s)
        # A machine that has never seen the vault needs the server once.
        with v.machine("first").mount():
            pass
        with machine(v, "first", SEED) as (first, way):
            with first.mount("write_back=1s", "poll=1s", timeout_s=60) as m:
                way.cutting()
                test_real.run("cp", "-a", source, m.dir / "copy")
                test_real.run("rsync", "-aHAXS", f"{source}/", m.dir / "rsynced")
                (m.dir / "git").mkdir()
                test_real.git(m.dir / "git", size("CUT_GIT", 40, 600))
                test_real.sqlite(m.dir / "base.db", size("CUT_TRANSACTIONS", 60, 500))
                assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))
                # A quick machine would be done before much was cut.
                for n in range(100):
                    if way.cuts > 4 or not way.proxy:
                        break
                    (m.dir / f"more-{n}").write_bytes(os.urandom(100000))
                    time.sleep(0.2)
                way.calm()
                until_done(m)
                here = tree_lib.survey(m.dir)
                status = m.status()
        with v.machine("second").mount() as m:
            assert not tree_lib.differences(here, tree_lib.survey(m.dir))
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "rsynced"))
            test_real.run("git", "-C", m.dir / "git/clone", "fsck", "--full")
            assert test_real.check_sqlite(m.dir / "base.db")
    assert status["conflicts"] == 0
    assert way.cuts > 2 or not way.proxy
    print(f"{kind}: {way.cuts} cuts, {status['commits']} commits")


def patiently(what, *args):
    """A name nobody has looked at yet cannot be had while the link is cut; the program is told, and tries again."""
    for _ in range(200):
        try:
            return what(*args)
        except OSError as e:
            if e.errno not in (errno.ENETDOWN, errno.ETIMEDOUT):
                raise
            time.sleep(0.2)
    raise AssertionError(f"{args}: the network never came back")


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
        os.fsync(f.fileno())


def writer(m, me, count, failures):
    try:
        for n in range(count):
            folder = m.dir / f"shared-{n % 3}"
            patiently(write, folder / f"{me}-{n}", f"{me} {n}\n" * (n % 50 + 1))
            patiently(write, folder / f"{me}-again", f"{me} {n}\n" * 2000)
            if n % 4 == 3:
                patiently(os.rename, folder / f"{me}-{n}", m.dir / "shared-0" / f"{me}-moved-{n}")
            time.sleep(0.1)
    except BaseException as e:  # noqa: BLE001 - told by the test
        failures.append((me, e))


@pytest.mark.limit(1200 if LONG else 400)
@pytest.mark.parametrize("kind", FEW if LONG else ("nginx",))
def test_two_writers_whose_links_are_cut_end_with_one_tree(stage, kind):
    count, names, failures = size("CUT_WRITES", 60, 400), ("a", "b"), []
    print(f"seed {SEED}")
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("first").mount() as m:
            for i in range(3):
                (m.dir / f"shared-{i}").mkdir()
            m.sync()
        for n in names:
            with v.machine(n).mount():
                pass
        with contextlib.ExitStack() as stack:
            reached = [stack.enter_context(machine(v, n, SEED + i)) for i, n in enumerate(names)]
            mounts = [m.mount("write_back=1s", "poll=1s") for m, _ in reached]
            for _, way in reached:
                way.cutting()
            threads = [threading.Thread(target=writer, args=(m, n, count, failures)) for m, n in zip(mounts, names)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert not failures, failures
            for _, way in reached:
                way.calm()
            for m in mounts:
                until_done(m)
            wait_for(lambda: len({m.status()["fingerprint"] for m in mounts}) == 1, 90, "one head for both")
            trees = [tree_lib.survey(m.dir) for m in mounts]
            assert not tree_lib.differences(*trees)
            for n in names:
                last = [f"shared-{(count - 1 - i) % 3}/{n}-again".encode() for i in range(3)]
                assert all(p in trees[0][0] for p in last)
            assert len([p for p in trees[0][0] if b"/" in p]) == 2 * (count + 3)
            for m in mounts:
                m.unmount()
        with v.machine("fresh").mount() as m:
            assert not tree_lib.differences(trees[0], tree_lib.survey(m.dir))
            for n in range(count):
                for me in names:
                    at = m.dir / (f"shared-0/{me}-moved-{n}" if n % 4 == 3 else f"shared-{n % 3}/{me}-{n}")
                    assert at.read_text() == f"{me} {n}\n" * (n % 50 + 1)
    print(f"{kind}: {[way.cuts for _, way in reached]} cuts")
