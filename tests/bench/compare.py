#!/usr/bin/env python3
"""foliofs beside other ways to keep files on a WebDAV server: rclone (webdav and crypt, full cache), davfs2, gocryptfs
on davfs2, and plain curl.  gocryptfs on a local folder is shown for reference: it has no server.

    compare.py [--server apache|nginx] [--rounds 3] [--size-mib 256] [--files 1000] [--delay-ms 0]
               [--only foliofs,rclone] [--steps write,tree] [--json FILE]

Starts the server itself, on loopback, mounts everything beside one another and measures in rounds: each measure is
taken of all of them one after the other, in an order that turns from round to round, each with nothing left to be
written on the disk.  Printed are medians, and in the
last column the best of the three mounts (rclone, davfs2, gocryptfs on davfs2) against foliofs: above 1, foliofs is
faster.  "Safe" means: all of it is on the server.

davfs2 needs root.  What is not installed is left out and named, what fails is printed as failed.  Nothing outside a
temporary folder is written, and what was started is ended, also after a failure.  The times are those of one machine on
which server and clients share the processors: only their ratios mean anything.
"""
import argparse
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import proxy  # noqa: E402
import servers  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
PASSWORD = "correct horse"
LIMIT_S = 600
POLL_S = 0.01
# Written, but not yet under its name.
TEMPORARY = ".davfs.tmp"


class Failed(Exception):
    """Of the program measured, or of its way of answering."""


def run(*argv, env=None, check=True):
    p = subprocess.run([str(a) for a in argv], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=LIMIT_S, check=False)
    if check and p.returncode:
        said = (p.stderr or p.stdout).strip().splitlines()
        raise Failed(f"{pathlib.Path(str(argv[0])).name}: {said[-1] if said else p.returncode}")
    return p.stdout


def wait_for(what, limit_s, done, process=None):
    end = time.monotonic() + limit_s
    while not done():
        if process and process.poll() is not None:
            raise Failed(f"{what}: ended with {process.returncode}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit_s} s")
        time.sleep(POLL_S)


def files_of(folder):
    """Number, bytes and newest time of the files below FOLDER."""
    number = size = newest = 0
    for where, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMPORARY):
                continue
            with contextlib.suppress(FileNotFoundError):
                st = os.stat(os.path.join(where, name))
                number += 1
                size += st.st_size
                newest = max(newest, st.st_mtime_ns)
    return number, size, newest


def drop_pages(folder):
    """The kernel forgets the contents of FOLDER's files; what the program keeps of them stays."""
    for where, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


class Bench:
    """What all share: the server, the folder for everything, and where the input is."""

    def __init__(self, base, server, door, options):
        self.base, self.server, self.options = base, server, options
        self.port = door.port
        self.big = base / "input" / "big"
        self.tree = base / "input" / "tree"

    def address(self, name):
        return f"127.0.0.1:{self.port}/{name}"

    def make_input(self):
        o = self.options
        self.tree.mkdir(parents=True)
        with open(self.big, "wb") as f:
            for _ in range(o.size_mib):
                f.write(os.urandom(MIB))
        for i in range(o.files):
            where = self.tree / f"d{i // 100}"
            where.mkdir(exist_ok=True)
            (where / f"f{i}").write_bytes(os.urandom(o.file_kib * KIB))


