"""What fsync acknowledged survives the death of the daemon.

Writers note in a file outside the vault what they begin and what was acknowledged.  After kill -9 and a mount on the same
cache and state every slot of a file, and every file that is replaced by rename, holds a number between the last acknowledged and the last
begun.  Both are few, so that looking at all of them after each kill stays quick."""
import os
import pathlib
import subprocess
import sys
import time

import pytest
from vault_lib import KINDS, Vault, size, store

SLOTS, SLOT, NAMES, WRITERS = 16, 3000, 12, 3

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


def check(folder, notes):
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
            assert data == body(n) * times or (n == 0 and not any(data)), f"writer {me} {key}: mixed"
            return low > 0

        with open(folder / f"slots-{me}", "rb", buffering=0) as f:
            for key in begun:
                if isinstance(key, int):
                    looked += holds(key, os.pread(f.fileno(), SLOT, key * SLOT), 1)
                elif key in done or (folder / key).exists():
                    looked += holds(key, (folder / key).read_bytes(), 4)
    return looked, made


@pytest.mark.limit(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_when_the_daemon_is_killed(stage, kind):
    rounds = size("KILLS", 5, 50)
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    looked = 0
    for note in notes:
        note.touch()
    with store(stage, kind) as s:
        v = Vault(stage, s)
        laptop = v.machine("laptop")
        with laptop.mount() as m:
            (m.dir / "d").mkdir()
            m.sync()
        for n in range(rounds):
            # A folder that is not there is taken for an address without a vault.
            away = n % 3 == 1 and s.server
            m = laptop.mount("poll=300ms")
            if n:
                looked += check(m.dir / "d", notes)[0]
            writers = [subprocess.Popen([sys.executable, "-c", WRITER, m.dir / "d", notes[i], *map(str, (i, SLOTS, SLOT, NAMES))],
                                        stdin=subprocess.DEVNULL) for i in range(WRITERS)]
            try:
                # Commits run beside the writers, and are hit too.
                end = time.monotonic() + 0.6 + 0.23 * (n % 4)
                while time.monotonic() < end:
                    if n % 2:
                        m.try_sync()
                    time.sleep(0.05)
                m.kill()
                for w in writers:
                    w.wait(20)
            finally:
                for w in writers:
                    w.kill()
                    w.wait()
            if away:
                # The journal and the cache are enough for what was done here.
                s.away()
                with laptop.mount() as m:
                    looked += check(m.dir / "d", notes)[0]
                s.back()
        with laptop.mount() as m:
            last, made = check(m.dir / "d", notes)
            m.sync()
        with v.machine("other").mount() as m:
            assert check(m.dir / "d", notes) == (last, made)
    assert made > rounds * WRITERS * 5
    print(f"{kind}: {rounds} kills, {made} fsyncs acknowledged, looked at {looked + 2 * last} times, none lost")
