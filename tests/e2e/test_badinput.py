"""What is wrong is said in one sentence with a known exit code, or is an errno of the one call it concerns; never wrong data,
never a crash."""
import errno
import os
import pathlib
import random
import shutil
import socket
import subprocess

import pytest
from vault_lib import KINDS, Vault, servers, size, store
from stubserver import Stub  # vault_lib knows where

OK, ERROR, USAGE, KEY, DENIED, OFFLINE, NO_VAULT, FOREIGN, BUSY, FULL, DAMAGED, MOUNT, NOT_MOUNTED = range(13)


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


def filled(stage, s):
    """A vault with some files, and their content."""
    v = Vault(stage, s)
    rnd = random.Random(5)
    files = {f"f{i}": rnd.randbytes(n) for i, n in enumerate((10, 600, 5000, 70000, 400000))}
    with v.machine("writer").mount() as m:
        for name, data in files.items():
            (m.dir / name).write_bytes(data)
        os.setxattr(m.dir / "f1", "user.big", rnd.randbytes(3900))
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
        with Stub("xml", xml=b"<html>hello</html>") as stub:
            refused(m, ERROR, url=stub.url)


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
            (t.dir / "still").write_text("works")
        refused(m, MOUNT, where=stage.dir / "no such folder")


def read_or_eio(path, want):
    """True if it reads right, False for EIO."""
    try:
        assert path.read_bytes() == want, f"wrong data in {path}"
        return True
    except OSError as e:
        assert e.errno == errno.EIO, e
        return False


def visit(v, name, files):
    """Mounts as a machine that has nothing; reads all. The daemon must live on and unmount, or refuse in one line."""
    m = v.machine(name)
    where = m.folder()
    argv = m.mount_argv(where)
    argv.remove("-f")
    done = m.run(*argv[1:], timeout=60)
    if done.returncode:
        assert done.returncode in (DAMAGED, NO_VAULT, FOREIGN, KEY, ERROR), (done.returncode, done.stderr)
        assert done.stderr.startswith("foliofs: ") and done.stderr.count("\n") == 1, done.stderr
        return None
    good = 0
    try:
        for name, data in files.items():
            try:
                good += read_or_eio(where / name, data)
            except FileNotFoundError:
                raise AssertionError(f"{name} has vanished") from None
    finally:
        ended = m.run("umount", where, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return good


@pytest.mark.limit(900)
def test_a_flipped_bit_in_any_object_is_never_served(stage):
    rnd = random.Random(3)
    with store(stage, "file") as s:
        v, files = filled(stage, s)
        assert visit(v, "before", files) == len(files)
        hits = 0
        for n, path in enumerate(s.objects()):
            for turn in range(size("FLIPS", 3, 20)):
                was = path.read_bytes()
                data = bytearray(was)
                at = rnd.randrange(len(data))
                data[at] ^= 1 << rnd.randrange(8)
                path.write_bytes(data)
                hits += visit(v, f"flip-{n}-{turn}", files) != len(files)
                path.write_bytes(was)
        assert hits > 0
        assert visit(v, "after", files) == len(files)


@pytest.mark.limit(300)
def test_missing_and_exchanged_objects_are_never_served(stage):
    with store(stage, "file") as s:
        v, files = filled(stage, s)
        kept = stage.dir / "kept"
        shutil.copytree(s.root, kept)
        objects = [p.relative_to(s.root) for p in s.objects()]
        for n, rel in enumerate(objects):
            (s.root / rel).unlink()
            visit(v, f"missing-{n}", files)
            other = objects[(n + 1) % len(objects)]
            shutil.copy(kept / other, s.root / rel)
            visit(v, f"other-{n}", files)
            shutil.copy(kept / rel, s.root / rel)
        assert visit(v, "after", files) == len(files)


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