class Peer:
    """One way to reach a folder on the server.  Subclasses say how it is made, mounted, emptied and waited for."""
    needs = ()
    rival = False # one of those that foliofs is held against
    mounts = True

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.base = bench.base / name
        self.mnt = self.base / "mnt"
        self.store = bench.server.root / name
        self.processes = []
        self.base.mkdir()
        self.mnt.mkdir()

    def make_store(self):
        """An empty folder on the server, which runs as another user."""
        self.store.mkdir()
        if os.getuid() == 0 and self.bench.server.kind == "apache":
            os.chown(self.store, 65534, 65534)

    def missing(self):
        path = os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"])
        return next((n for n in self.needs if not shutil.which(n, path=path)), None)

    def make(self):
        self.make_store()

    def up(self):
        """Mounts with what is cached."""

    def empty(self):
        """Forgets what is cached; not mounted."""

    def down(self):
        """Unmounts; all is on the server then."""
        self.umount(self.mnt)

    def cold(self):
        self.down()
        self.empty()
        self.up()

    # -- for subclasses --

    def mounted(self, where):
        return os.path.ismount(where)

    def umount(self, where):
        if self.mounted(where):
            run("umount", where)
        while self.processes:
            p = self.processes.pop()
            try:
                p.wait(60)
            except subprocess.TimeoutExpired:
                p.terminate()
                p.wait(10)

    def start(self, argv, where, env=None):
        log = open(self.base / "log", "ab")
        with log:
            p = subprocess.Popen([str(a) for a in argv], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 start_new_session=True)
        self.processes.append(p)
        wait_for(f"mount of {self.name}", 30, functools.partial(self.mounted, where), p)

    def end(self):
        """The same when something is wrong: whatever can be ended is."""
        for where in self.mount_points():
            if self.mounted(where):
                subprocess.run(["umount", "-l", where], capture_output=True, check=False, timeout=60)
        for p in self.processes:
            if p.poll() is None:
                p.kill()
                p.wait()
        self.processes.clear()

    def mount_points(self):
        return [self.mnt]

    # -- what is measured --

    def on_server(self):
        return files_of(self.store)

    def safe(self, before, files, size, since_ns=0):
        """Waits until FILES more with SIZE more bytes are on the server, or (SINCE_NS) something was changed there."""
        def done():
            n, b, newest = self.on_server()
            grown = n - before[0] >= files and b - before[1] >= size
            return grown and newest >= since_ns and self.idle()
        wait_for("arrival on the server", LIMIT_S, done)

    def idle(self):
        return True

    def write(self, name):
        run("cp", self.bench.big, self.mnt / name)

    def read(self, name):
        run("dd", f"if={self.mnt / name}", "of=/dev/null", "bs=1M", "status=none")

    def forget_pages(self, name):
        fd = os.open(self.mnt / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def write_tree(self, name):
        run("cp", "-r", self.bench.tree, self.mnt / name)

    def read_tree(self, name):
        out = subprocess.run(f"find '{self.mnt / name}' -type f -exec cat {{}} + | wc -c", shell=True, check=True,
                             capture_output=True, text=True, timeout=LIMIT_S).stdout
        o = self.bench.options
        if int(out) != o.files * o.file_kib * KIB:
            raise Failed(f"read {int(out)} bytes of the tree")

    def list_tree(self, name):
        lines = run("ls", "-lR", self.mnt / name)
        if lines.count("\n-rw") != self.bench.options.files:
            raise Failed(f"listed {lines.count(chr(10) + '-rw')} files")

    def change(self, name):
        with open(self.mnt / name, "r+b") as f:
            f.seek(self.bench.options.size_mib * MIB // 2)
            f.write(os.urandom(4 * KIB))


class Foliofs(Peer):
    def __init__(self, bench, name):
        super().__init__(bench, name)
        self.exe = pathlib.Path(bench.options.build) / "src/foliofs"
        self.needs = (str(self.exe),)
        self.url = f"dav://{bench.address(name)}"
        self.turn = 0
        self.empty()

    def make(self):
        super().make()
        run(self.exe, "init", self.url, "--kdf-cost", "15", env=self.env())

    def empty(self):
        """Another device: neither cache nor state."""
        shutil.rmtree(self.base / f"home{self.turn}", ignore_errors=True)
        self.turn += 1
        (self.base / f"home{self.turn}").mkdir(mode=0o700)

    def env(self):
        home = self.base / f"home{self.turn}"
        e = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "FOLIOFS_"))}
        return e | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "FOLIOFS_PASSWORD": PASSWORD}

    def up(self):
        options = self.bench.options.foliofs_options
        self.start([self.exe, "mount", "-f", *([f"-o{options}"] if options else []), self.url, self.mnt], self.mnt,
                   self.env())

    def down(self):
        if self.mounted(self.mnt):
            run(self.exe, "umount", self.mnt, env=self.env())
        self.umount(self.mnt)

    def safe(self, before, files, size, since_ns=0):
        run(self.exe, "sync", self.mnt, env=self.env())


