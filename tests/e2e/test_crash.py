"""What fsync acknowledged survives the death of the daemon (promise_lib.py).  Files are few, so that looking at all of them after
each kill stays quick."""
import time

import pytest
from promise_lib import check, end, start_writers
from vault_lib import KINDS, Vault, size, store

WRITERS = 3
ROUNDS = size("KILLS", 5, 200)


@pytest.mark.limit(600 + 20 * ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_when_the_daemon_is_killed(stage, kind):
    notes = [stage.dir / f"note-{i}" for i in range(WRITERS)]
    looked = 0
    with store(stage, kind) as s:
        v = Vault(stage, s)
        laptop = v.machine("laptop")
        with laptop.mount() as m:
            (m.dir / "d").mkdir()
            m.sync()
        for n in range(ROUNDS):
            # A folder that is not there is taken for an address without a vault.
            away = n % 3 == 1 and s.server
            m = laptop.mount("poll=300ms")
            if n:
                looked += check(m.dir / "d", notes)[0]
            writers = start_writers(m.dir / "d", notes)
            try:
                # Commits run beside the writers, and are hit too.
                until = time.monotonic() + 0.6 + 0.23 * (n % 4)
                while time.monotonic() < until:
                    if n % 2:
                        m.try_sync()
                    time.sleep(0.05)
            finally:
                m.kill()
                end(writers)
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
    assert made > ROUNDS * WRITERS * 5
    print(f"{kind}: {ROUNDS} kills, {made} fsyncs acknowledged, looked at {looked + 2 * last} times, none lost")
