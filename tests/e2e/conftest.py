"""What every mounted test builds on: temporary folders, daemons, mounts, time-outs.

A test never leaves anything behind, whatever happens to it:
  * a daemon runs in a process group of its own, which is killed by its number;
  * a mount point is detached before its folder is removed, and never walked into while mounted;
  * a test that hangs gets SIGALRM, with the stacks of all threads printed, after `@limit(seconds)`
    or LIMIT_S; a hang inside the kernel ends when the daemon is killed, by a watchdog LIMIT_S/2 later.
"""
import contextlib
import ctypes
import faulthandler
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

LIMIT_S = 60
# A machine that is busy with other things may take so many times as long as what the tests name.
SLOW = 3
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP)
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))  # servers, stubserver, proxy, figures
libc = ctypes.CDLL(None, use_errno=True)
import cuts_lib  # noqa: E402
import servers  # noqa: E402


class TimedOut(Exception):
    pass


def is_mounted(path):
    """True also for a mount whose daemon has died."""
    want = os.fspath(path).replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split(" ")[4] == want for line in f)


def wait_for(condition, timeout_s=10, what="condition"):
    timeout_s *= SLOW
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def detach(path):
    """Whatever is mounted at PATH, and over it, is gone afterwards."""
    for _ in range(8):
        if not is_mounted(path):
            return
        subprocess.run(["fusermount3", "-u", "-q", "-z", "--", os.fspath(path)],
                       timeout=10, check=False)
        if is_mounted(path) and os.geteuid() == 0:
            libc.umount2(os.fsencode(path), 1 | 2)  # MNT_FORCE | MNT_DETACH


class Daemon:
    """A program that mounts: started, watched and ended.  `ready` is a word it prints, or
    None to wait for the mount at `mount`."""

    def __init__(self, argv, mount=None, ready=None, env=None, timeout_s=20, cwd=None):
        self.mount = mount
        self.argv = [os.fspath(a) for a in argv]
        self.last_words = ""
        self.asked_to_end = False  # by a signal or an unmount of ours
        self.err = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(self.argv, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=self.err, text=True,
                                     start_new_session=True, env=env, cwd=cwd)
        self.group = self.proc.pid
        try:
            self._wait_ready(ready, timeout_s)
        except BaseException:
            self.end()
            raise

    def _wait_ready(self, ready, timeout_s):
        if ready is not None:
            line = self.line(timeout_s)
            if line != ready:
                raise AssertionError(f"expected {ready!r}, got {line!r}: {self.stderr()}")
        elif self.mount is not None:
            wait_for(lambda: is_mounted(self.mount) or self.proc.poll() is not None,
                     timeout_s, f"mount at {self.mount}")
            if not is_mounted(self.mount):
                raise AssertionError(self.how_it_ended() or f"no mount at {self.mount}: {self.stderr()}")

    def line(self, timeout_s=10):
        """The next line it prints; "" at its end."""
        got = []
        reader = threading.Thread(target=lambda: got.append(self.proc.stdout.readline()),
                                  daemon=True)
        reader.start()
        reader.join(timeout_s)
        if not got:
            raise AssertionError(f"daemon printed nothing for {timeout_s} s: {self.stderr()}")
        return got[0].rstrip("\n")

    def say(self, text):
        self.proc.stdin.write(text + "\n")
        self.proc.stdin.flush()

    def ask(self, text):
        """Sends a command and gives the lines of the answer up to "ok"."""
        self.say(text)
        lines = []
        while True:
            line = self.line()
            if line == "ok":
                return lines
            if not line or line.isupper():
                raise AssertionError(f"{text!r}: {line!r} {self.stderr()}")
            lines.append(line)

    def stderr(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def wait(self, timeout_s=20):
        return self.proc.wait(timeout_s)

    def how_it_ended(self):
        """"" while it runs."""
        code = self.proc.poll()
        if code is None:
            return ""
        how = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.Signals(-code).name})"
        return f"daemon {self.proc.pid} ended with {how}: {' '.join(self.argv)}\nits stderr: {self.stderr()!r}"

    def ended_by_itself(self):
        """What to say of a daemon that nobody asked to end, or that crashed; ""."""
        code = self.proc.poll()
        if code is None or (self.asked_to_end and -code not in CRASHES):
            return ""
        return "" if code == 0 else self.how_it_ended()

    def signal(self, sig):
        self.asked_to_end = self.asked_to_end or sig in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        os.kill(self.proc.pid, sig)

    def kill(self):
        self.asked_to_end = self.asked_to_end or self.proc.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        self.proc.wait(10)

    def unmount(self, timeout_s=20):
        """As a user does it; waits until the daemon has ended and gives its status."""
        self.asked_to_end = self.asked_to_end or self.proc.poll() is None
        subprocess.run(["umount", os.fspath(self.mount)], check=True, timeout=timeout_s)
        return self.wait(timeout_s)

    def end(self):
        """Always works.  The kernel lets go of everyone when the daemon is dead."""
        with contextlib.suppress(ValueError):  # ended before: its files are closed
            self.last_words = self.last_words or self.ended_by_itself()
        if self.proc.poll() is None:
            self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)  # children it left
        if self.mount is not None:
            detach(self.mount)
        for f in (self.proc.stdin, self.proc.stdout, self.err):
            with contextlib.suppress(Exception):
                f.close()