class Rclone(Peer):
    needs = ("rclone",)
    rival = True

    def make(self):
        super().make()
        secret = run("rclone", "obscure", PASSWORD).strip()
        self.config = self.base / "rclone.conf"
        self.config.write_text(f"[dav]\ntype = webdav\nurl = http://{self.bench.address(self.name)}\nvendor = other\n"
                               f"[crypt]\ntype = crypt\nremote = dav:\npassword = {secret}\n")

    def up(self):
        self.control = servers.free_port()
        self.start(["rclone", "mount", "crypt:", self.mnt, "--config", self.config, "--cache-dir", self.base / "cache",
                    "--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--transfers", "8", "--rc",
                    "--rc-addr", f"127.0.0.1:{self.control}", "--rc-no-auth"], self.mnt)

    def empty(self):
        shutil.rmtree(self.base / "cache", ignore_errors=True)

    def idle(self):
        ask = urllib.request.Request(f"http://127.0.0.1:{self.control}/vfs/stats", method="POST")
        with urllib.request.urlopen(ask, timeout=10) as answer:
            cache = json.load(answer)["diskCache"]
        return cache["uploadsInProgress"] == 0 and cache["uploadsQueued"] == 0

    def down(self):
        if self.mounted(self.mnt):
            wait_for("uploads", LIMIT_S, self.idle)
        super().down()


class Davfs(Peer):
    needs = ("mount.davfs",)
    rival = True

    def make(self):
        super().make()
        (self.base / "conf").write_text(f"cache_dir {self.base / 'cache'}\ncache_size 4096\nuse_locks 0\nask_auth 0\n"
                                        "delay_upload 0\ngui_optimize 0\nbuf_size 256\n")
        self.empty()

    def up(self):
        run("mount.davfs", f"http://{self.bench.address(self.name)}", self.mnt, "-o", f"conf={self.base / 'conf'}")

    def empty(self):
        shutil.rmtree(self.base / "cache", ignore_errors=True)
        (self.base / "cache").mkdir()
        if os.getuid() == 0:
            # As it wants its own: the group may write.
            shutil.chown(self.base / "cache", "root", "davfs2")
            (self.base / "cache").chmod(0o775)


class Gocryptfs(Peer):
    """On a davfs2 mount of its own: the usual way to a WebDAV server."""
    needs = ("gocryptfs", "mount.davfs")
    rival = True

    def __init__(self, bench, name):
        super().__init__(bench, name)
        self.lower = Davfs(bench, name + "-lower") if bench else None
        self.store = self.lower.store
        self.cipher = self.lower.mnt / "cipher"  # beside lost+found

    def make(self):
        self.lower.make()
        self.secret = self.base / "secret"
        self.secret.write_text(PASSWORD + "\n")
        self.lower.up()
        self.cipher.mkdir()
        run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.secret, self.cipher)
        self.lower.down()

    def up(self):
        self.lower.up()
        self.start(["gocryptfs", "-q", "-fg", "-passfile", self.secret, self.cipher, self.mnt], self.mnt)

    def down(self):
        self.umount(self.mnt)
        self.lower.down()

    def empty(self):
        self.lower.empty()

    def mount_points(self):
        return [self.mnt, self.lower.mnt]


class GocryptfsLocal(Peer):
    """For reference: a local folder takes the place of the server."""
    needs = ("gocryptfs",)

    def make(self):
        self.store = self.cipher = self.base / "cipher"
        self.cipher.mkdir()
        self.secret = self.base / "secret"
        self.secret.write_text(PASSWORD + "\n")
        run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.secret, self.cipher)

    def up(self):
        self.start(["gocryptfs", "-q", "-fg", "-passfile", self.secret, self.cipher, self.mnt], self.mnt)

    def empty(self):
        drop_pages(self.cipher)

    def safe(self, before, files, size, since_ns=0):
        run("sync", "-f", self.cipher)


