#!/usr/bin/python3
"""Tests of the independent reader: published answers, headers and objects made by the
C side (argument: mkheader), and a small vault put together by hand."""
import contextlib
import io
import os
import pathlib
import stat
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import foliofs_reader as fr  # noqa: E402
import zstandard  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

MKHEADER = sys.argv.pop(1)
NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


def seal(key, aad, plain):
    nonce = os.urandom(24)
    return nonce + AESGCM(fr.xaes_subkey(key, nonce)).encrypt(nonce[12:], plain, aad)


class Primitives(unittest.TestCase):
    def test_xaes_gives_the_published_answers(self):
        for byte, aad, answer in (
                (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
                (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d")):
            sealed = NONCE + bytes.fromhex(answer)
            self.assertEqual(fr.xaes_open(bytes([byte]) * 32, aad, sealed), b"XAES-256-GCM")
            with self.assertRaises(fr.Bad):
                fr.xaes_open(bytes([byte]) * 32, aad + b"x", sealed)

    def test_siphash_gives_the_published_answer(self):
        self.assertEqual(fr.siphash(bytes(range(16)), bytes(range(15))), 0xA129CA6149BE45E5)
        self.assertEqual(fr.siphash(bytes(range(16)), b""), 0x726FDB47DD0E0E31)
        self.assertEqual(fr.siphash(bytes(range(16)), bytes(range(8))), 0x93F5F5799A932462)

    def test_padme(self):
        for n, padded in ((0, 0), (1, 1), (2, 2), (9, 10), (100, 104), (257, 272), (9999, 10240), (1000000, 1015808)):
            self.assertEqual(fr.padme(n), padded)

    def test_payloads_that_break_the_rules_are_refused(self):
        frame = zstandard.ZstdCompressor(level=1).compress(bytes(1000))
        good = struct.pack("<I", len(frame)) + frame
        self.assertEqual(fr.expand(fr.NODE, 1, good, 1000), bytes(1000))
        for payload, plain_len in ((good, 999), (good, 1001), (good + b"\0", 1000), (good[:-1], 1000), (b"", 0),
                                   (struct.pack("<I", 2 * len(frame)) + frame * 2, 2000)):
            with self.assertRaises(fr.Bad):
                fr.expand(fr.NODE, 1, payload, plain_len)
        self.assertEqual(fr.expand(fr.XATTR, 0, bytes(104), 100), bytes(100))
        self.assertEqual(fr.expand(fr.BLOCK, 0, bytes(100), 100), bytes(100))
        for kind, payload in ((fr.XATTR, bytes(100)), (fr.NODE, bytes(104)), (fr.BLOCK, bytes(103)),
                              (fr.BLOCK, bytes(103) + b"x")):
            with self.assertRaises(fr.Bad):
                fr.expand(kind, 0, payload, 100)


class MadeByC(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.tmp.cleanup)
        out = subprocess.run([MKHEADER, cls.tmp.name, "pass phrase"], check=True, capture_output=True, text=True)
        cls.said = dict(line.split(" ", 1) for line in out.stdout.splitlines())
        cls.path = pathlib.Path(cls.tmp.name)

    def header(self):
        return fr.Header(next(self.path.glob("header/00000007/*")).read_bytes())

    def test_each_secret_opens_the_header(self):
        for kind, secret in ((1, b"pass phrase"), (3, fr.recovery_parse(self.said["recovery"])),
                             (2, (self.path / "keyfile").read_bytes())):
            h = self.header()
            self.assertTrue(h.unlock(kind, secret))
            self.assertEqual(h.root.hex(), self.said["root"])
            self.assertEqual(h.volume.hex(), self.said["volume"])
            self.assertEqual(h.generation, 7)
            self.assertEqual(sorted(h.masters), [1, 2])
            self.assertEqual(sorted(h.labels.values()), [b"a label"] * 2)
            self.assertEqual(sum(s.tombstone for s in h.slots), 3)
            if "hash" in self.said:
                self.assertEqual(h.name_hash(b"a name"), int(self.said["hash"]))

    def test_wrong_secrets_and_damage_are_refused(self):
        self.assertFalse(self.header().unlock(1, b"pass phrase\n"))
        self.assertFalse(self.header().unlock(2, b"pass phrase"))
        with self.assertRaises(fr.Bad):
            fr.recovery_parse(self.said["recovery"].replace("A", "B").replace("C", "D").replace("E", "F"))
        data = next(self.path.glob("header/00000007/*")).read_bytes()
        secret = (self.path / "keyfile").read_bytes()
        for at in range(len(data)):
            damaged = data[:at] + bytes([data[at] ^ 4]) + data[at + 1:]
            with contextlib.suppress(fr.Bad):
                self.assertFalse(fr.Header(damaged).unlock(2, secret))
            with self.assertRaises(fr.Bad):
                fr.Header(data[:at])

    def test_objects_sealed_by_c_open(self):
        h = self.header()
        h.unlock(2, (self.path / "keyfile").read_bytes())
        names = [n for n in self.said if n.startswith("object.")]
        self.assertEqual(len(names), 7)
        for name in names:
            kind, plain_len, flags, epoch, _full = map(int, self.said[name].split())
            birth, index = 0x1122334455667788, 0x21
            extra = {fr.NODE: bytes([index]), fr.DELTA: struct.pack("<IQ", index, birth)}.get(
                kind, struct.pack("<QI", birth, index))
            sealed = (self.path / name).read_bytes()
            plain = h.open_object(kind, epoch, extra, flags, sealed, sealed[-16:], plain_len)
            self.assertEqual(plain, (self.path / name.replace("object", "plain")).read_bytes())
            for other in (fr.BLOCK, fr.NODE, fr.DELTA, fr.XATTR):
                if other != kind:
                    with self.assertRaises(fr.Bad):
                        h.open_object(other, epoch, extra, flags, sealed, sealed[-16:], plain_len)
        self.assertEqual(h.open(fr.HEAD, 2, b"extra", (self.path / "object.head").read_bytes()), b"the head")


def inode(mode, size=0, nlink=1, shift=0, flags=0, inline=b"", mtime=0):
    times = struct.pack("<qI", 1, 2) + struct.pack("<qI", mtime, 5) + struct.pack("<qI", 3, 0) * 2
    return (struct.pack("<BIIIIQQ", 1, mode, os.getuid(), os.getgid(), nlink, size, 0) + times
            + struct.pack("<BBIQ", shift, flags, 0, 0) + struct.pack("<H", len(inline)) + inline)


def str8(b):
    return bytes([len(b)]) + b


class ByHand(unittest.TestCase):
    """One pack of two blocks, a blob, three leaves and an inner node; two heads, one above the other."""

    F, D, L, C = 1 << 40 | 1, 1 << 40 | 2, 1 << 40 | 3, 1 << 40 | 4

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.path = pathlib.Path(tmp.name)
        subprocess.run([MKHEADER, tmp.name, "p"], check=True, capture_output=True)
        self.secret = (self.path / "keyfile").read_bytes()
        self.h = fr.Header(next(self.path.glob("header/00000007/*")).read_bytes())
        self.h.unlock(2, self.secret)
        self.pack_id, self.pack = bytes(range(1, 17)), b""
        root = self.make_tree()
        name = self.pack_id.hex()
        (self.path / "packs" / name[:2]).mkdir(parents=True)
        self.pack_file = self.path / "packs" / name[:2] / name
        self.pack_file.write_bytes(self.pack)
        (self.path / "heads").mkdir()
        self.make_head(1, b"\1" * 16, root, [(1, 1, b"a" * 16)])
        self.make_head(2, b"\2" * 16, root, [(1, 2, b"b" * 16)])
        (self.path / "heads" / ("f" * 16 + "-" + "0" * 32)).write_bytes(b"torn")

    def add(self, kind, extra, plain):
        """Seals into the pack; (offset, sealed length, tag)."""
        aad = fr.aad_common(kind, 2, self.h.volume) + extra + struct.pack("<IB", len(plain), 0)
        padded = kind == fr.XATTR or kind == fr.BLOCK and len(plain) < 4096
        payload = plain.ljust(fr.padme(len(plain)), b"\0") if padded else plain
        sealed = seal(self.h.key(kind, 2), aad, payload)
        at = len(self.pack)
        self.pack += sealed
        return at, len(sealed), sealed[-16:]

    def ref(self, kind, extra, plain, level=0, pack=bytes(16)):
        at, n, tag = self.add(kind, extra, plain)
        return struct.pack("<16sIIII16sBBH", pack, at, n, len(plain), 2, tag, level, 0, 0)

    def leaf(self, entries):
        entries = sorted(entries)
        plain = struct.pack("<BBH", 0, 0, len(entries)) + b"".join(
            k + struct.pack("<H", len(v)) + v for k, v in entries)
        return entries[0][0] + self.ref(fr.NODE, b"\0", plain)

    def extent(self):
        self.data = [os.urandom(4096), os.urandom(1000)]
        out = b""
        for i, (at, plain) in enumerate(zip((1, 3), self.data)):
            offset, n, tag = self.add(fr.BLOCK, struct.pack("<QI", 9, i), plain)
            out += struct.pack("<BBB16sIQII", 0, at, 0, bytes(16), offset, 9, i, 2)
            out += struct.pack("<I", n | (len(plain) < 4096) << 25) + tag
            out += struct.pack("<I", len(plain)) if len(plain) < 4096 else b""
        return out

    def make_tree(self):
        key, nh = fr.make_key, self.h.name_hash
        f, d, l, c = self.F, self.D, self.L, self.C
        self.size = 3 * 4096 + 1000
        reg, link, folder = stat.S_IFREG | 0o640, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755
        blob = self.ref(fr.XATTR, struct.pack("<QI", 7, 0), b"v" * 300) + struct.pack("<QI", 7, 0)
        first = [(key(1, 1), inode(folder, nlink=3))]
        for name, child, mode in ((b"file", f, reg), (b"dir", d, folder), (b"again", f, reg), (b"clone", c, reg)):
            first.append((key(1, 5, nh(name)), struct.pack("<QB", child, mode >> 12) + str8(name)))
        second = [
            (key(f, 1), inode(reg, self.size, 2, 12, mtime=1000)),
            (key(f, 2, 1, nh(b"file")), str8(b"file")), (key(f, 2, 1, nh(b"again")), str8(b"again")),
            (key(f, 3, nh(b"user.big")), str8(b"user.big") + b"\1" + blob),
            (key(f, 3, nh(b"user.a")), str8(b"user.a") + b"\0" + struct.pack("<H", 1) + b"x"),
            (key(f, 4, 0), self.extent()),
            (key(d, 1), inode(folder, nlink=2)), (key(d, 2, 1, nh(b"dir")), str8(b"dir")),
            (key(d, 5, nh(b"link")), struct.pack("<QB", l, link >> 12) + str8(b"link")),
            (key(l, 1), inode(link, 4, inline=b"goal")), (key(l, 2, d, nh(b"link")), str8(b"link"))]
        second = self.leaf(second)
        self.second = second[25:]
        third = [(key(c, 1), inode(reg, self.size, 1, 12, mtime=1000)), (key(c, 2, 1, nh(b"clone")), str8(b"clone")),
                 (key(c, 4, 0), b"\2" + self.second + struct.pack("<QQ", f, 0))]
        inner = struct.pack("<BBH", 1, 0, 3) + self.leaf(first) + second + self.leaf(third)
        return self.ref(fr.NODE, b"\1", inner, 1, self.pack_id)

    def make_head(self, seq, rand, root, vector):
        plain = struct.pack("<BQIQqIB", 1, seq, 1, seq, 0, 0, 0) + root + bytes(52) + struct.pack("<16sII", self.pack_id, 0, 0)
        plain += struct.pack("<H", len(vector)) + b"".join(struct.pack("<IQ16s", *v) for v in vector)
        plain += b"\0\0\0" + b"\0\0"
        sealed = seal(self.h.key(fr.HEAD, 2), fr.aad_common(fr.HEAD, 2, self.h.volume) + struct.pack("<Q16s", seq, rand), plain)
        (self.path / "heads" / f"{seq:016x}-{rand.hex()}").write_bytes(struct.pack("<BBHI", 1, 4, 1, 2) + sealed)

    def run_cmd(self, *args):
        out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            r = fr.main(["--keyfile", str(self.path / "keyfile"), str(self.path), *args])
        return r, out.buffer.getvalue(), err.getvalue()

    def content(self):
        return bytes(4096) + self.data[0] + bytes(4096) + self.data[1]

    def test_heads_names_the_one_leaf(self):
        r, out, err = self.run_cmd("heads")
        self.assertEqual(r, 0)
        self.assertEqual([line[:4] for line in out.decode().splitlines()], ["    ", "leaf"])
        self.assertIn("warning: heads/ffff", err)

    def test_ls_and_cat(self):
        r, out, _ = self.run_cmd("ls")
        self.assertEqual(r, 0)
        self.assertEqual([line.split()[-1] for line in out.decode().splitlines()], ["again", "clone", "dir", "file"])
        self.assertEqual(self.run_cmd("cat", "/file")[:2], (0, self.content()))
        self.assertEqual(self.run_cmd("cat", "/clone")[:2], (0, self.content()))
        self.assertEqual(self.run_cmd("cat", "/dir/link")[0], 1)
        self.assertEqual(self.run_cmd("cat", "/none")[0], 1)

    def test_extract_makes_the_tree(self):
        to = self.path / "out"
        self.assertEqual(self.run_cmd("extract", str(to))[0], 0)
        self.assertEqual((to / "file").read_bytes(), self.content())
        st = (to / "file").stat()
        self.assertEqual((st.st_nlink, stat.S_IMODE(st.st_mode), st.st_mtime_ns), (2, 0o640, 1000 * 10**9 + 5))
        self.assertEqual(os.readlink(to / "dir/link"), "goal")
        self.assertEqual(self.run_cmd("extract", str(to))[0], 1)

    def test_xattrs_inline_and_as_a_blob(self):
        v = fr.Vault(str(self.path), 2, self.secret)
        self.assertEqual(dict(fr.Tree(v, v.leaf().root).xattrs(self.F)), {b"user.a": b"x", b"user.big": b"v" * 300})

    def test_values_by_reference_that_lead_nowhere_are_refused(self):
        v = fr.Vault(str(self.path), 2, self.secret)
        tree = fr.Tree(v, v.leaf().root)
        (_, clone, pack), = tree.items(self.C, fr.K_EXTENT)
        self.assertEqual(len(v.extent(clone, pack, 4096)), 2)
        to = struct.pack("<QQ", self.F, 0)
        for value in (clone[:-1], clone + b"\0", b"\2" + bytes(52) + to,
                      b"\2" + self.second[:48] + b"\1" + self.second[49:] + to,  # an inner node
                      b"\2" + self.second[:24] + bytes([self.second[24] ^ 1]) + self.second[25:] + to,  # another length
                      b"\2" + self.second + struct.pack("<QQ", self.F, 128), b"\2" + self.second + struct.pack("<QQ", 0, 0),
                      b"\2" + self.second + struct.pack("<QQ", self.F, 1)):
            with self.assertRaises(fr.Bad):
                v.extent(value, pack, 4096)
        # A reference to a reference.
        third = v.node(v.leaf().root, True)[2][1]
        self.assertEqual(dict(v.node(fr.get_ref(fr.Rd(third), pack)))[fr.make_key(self.C, 4, 0)], clone)
        with self.assertRaises(fr.Bad):
            v.extent(b"\2" + third + struct.pack("<QQ", self.C, 0), pack, 4096)

    def test_check_opens_everything_and_sees_any_damage(self):
        (self.path / "heads" / ("f" * 16 + "-" + "0" * 32)).unlink()
        r, out, err = self.run_cmd("check")
        self.assertEqual((r, err), (0, ""))
        self.assertIn(b"1 leaves, 1 roots, 5 inodes, 2 blocks", out)
        for at in range(7, len(self.pack), 611):
            self.pack_file.write_bytes(self.pack[:at] + bytes([self.pack[at] ^ 1]) + self.pack[at + 1:])
            self.assertEqual(self.run_cmd("check")[0], 1)
        self.pack_file.unlink()
        self.assertEqual(self.run_cmd("check")[0], 1)


if __name__ == "__main__":
    unittest.main(verbosity=0)
