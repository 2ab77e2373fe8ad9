"""The front end through the kernel, over a filesystem in memory."""
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import stat
import subprocess
import time

import pytest

from conftest import is_mounted, libc, wait_for

AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO = 1, 2, 8, 16


def call(r):
    if r < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return r


def fallocate(fd, mode, offset, length):
    call(libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def renameat2(a, b, flags):
    call(libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags))


def error_of(fn, *args):
    with pytest.raises(OSError) as e:
        fn(*args)
    return e.value.errno


@pytest.fixture(params=["inline", "deferred", "readers"])
def kind(request):
    return request.param


ARGS = {"inline": [], "deferred": ["-d", "1"], "readers": ["-d", "3", "-r", "3"]}


@pytest.fixture
def mem(stage, build, kind):
    mnt = stage.folder("mnt")
    return stage.daemon([build / "tests/e2e/memfs", *ARGS[kind], "-o", "dev,suid", mnt],
                        mount=mnt, ready="ready")


@pytest.fixture
def mem1(stage, build):
    mnt = stage.folder("mnt")
    return stage.daemon([build / "tests/e2e/memfs", "-d", "2", "-a", "-o", "dev,suid", mnt],
                        mount=mnt, ready="ready")


@pytest.fixture
def mnt(mem):
    return mem.mount


def test_what_is_written_is_read(mnt):
    data = os.urandom(3 * 1024 * 1024 + 17)
    (mnt / "f").write_bytes(data)
    assert (mnt / "f").read_bytes() == data
    with open(mnt / "f", "r+b", buffering=0) as f:
        os.pwrite(f.fileno(), b"x" * 100, 5000)
        os.pwrite(f.fileno(), b"end", len(data) + 10)
    want = bytearray(data + bytes(10) + b"end")
    want[5000:5100] = b"x" * 100
    assert (mnt / "f").read_bytes() == want
    with open(mnt / "f", "ab") as f:
        f.write(b"more")
    assert (mnt / "f").stat().st_size == len(want) + 4
    st = os.statvfs(mnt)
    assert st.f_namemax == 255 and st.f_blocks * st.f_frsize == 1 << 40


def test_o_trunc_empties_and_truncate_sets_any_size_at_once(mnt):
    (mnt / "f").write_bytes(b"a" * 10000)
    os.close(os.open(mnt / "f", os.O_WRONLY | os.O_TRUNC))
    assert (mnt / "f").stat().st_size == 0
    os.truncate(mnt / "f", 1 << 50)
    assert (mnt / "f").stat().st_size == 1 << 50
    os.truncate(mnt / "f", 3)
    assert (mnt / "f").read_bytes() == bytes(3)


