"""Every byte written comes in through a region, however it is written; and it is what is read elsewhere.

Seen by the counters of the daemon over each way of writing:

    fuse.write_bytes + vault.unline_bytes  ==  region.bytes + vault.mapped_same_bytes

The left side is counted where requests of the kernel are answered, the right side where regions become dirty.  A mapped
page comes whole and only its changed bytes become regions; a file that outgrows its inode is written again;
zeros are regions without bytes, and what is copied by reference never comes in."""
import ctypes
import mmap
import os
import subprocess

import pytest
from vault_lib import Vault, store

KIB = 1024
BLOCK = 16 * KIB
SIZE = 300 * KIB
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


class Written:
    """One file, and what it must hold."""

    def __init__(self, path):
        self.path = path
        self.want = bytearray()
        self.written = 0

    def put(self, at, data):
        self.written += len(data)
        self.holds(at, data)
        return data

    def holds(self, at, data):
        self.want.extend(bytes(max(0, at + len(data) - len(self.want))))
        self.want[at:at + len(data)] = data

    def cut(self, size):
        del self.want[size:]
        self.want.extend(bytes(size - len(self.want)))

    def fill(self):
        self.path.write_bytes(self.put(0, os.urandom(SIZE)))

    def fill_and_store(self):
        """Zeros need regions only before what is stored."""
        self.fill()
        fd = opened(self)
        os.fsync(fd)
        return fd


def opened(f, flags=os.O_RDWR):
    return os.open(f.path, flags | os.O_CREAT, 0o644)


def by_write(f):
    fd = opened(f)
    for n in (1, 4095, 70000, 3):
        os.write(fd, f.put(len(f.want), os.urandom(n)))
    return fd


def by_pwrite(f):
    f.fill()
    fd = opened(f)
    for at, n in ((5, 10), (BLOCK - 3, 7), (4096, 4096), (SIZE + 5000, 100)):
        os.pwrite(fd, f.put(at, os.urandom(n)), at)
    return fd


def by_pwritev(f):
    fd = opened(f)
    parts = [os.urandom(n) for n in (100, 5000, 1)]
    os.pwritev(fd, parts, 777)
    f.put(777, b"".join(parts))
    return fd


def by_o_direct(f):
    f.fill()
    fd = opened(f, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 8192)
    page[:] = f.put(4096, os.urandom(8192))
    os.pwritev(fd, [page], 4096)
    return fd


def by_o_append(f):
    f.fill()
    fd = opened(f, os.O_RDWR | os.O_APPEND)
    for n in (10, 20000):
        os.write(fd, f.put(len(f.want), os.urandom(n)))
    return fd


def by_o_sync(f):
    fd = opened(f, os.O_RDWR | os.O_SYNC)
    os.write(fd, f.put(0, os.urandom(5000)))
    return fd


def by_mapping(f):
    f.fill()
    fd = opened(f)
    with mmap.mmap(fd, SIZE) as view:
        for at, n in ((10, 20), (BLOCK - 5, 10), (100000, 9000), (SIZE - 1, 1)):
            view[at:at + n] = f.put(at, os.urandom(n))
        view.flush()
    return fd


def by_copy_of_data(f):
    """No block boundaries: the kernel copies bytes."""
    f.fill()
    fd = opened(f)
    n = os.copy_file_range(fd, fd, 50000, 1000, 200001)
    f.put(200001, bytes(f.want[1000:1000 + n]))
    return fd


def by_sendfile(f):
    f.fill()
    fd, source = opened(f), os.memfd_create("source")
    data = os.urandom(100001)
    os.write(source, data)
    os.lseek(fd, 77, os.SEEK_SET)
    n = os.sendfile(fd, source, 0, len(data))
    f.put(77, data[:n])
    os.close(source)
    return fd


def by_splice(f):
    fd, (out, into) = opened(f), os.pipe()
    data = os.urandom(40000)
    assert os.write(into, data) == len(data)
    n = os.splice(out, fd, len(data), offset_dst=3000)
    f.put(3000, data[:n])
    os.close(out)
    os.close(into)
    return fd


def by_growing_from_little(f):
    """Small files are in their inodes; this one outgrows it."""
    fd = opened(f)
    os.write(fd, f.put(0, os.urandom(300)))
    os.pwrite(fd, f.put(9000, b"far"), 9000)
    return fd


