"""What the tests of requests, latency and scale have in common: a server with a log, machines that share a vault on
it, and what went over the wire meanwhile.

    with Bench(stage, build, "apache", delay_s=0.05) as b:
        m = b.machine("a")          # a home, a cache and a mount of its own
        with b.measure() as w:      # w.requests, w.sent, w.received, w.seconds
            ...
            m.sync()
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import proxy
import servers

PASS = "correct horse"
KIB = 1 << 10
MIB = 1 << 20


class Wire:
    """Differences over a `with`."""
    requests = sent = received = 0
    seconds = 0.0

    def __str__(self):
        return f"{self.requests} requests, {self.sent} bytes sent, {self.received} received, {self.seconds:.2f} s"


class Machine:
    def __init__(self, bench, name, options=()):
        self.bench = bench
        self.mnt = bench.stage.folder(f"{name}/mnt")
        run = bench.stage.folder(f"{name}/run")
        run.chmod(0o700)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "FOLIOFS_"))}
        self.env |= {"HOME": str(bench.stage.folder(f"{name}/home")), "XDG_RUNTIME_DIR": str(run),
                     "FOLIOFS_PASSWORD": PASS}
        self.options = [f"-o{','.join(options)}"] if options else []

    def run(self, *args, timeout=300):
        p = subprocess.run([self.bench.exe, *map(str, args)], env=self.env, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout, start_new_session=True, check=False)
        assert p.returncode == 0, f"{args}: {p.returncode}\n{p.stdout}\n{p.stderr}"
        return p.stdout

    def mount(self):
        self.run("mount", self.bench.address, self.mnt, *self.options)
        return self

    def sync(self):
        self.run("sync", self.mnt)

    def umount(self):
        self.run("umount", self.mnt)

    def status(self):
        return json.loads(self.run("status", self.mnt, "--json"))

    def counters(self):
        return self.run("stats", self.mnt)

    def pid(self):
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (p / "cmdline").read_bytes().split(b"\0")
                if str(self.mnt).encode() in words and b"mount" in words:
                    return int(p.name)
        return None

    def memory_peak_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid()}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * KIB
        raise AssertionError("no VmHWM")

    def kill(self):
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)


class Bench:
    def __init__(self, stage, build, kind="apache", delay_s=0.0, init=("--kdf-cost", "15")):
        self.stage = stage
        self.exe = build / "src" / "foliofs"
        self.kind, self.delay_s, self.init = kind, delay_s, init
        self.machines = []

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.server = self.stack.enter_context(servers.start(self.kind))
        self.proxy = self.stack.enter_context(proxy.start(self.server.port, self.delay_s))
        self.address = f"dav://127.0.0.1:{self.proxy.port}/"
        Machine(self, "init").run("init", self.address, *self.init)
        return self

    def __exit__(self, *_):
        for m in self.machines:
            m.kill()
        self.stack.close()

    def machine(self, name, *options):
        """A new device: nothing cached, nothing remembered."""
        m = Machine(self, name, options)
        self.machines.append(m)
        return m.mount()

    @contextlib.contextmanager
    def measure(self):
        w, before, start = Wire(), self.proxy.counts(), time.monotonic()
        yield w
        w.seconds = time.monotonic() - start
        w.requests, w.sent, w.received = (b - a for a, b in zip(before, self.proxy.counts()))

    def log_since(self, nr):
        """Requests that the server logged after the first NR."""
        return self.server.requests()[nr:]


def small_files(folder, nr=5000, per_folder=100, size=4 * KIB):
    """NR files of SIZE random bytes, PER_FOLDER in a folder."""
    folder.mkdir()
    for i in range(nr):
        where = folder / f"d{i // per_folder}"
        if i % per_folder == 0:
            where.mkdir()
        (where / f"f{i}").write_bytes(os.urandom(size))


def big_file(path, mib):
    with open(path, "wb") as f:
        for _ in range(mib):
            f.write(os.urandom(MIB))


def make_vault(bench, *what):
    """By the library, straight into the folder that the server serves (tests/bench/mkvault.c)."""
    exe = bench.exe.parents[1] / "tests" / "bench" / "mkvault"
    subprocess.run([exe, bench.server.root, bench.stage.folder("mkvault"), *map(str, what)], check=True, timeout=1500,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["chmod", "-R", "a+rwX", bench.server.root], check=True)


def list_all(folder):
    return subprocess.run(["ls", "-lR", folder], stdout=subprocess.PIPE, check=True, timeout=120).stdout


def remove_all(folder):
    shutil.rmtree(folder)
