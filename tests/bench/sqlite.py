#!/usr/bin/env python3
"""Transactions of sqlite with synchronous=FULL: how many, and how often a disk is told to flush for them.

    sqlite.py [--build DIR] [--n TRANSACTIONS] [--dir WHERE]

On a plain folder, on gocryptfs over such a folder and on foliofs with its state in one, in turns in one run; all folders are
on the disk of --dir.  Flushes of foliofs are those of its journal (`foliofs stats`), and of the whole daemon by strace in a run of its own.
Nothing is sent meanwhile (sync=manual): what a server does is another matter."""
import argparse
import contextlib
import multiprocessing
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASS = "correct horse"
PARALLEL = 8


def work(folder, mode, n, name="db"):
    db = sqlite3.connect(folder / name, isolation_level=None, timeout=60)
    db.execute(f"pragma journal_mode={mode}")
    db.execute("pragma synchronous=full")
    db.execute("pragma wal_autocheckpoint=100000")
    db.execute("create table if not exists t (k integer primary key, v text)")
    begun = time.monotonic()
    for _ in range(n):
        db.execute("insert into t (v) values (?)", ("x" * 100,))
    took = time.monotonic() - begun
    db.close()
    return took


def together(folder, mode, n):
    """Transactions per second of PARALLEL processes with a database each."""
    with multiprocessing.get_context("fork").Pool(PARALLEL) as pool:
        begun = time.monotonic()
        pool.starmap(work, [(folder, mode, n // PARALLEL, f"db-{mode}-{i}") for i in range(PARALLEL)])
        return n // PARALLEL * PARALLEL / (time.monotonic() - begun)


def syncs_of_sqlite(folder, mode, n):
    """What sqlite asks for: fsync and fdatasync of files, and of folders, per transaction."""
    script = f"import sys, pathlib; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import sqlite; " \
             f"sqlite.work(pathlib.Path({str(folder)!r}), {mode!r}, {n}, 'traced-{mode}')"
    out = subprocess.run(["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", sys.executable, "-c", script],
                         capture_output=True, text=True, check=True).stderr
    calls = re.findall(r"f(?:data)?sync\(\d+<([^>]*)>", out)
    dirs = sum(c == str(folder) for c in calls)
    return (len(calls) - dirs) / n, dirs / n


class Foliofs:
    def __init__(self, exe, where):
        self.exe, self.where = exe, where
        self.mnt = where / "mnt"
        for d in ("home", "run", "mnt"):
            (where / d).mkdir(mode=0o700, parents=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "FOLIOFS_"))}
        self.env |= {"HOME": str(where / "home"), "XDG_RUNTIME_DIR": str(where / "run"), "FOLIOFS_PASSWORD": PASS}
        self.run("init", f"file://{where}/store", "--kdf-cost", "15")
        self.run("mount", f"file://{where}/store", self.mnt, "-osync=manual")

    def run(self, *args):
        return subprocess.run([self.exe, *map(str, args)], env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=True).stdout

    def flushes(self):
        for line in self.run("stats", self.mnt).splitlines():
            name, value, _ = line.split()
            if name == "journal.syncs":
                return int(value)
        raise KeyError("journal.syncs")

    def pid(self):
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (p / "cmdline").read_bytes().split(b"\0")
                if str(self.mnt).encode() in words and b"mount" in words:
                    return int(p.name)
        raise KeyError("daemon")

    @contextlib.contextmanager
    def traced(self):
        """Flushes of the whole daemon, in `[0]` afterwards."""
        log, count = self.where / "strace", [0]
        s = subprocess.Popen(["strace", "-f", "-q", "-o", log, "-e", "trace=fsync,fdatasync,sync_file_range,io_uring_enter",
                              "-p", str(self.pid())], stderr=subprocess.DEVNULL)
        time.sleep(1)
        try:
            yield count
        finally:
            s.terminate()
            s.wait()
            count[0] = len(re.findall(r"(?m)^\d+ +f(?:data)?sync\(", log.read_text()))

    def end(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("umount", self.mnt)


@contextlib.contextmanager
def gocryptfs(where):
    for d in ("cipher", "plain"):
        (where / d).mkdir(parents=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    subprocess.run(["gocryptfs", "-init", "-q", "-scryptn", "10", "-extpass", "echo x", where / "cipher"], **quiet)
    subprocess.run(["gocryptfs", "-q", "-extpass", "echo x", where / "cipher", where / "plain"], **quiet)
    try:
        yield where / "plain"
    finally:
        subprocess.run(["fusermount3", "-u", where / "plain"], check=False)


def median(values):
    return sorted(values)[len(values) // 2]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default=ROOT / "build", type=pathlib.Path)
    args.add_argument("--n", default=400, type=int)
    args.add_argument("--dir", default=tempfile.gettempdir(), type=pathlib.Path)
    o = args.parse_args()
    base = pathlib.Path(tempfile.mkdtemp(prefix="foliofs-sqlite-", dir=o.dir))
    f = None
    try:
        f = Foliofs(o.build / "src" / "foliofs", base / "foliofs")
        (base / "folder").mkdir()
        with contextlib.ExitStack() as stack:
            places = {"folder": base / "folder", "foliofs": f.mnt}
            if shutil.which("gocryptfs"):
                places["gocryptfs"] = stack.enter_context(gocryptfs(base / "gocryptfs"))
            print(f"{o.n} transactions, synchronous=FULL; transactions per second, median of 3")
            for mode in ("delete", "wal"):
                alone = {p: median([o.n / work(places[p], mode, o.n, f"{mode}-{i}") for i in range(3)]) for p in places}
                many = {p: median([together(places[p], mode, o.n) for _ in range(3)]) for p in places}
                for p in places:
                    print(f"{mode:6} {p:10} alone {alone[p]:8.0f}   {PARALLEL} at once {many[p]:8.0f}")
                files, dirs = syncs_of_sqlite(f.mnt, mode, o.n)
                before = f.flushes()
                work(f.mnt, mode, o.n, f"count-{mode}")
                one = f.flushes() - before
                together(f.mnt, mode, o.n)
                all_ = f.flushes() - before - one
                print(f"{mode:6} sqlite asks for {files:.2f} syncs of files and {dirs:.2f} of folders a transaction; "
                      f"flushes a transaction: alone {one / o.n:.2f}, {PARALLEL} at once {all_ / o.n:.2f}")
                with f.traced() as count:
                    work(f.mnt, mode, o.n, f"traced2-{mode}")
                print(f"{mode:6} fsync and fdatasync of the daemon by strace: {count[0] / o.n:.2f} a transaction")
    finally:
        if f:
            f.end()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