class Curl(Peer):
    """PUT and GET by one curl with eight transfers at once: neither a mount nor encryption."""
    needs = ("curl",)
    mounts = False

    def url(self, *path):
        return f"http://{self.bench.address('/'.join((self.name,) + path))}"

    def down(self):
        pass

    def curl(self, lines):
        config = self.base / "config"
        config.write_text("silent\nshow-error\nfail\n" + "next\nsilent\nshow-error\nfail\n".join(lines))
        run("curl", "--parallel", "--parallel-immediate", "--parallel-max", "8", "-K", config)

    def write(self, name):
        run("curl", "-sSf", "-T", self.bench.big, self.url(name))

    change = write

    def read(self, name):
        run("curl", "-sSf", "-o", "/dev/null", self.url(name))

    def forget_pages(self, name):
        pass

    def of_tree(self):
        return [p.relative_to(self.bench.tree) for p in sorted(self.bench.tree.rglob("*")) if p.is_file()]

    def folders(self):
        return sorted({str(p.parent) for p in self.of_tree()})

    def write_tree(self, name):
        run("curl", "-sSf", "-X", "MKCOL", self.url(name) + "/")
        self.curl([f'request = MKCOL\nurl = "{self.url(name, d)}/"\n' for d in self.folders()])
        self.curl([f'upload-file = "{self.bench.tree / p}"\nurl = "{self.url(name, str(p))}"\n' for p in self.of_tree()])

    def read_tree(self, name):
        self.curl([f'output = /dev/null\nurl = "{self.url(name, str(p))}"\n' for p in self.of_tree()])

    def list_tree(self, name):
        self.curl([f'request = PROPFIND\nheader = "Depth: 1"\noutput = /dev/null\nurl = "{self.url(name, d)}/"\n'
                   for d in self.folders()])


PEERS = {"foliofs": Foliofs, "rclone": Rclone, "davfs2": Davfs, "gocryptfs": Gocryptfs, "curl": Curl,
         "local": GocryptfsLocal}
TITLES = {"gocryptfs": "gocryptfs+davfs2", "local": "(gocryptfs local)"}

# name, unit, whether a smaller number is what one wants to compare
MEASURES = [
    ("write", "s", "cp of a large file"),
    ("write-safe", "s", "... until it is safe"),
    ("read-cold", "s", "read it, nothing cached"),
    ("read-warm", "s", "read it again, cached on disk"),
    ("tree", "s", "cp -r of small files"),
    ("tree-safe", "s", "... until they are safe"),
    ("list-cold", "s", "ls -lR of them, nothing cached"),
    ("tree-read", "s", "read them, only listed"),
    ("change", "s", "4 KiB in the large file, until safe"),
    ("change-sent", "KiB", "... sent for it"),
]


class Clock:
    def __enter__(self):
        self.start = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.start

    def so_far(self):
        return time.monotonic() - self.start


def step_write(p, nr):
    before = p.on_server()
    with Clock() as t:
        p.write(f"big{nr}")
        yield "write", t.so_far()
        p.safe(before, 1, p.bench.options.size_mib * MIB)
    yield "write-safe", t.seconds


def step_read_cold(p, nr):
    p.cold()
    with Clock() as t:
        p.read(f"big{nr}")
    yield "read-cold", t.seconds


def step_read_warm(p, nr):
    p.forget_pages(f"big{nr}")
    with Clock() as t:
        p.read(f"big{nr}")
    yield "read-warm", t.seconds


def step_tree(p, nr):
    o, before = p.bench.options, p.on_server()
    with Clock() as t:
        p.write_tree(f"tree{nr}")
        yield "tree", t.so_far()
        p.safe(before, o.files, o.files * o.file_kib * KIB)
    yield "tree-safe", t.seconds


def step_list(p, nr):
    p.cold()
    with Clock() as t:
        p.list_tree(f"tree{nr}")
    yield "list-cold", t.seconds
    with Clock() as t:
        p.read_tree(f"tree{nr}")
    yield "tree-read", t.seconds


def step_change(p, nr):
    """The file was read by this mount before: it is cached where there is a cache."""
    p.read(f"big{nr}")
    time.sleep(1.1) # times on the server have a second's grain in some of them
    sent = p.bench.server.traffic()[0]
    since = time.time_ns()
    with Clock() as t:
        p.change(f"big{nr}")
        p.safe(p.on_server(), 0, 0, since_ns=since)
    yield "change", t.seconds
    if p.store.is_relative_to(p.bench.server.root):
        time.sleep(0.3)  # a request is in the log when it has ended
        yield "change-sent", (p.bench.server.traffic()[0] - sent) / KIB


STEPS = {"write": step_write, "read-cold": step_read_cold, "read-warm": step_read_warm, "tree": step_tree,
         "list": step_list, "change": step_change}


def attempt(results, p, what, do):
    """One step of one peer; a failure is noted and the peer mounted afresh."""
    try:
        for measure, value in do():
            results[p.name].setdefault(measure, []).append(value)
        return True
    except (Failed, OSError, subprocess.SubprocessError) as e:
        results[p.name].setdefault("failed", []).append(f"{what}: {e}")
        print(f"{p.name}: {what}: {e}", file=sys.stderr)
    try:
        p.end()
        p.up()
    except (Failed, OSError, subprocess.SubprocessError) as e:
        results[p.name]["failed"].append(f"mount again: {e}")
        return False
    return True