WAYS = [by_write, by_pwrite, by_pwritev, by_o_direct, by_o_append, by_o_sync, by_mapping, by_copy_of_data, by_sendfile,
        by_splice, by_growing_from_little]


def zero_by_truncate(f):
    fd = f.fill_and_store()
    os.truncate(f.path, 100001)
    f.cut(100001)
    os.truncate(f.path, SIZE)
    f.cut(SIZE)
    return fd


def zero_by_punching(f):
    fd = f.fill_and_store()
    assert libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 1000, 100000) == 0
    f.holds(1000, bytes(100000))
    return fd


def zero_by_zero_range(f):
    fd = f.fill_and_store()
    assert libc.fallocate(fd, ZERO_RANGE, SIZE - 5000, 10000) == 0
    f.holds(SIZE - 5000, bytes(10000))
    return fd


ZEROS = [zero_by_truncate, zero_by_punching, zero_by_zero_range]


def by_reference(f, mount):
    """Whole blocks of a file that is stored."""
    f.fill()
    other = mount.dir / "source"
    data = os.urandom(SIZE)
    other.write_bytes(data)
    mount.sync()
    fd, source = opened(f), os.open(other, os.O_RDONLY)
    before = mount.counters()
    assert os.copy_file_range(source, fd, 4 * BLOCK, BLOCK, 2 * BLOCK) == 4 * BLOCK
    os.close(source)
    f.holds(2 * BLOCK, data[BLOCK:5 * BLOCK])
    f.written += SIZE  # the source
    gone = difference(before, mount.counters())
    assert gone["vault.clone_bytes"] == 4 * BLOCK and gone["fuse.write_bytes"] == gone["region.bytes"] == 0, gone
    return fd


def difference(before, after):
    return {name: after[name] - before[name] for name in after}


@pytest.mark.limit(120)
def test_every_byte_written_comes_in_through_a_region(stage):
    with store(stage, "file") as s:
        v = Vault(stage, s)
        files = {}
        total = 0
        with v.machine("a").mount("sync=manual", f"block_size={BLOCK}") as m:
            for way in WAYS + ZEROS + [by_reference]:
                f = files[way.__name__] = Written(m.dir / way.__name__)
                before = m.counters()
                fd = way(f, m) if way is by_reference else way(f)
                # What the kernel holds back of a mapping comes before the answer.
                os.fsync(fd)
                os.close(fd)
                d = difference(before, m.counters())
                came = d["fuse.write_bytes"] + d["vault.unline_bytes"]
                went = d["region.bytes"] + d["vault.mapped_same_bytes"]
                total += came
                print(f"{way.__name__}: {d['fuse.write_bytes']} written, {d['vault.unline_bytes']} again, "
                      f"{d['region.bytes']} through regions, {d['vault.mapped_same_bytes']} unchanged in mappings, "
                      f"{d['region.zero_bytes']} of zeros, {d['vault.clone_bytes']} by reference")
                assert came == went > 0, way.__name__
                assert (d["vault.mapped_same_bytes"] > 0) == (way is by_mapping)
                assert way is by_mapping or d["fuse.write_bytes"] == f.written
                assert way is not by_growing_from_little or d["vault.unline_bytes"] == 300
                assert (d["region.zero_bytes"] > 0) == (way in ZEROS), way.__name__
                assert f.path.read_bytes() == f.want, way.__name__
            m.sync()
        print(total, "bytes in all")
        with v.machine("b").mount() as m:
            for name, f in files.items():
                assert (m.dir / name).read_bytes() == f.want, name


def test_copying_a_file_copies_each_byte_once_besides_the_codec(stage):
    """Read from the store with nothing cached, written elsewhere: opened where the kernel is answered from, copied from the
    kernel's buffer to where it is sealed."""
    size = 32 * 1024 * KIB
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("a").mount() as m:
            (m.dir / "source").write_bytes(os.urandom(size))
            m.sync()
        with v.machine("b").mount() as m:
            before = m.counters()
            subprocess.run(["dd", f"if={m.dir}/source", f"of={m.dir}/target", "bs=128K", "status=none"], check=True)
            m.sync()
            now = m.counters()
        written, read = (now[f"netfs.{k}_copied_bytes"] - before.get(f"netfs.{k}_copied_bytes", 0) for k in ("write", "read"))
        print(f"{size} bytes: {written} copied by writing, {read} by reading")
        assert size <= written <= size + size // 100 and read <= size // 100
