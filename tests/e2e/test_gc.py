"""The collector of a mount that has nothing else to do."""
import json
import random
import time

import pytest
from conftest import wait_for
from folder import size_bytes
from vault_lib import Vault, store

MIB = 1 << 20
KEEP = ("grace=0", "keep_heads=1", "keep_days=0", "lease_days=0")


def held(where):
    return size_bytes(where.root / "packs")


def rewrite(m, seed, times=4):
    """A file of 2 MiB, again and again."""
    r = random.Random(seed)
    for _ in range(times):
        data = r.randbytes(2 * MIB)
        (m.dir / "file").write_bytes(data)
        m.sync()
    return data


@pytest.mark.parametrize("kind", ("file", "nginx"))
def test_a_mount_collects_by_itself_when_nothing_else_is_done(stage, kind):
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("a").mount("gc=1s", "poll=1s", *KEEP) as m:
            data = rewrite(m, 1)
            wait_for(lambda: held(s) < 3 * MIB, 60, "the old versions to go")
            wait_for(lambda: m.status()["gc_deleted_bytes"] >= 6 * MIB, 60, "the status to say so")
            now = m.status()
            assert now["gc"] in ("waiting", "running") and now["gc_runs"] >= 1 and now["gc_every_ms"] == 1000
            said = v.machine("a").run("status", m.dir).stdout
            assert "collector " in said and "deleted" in said
            assert (m.dir / "file").read_bytes() == data
            (m.dir / "more").write_bytes(b"after")
            m.sync()
        with v.machine("b").mount("gc=off") as m:
            assert (m.dir / "file").read_bytes() == data and (m.dir / "more").read_bytes() == b"after"
            assert m.status()["gc"] == "off"
        done = v.machine("b").run("check", s.url, "--read-data", timeout=120)
        assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.mark.parametrize("how", ("gc=off", "sync=manual"))
def test_a_mount_that_is_not_to_send_unasked_does_not_collect(stage, how):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("a").mount(*{"gc=1s", how} - ({"gc=1s"} if how == "gc=off" else set()), *KEEP) as m:
            rewrite(m, 2, times=2)
            before = held(s)
            assert m.status()["gc"] == "off"
            time.sleep(3)
            assert held(s) == before and m.status()["gc_runs"] == 0
            assert "collector" not in v.machine("a").run("status", m.dir).stdout


def test_what_is_kept_is_said_at_the_mount_and_holds_for_the_command_too(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        a = v.machine("a")
        with a.mount("gc=off", *KEEP) as m:
            rewrite(m, 3)
            said = json.loads(a.run("gc", m.dir, "--dry-run", "--json").stdout)
            assert said["dead_bytes"] >= 6 * MIB
            said = json.loads(a.run("gc", m.dir, "--dry-run", "--json", "--keep-heads", "100").stdout)
            assert said["dead_bytes"] == 0
        done = a.run("mount", "-f", "-o", "gc=soon", s.url, a.folder())
        assert done.returncode == 2 and "gc must be a time" in done.stderr