def measure_all(peers, rounds, steps):
    results = {p.name: {} for p in peers}
    alive = list(peers)
    for p in peers:
        def begin(p=p):
            p.make()
            p.up()
            return ()
        if not attempt(results, p, "start", begin):
            alive.remove(p)
    for nr in range(rounds):
        for step in steps:
            for p in list(alive):
                os.sync()  # what the one before left to be written is not on this one's time
                if not attempt(results, p, step, functools.partial(STEPS[step], p, nr)):
                    alive.remove(p)
        alive.append(alive.pop(0)) if alive else None
        print(f"round {nr + 1} of {rounds}", file=sys.stderr)
    return results


def medians(results):
    return {name: {m: statistics.median(v) for m, v in row.items() if m != "failed"} for name, row in results.items()}


def best_rival(table, measure):
    known = [table[n][measure] for n, c in PEERS.items() if c.rival and measure in table.get(n, {})]
    return min(known) if known else None


def print_table(table, names):
    width = 18
    print(" " * 37 + "".join(f"{TITLES.get(n, n):>{width}}" for n in names) + f"{'best / foliofs':>{width}}")
    for measure, unit, text in MEASURES:
        line = f"{text + ', ' + unit:37}"
        for n in names:
            v = table[n].get(measure)
            line += f"{'-' if v is None else f'{v:.2f}' if unit == 's' else f'{v:.0f}':>{width}}"
        best, ours = best_rival(table, measure), table.get("foliofs", {}).get(measure)
        print(line + f"{'-' if not best or not ours else f'{best / ours:.2f}':>{width}}")


def parse():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--server", choices=["apache", "nginx"], default="apache")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--size-mib", type=int, default=256, help="of the large file")
    a.add_argument("--files", type=int, default=1000, help="number of small files")
    a.add_argument("--file-kib", type=int, default=4, help="size of each")
    a.add_argument("--delay-ms", type=float, default=0, help="added to every request")
    a.add_argument("--only", default=",".join(PEERS), help="some of " + ",".join(PEERS))
    a.add_argument("--steps", default=",".join(STEPS), help="some of these, in this order; all but tree and list stand on write")
    a.add_argument("--foliofs-options", default="", help="for its mount, as after -o")
    a.add_argument("--build", default=os.environ.get("NF_BUILD", ROOT / "build"))
    a.add_argument("--dir", help="where the temporary folder is made")
    a.add_argument("--json", metavar="FILE", help="all values, medians and failures")
    return a.parse_args()


class Door:
    """No proxy: the server's own port."""

    def __init__(self, port):
        self.port = port


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        base = pathlib.Path(tempfile.mkdtemp(prefix="foliofs-compare-", dir=options.dir))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        base.chmod(0o711)  # davfs2 goes through as a user of its own
        server = stack.enter_context(servers.start(options.server))
        door = stack.enter_context(proxy.start(server.port, options.delay_ms / 1000)) if options.delay_ms \
            else Door(server.port)
        bench = Bench(base, server, door, options)
        bench.make_input()
        peers = []
        for name in options.only.split(","):
            p = PEERS[name](bench, name)
            if p.missing():
                print(f"{name}: {p.missing()} is not installed", file=sys.stderr)
                continue
            stack.callback(p.end)
            peers.append(p)
        results = measure_all(peers, options.rounds, options.steps.split(","))
        for p in peers:
            with contextlib.suppress(Failed, OSError, subprocess.SubprocessError):
                p.down()
    table = medians(results)
    names = [p.name for p in peers]
    print(f"{options.server}, {options.size_mib} MiB, {options.files} files of {options.file_kib} KiB, "
          f"{options.delay_ms:g} ms more for each request, medians of {options.rounds} rounds")
    print_table(table, names)
    for name in names:
        for text in results[name].get("failed", []):
            print(f"failed: {name}: {text}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(
            {"server": options.server, "size_mib": options.size_mib, "files": options.files,
             "file_kib": options.file_kib, "delay_ms": options.delay_ms, "rounds": options.rounds,
             "medians": table, "values": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
