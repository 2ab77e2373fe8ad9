"""Writers that note in files outside the vault what they begin and what an fsync acknowledged, and what a vault found later
must hold because of it.

Every slot of a file, and every file that is replaced by rename, holds a number between the last acknowledged and the last begun;
a database holds all transactions that were acknowledged, in a row, and is whole."""
import contextlib
import errno
import os
import pathlib
import sqlite3
import subprocess
import sys

SLOTS, SLOT, NAMES = 16, 3000, 12

WRITER = r'''
import os, random, struct, sys
folder, note, me, slots, slot, names = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
rnd = random.Random(os.getpid())
log = open(note, "a", buffering=1)
start = sum(1 for _ in open(note))
fd = os.open(f"{folder}/slots-{me}", os.O_RDWR | os.O_CREAT, 0o644)
def body(n):
    return struct.pack("<Q", n) * (slot // 8)
n = start
try:
    while True:
        n += 1
        at = rnd.randrange(slots)
        log.write(f"begin slot {at} {n}\n")
        os.pwrite(fd, body(n), at * slot)
        os.fsync(fd)
        log.write(f"done slot {at} {n}\n")
        if n % 5 == 0:
            name = f"{folder}/new-{me}-{rnd.randrange(names)}"
            log.write(f"begin file {name} {n}\n")
            with open(name + ".tmp", "wb", buffering=0) as f:
                f.write(body(n) * 4)
                os.fsync(f.fileno())
            os.rename(name + ".tmp", name)
            d = os.open(folder, os.O_RDONLY)
            os.fsync(d)
            os.close(d)
            log.write(f"done file {name} {n}\n")
except OSError:
    pass
'''


def body(n):
    return n.to_bytes(8, "little") * (SLOT // 8)


def pread(fd, length, at):
    """To the end or to the first error: one call stops before what cannot be read."""
    data = b""
    while len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def first_other(data):
    return next((i for i in range(0, len(data), 8) if data[i:i + 8] != data[:8]), len(data))


@contextlib.contextmanager
def may_be_away(away):
    """What is neither cached nor waiting here cannot be read without the server, and says so."""
    try:
        yield
    except OSError as e:
        if not away or e.errno != errno.ENETDOWN:
            raise


def check(folder, notes, away=False):
    """(promises looked at, promises made from the beginning on)"""
    looked = made = 0
    for me, note in enumerate(notes):
        begun, done = {}, {}
        for line in note.read_text().splitlines():
            what, kind, key, n = line.split(" ")
            key = int(key) if kind == "slot" else pathlib.Path(key).name
            (begun if what == "begin" else done)[key] = int(n)
            made += what == "done"

        def holds(key, data, times):
            low = done.get(key, 0)
            n = int.from_bytes(data[:8], "little")
            assert low <= n <= begun[key], f"writer {me} {key}: {n}, acknowledged {low}"
            # Before the first one was acknowledged a slot may be part of a hole.
            assert data == body(n) * times or (n == 0 and not any(data)), f"writer {me} {key}: {n} of {low}..{begun[key]}, {len(data)} bytes, then {data[-8:].hex()}, first other at {first_other(data)}"
            return low > 0

        for key in begun:
            with may_be_away(away):
                if isinstance(key, int) and (done or (folder / f"slots-{me}").exists()):
                    with open(folder / f"slots-{me}", "rb", buffering=0) as f:
                        looked += holds(key, pread(f.fileno(), SLOT, key * SLOT), 1)
                elif not isinstance(key, int) and (key in done or (folder / key).exists()):
                    looked += holds(key, (folder / key).read_bytes(), 4)
    return looked, made


def start_writers(folder, notes):
    for note in notes:
        note.touch()
    return [subprocess.Popen([sys.executable, "-c", WRITER, folder, note, *map(str, (i, SLOTS, SLOT, NAMES))],
                             stdin=subprocess.DEVNULL) for i, note in enumerate(notes)]


DATABASE = r'''
import sqlite3, sys
path, note, mode = sys.argv[1:]
log = open(note, "a", buffering=1)
try:
    db = sqlite3.connect(path, timeout=1, isolation_level=None)
    db.execute(f"pragma journal_mode={mode}")
    # With "full" the last transaction may be undone: the removal of its journal is not synced.
    db.execute("pragma synchronous=extra")
    db.execute("create table if not exists t (n integer primary key, x blob)")
    n = db.execute("select coalesce(max(n), 0) from t").fetchone()[0]
    while True:
        n += 1
        db.execute("begin immediate")
        db.execute("insert into t values (?, randomblob(?))", (n, 200 + n * 37 % 3000))
        db.execute("update t set x = randomblob(300) where n = ?", (n // 2,))
        db.execute("commit")
        log.write(f"{n}\n")
except (sqlite3.Error, OSError):
    pass
'''


def start_database(path, note, mode="delete"):
    note.touch()
    return subprocess.Popen([sys.executable, "-c", DATABASE, path, note, mode], stdin=subprocess.DEVNULL)


def check_database(path, note):
    """Transactions that are there."""
    acknowledged = [int(line) for line in note.read_text().split()]
    if not acknowledged and not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        if not db.execute("select count(*) from sqlite_master").fetchone()[0]:
            rows = []
        else:
            rows = [n for n, in db.execute("select n from t order by n")]
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) >= max(acknowledged, default=0), f"{len(rows)} transactions, acknowledged {acknowledged[-1]}"
    return len(rows)


def end(processes):
    for p in processes:
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            pass
        p.kill()
        p.wait(20)


