"""Ordinary programs on a vault, and what POSIX promises them: what one run leaves is the same after another mount.

Copies of whole trees between machines are in test_real.py; this is what programs do in one place."""
import contextlib
import ctypes
import fcntl
import mmap
import os
import shutil
import sqlite3
import stat
import subprocess

import pytest

from conftest import ROOT, wait_for
from vault_lib import Vault, store

libc = ctypes.CDLL(None, use_errno=True)
OPTION = "write_back=1s"


@pytest.fixture
def mounted(stage):
    with store(stage, "file") as s, Vault(stage, s).machine("one").mount(OPTION) as m:
        yield m


@contextlib.contextmanager
def again(mounted):
    """Unmounted, and mounted by a machine that knows nothing of it."""
    mounted.sync()
    mounted.unmount()
    with mounted.machine.vault.machine("another").mount(OPTION) as m:
        yield m.dir


def run(*argv, cwd=None, timeout=100, **kw):
    return subprocess.run([str(a) for a in argv], check=True, timeout=timeout, cwd=cwd, text=True,
                          stdout=subprocess.PIPE, **kw).stdout


def odd_tree(at):
    """Everything a copy can lose: links, times, holes, attributes, ACLs, kinds of files."""
    for d in ("a/b", "c"):
        (at / d).mkdir(parents=True)
    for i in range(120):
        (at / f"a/f{i}").write_bytes(os.urandom(i * i * 5))
    os.link(at / "a/f1", at / "a/b/hard")
    os.link(at / "a/f1", at / "c/hard")
    os.symlink("../a/f2", at / "c/link")
    os.symlink("/nowhere", at / "c/dangling")
    os.mkfifo(at / "c/fifo", 0o640)
    os.setxattr(at / "a/f3", "user.x", b"\0\xffvalue")
    os.setxattr(at / "a", "user.dir", b"d" * 3000)
    run("setfacl", "-m", "u:65534:rw", at / "a/f4")
    run("setfacl", "-d", "-m", "g:65534:rx", at / "c")
    os.chmod(at / "a/f5", 0o6755)
    os.utime(at / "a/f7", ns=(981173106123456789, 981173106987654321))
    os.utime(at / "c/link", ns=(10**18 + 1, 10**18 + 3), follow_symlinks=False)
    os.chmod(at / "c", 0o1777)
    with open(at / "c/holes", "wb") as f:
        f.truncate(20 << 20)
        f.seek(5_000_000)
        f.write(b"an island")
    if os.geteuid() == 0:
        os.chown(at / "a/f6", 1000, 1001)
        os.mknod(at / "c/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(at / "c/block", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    os.utime(at / "a", ns=(10**18, 10**18))


def same_trees(one, other):
    """rsync's own comparison of everything, contents included, says nothing."""
    assert run("rsync", "-aHAXn", "--itemize-changes", "--checksum", "--delete", f"{one}/", f"{other}/") == ""


def data_bytes(path):
    """How much of a file is not a hole."""
    fd = os.open(path, os.O_RDONLY)
    total, at, end = 0, 0, os.fstat(fd).st_size
    with contextlib.suppress(OSError):
        while at < end:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            total += at - start
    os.close(fd)
    return total


@pytest.mark.limit(120)
def test_copies_by_cp_tar_and_rsync_lose_nothing(mounted, stage):
    source, at = stage.dir / "source", mounted.dir
    source.mkdir()
    odd_tree(source)
    run("cp", "-a", "--sparse=always", source, at / "cp")
    run("tar", "--posix", "--xattrs", "--xattrs-include=*", "--acls", "-C", source, "-cf", at / "x.tar", ".")
    (at / "tar").mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "--acls", "-C", at / "tar", "-xpf", at / "x.tar")
    run("rsync", "-aHAX", f"{source}/", at / "rsync")
    # Nothing is left to do for a second run.
    assert run("rsync", "-aHAX", "--itemize-changes", f"{source}/", f"{at}/rsync/") == ""
    run("cp", "-a", "--sparse=always", at / "cp", at / "cp of cp")
    with again(mounted) as at:
        for copy in ("cp", "tar", "rsync", "cp of cp"):
            same_trees(source, at / copy)
            assert (at / copy / "a/f1").stat().st_nlink == 3
            assert (at / copy / "a/b/hard").stat().st_ino == (at / copy / "c/hard").stat().st_ino
        assert data_bytes(at / "cp/c/holes") <= 1 << 16
        assert data_bytes(at / "cp of cp/c/holes") <= 1 << 16
        run("find", at / "tar", "-delete")
        run("rm", "-rf", at / "rsync", at / "cp")
        assert sorted(os.listdir(at)) == ["cp of cp", "x.tar"]


