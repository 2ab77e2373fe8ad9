"""Real trees and real programs through the mount, seen again by another machine."""
import pathlib
import shutil
import sqlite3
import subprocess

import pytest
import tree_lib
from vault_lib import KINDS, Vault, size, store


def run(*argv, cwd=None, **kw):
    subprocess.run([str(a) for a in argv], check=True, timeout=200, cwd=cwd, stdout=subprocess.DEVNULL, **kw)


def files_of(kind):
    return size("FILES", 1500 if kind == "file" else 250, 6000)


@pytest.mark.limit(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_tree_is_the_same_on_another_machine(stage, kind):
    source = stage.dir / "source"
    source.mkdir()
    tree_lib.real_files(source / "real", files_of(kind))
    tree_lib.odd_things(source / "odd")
    want = tree_lib.survey(source)
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("first").mount() as m:
            run("cp", "-a", source, m.dir / "copy")
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))
            m.sync()
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))
        with v.machine("second").mount() as m:
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))
        # Nor does the first lose anything by mounting again.
        with v.machine("first").mount() as m:
            assert not tree_lib.differences(want, tree_lib.survey(m.dir / "copy"))


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", KINDS)
def test_programs_work_and_what_they_made_arrives(stage, kind):
    source = stage.dir / "source"
    tree_lib.odd_things(source)
    shutil.rmtree(source / "times")  # tar keeps no time before 1970
    (source / "modes/socket").unlink()  # nor sockets
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("first").mount() as m:
            at = m.dir
            git(at, size("GIT_FILES", 60, 1000))
            sqlite(at / "base.db", size("TRANSACTIONS", 1000 if kind == "file" else 100, 1000))
            run("tar", "--xattrs", "--acls", "--posix", "-cf", at / "source.tar", "-C", source, ".")
            (at / "untarred").mkdir()
            run("tar", "--xattrs", "--xattrs-include=user.*", "--acls", "-xpf", at / "source.tar", "-C", at / "untarred")
            assert not tree_lib.differences(tree_lib.survey(source), tree_lib.survey(at / "untarred"))
            run("rsync", "-aHAXS", f"{source}/", at / "rsynced")
            assert not tree_lib.differences(tree_lib.survey(source), tree_lib.survey(at / "rsynced"))
            compile_some(at / "build")
            m.sync()
            want = tree_lib.survey(at)
        with v.machine("second").mount() as m:
            assert not tree_lib.differences(want, tree_lib.survey(m.dir))
            run("git", "-C", m.dir / "clone", "fsck", "--full", stderr=subprocess.DEVNULL)
            assert check_sqlite(m.dir / "base.db")
            run(m.dir / "build/program")


def git(at, files):
    me = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0"]
    run("git", "init", "-q", at / "repo")
    for i in range(3):
        for n in range(files // 3):
            folder = at / "repo" / f"d{n % 7}"
            folder.mkdir(exist_ok=True)
            (folder / f"{i}-{n}").write_text(f"{i} {n}\n" * (n + 1))
        run("git", "-C", at / "repo", "add", "-A")
        run("git", "-C", at / "repo", *me, "commit", "-q", "-m", f"commit {i}")
    run("git", "clone", "-q", "--no-local", at / "repo", at / "clone", stderr=subprocess.DEVNULL)
    run("git", "-C", at / "clone", "repack", "-adq")
    run("git", "-C", at / "clone", "fsck", "--full", "--strict", stderr=subprocess.DEVNULL)
    status = subprocess.run(["git", "-C", str(at / "clone"), "status", "--porcelain"], check=True, timeout=60,
                            capture_output=True).stdout
    assert status == b""


def sqlite(path, transactions):
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("create table t (n integer primary key, body blob)")
    for n in range(transactions):
        base.execute("begin")
        base.execute("insert into t values (?, randomblob(200))", (n,))
        base.execute("update t set body = randomblob(300) where n = ?", (n // 2,))
        base.execute("commit")
    base.close()
    assert check_sqlite(path) == transactions


def check_sqlite(path):
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    n = base.execute("select count(*) from t").fetchone()[0]
    base.close()
    return n


def compile_some(at):
    at.mkdir()
    objects = []
    for i in range(6):
        (at / f"f{i}.c").write_text(f"int f{i}(int x);\nint f{i}(int x) {{ return x + {i}; }}\n")
        objects.append(f"f{i}.o")
    (at / "main.c").write_text("int f3(int x);\nint main(void) { return f3(-3); }\n")
    (at / "Makefile").write_text("program: main.o " + " ".join(objects) + "\n\t$(CC) -o $@ $^\n")
    run("make", "-s", "-j2", cwd=at)
    run(pathlib.Path(at) / "program")