class Stage:
    """The things of one test: `stage.dir`, `stage.folder(name)`, `stage.daemon(...)`."""

    made = []  # folders of all of them

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nf-e2e-"))
        Stage.made.append(self.dir)
        self.daemons = []

    def folder(self, name):
        path = self.dir / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def daemon(self, argv, **kw):
        d = Daemon(argv, **kw)
        self.daemons.append(d)
        return d

    def kill_all(self):
        for d in self.daemons:
            with contextlib.suppress(Exception):
                d.kill()

    def end(self):
        for d in reversed(self.daemons):
            d.end()
        for d in self.daemons:
            if d.last_words:
                print(d.last_words)  # shown with the failure of the test
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
            left = [line.split(" ")[4] for line in f if str(self.dir) in line]
        for path in reversed(left):
            detach(path)
        shutil.rmtree(self.dir, ignore_errors=True)


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): time-out of this test")
    # Whoever ends the run by a signal still gets everything cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 143))


def pytest_collection_modifyitems(items):
    if cuts_lib.SEED is not None:
        cuts_lib.select(items)


def left_behind():
    """Folders, mounts, processes and loop devices of this run that should be gone."""
    ours = [str(p) for p in Stage.made + servers.Server.made]
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        found = [f"mount {at}" for at in (line.split(" ")[4] for line in f) if any(at.startswith(p) for p in ours)]
    found += [f"folder {p}" for p in ours if os.path.exists(p)]
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (p / "cmdline").read_bytes().decode(errors="replace")
            found += [f"process {p.name}: {words!r}" for o in ours if o in words]
    for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found += [f"loop device {p.parts[3]}" for o in ours if p.read_text().startswith(o)]
    return found


def pytest_terminal_summary(terminalreporter):
    for line in left_behind():
        terminalreporter.write_line(f"left behind: {line}")
    if cuts_lib.SEED is not None:
        for line in cuts_lib.summary():
            terminalreporter.write_line(line)


@pytest.fixture
def stage():
    s = Stage()
    try:
        yield s
    finally:
        s.end()
    crashed = [d.last_words for d in s.daemons if d.last_words and -d.proc.returncode in CRASHES]
    assert not crashed, "\n".join(crashed)


@pytest.fixture(autouse=True)
def time_limit(request):
    marker = request.node.get_closest_marker("limit")
    seconds = SLOW * (marker.args[0] if marker else LIMIT_S)
    if cuts_lib.SEED is not None:
        seconds *= cuts_lib.SLOWER
    stage_used = request.getfixturevalue("stage") if "stage" in request.fixturenames else None

    def expired(_sig, _frame):
        faulthandler.dump_traceback(file=sys.__stderr__)
        raise TimedOut(f"test took more than {seconds} s")

    # A thread that sleeps in the kernel on a dead mount sees no signal; its daemon's death frees it.
    watchdog = threading.Timer(seconds * 1.5, stage_used.kill_all if stage_used else lambda: None)
    watchdog.daemon = True
    old = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    watchdog.start()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        watchdog.cancel()


@pytest.fixture(scope="session")
def build():
    """The folder of the programs under test; meson sets NF_BUILD."""
    return pathlib.Path(os.environ.get("NF_BUILD", ROOT / "build"))
