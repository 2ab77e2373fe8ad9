"""What a vault costs that has seen many commits: a cold mount and a look at everything, and each further commit.

FOLIOFS_LONG=1: 2,000 commits over 5,000 files; otherwise 100 over 1,000."""
import os
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "lib"))
import figures  # noqa: E402
from figures import MIB, Bench  # noqa: E402

LONG = bool(os.environ.get("FOLIOFS_LONG"))
FILES, COMMITS = (5000, 2000) if LONG else (1000, 100)


def cold_listing(bench, name, files=FILES):
    """All requests of a mount with nothing cached and nothing remembered, and an ls -lR on it, by the server's log."""
    logged = len(bench.server.requests())
    m = bench.machine(name, "poll=3600")
    mounted = len(bench.server.requests())
    assert figures.list_all(m.mnt / "tree").count(b"\n-rw") == files
    rows = bench.log_since(logged)
    heads = sum(method == "GET" and path.startswith("/heads/") for method, path, _, _ in rows)
    print(f"{name}: mount {mounted - logged} requests, ls -lR {len(rows) - (mounted - logged)}; {heads} heads read")
    return m, len(rows), mounted - logged, heads


@pytest.mark.limit(900 if LONG else 120)
def test_an_old_vault_is_read_like_a_new_one(stage, build):
    """All commits are made within minutes, so that no head is pruned before the cold machine looks."""
    with Bench(stage, build) as bench:
        figures.make_vault(bench, "files", FILES, 100)
        m, fresh, mount, _ = cold_listing(bench, "fresh")
        m.umount()
        assert mount <= 20
        assert fresh <= 40
        figures.make_vault(bench, "age", FILES, COMMITS)
        m, old, mount, heads = cold_listing(bench, "old")
        print(f"after {COMMITS} commits: {old} requests, fresh {fresh} (bound 3 times)")
        assert old <= 3 * fresh
        assert heads <= 4  # the newest, and the machine's own read back

        # From here on nothing is cold: a commit is its pack, its head, and one look.
        def change(n):
            with open(m.mnt / "tree" / "dir-0" / "file-0", "r+b") as f:
                f.write(b"%03d" % n)
            m.sync()

        change(0)
        logged = len(bench.server.requests())
        for i in range(1, 6):
            change(i)
        rows = [r for r in bench.log_since(logged) if r[0] != "MKCOL"]  # a folder of packs is made once
        print(f"five commits: {len(rows)} requests (bound 5 each):", *(f"{r[0]} {r[1][:10]}" for r in rows))
        assert len(rows) <= 5 * 5 + 2  # a machine that is slow looks once more
        listings = sum(method == "PROPFIND" for method, _, _, _ in rows)
        assert listings <= 5 + 2


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", ["apache", "lighttpd", "nginx"])
def test_a_cold_mount_of_a_fresh_vault_takes_few_requests(stage, build, kind):
    """Three for the header, twice (the passphrase is tried in a process of its own); heads and the newest; its metadata;
    and the claim of a writer's number: a pack, a head, one look."""
    with Bench(stage, build, kind) as bench:
        with bench.measure() as w:
            m = bench.machine("a", "poll=3600")
            assert os.listdir(m.mnt) == []
        print(f"{kind}: mount and ls of an empty vault: {w} (bound 20 requests)")
        assert w.requests <= 20 and w.received < MIB
