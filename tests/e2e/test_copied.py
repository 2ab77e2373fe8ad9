"""A machine's cache and state copied with `cp -a`: both go on, and nothing of either is lost."""
import subprocess

import pytest
from vault_lib import Vault, store


def clone(machine, other):
    """What OTHER has of the vault is what MACHINE, which is not mounted, has."""
    other.env()
    for what in ("cache", "state"):
        subprocess.run(["rm", "-rf", other.home / what], check=True)
        subprocess.run(["cp", "-a", machine.home / what, other.home / what], check=True)


def work(mount, who):
    (mount.dir / "both").write_text(f"of {who}")
    (mount.dir / "old").write_text(f"changed by {who}")
    (mount.dir / f"folder of {who}").mkdir()
    for n in range(20):
        (mount.dir / f"folder of {who}" / f"file-{n}").write_text(f"{who} {n}\n" * 3000)


def mounted_until_it_looked_at_once(machine, writer):
    """A mount that its server did not answer in time comes to know of it later, and goes on as it is."""
    for _ in range(5):
        with machine.mount("sync=manual") as m:
            if m.status()["writer"] != writer:
                return


def tree(mount):
    return {str(p.relative_to(mount.dir)): p.read_text() for p in mount.dir.rglob("*") if p.is_file()}


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["file", "nginx"])
def test_two_copies_of_a_machine_go_on_and_each_sends_what_it_had(stage, kind):
    with store(stage, kind) as s:
        v = Vault(stage, s)
        a, b = v.machine("a"), v.machine("b")
        with a.mount("sync=manual") as m:
            (m.dir / "old").write_text("old")
            m.sync()
            (m.dir / "shared").write_text("made before the copy" * 1000)
        clone(a, b)
        with a.mount("sync=manual") as m, b.mount("sync=manual") as n:
            work(m, "a")
            work(n, "b")
            writer = m.status()["writer"]
            n.unmount()
            m.sync()
        # Its name is used by the other: it takes one of its own, and what it had done with it.
        mounted_until_it_looked_at_once(b, writer)
        with b.mount("sync=manual") as m:
            assert m.status()["writer"] != writer
            assert (m.dir / "folder of b" / "file-19").read_text() == "b 19\n" * 3000
            m.sync()
            assert m.status()["writer"] != writer
        with v.machine("fresh").mount() as m:
            found = tree(m)
        copies = {name: text for name, text in found.items() if " (conflict " in name}
        assert sorted(copies.values()) == ["changed by b", "of b"], copies
        want = {"old": "changed by a", "both": "of a", "shared": "made before the copy" * 1000}
        want.update({f"folder of {who}/file-{n}": f"{who} {n}\n" * 3000 for who in "ab" for n in range(20)})
        assert {name: text for name, text in found.items() if name not in copies} == want
        done = v.machine("checker").run("check", "--read-data", s.url)
        assert done.returncode == 0, (done.stdout, done.stderr)
