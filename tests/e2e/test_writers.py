"""Three machines write into one vault at once, each commit as soon as it can be made."""
import threading

import pytest
import tree_lib
from conftest import wait_for
from vault_lib import KINDS, Vault, size, store

MACHINES = 3


def writer(mount, me, count, failures):
    """COUNT commits, each with a new file, a changed one and a removed one."""
    try:
        for n in range(count):
            folder = mount.dir / f"shared-{n % 3}"
            (folder / f"{me}-{n}").write_text(f"{me} {n}\n" * (n % 50 + 1))
            (folder / f"{me}-again").write_text(f"{me} {n}\n" * 2000)
            if n % 5 == 4 and (n - 3) % 7 != 6:
                (mount.dir / f"shared-{(n - 3) % 3}" / f"{me}-{n - 3}").unlink()
            if n % 7 == 6:
                (folder / f"{me}-{n}").rename(mount.dir / "shared-0" / f"{me}-moved-{n}")
            mount.sync()
    except BaseException as e:  # noqa: BLE001 - told by the test
        failures.append(e)


def expected(machines, count):
    names = {f"shared-{i}" for i in range(3)}
    for me in machines:
        for n in range(count):
            names.add(f"shared-{n % 3}/{me}-{n}")
            names.add(f"shared-{n % 3}/{me}-again")
            if n % 5 == 4 and (n - 3) % 7 != 6:
                names.discard(f"shared-{(n - 3) % 3}/{me}-{n - 3}")
            if n % 7 == 6:
                names.discard(f"shared-{n % 3}/{me}-{n}")
                names.add(f"shared-0/{me}-moved-{n}")
    return {x.encode() for x in names}


@pytest.mark.limit(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_three_writers_lose_nothing_and_end_with_one_tree(stage, kind):
    count = size("COMMITS", 60 if kind == "nginx" else 24, 1000) // MACHINES
    names = [chr(ord("a") + i) for i in range(MACHINES)]
    with store(stage, kind) as s:
        v = Vault(stage, s)
        mounts = [v.machine(n).mount("poll=1s") for n in names]
        for i in range(3):
            (mounts[0].dir / f"shared-{i}").mkdir()
        mounts[0].sync()
        for m in mounts[1:]:
            m.sync()
        failures = []
        threads = [threading.Thread(target=writer, args=(m, n, count, failures)) for m, n in zip(mounts, names)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures, failures
        # Each was told that its commits are on the server; the others see them by themselves.
        wait_for(lambda: len({m.status()["fingerprint"] for m in mounts}) == 1, 60, "one head for all")
        trees = [tree_lib.survey(m.dir) for m in mounts]
        for t in trees:
            lost, more = expected(names, count) - set(t[0]), set(t[0]) - expected(names, count)
            assert not lost and not more, (lost, more)
        wrong = [tree_lib.differences(trees[0], t) for t in trees[1:]]
        if any(wrong):
            # What the kernel was told meanwhile, or what it was not.
            again = [tree_lib.differences(trees[0], tree_lib.survey(m.dir)) for m in mounts]
            raise AssertionError((wrong, again, [m.status()["fingerprint"] for m in mounts]))
        states = [m.status() for m in mounts]
        print(kind, [{k: x[k] for k in ("commits", "forks", "merges", "conflicts")} for x in states])
        assert sum(x["merges"] for x in states) > 0 or kind != "nginx", states
        for m in mounts:
            m.unmount()
        with v.machine("fresh").mount() as m:
            assert not tree_lib.differences(trees[0], tree_lib.survey(m.dir))
