"""What is wrong is said in one sentence with a known exit code, or is an errno of the one call it concerns; never wrong data,
never a crash."""
import contextlib
import errno
import os
import pathlib
import random
import shutil
import socket
import subprocess

import pytest
from stubserver import Stub
from vault_lib import (BUSY, DAMAGED, DENIED, FOREIGN, FULL, KEY, KINDS, LONG, MOUNT, NO_VAULT, NOT_DAV, OFFLINE, Vault, servers,
                       size, store)


def refused(m, code, *options, url=None, password=None, where=None):
    """A mount that must fail with CODE and say why in one line."""
    where = where or m.folder()
    argv = m.mount_argv(where, options)[1:]
    if url:
        argv[-2] = url
    done = m.run(*argv, password=password, timeout=60)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stderr.startswith("foliofs: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


ATTRIBUTE = random.Random(6).randbytes(3900)


def filled(stage, s):
    """A vault with some files, and their content."""
    v = Vault(stage, s)
    rnd = random.Random(5)
    files = {f"f{i}": rnd.randbytes(n) for i, n in enumerate((10, 600, 5000, 70000, 400000))}
    with v.machine("writer").mount() as m:
        for name, data in files.items():
            (m.dir / name).write_bytes(data)
        m.sync()
        os.setxattr(m.dir / "f1", "user.big", ATTRIBUTE)
        m.sync()
    return v, files


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_passphrase_has_its_own_exit_code(stage, kind):
    with store(stage, kind) as s:
        v = Vault(stage, s)
        said = refused(v.machine("m"), KEY, password="not it")
        assert "passphrase" in said
        with v.machine("m").mount():
            pass


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", servers.KINDS)
def test_refused_credentials_are_named(stage, kind):
    with store(stage, kind, auth=("me", "secret")) as s:
        v = Vault(stage, s)
        m = v.machine("m")
        refused(m, DENIED)
        m.netrc("me", "wrong")
        refused(m, DENIED)
        m.netrc("me", "secret")
        with m.mount() as t:
            (t.dir / "f").write_text("x")
            t.sync()


@pytest.mark.limit(60)
def test_things_that_are_no_vault_are_told_apart(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        refused(m, NO_VAULT, url=f"file://{stage.dir}/nothing")
        refused(m, NO_VAULT, url=f"file://{stage.folder('empty')}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            refused(m, OFFLINE, url=f"dav://127.0.0.1:{free.getsockname()[1]}/")


@pytest.mark.limit(120)
@pytest.mark.parametrize("answer,code", [(405, NOT_DAV), (501, NOT_DAV), (400, NOT_DAV), (200, NOT_DAV), ("html", NOT_DAV),
                                         (401, DENIED), (403, DENIED), (404, NO_VAULT), (507, FULL)])
def test_what_a_server_answers_decides_the_exit_code(stage, answer, code):
    with store(stage, "file") as s:
        m = Vault(stage, s).machine("m")
        stub = Stub("xml", xml=b"<html>hello</html>") if answer == "html" else Stub("status", status=answer)
        with stub:
            said = refused(m, code, url=stub.url)
            assert stub.url in said
            assert "WebDAV" in said or code != NOT_DAV
            done = m.run("ls", stub.url)
            assert done.returncode == code, (done.returncode, done.stderr)


@pytest.mark.limit(60)
def test_a_foreign_or_damaged_header_is_refused(stage):
    with store(stage, "file") as s:
        v, _ = filled(stage, s)
        m = v.machine("m")
        with m.mount():
            pass
        kept = stage.dir / "kept"
        s.root.rename(kept)
        again = v.machine("again").run("init", s.url, "--kdf-cost", "15")
        assert again.returncode == 0, again.stderr
        refused(m, FOREIGN)
        shutil.rmtree(s.root)
        shutil.copytree(kept, s.root)
        for header in (s.root / "header").rglob("*"):
            if header.is_file():
                data = bytearray(header.read_bytes())
                data[len(data) // 2] ^= 4
                header.write_bytes(data)
        where = v.machine("new").folder()
        done = v.machine("new").run(*v.machine("new").mount_argv(where)[1:])
        assert done.returncode in (KEY, DAMAGED, NO_VAULT), done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.limit(60)
def test_a_mount_point_or_a_cache_in_use_is_said(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        with m.mount() as t:
            refused(m, BUSY)
            refused(v.machine("other"), BUSY, where=t.dir)
            other = v.machine("other")
            other.env()
            refused(other, BUSY, f"cache_dir={m.home / 'cache' / 'foliofs'}")
            (t.dir / "still").write_text("works")
        refused(m, MOUNT, where=stage.dir / "no such folder")


def right_or_eio(get, want, what):
    """True if it reads right, False for EIO."""
    try:
        assert get() == want, f"wrong data: {what}"
        return True
    except OSError as e:
        assert e.errno == errno.EIO, e
        return False


def read_or_eio(path, want):
    return right_or_eio(path.read_bytes, want, path)


def kind_of(path):
    """What an object is, as far as its name tells."""
    return path.parts[0] + ("/current" if path.name == "current" else "")


class Damaged:
    """A filled vault whose objects are damaged one after the other."""

    def __init__(self, stage, s):
        self.root = s.root
        self.vault, self.files = filled(stage, s)
        self.kept = stage.dir / "kept"
        shutil.copytree(s.root, self.kept)
        self.objects = [p.relative_to(s.root) for p in s.objects()]
        self.outcomes = {"refused": 0, "with errors": 0, "right": 0, "of before": 0}
        assert {kind_of(p) for p in self.objects} >= {"header/current", "header", "heads", "packs"}

    def visit(self, what, path=None):
        """Mounts as a machine that has nothing; reads all. The daemon must live on and unmount, or refuse in one line."""
        m = self.vault.machine("visitor")
        where = m.folder()
        argv = m.mount_argv(where)
        argv.remove("-f")
        done = m.run(*argv[1:], timeout=60)
        if done.returncode:
            assert done.returncode in (DAMAGED, NO_VAULT, KEY), (what, done.returncode, done.stderr)
            assert done.stderr.startswith("foliofs: ") and done.stderr.count("\n") == 1, (what, done.stderr)
            self.outcomes["refused"] += 1
        else:
            try:
                # Who has never seen the vault can be shown the state before a head (docs/security.md), never a mixture.
                self.read(where, what, older=path is not None and kind_of(path) == "heads")
            finally:
                ended = m.run("umount", where, timeout=60)
            assert ended.returncode == 0, (what, ended.stderr)
        m.forget()

    def read(self, where, what, older):
        names = sorted(os.listdir(where))
        if names != sorted(self.files):
            # All came with one commit.
            assert older and names == [], (what, names)
            self.outcomes["of before"] += 1
            return
        good = [right_or_eio((where / n).read_bytes, self.files[n], (what, n)) for n in names]
        if not older:
            good.append(right_or_eio(lambda: os.getxattr(where / "f1", "user.big"), ATTRIBUTE, (what, "attribute")))
        self.outcomes["right" if all(good) else "with errors"] += 1

    @contextlib.contextmanager
    def holding(self, path, data):
        """PATH has other content; None: is missing."""
        (self.root / path).unlink()
        if data is not None:
            (self.root / path).write_bytes(data)
        yield
        shutil.copy(self.kept / path, self.root / path)

    def end(self):
        self.visit("after")
        print(len(self.objects), "objects:", ", ".join(f"{n} visits {k}" for k, n in self.outcomes.items()))
        assert self.outcomes["with errors"] and self.outcomes["right"]


@pytest.mark.limit(2400)
def test_a_flipped_bit_in_any_object_is_never_served(stage):
    """Bits in turn over each object's length."""
    rnd = random.Random(3)
    flips = size("FLIPS", 2, 25)
    with store(stage, "file") as s:
        d = Damaged(stage, s)
        d.visit("before")
        for path in d.objects:
            was = (d.kept / path).read_bytes()
            for turn in range(flips):
                data = bytearray(was)
                at = (len(data) * turn + rnd.randrange(len(data))) // flips
                data[at] ^= 1 << rnd.randrange(8)
                with d.holding(path, data):
                    d.visit(f"{path} byte {at} of {len(data)}: {was[at]} is {data[at]}", path)
        d.end()


@pytest.mark.limit(2400)
def test_missing_and_exchanged_objects_are_never_served(stage):
    """One of each kind in place of one of each kind; with FOLIOFS_LONG=1 each object in place of each other."""
    rnd = random.Random(4)
    with store(stage, "file") as s:
        d = Damaged(stage, s)
        for path in d.objects:
            with d.holding(path, None):
                d.visit(f"{path} missing", path)
        pairs = [(a, b) for a in d.objects for b in d.objects if a != b]
        if not LONG:
            rnd.shuffle(pairs)
            pairs = list({(kind_of(a), kind_of(b)): (a, b) for a, b in pairs}.values())
        for path, other in pairs:
            with d.holding(path, (d.kept / other).read_bytes()):
                d.visit(f"{other} in place of {path}", path)
        print(len(pairs), "pairs")
        d.end()


@pytest.mark.limit(60)
def test_a_cached_block_that_rots_is_fetched_again(stage):
    with store(stage, "file") as s:
        v, files = filled(stage, s)
        m = v.machine("m")
        with m.mount() as t:
            assert all(read_or_eio(t.dir / n, d) for n, d in files.items())
        for path in (m.home / "cache").rglob("packs/*/*"):
            if path.suffix != ".map":
                data = bytearray(path.read_bytes())
                for at in range(100, len(data), 3000):
                    data[at] ^= 1
                path.write_bytes(data)
        with m.mount() as t:
            assert all(read_or_eio(t.dir / n, d) for n, d in files.items())


@pytest.mark.limit(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system")
def test_a_full_disk_stops_writers_and_loses_nothing_acknowledged(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        m = v.machine("m")
        small = m.home
        m.env()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True, timeout=10)
        try:
            kept, full = {}, None
            t = m.mount("sync=manual", "min_free=0")
            try:
                rnd = random.Random(9)
                for n in range(200):
                    data = rnd.randbytes(300000)
                    try:
                        with open(t.dir / f"f{n}", "wb") as f:
                            f.write(data)
                            f.flush()
                            os.fsync(f.fileno())
                        kept[f"f{n}"] = data
                    except OSError as e:
                        full = e.errno
                        break
                assert full == errno.ENOSPC, full
                assert len(kept) > 5
                for name, data in kept.items():
                    assert (t.dir / name).read_bytes() == data, name
            finally:
                t.daemon.end()
            # With room again, everything is there and reaches the server.
            subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True, timeout=10)
            with m.mount() as t:
                for name, data in kept.items():
                    assert (t.dir / name).read_bytes() == data, name
                t.sync()
        finally:
            for d in stage.daemons:
                d.end()
            subprocess.run(["umount", "-l", str(small)], check=False, timeout=10)
        with v.machine("other").mount() as t:
            for name, data in kept.items():
                assert (t.dir / name).read_bytes() == data, name


@pytest.mark.limit(120)
def test_a_full_server_is_an_error_of_sync_and_nothing_is_lost(stage):
    with Stub("none") as stub:
        class Where:
            url = stub.url + "v"
            root = pathlib.Path("/nonexistent")
        v = Vault(stage, Where)
        data = os.urandom(200000)
        with v.machine("m").mount() as t:
            stub.fault, stub.status, stub.times = "status", 507, None
            with open(t.dir / "f", "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            assert t.try_sync() == FULL
            assert (t.dir / "f").read_bytes() == data
            stub.fault = "none"
            t.sync()
        with v.machine("other").mount() as t:
            assert (t.dir / "f").read_bytes() == data