@pytest.mark.limit(120)
def test_git_commits_collects_garbage_and_finds_nothing_wrong(mounted):
    at = mounted.dir
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.autoDetach=false"]
    run("git", "init", "-q", at / "repo")
    shutil.copytree(ROOT / "src", at / "repo/src")
    run(*git, "-C", at / "repo", "add", "-A")
    run(*git, "-C", at / "repo", "commit", "-q", "-m", "0")
    for i in range(5):
        with open(at / "repo/src/meson.build", "a", encoding="utf-8") as f:
            f.write(f"# {i}\n")
        run(*git, "-C", at / "repo", "commit", "-q", "-a", "-m", i)
    run(*git, "-C", at / "repo", "gc", "-q", "--prune=now")
    run("git", "clone", "-q", "--no-local", at / "repo", at / "clone", stderr=subprocess.DEVNULL)
    with again(mounted) as at:
        for r in ("repo", "clone"):
            run("git", "-C", at / r, "fsck", "--full", "--strict", stderr=subprocess.DEVNULL)
            assert run("git", "-C", at / r, "status", "--porcelain") == ""
            assert run("git", "-C", at / r, "rev-list", "--count", "HEAD") == "6\n"


@pytest.mark.limit(200)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_keeps_a_thousand_transactions(mounted, journal):
    base = sqlite3.connect(mounted.dir / "base", isolation_level=None)
    assert base.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    base.execute("create table t (n integer primary key, body blob)")
    for n in range(1000):
        base.execute("begin")
        base.execute("insert into t values (?, randomblob(500))", (n,))
        base.execute("update t set body = randomblob(700) where n = ?", (n // 2,))
        base.execute("commit")
    base.close()
    with again(mounted) as at:
        base = sqlite3.connect(at / "base")
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        assert base.execute("select count(*), sum(n) from t").fetchone() == (1000, 499500)
        base.close()


def test_make_builds_once_and_then_finds_everything_up_to_date(mounted):
    at = mounted.dir
    names = [f"f{i}" for i in range(5)]
    for i, n in enumerate(names):
        (at / f"{n}.c").write_text(f"int {n}(void);\nint {n}(void) {{ return {i}; }}\n")
    (at / "main.c").write_text("int f3(void);\nint main(void) { return f3() - 3; }\n")
    (at / "Makefile").write_text("program: main.o " + " ".join(f"{n}.o" for n in names) + "\n\t$(CC) -o $@ $^\n")
    run("make", "-s", "-j2", cwd=at)
    run(at / "program")
    assert "up to date" in run("make", cwd=at)
    with again(mounted) as at:
        run(at / "program")
        assert "up to date" in run("make", cwd=at)


def in_child(what):
    """Runs WHAT in another process; its number of errors."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if what() is not False else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_locks_of_both_kinds_hold_between_processes(mounted):
    path = mounted.dir / "lock"
    a = open(path, "w+b")

    def busy(lock, *args):
        def attempt():
            with open(path, "r+b") as b:
                try:
                    lock(b, fcntl.LOCK_EX | fcntl.LOCK_NB, *args)
                except OSError:
                    return True
                return False
        return in_child(attempt) == 0

    fcntl.flock(a, fcntl.LOCK_EX)
    assert busy(fcntl.flock)
    fcntl.flock(a, fcntl.LOCK_UN)
    assert not busy(fcntl.flock)
    fcntl.lockf(a, fcntl.LOCK_EX, 10, 0)
    assert busy(fcntl.lockf, 5, 5)
    assert not busy(fcntl.lockf, 5, 10)
    a.close()
    assert not busy(fcntl.lockf, 5, 5)


def test_a_removed_file_lives_as_long_as_it_is_open(mounted):
    path = mounted.dir / "f"
    f = open(path, "w+b")
    f.write(b"x" * 100_000)
    f.flush()
    os.unlink(path)
    path.write_bytes(b"another")
    mounted.sync()
    f.seek(0, os.SEEK_END)
    f.write(b"y" * 100_000)
    f.flush()
    os.ftruncate(f.fileno(), 150_000)
    assert os.fstat(f.fileno()).st_nlink == 0
    f.seek(0)
    assert f.read() == b"x" * 100_000 + b"y" * 50_000
    f.close()
    with again(mounted) as at:
        assert os.listdir(at) == ["f"] and (at / "f").read_bytes() == b"another"


def test_a_nameless_file_can_be_given_a_name(mounted):
    fd = os.open(mounted.dir, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"t" * 70_000)
    follow = 0x400  # os.link() does not pass it on
    assert libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, os.fsencode(mounted.dir / "named"), follow) == 0
    os.pwrite(fd, b"after", 0)
    os.close(fd)
    with again(mounted) as at:
        assert (at / "named").read_bytes() == b"after" + b"t" * 69_995
        assert (at / "named").stat().st_nlink == 1


def test_renames_replace_exchange_and_refuse(mounted):
    at = mounted.dir
    (at / "a").write_text("a")
    (at / "b").write_text("b")
    (at / "d/e").mkdir(parents=True)
    noreplace, exchange = 1, 2

    def rename(x, y, flags):
        r = libc.renameat2(-100, os.fsencode(at / x), -100, os.fsencode(at / y), flags)
        return ctypes.get_errno() if r else 0

    assert rename("a", "b", noreplace) == 17  # EEXIST
    assert rename("a", "d", exchange) == 0
    assert (at / "d").read_text() == "a" and (at / "a/e").is_dir()
    assert rename("a", "a/e/a", 0) == 22  # EINVAL: into itself
    assert rename("b", "d", 0) == 0
    assert rename("d", "a", 0) == 21  # EISDIR
    with again(mounted) as at:
        assert (at / "d").read_text() == "b" and (at / "a/e").is_dir() and not (at / "b").exists()


def test_names_and_links_have_their_limits(mounted):
    at = mounted.dir
    long = "n" * 255
    (at / long).write_text("x")
    with pytest.raises(OSError, match="File name too long"):
        (at / (long + "n")).write_text("x")
    utf8 = "é" * 127
    (at / utf8).mkdir()
    os.symlink("t" * 4095, at / "link")
    odd = bytes(set(range(1, 256)) - {ord("/")})
    (at / os.fsdecode(odd)).write_text("x")
    with again(mounted) as at:
        assert sorted(os.listdir(os.fsencode(at))) == sorted(map(os.fsencode, [long, utf8, "link", os.fsdecode(odd)]))
        assert os.readlink(at / "link") == "t" * 4095


def test_writes_by_others_clear_set_id_bits(stage):
    assert os.geteuid() == 0, "needs root, to be somebody else"
    with store(stage, "file") as s, Vault(stage, s).machine("one").mount("allow_other") as m:
        os.chmod(m.dir, 0o1777)
        path = m.dir / "program"

        def write(fd):
            os.write(fd, b"y")

        def direct(fd):
            os.writev(os.open(path, os.O_WRONLY | os.O_DIRECT), [mmap.mmap(-1, 4096)])

        def truncate_at_open(fd):
            os.open(path, os.O_WRONLY | os.O_TRUNC)

        def allocate(fd):
            os.posix_fallocate(fd, 0, 10_000)

        def punch(fd):
            assert libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(10)) == 0

        def shorten(fd):
            os.ftruncate(fd, 3)

        def read(fd):
            os.open(path, os.O_RDONLY)

        for what in (write, direct, truncate_at_open, allocate, punch, shorten, read):
            path.write_bytes(b"x" * 100)
            os.chmod(path, 0o6777)
            parents = [p for p in path.parents if str(p).startswith(str(stage.dir))]
            for p in parents[1:]:
                os.chmod(p, 0o755)

            def as_somebody():
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                what(os.open(path, os.O_WRONLY))

            assert in_child(as_somebody) == 0, what.__name__
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o6777 if what is read else 0o777), what.__name__
            path.unlink()


def test_mappings_shared_by_two_processes_agree(mounted):
    path = mounted.dir / "map"
    path.write_bytes(b"\0" * 50_000)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 50_000) as m:
        def other():
            with open(path, "r+b") as g, mmap.mmap(g.fileno(), 50_000) as n:
                n[40_000:40_005] = b"child"
        assert in_child(other) == 0
        assert m[40_000:40_005] == b"child"
        m[0:6] = b"parent"
        assert os.pread(f.fileno(), 6, 0) == b"parent"
    with again(mounted) as at:
        want = bytearray(50_000)
        want[0:6], want[40_000:40_005] = b"parent", b"child"
        assert (at / "map").read_bytes() == want


def room(where):
    st = os.statvfs(where)
    return st.f_bavail * st.f_frsize


def test_df_tells_the_room_there_is_where_the_vault_is(stage):
    with store(stage, "file") as s:
        with Vault(stage, s).machine("a").mount() as m:
            disk = os.statvfs(stage.dir)
            wait_for(lambda: room(m.dir) <= disk.f_blocks * disk.f_frsize, 60, "the room of the disk")
            assert room(m.dir) > 0
    with store(stage, "apache") as s:
        with Vault(stage, s).machine("b").mount() as m:
            assert room(m.dir) == 1 << 50, "a server that does not say"
