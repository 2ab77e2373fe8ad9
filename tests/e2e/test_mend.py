"""A node of the newest tree that no machine has: `check --repair` puts what an older tree has in its place."""
import pytest

from cli_lib import Site
from vault_lib import DAMAGED

FILES = 300


@pytest.fixture
def vault(stage, build):
    s = Site(stage, build)
    s.init()
    yield s
    if s.daemon():
        s.umount()


def text_of(nr, version):
    return f"file {nr} version {version} ".ljust(480, "x")


def packs(vault):
    return {p for p in (vault.store / "packs").rglob("*") if p.is_file()}


def change(vault, numbers):
    """Those files in place; what their commit put."""
    before = packs(vault)
    for nr in numbers:
        with open(vault.mnt / str(nr), "r+b") as f:
            f.write(text_of(nr, 1).encode())
    vault.run("sync", "-q", vault.mnt)
    return packs(vault) - before


def bare(vault, name):
    """A machine that never saw the vault."""
    return {"XDG_CACHE_HOME": str(vault.stage.dir / name), "XDG_STATE_HOME": str(vault.stage.dir / f"{name}-state")}


@pytest.mark.parametrize("where", ["store", "mount"])
def test_a_node_that_nobody_has_is_as_an_older_commit_has_it(vault, where):
    vault.mount()
    for nr in range(FILES):
        (vault.mnt / str(nr)).write_text(text_of(nr, 0))
    vault.run("sync", "-q", vault.mnt)
    gone = change(vault, [100, 101])
    change(vault, [FILES - 10])
    for p in gone:
        p.unlink()
    if where == "mount":
        # The machine that repairs has nothing of it.
        vault.umount("--wait")
        vault.env |= bare(vault, "second")
        vault.mount()
        assert "is lost" in vault.run("check", vault.mnt, code=DAMAGED).stdout
        said = vault.run("check", vault.mnt, "--repair", code=DAMAGED).stdout
    else:
        said = vault.run("check", vault.store, "--repair", code=DAMAGED, env=bare(vault, "bare")).stdout
    assert "take its place" in said and "/100: as of commit " in said, said
    # What is left is of older commits.
    left = vault.run("check", vault.store, code=DAMAGED, env=bare(vault, "other")).stdout.splitlines()
    assert all(line.startswith("commit ") for line in left[:-1]), left
    vault.run("gc", vault.store, env=bare(vault, "other"))
    if where == "store":
        vault.umount("--wait")
        vault.env |= bare(vault, "second")
        vault.mount()
    for nr in range(FILES):
        got = (vault.mnt / str(nr)).read_text()
        as_it_was = text_of(nr, 0)
        as_it_is = text_of(nr, 1) if nr == FILES - 10 else as_it_was
        assert got == (as_it_was if nr in (100, 101) else as_it_is), nr
    (vault.mnt / "100").write_text("new")
    (vault.mnt / "another").write_text("new")
    vault.run("sync", "-q", vault.mnt)
    again = vault.run("check", vault.mnt, "--repair", code=DAMAGED).stdout
    assert "take its place" not in again and "as of" not in again
    assert vault.run("cat", vault.store, "/100", env=bare(vault, "reader")).stdout == "new"
