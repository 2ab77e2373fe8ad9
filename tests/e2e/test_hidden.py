""".foliofs in the root of a mount: not listed, readable, and not to be changed."""
import errno
import os
import subprocess
import threading

import pytest

from cli_lib import Site

FILES = ["regions", "requests", "stats", "status"]


@pytest.fixture
def site(stage, build):
    s = Site(stage, build)
    s.init()
    s.mount("--write-back", "1h")
    try:
        yield s
    finally:
        if s.daemon():
            s.umount()


def refused(code, fn, *args):
    with pytest.raises(OSError) as e:
        fn(*args)
    assert e.value.errno == code, e.value


def test_it_is_there_but_not_listed(site):
    (site.mnt / "f").write_bytes(b"x")
    assert os.listdir(site.mnt) == ["f"]
    hidden = site.mnt / ".foliofs"
    assert sorted(os.listdir(hidden)) == FILES
    assert hidden.stat().st_mode & 0o7777 == 0o500
    for name in FILES:
        assert (hidden / name).stat().st_mode & 0o7777 == 0o400
        assert (hidden / name).stat().st_size == 0
    refused(errno.ENOENT, os.stat, hidden / "nothing")
    copy = site.stage.folder("copy")
    subprocess.run(["cp", "-a", f"{site.mnt}/.", copy], check=True, timeout=20)
    assert os.listdir(copy) == ["f"]
    # In a directory below the name is anybody's.
    (site.mnt / "d" / ".foliofs").mkdir(parents=True)
    assert os.listdir(site.mnt / "d") == [".foliofs"]


def test_files_say_what_the_commands_say(site):
    hidden = site.mnt / ".foliofs"
    with open(site.mnt / "f", "wb", buffering=0) as f:
        f.write(b"x" * 5000)
        ino = os.fstat(f.fileno()).st_ino
        shown = (hidden / "regions").read_text().splitlines()
        told = site.run("regions", site.mnt).stdout.splitlines()
        assert shown[0] == told[0] and shown[0].split()[:4] == ["REGION", "GROUP", "TYPE", "S"]
        assert len(shown) == len(told) == 2
        assert f"{ino:x}" in shown[1].split() and "0-1388" in shown[1].split()
    assert (hidden / "requests").read_text().splitlines()[0].startswith("REQUEST ")
    assert "OPEN" in (hidden / "requests").read_text()  # this very call
    assert any(line.startswith("fuse.calls ") for line in (hidden / "stats").read_text().splitlines())
    assert f"mounted at           {site.mnt}" in (hidden / "status").read_text()


def test_a_file_stays_as_it_was_when_it_was_opened(site):
    with open(site.mnt / ".foliofs/stats", "rb", buffering=0) as f:
        whole = f.read()
        for i in range(20):
            (site.mnt / f"g{i}").touch()
        assert os.pread(f.fileno(), 1 << 20, 0) == whole
        assert os.pread(f.fileno(), 10, 5) == whole[5:15]
        assert os.pread(f.fileno(), 10, len(whole) + 5) == b""
    with open(site.mnt / ".foliofs/stats", "rb", buffering=0) as f:
        assert f.read() != whole


def test_nothing_of_it_can_be_changed(site):
    hidden, f = site.mnt / ".foliofs", site.mnt / "f"
    f.write_bytes(b"x")
    refused(errno.EEXIST, os.mkdir, hidden)
    refused(errno.EEXIST, os.symlink, "x", hidden)
    refused(errno.EEXIST, os.link, f, hidden)
    refused(errno.EPERM, os.rmdir, hidden)
    refused(errno.EPERM, os.rename, hidden, site.mnt / "g")
    refused(errno.EPERM, os.rename, site.mnt / "f", hidden / "f")
    refused(errno.EPERM, os.rename, hidden / "stats", site.mnt / "g")
    refused(errno.EPERM, os.link, f, hidden / "g")
    refused(errno.EPERM, os.mkdir, hidden / "g")
    refused(errno.EPERM, os.unlink, hidden / "stats")
    refused(errno.EPERM, os.chmod, hidden / "stats", 0o644)
    refused(errno.EPERM, os.truncate, hidden / "stats", 0)
    refused(errno.EACCES, os.open, hidden / "stats", os.O_RDWR)
    refused(errno.EPERM, os.setxattr, hidden / "stats", "user.a", b"x")
    assert os.listxattr(hidden / "stats") == []
    refused(errno.ENODATA, os.getxattr, hidden / "stats", "user.a")
    subprocess.run(["cp", hidden / "stats", site.mnt / "g"], check=True, timeout=20)
    assert b"fuse.calls" in (site.mnt / "g").read_bytes()
    assert f.read_bytes() == b"x"


def test_many_read_it_at_once_while_others_write(site):
    errors = []

    def read(name):
        try:
            for _ in range(100):
                (site.mnt / ".foliofs" / name).read_bytes()
        except OSError as e:
            errors.append(e)

    threads = [threading.Thread(target=read, args=(n,)) for n in FILES * 2]
    for t in threads:
        t.start()
    with open(site.mnt / "f", "wb", buffering=0) as f:
        for i in range(300):
            os.pwrite(f.fileno(), b"x" * 4000, i * 9000)
    for t in threads:
        t.join(40)
    assert errors == []