def test_shared_mapping_reaches_the_file(mnt):
    (mnt / "f").write_bytes(bytes(1 << 20))
    with open(mnt / "f", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[4090:4100] = b"0123456789"
        m[(1 << 20) - 1:] = b"z"
        m.flush()
        assert os.pread(f.fileno(), 10, 4090) == b"0123456789"
    fd = os.open(mnt / "f", os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 8192)
    assert os.preadv(fd, [page], 0) == 8192 and page[4090:4100] == b"0123456789"
    os.close(fd)
    assert (mnt / "f").read_bytes()[-1:] == b"z"


def test_direct_io_and_a_mapping_of_a_direct_file(mnt):
    buf = mmap.mmap(-1, 1 << 21)
    buf[:] = os.urandom(1 << 21)
    fd = os.open(mnt / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwritev(fd, [buf], 0) == 1 << 21
    back = mmap.mmap(-1, 1 << 21)
    assert os.preadv(fd, [back], 0) == 1 << 21 and back[:] == buf[:]
    # FUSE_DIRECT_IO_ALLOW_MMAP: without it this is ENODEV.
    with mmap.mmap(fd, 4096) as m:
        m[0:4] = b"mmap"
        m.flush()
    assert os.preadv(fd, [back], 0) == 1 << 21 and back[0:4] == b"mmap"
    os.close(fd)


def test_tmpfile_can_be_given_a_name(mnt):
    fd = os.open(mnt, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"hidden")
    st = os.fstat(fd)
    assert st.st_nlink == 0 and stat.S_IMODE(st.st_mode) == 0o640 & ~os.umask(os.umask(0))
    assert os.listdir(mnt) == []
    call(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(mnt / "named"),
                     AT_SYMLINK_FOLLOW))
    assert (mnt / "named").read_bytes() == b"hidden" and os.fstat(fd).st_nlink == 1
    os.close(fd)


def test_rename_with_its_flags(mnt):
    (mnt / "a").write_text("a")
    (mnt / "b").write_text("b")
    (mnt / "d").mkdir()
    assert error_of(renameat2, mnt / "a", mnt / "b", RENAME_NOREPLACE) == errno.EEXIST
    renameat2(mnt / "a", mnt / "b", RENAME_EXCHANGE)
    assert (mnt / "a").read_text() == "b" and (mnt / "b").read_text() == "a"
    renameat2(mnt / "a", mnt / "d/x", RENAME_NOREPLACE)
    with open(mnt / "b") as old:
        os.rename(mnt / "d/x", mnt / "b")
        assert old.read() == "a" and (mnt / "b").read_text() == "b"
    assert sorted(os.listdir(mnt)) == ["b", "d"] and os.listdir(mnt / "d") == []
    assert error_of(os.rename, mnt / "none", mnt / "x") == errno.ENOENT


@pytest.mark.limit(120)
def test_ten_thousand_names_are_listed_once_each(mem1):
    big = mem1.mount / "big"
    big.mkdir()
    names = {f"name-{i:05d}-{'x' * (i % 200)}" for i in range(10000)}
    for n in names:
        os.close(os.open(big / n, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(big)) == sorted(names)
    with os.scandir(big) as it:
        sizes = [(e.name, e.stat().st_size, e.is_file()) for e in it]
    assert len(sizes) == 10000 and all(s == 0 and f for _, s, f in sizes)
    fd = os.open(big, os.O_RDONLY)
    assert set(os.listdir(fd)) == names
    os.close(fd)
    for n in sorted(names)[::2]:
        os.unlink(big / n)
    assert sorted(os.listdir(big)) == sorted(names)[1::2]


def test_long_names_and_strange_names(mnt):
    for name in ("n" * 255, "ä" * 127, "a\nb", " ", "\\040", "..."):
        (mnt / name).write_text(name)
        assert (mnt / name).read_text() == name and name in os.listdir(mnt)
    assert error_of(os.mkdir, mnt / ("n" * 256)) == errno.ENAMETOOLONG
    assert error_of(os.stat, mnt / ("n" * 256)) == errno.ENAMETOOLONG


def test_extended_attributes(mnt):
    p = mnt / "f"
    p.write_text("x")
    os.setxattr(p, "user.one", b"1" * 1000)
    os.setxattr(p, "user.empty", b"")
    assert os.getxattr(p, "user.one") == b"1" * 1000 and os.getxattr(p, "user.empty") == b""
    assert sorted(os.listxattr(p)) == ["user.empty", "user.one"]
    assert error_of(os.setxattr, p, "user.one", b"2", os.XATTR_CREATE) == errno.EEXIST
    assert error_of(os.setxattr, p, "user.two", b"2", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(p, "user." + "n" * 250, b"v" * 60000)
    assert os.getxattr(p, "user." + "n" * 250) == b"v" * 60000
    os.removexattr(p, "user.one")
    assert error_of(os.getxattr, p, "user.one") == errno.ENODATA


def test_acl_is_kept_and_enforced(mem1):
    if not shutil.which("setfacl") or os.geteuid():
        return  # nothing to set ACLs with, or nobody to try them as
    p = mem1.mount / "f"
    p.write_text("secret")
    p.chmod(0o600)
    os.chmod(mem1.mount.parent, 0o755)
    read = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", p]
    assert subprocess.run(read, capture_output=True).returncode != 0
    subprocess.run(["setfacl", "-m", "u:65534:r", p], check=True)
    assert subprocess.run(read, capture_output=True).stdout == b"secret"
    out = subprocess.run(["getfacl", "-nc", p], capture_output=True, text=True, check=True).stdout
    assert "user:65534:r--" in out and "mask::r--" in out
    assert stat.S_IMODE(p.stat().st_mode) == 0o640
    subprocess.run(["setfacl", "-b", p], check=True)
    assert subprocess.run(read, capture_output=True).returncode != 0


def test_umask_gives_way_to_a_default_acl(mem1):
    if not shutil.which("setfacl"):
        return
    d = mem1.mount / "d"
    d.mkdir()
    old = os.umask(0o077)
    try:
        (mem1.mount / "plain").write_text("")
        subprocess.run(["setfacl", "-d", "-m", "g::rwx", d], check=True)
        os.close(os.open(d / "f", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(old)
    assert stat.S_IMODE((mem1.mount / "plain").stat().st_mode) == 0o600
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o666


def test_links(mnt):
    target = "t" * 4095
    os.symlink(target, mnt / "s")
    assert os.readlink(mnt / "s") == target and os.readlink(mnt / "s") == target
    (mnt / "a").write_text("x")
    os.link(mnt / "a", mnt / "b")
    assert (mnt / "b").stat().st_nlink == 2 and (mnt / "a").stat().st_ino == (mnt / "b").stat().st_ino
    os.unlink(mnt / "a")
    assert (mnt / "b").stat().st_nlink == 1 and (mnt / "b").read_text() == "x"


def test_times_have_nanoseconds_and_a_birth(mnt):
    p = mnt / "f"
    p.write_text("x")
    for ns in (1234567890123456789, 5_000_000_000_123456789, -1_000000001):
        os.utime(p, ns=(ns, ns + 1))
        assert p.stat().st_atime_ns == ns and p.stat().st_mtime_ns == ns + 1
    os.utime(p)
    assert abs(p.stat().st_mtime - time.time()) < 5
    out = subprocess.run(["stat", "-c", "%W", p], capture_output=True, text=True, check=True).stdout
    assert abs(int(out) - time.time()) < 60


def test_fallocate_modes_and_holes(mnt):
    fd = os.open(mnt / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * 65536, 0)
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 8192, 16384)
    assert os.pread(fd, 65536, 0) == b"a" * 8192 + bytes(16384) + b"a" * (65536 - 24576)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 8192 and os.lseek(fd, 8192, os.SEEK_DATA) == 24576
    assert os.lseek(fd, 24576, os.SEEK_HOLE) == 65536
    assert error_of(os.lseek, fd, 65536, os.SEEK_DATA) == errno.ENXIO
    fallocate(fd, FALLOC_ZERO, 100, 50)
    assert os.pread(fd, 200, 0) == b"a" * 100 + bytes(50) + b"a" * 50
    fallocate(fd, 0, 0, 100000)
    assert os.fstat(fd).st_size == 100000
    fallocate(fd, FALLOC_KEEP_SIZE, 0, 200000)
    assert os.fstat(fd).st_size == 100000
    with pytest.raises(OSError) as e:
        fallocate(fd, FALLOC_COLLAPSE, 0, 4096)
    assert e.value.errno == errno.EOPNOTSUPP
    os.close(fd)


def test_copy_file_range_is_done_by_the_filesystem(mem1):
    mnt = mem1.mount
    data = os.urandom(300000)
    (mnt / "a").write_bytes(data)
    a, b = os.open(mnt / "a", os.O_RDONLY), os.open(mnt / "b", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < len(data):
        n = os.copy_file_range(a, b, len(data) - done, done, done)
        assert n > 0
        done += n
    assert (mnt / "b").read_bytes() == data
    stats = dict(line.split()[:2] for line in mem1.ask("stats"))
    assert int(stats["fuse.write_bytes"]) == len(data)  # of the first file only
    os.close(a)
    os.close(b)


def test_open_unlinked_file_lives_on(mnt):
    fd = os.open(mnt / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"still")
    os.unlink(mnt / "f")
    assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 5, 0) == b"still"
    os.fsync(fd)
    os.ftruncate(fd, 2)
    os.fchmod(fd, 0o600)
    assert os.fstat(fd).st_size == 2 and os.listdir(mnt) == []
    os.close(fd)


def test_special_files(mem1):
    mnt = mem1.mount
    os.mkfifo(mnt / "p", 0o600)
    assert stat.S_ISFIFO((mnt / "p").stat().st_mode)
    r = os.open(mnt / "p", os.O_RDWR)
    os.write(r, b"pipe")
    assert os.read(r, 4) == b"pipe"
    os.close(r)
    if os.geteuid() == 0:
        for dev in (os.makedev(1, 3), os.makedev(4000, 1000000)):
            os.mknod(mnt / "n", stat.S_IFCHR | 0o600, dev)
            assert (mnt / "n").stat().st_rdev == dev
            os.unlink(mnt / "n")
        os.mknod(mnt / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (mnt / "null").write_bytes(b"gone")
        assert (mnt / "null").read_bytes() == b""


def test_locks_hold_within_the_mount(mem1):
    p = mem1.mount / "f"
    p.write_text("x")
    with open(p, "r+") as a, open(p, "r+") as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        assert error_of(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB) == errno.EWOULDBLOCK
        fcntl.flock(a, fcntl.LOCK_UN)
        fcntl.lockf(a, fcntl.LOCK_EX)
        r = subprocess.run(["/usr/bin/python3", "-c", "import fcntl,sys; f=open(sys.argv[1],'r+');"
                            "fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB)", p], capture_output=True)
        assert r.returncode != 0


def test_writing_and_truncating_take_suid_away(mem1):
    if os.geteuid():
        return
    p = mem1.mount / "f"
    os.chmod(mem1.mount.parent, 0o755)
    for script in ("printf x >>'%s'", ": >'%s'"):
        p.write_text("old")
        p.chmod(0o6777)
        subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c",
                        script % p], check=True)
        assert stat.S_IMODE(p.stat().st_mode) == 0o777
    p.chmod(0o6777)
    os.chown(p, 1, 1)
    assert stat.S_IMODE(p.stat().st_mode) == 0o777


@pytest.mark.parametrize("how", ["", "-all"])
def test_changes_of_others_are_seen_at_once(mem1, how):
    mnt = mem1.mount
    (mnt / "f").write_bytes(b"old old old")
    (mnt / "g").write_bytes(b"x")
    with open(mnt / "f", "rb", buffering=0) as f:
        assert f.read() == b"old old old"
        mem1.ask(f"write{how} f new")
        wait_for(lambda: os.pread(f.fileno(), 11, 0) == b"new old old", 5, "new bytes")
    assert (mnt / "g").exists()
    mem1.ask(f"unlink{how} g")
    wait_for(lambda: not (mnt / "g").exists(), 5, "name gone")


def test_a_dirty_mapping_does_not_block_an_invalidation(mem1):
    p = mem1.mount / "f"
    p.write_bytes(bytes(1 << 20))
    with open(p, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        for _ in range(20):
            for i in range(0, 1 << 20, 4096):
                m[i + 100] = 1
            mem1.ask("write f new")  # the kernel writes the dirty pages back first
        m.flush()
        mem1.ask("write f new")
        wait_for(lambda: m[0:3] == b"new", 5, "new bytes")


def test_cached_reads_and_stats_make_no_calls(mem1):
    p = mem1.mount / "f"
    p.write_bytes(b"x" * 100000)

    def calls():
        return int(dict(line.split()[:2] for line in mem1.ask("stats"))["fuse.calls"])

    p.read_bytes()
    with open(p, "rb") as f:
        before = calls()
        for _ in range(100):
            f.seek(0)
            assert len(f.read()) == 100000
            p.stat()
            (mem1.mount / "none").exists()
        assert calls() - before <= 4


def test_umount_ends_the_daemon_and_so_does_its_signal(stage, build):
    for how in ("umount", "term", "stop"):
        mnt = stage.folder("mnt-" + how)
        d = stage.daemon([build / "tests/e2e/memfs", "-r", "2", mnt], mount=mnt, ready="ready")
        (mnt / "f").write_text("x")
        if how == "umount":
            assert d.unmount() == 0
        elif how == "term":
            d.signal(signal.SIGTERM)
        else:
            d.say("stop")
        assert d.wait() == 0
        assert not is_mounted(mnt)
        assert d.stderr() == ""


def test_dirty_mapping_is_saved_when_the_daemon_is_asked_to_stop(stage, build):
    mnt = stage.folder("mnt")
    d = stage.daemon([build / "tests/e2e/memfs", mnt], mount=mnt, ready="ready")
    (mnt / "f").write_bytes(bytes(4096))
    with open(mnt / "f", "r+b") as f:
        m = mmap.mmap(f.fileno(), 0)
    m[0:5] = b"dirty"  # the mapping keeps the mount busy
    before = int(dict(x.split()[:2] for x in d.ask("stats")).get("fuse.write_bytes", 0))
    assert before == 4096
    d.signal(signal.SIGTERM)
    assert d.wait() == 0 and not is_mounted(mnt)
    assert "in use" in d.stderr()
    m.close()


def test_a_killed_daemon_leaves_a_mount_that_can_be_removed(mem1):
    mnt = mem1.mount
    (mnt / "f").write_text("x")
    mem1.kill()
    assert is_mounted(mnt)
    assert error_of(os.stat, mnt / "other") == errno.ENOTCONN
    subprocess.run(["fusermount3", "-u", mnt], check=True, timeout=10)
    assert not is_mounted(mnt)


def refused(build, *args):
    r = subprocess.run([build / "tests/e2e/memfs", *args], capture_output=True, text=True, timeout=10,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 1 and r.stdout == ""
    return r.stderr


def test_what_stands_in_the_way_of_a_mount_is_said(stage, build, mem1):
    (stage.dir / "file").write_text("")
    assert "does not exist" in refused(build, stage.dir / "none")
    assert "is not a directory" in refused(build, stage.dir / "file")
    assert "already mounted" in refused(build, mem1.mount)
    assert "options" in refused(build, "-o", "no_such_option", stage.folder("x"))
    mem1.kill()
    assert "fusermount3 -u" in refused(build, mem1.mount)
    assert not is_mounted(stage.dir / "x")


def test_allow_other_is_refused_to_an_ordinary_user_with_a_sentence(stage, build):
    if os.geteuid():
        return
    with open("/etc/fuse.conf", encoding="utf-8") as f:
        if any(line.strip() == "user_allow_other" for line in f):
            return
    os.chmod(stage.dir, 0o755)
    mnt = stage.folder("mnt")
    os.chown(mnt, 65534, 65534)
    tool = stage.dir / "memfs"
    shutil.copy(build / "tests/e2e/memfs", tool)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    r = subprocess.run([*user, tool, "-a", mnt], capture_output=True, text=True, timeout=10,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 1 and "user_allow_other" in r.stderr


def test_an_ordinary_user_can_mount_and_unmount(stage, build):
    if os.geteuid() or not os.stat("/dev/fuse").st_mode & 0o004:
        return  # here only root may
    os.chmod(stage.dir, 0o755)
    tool = stage.dir / "memfs"
    shutil.copy(build / "tests/e2e/memfs", tool)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for busy in (False, True):
        mnt = stage.folder(f"mnt-{busy}")
        os.chown(mnt, 65534, 65534)
        d = stage.daemon([*user, tool, mnt], mount=mnt, ready="ready")
        held = None
        if busy:
            held = subprocess.Popen([*user, "sh", "-c", f"cd '{mnt}' && echo in && exec sleep 60"],
                                    stdout=subprocess.PIPE, text=True)
            assert held.stdout.readline() == "in\n"
        d.signal(signal.SIGTERM)
        assert d.wait() == 0
        assert not is_mounted(mnt)
        if held:
            held.kill()
            held.wait()
            held.stdout.close()
