#!/usr/bin/python3
"""Reads a foliofs vault in a local directory, from docs/format.md alone.

    foliofs_reader.py [--passphrase-file F | --keyfile F | --recovery TEXT] VAULT COMMAND

    heads            the heads that authenticate, leaves marked
    ls [PATH]        a directory, one entry a line
    cat PATH         a file's bytes
    extract DIR      everything into a new directory
    check            opens whatever is reachable from every leaf

It shares no code with the C side.  Needs python3-cryptography and python3-zstandard.
"""
import argparse
import base64
import collections
import hashlib
import hmac
import os
import re
import stat
import struct
import sys

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Bad(Exception):
    """What was read is not what the format allows, or does not authenticate."""


def need(condition, what):
    if not condition:
        raise Bad(what)


# -- primitives (section 2) --------------------------------------------------------------

BLOCK, NODE, DELTA, HEAD, XATTR, RING, SLOT = range(1, 8)
LABELS = {BLOCK: "block", NODE: "node", DELTA: "delta", HEAD: "head", XATTR: "xattr", RING: "ring", SLOT: "slot"}
PLAIN_MAX = {BLOCK: 4 << 20, NODE: 32 << 10, DELTA: 64 << 20, XATTR: 64 << 10}
SEALED_MAX = 8 << 20


def aes(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def xaes_subkey(key, nonce):
    doubled = int.from_bytes(aes(key, bytes(16)), "big") << 1
    if doubled >> 128:
        doubled ^= 0x87 | 1 << 128
    k1 = doubled.to_bytes(16, "big")
    return b"".join(aes(key, xor(k1, bytes([0, n, 0x58, 0]) + nonce[:12])) for n in (1, 2))


def xaes_open(key, aad, sealed):
    need(len(sealed) >= 40, "sealed object too short")
    nonce = sealed[:24]
    try:
        return AESGCM(xaes_subkey(key, nonce)).decrypt(nonce[12:], sealed[24:], aad)
    except InvalidTag:
        raise Bad("does not authenticate") from None


def hkdf(secret, salt, label, length=32):
    prk = hmac.new(salt, secret, "sha512").digest()
    out, t, n = b"", b"", 1
    while len(out) < length:
        t = hmac.new(prk, t + label.encode() + bytes([n]), "sha512").digest()
        out += t
        n += 1
    return out[:length]


def siphash(key, data):
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotl(x, b):
        return (x << b | x >> (64 - b)) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = v[0] + v[1] & mask
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = v[2] + v[3] & mask
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = v[0] + v[3] & mask
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = v[2] + v[1] & mask
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    whole = len(data) // 8 * 8
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for i in range(0, whole + 8, 8):
        m = int.from_bytes(data[i : i + 8] if i < whole else last, "little")
        v[3] ^= m
        rounds(2)
        v[0] ^= m
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    s = e.bit_length()  # floor(log2 e) + 1
    unit = 1 << (e - s)
    return (n + unit - 1) // unit * unit


def aad_common(kind, epoch, volume):
    return struct.pack("<BBHI", kind, 1, 1, epoch) + volume


def unpad(kind, payload, used):
    """Checks the length and the zeros of a payload whose first USED bytes count."""
    need(used <= len(payload), "payload too short")
    allowed = {padme(used) if kind in (BLOCK, XATTR) else used}
    need(len(payload) in allowed, "payload has a wrong length")
    need(not any(payload[used:]), "padding is not zero")


def expand(kind, flags, payload, plain_len):
    if flags == 0:
        # A full block stands without zeros.
        if not (kind == BLOCK and len(payload) == plain_len):
            unpad(kind, payload, plain_len)
        return payload[:plain_len]
    need(flags == 1, "unknown payload flags")
    need(len(payload) >= 4, "payload too short")
    (n,) = struct.unpack_from("<I", payload)
    unpad(kind, payload, 4 + n)
    frame = payload[4 : 4 + n]
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame) as r:
            plain = r.read(plain_len + 1)
        need(len(plain) == plain_len, "frame has a wrong length")
        d = zstandard.ZstdDecompressor().decompressobj()
        need(d.decompress(frame) == plain and not d.unused_data, "more than one frame")
    except zstandard.ZstdError as e:
        raise Bad(f"zstd: {e}") from None
    return plain


class Rd:
    """Bounded reading of little-endian fields."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(n <= len(self.data) - self.at, "object ends early")
        self.at += n
        return self.data[self.at - n : self.at]

    def get(self, fmt):
        v = struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))
        return v[0] if len(v) == 1 else v

    def str8(self):
        return self.take(self.get("B"))

    def str16(self):
        return self.take(self.get("H"))

    def more(self):
        return self.at < len(self.data)

    def end(self):
        need(not self.more(), "object has bytes left over")


# -- header (section 3) ------------------------------------------------------------------

SLOT_BYTES = 172
Slot = collections.namedtuple("Slot", "id kind tombstone kdf log2n r p salt created commitment wrapped raw")


def parse_slot(raw):
    rd = Rd(raw)
    sid, kind, flags, kdf, log2n, r, p, salt, created = rd.get("16sBBBBII32sQ")
    commitment, wrapped = rd.take(32), rd.take(72)
    need(kind in (1, 2, 3) and flags in (0, 1), "slot of unknown kind or flags")
    if flags:
        need(not any(raw[18:60]) and not any(raw[68:]), "tombstone that is not empty")
    elif kind == 1:
        need(kdf == 1, "unknown KDF")
        need(15 <= log2n <= 20 and 1 <= r <= 32 and 1 <= p <= 4 and r * 128 << log2n <= 1 << 30, "KDF cost out of limits")
    else:
        need(kdf == log2n == r == p == 0, "KDF cost where none belongs")
    return Slot(sid, kind, bool(flags), kdf, log2n, r, p, salt, created, commitment, wrapped, raw)


def recovery_parse(text):
    text = re.sub(r"[\s-]", "", text).upper()
    need(re.fullmatch(r"[A-Z2-7]{56}", text), "not a recovery key")
    raw = base64.b32decode(text)
    need(hashlib.sha256(raw[:32]).digest()[:3] == raw[32:], "recovery key mistyped")
    return raw[:32]


class Header:
    def __init__(self, data):
        rd = Rd(data)
        need(rd.take(8) == b"FOLIOFS\x01", "no header")
        need(rd.get("HH") == (1, 1), "unknown format or suite")
        self.volume, self.generation, count = rd.get("16sQB")
        need(rd.take(3) == bytes(3), "reserved bytes")
        need(1 <= self.generation < 1 << 32 and count <= 32, "generation or number of slots")
        self.slots = [parse_slot(rd.take(SLOT_BYTES)) for _ in range(count)]
        need(len({s.id for s in self.slots}) == count, "two slots of one id")
        need(sum(not s.tombstone for s in self.slots) <= 8, "too many live slots")
        self.ring_sealed = rd.take(rd.get("I"))
        self.signed = data[: rd.at]
        self.mac = rd.take(32)
        rd.end()

    def slot_key(self, slot, kind, secret):
        if kind == 1:
            return hashlib.scrypt(
                secret, salt=slot.salt, n=1 << slot.log2n, r=slot.r, p=slot.p, dklen=32,
                maxmem=128 * slot.r * ((1 << slot.log2n) + slot.p + 2))
        return hkdf(secret, slot.salt, "foliofs 1 keyfile")

    def unlock(self, kind, secret):
        """True if a slot fits; Bad if one does and the rest was tampered with."""
        for s in self.slots:
            if s.tombstone or s.kind != kind:
                continue
            key = self.slot_key(s, kind, secret)
            if not hmac.compare_digest(hkdf(key, self.volume, "foliofs 1 commit"), s.commitment):
                continue
            aad = aad_common(SLOT, 0, self.volume) + s.raw[:68]
            self.root = xaes_open(hkdf(key, self.volume, "foliofs 1 slot"), aad, s.wrapped)
            self.open_ring()
            return True
        return False

    def open_ring(self):
        mac = hmac.new(hkdf(self.root, self.volume, "foliofs 1 header mac"), self.signed, "sha256").digest()
        need(hmac.compare_digest(mac, self.mac), "header MAC")
        aad = aad_common(RING, 0, self.volume) + struct.pack("<Q", self.generation)
        rd = Rd(xaes_open(hkdf(self.root, self.volume, "foliofs 1 ring"), aad, self.ring_sealed))
        count = rd.get("H")
        need(1 <= count <= 256, "number of epochs")
        self.masters, before = {}, 0
        for _ in range(count):
            epoch, _created, master = rd.get("IQ32s")
            need(epoch > before, "epochs do not ascend")
            self.masters[epoch] = master
            before = epoch
        self.newest_only = False
        self.name_hash_key = rd.take(16)
        self.labels = {}
        for _ in range(rd.get("B")):
            sid = rd.take(16)
            self.labels[sid] = rd.str8()
        rd.end()

    def key(self, kind, epoch):
        need(epoch in self.masters, f"unknown epoch {epoch}")
        need(not self.newest_only or kind == HEAD or epoch == max(self.masters), f"{LABELS[kind]} of the old epoch {epoch}")
        return hkdf(self.masters[epoch], self.volume, "foliofs 1 " + LABELS[kind])

    def name_hash(self, name):
        return max(siphash(self.name_hash_key, name) >> 2, 3)

    def open(self, kind, epoch, extra, sealed):
        return xaes_open(self.key(kind, epoch), aad_common(kind, epoch, self.volume) + extra, sealed)

    def open_object(self, kind, epoch, extra, flags, sealed, tag, plain_len):
        """Types 1, 2, 3 and 5; EXTRA up to the plain length."""
        need(plain_len <= PLAIN_MAX[kind] and len(sealed) <= SEALED_MAX, "object over its limit")
        need(hmac.compare_digest(sealed[-16:], tag), "tag is not the reference's")
        payload = self.open(kind, epoch, extra + struct.pack("<IB", plain_len, flags), sealed)
        return expand(kind, flags, payload, plain_len)


# -- references, nodes, values (sections 4 to 6) -----------------------------------------

Ref = collections.namedtuple("Ref", "pack offset sealed_len plain_len epoch tag level flags")


def get_ref(rd, this_pack):
    """None for all zeros; THIS_PACK stands for a pack of zeros (None: not allowed)."""
    raw = rd.take(52)
    if not any(raw):
        return None
    *fields, zero = struct.unpack("<16sIIII16sBBH", raw)
    need(zero == 0, "reserved bytes in a reference")
    ref = Ref(*fields)
    if not any(ref.pack):
        need(this_pack is not None, "'this pack' where there is none")
        ref = ref._replace(pack=this_pack)
    return ref


Inode = collections.namedtuple(
    "Inode", "mode uid gid nlink size rdev atime mtime ctime btime shift flags stamp inline")


def parse_inode(value):
    rd = Rd(value)
    need(rd.get("B") == 1, "inode version")
    mode, uid, gid, nlink, size, rdev = rd.get("IIIIQQ")
    times = []
    for _ in range(4):
        s, ns = rd.get("qI")
        need(ns < 10**9, "nanoseconds")
        times.append(s * 10**9 + ns)
    shift, flags = rd.get("BB")
    stamp = rd.get("IQ")
    inline = rd.str16()
    rd.end()
    i = Inode(mode, uid, gid, nlink, size, rdev, *times, shift, flags, stamp, inline)
    need(flags in (0, 1), "inode flags")
    need(nlink > 0, "orphan in the tree")
    if stat.S_ISREG(mode):
        need(12 <= shift <= 22, "block shift")
        need(flags == 0 and not inline or flags == 1 and len(inline) == size <= 512, "inline data")
    else:
        need(shift == 0, "block shift of no file")
        need(not stat.S_ISLNK(mode) or 1 <= len(inline) <= 4095, "link target")
    return i


Block = collections.namedtuple("Block", "pack offset sealed_len flags tag plain_len birth index epoch")


def parse_extent_reference(value, this_pack):
    """(leaf, key) of a value by reference, None of one that has its segments itself."""
    if value[:1] != b"\2":
        return None
    rd = Rd(value[1:])
    leaf = get_ref(rd, this_pack)
    ino, first = rd.get("QQ")
    rd.end()
    need(leaf is not None and leaf.level == 0 and leaf.plain_len <= PLAIN_MAX[NODE], "value by reference to no leaf")
    need((ino in (1, 2) or 1 << 40 <= ino < 1 << 63) and first % 128 == 0, "value by reference to a wrong key")
    return leaf, make_key(ino, K_EXTENT, first)


def parse_extent(value, this_pack, block_bytes):
    """{block relative to the key: Block}"""
    rd, blocks, expected = Rd(value), {}, 0
    while rd.more():
        kind, first, last = rd.get("BBB")
        need(kind == 0, "hole segments stand in deltas only")
        need(first >= expected and first + last < 128, "segments out of order")
        pack, offset, birth, index, epoch = rd.get("16sIQII")
        if not any(pack):
            need(this_pack is not None, "'this pack' where there is none")
            pack = this_pack
        for i in range(first, first + last + 1):
            word = rd.get("I")
            need(word >> 26 == 0, "reserved bits of a block")
            tag = rd.take(16)
            sealed_len = word & 0xFFFFFF
            plain_len = rd.get("I") if word >> 25 & 1 else block_bytes
            need(plain_len <= block_bytes, "block longer than the block size")
            blocks[i] = Block(pack, offset, sealed_len, word >> 24 & 1, tag, plain_len, birth, index + i - first, epoch)
            offset += sealed_len
        expected = first + last + 1
    return blocks


def parse_node(plain, level, top):
    """[(key, value)]; of an inner node the values are raw references."""
    rd = Rd(plain)
    got, zero, count = rd.get("BBH")
    need(got == level and zero == 0, "node level")
    need(level <= 11, "tree too deep")
    need(count > 0 or top and level == 0, "empty node")
    need(len(plain) <= 16384 or count == 1, "node too large")
    entries, before = [], b""
    for _ in range(count):
        key = rd.take(25)
        value = rd.take(52) if level else rd.str16()
        need(level or len(value) <= 8192, "value too large")
        need(key > before, "keys do not ascend")
        before = key
        entries.append((key, value))
    rd.end()
    return entries


def make_key(ino, kind, a=0, b=0):
    return struct.pack(">QBQQ", ino, kind, a, b)


K_INODE, K_PARENT, K_XATTR, K_EXTENT, K_DIRENT = range(1, 6)
K_ROOT, K_DELTA, K_SNAPSHOT, K_CONDEMNED = 17, 18, 19, 21


# -- vault -------------------------------------------------------------------------------

Head = collections.namedtuple(
    "Head", "name seq rand tag writer writer_seq time parents root delta meta vector")


def covers(a, b):
    mine = dict((w, s) for w, s, _ in a.vector)
    return all(mine.get(w, 0) >= s for w, s, _ in b.vector)


class Vault:
    def __init__(self, path, kind, secret):
        self.path = os.fsencode(path)
        self.warnings = []
        self.header = self.choose_header(kind, secret)
        self.seen_nodes = {}

    def file(self, name, offset=0, length=-1):
        try:
            with open(os.path.join(self.path, os.fsencode(name)), "rb") as f:
                f.seek(offset)
                return f.read(length)
        except FileNotFoundError:
            raise Bad(f"missing: {name}") from None

    def names(self, directory, pattern):
        try:
            found = os.listdir(os.path.join(self.path, directory.encode()))
        except FileNotFoundError:
            return []
        return sorted(n for n in map(os.fsdecode, found) if re.fullmatch(pattern, n))

    def choose_header(self, kind, secret):
        candidates = [
            f"header/{g}/{n}"
            for g in reversed(self.names("header", "[0-9a-f]{8}"))
            for n in self.names("header/" + g, "[0-9a-f]{32}")]
        for name in candidates or ["header/current"]:
            try:
                h = Header(self.file(name))
                listed = name.split("/")[1]
                need(listed == "current" or int(listed, 16) == h.generation, "generation is not the name's")
                if h.unlock(kind, secret):
                    return h
            except Bad as e:
                self.warnings.append(f"{name}: {e}")
        raise Bad("; ".join(["no header opens with this secret"] + self.warnings))

    # Heads (section 7).

    def parse_head(self, name):
        data = self.file("heads/" + name)
        need(len(data) <= 1 << 20, "head too large")
        seq, rand = int(name[:16], 16), bytes.fromhex(name[17:])
        rd = Rd(data)
        fmt, kind, suite, epoch = rd.get("BBHI")
        need((fmt, kind, suite) == (1, HEAD, 1), "head of unknown format")
        sealed = rd.take(len(data) - 8)
        rd = Rd(self.header.open(HEAD, epoch, struct.pack("<Q16s", seq, rand), sealed))
        need(rd.get("B") == 1, "head version")
        seq_inside, writer, writer_seq, seconds, ns = rd.get("QIQqI")
        need(seq_inside == seq, "seq is not the name's")
        count = rd.get("B")
        need(count <= 16, "too many parents")
        parents = [rd.get("Q16s16s") for _ in range(count)]
        root, delta = get_ref(rd, None), get_ref(rd, None)
        need(root, "head without a root")
        meta = rd.get("16sII")
        vector = [rd.get("IQ16s") for _ in range(rd.get("H"))]
        need(all(a[0] < b[0] for a, b in zip(vector, vector[1:])), "writers do not ascend")
        need(rd.get("B") == 0 and rd.str16() == b"", "signature of unknown kind")
        rd.str16()
        rd.end()
        return Head(name, seq, rand, sealed[-16:], writer, writer_seq, seconds * 10**9 + ns, parents, root, delta, meta, vector)

    def heads(self):
        out = []
        for name in self.names("heads", "[0-9a-f]{16}-[0-9a-f]{32}"):
            try:
                out.append(self.parse_head(name))
            except Bad as e:
                self.warnings.append(f"heads/{name}: {e}")
        return out

    @staticmethod
    def leaves(heads):
        def beaten(h, o):
            if o is h or not covers(o, h):
                return False
            return not covers(h, o) or o.tag < h.tag  # of equal vectors the smaller tag counts

        found = [h for h in heads if not any(beaten(h, o) for o in heads)]
        return sorted(found, key=lambda h: (-h.seq, h.tag))

    def leaf(self):
        leaves = self.leaves(self.heads())
        need(leaves, "no head")
        if len(leaves) > 1:
            self.warnings.append(f"{len(leaves)} leaves; taking {leaves[0].name}")
        return leaves[0]

    # Objects.

    def pack_bytes(self, pack, offset, length):
        name = pack.hex()
        data = self.file(f"packs/{name[:2]}/{name}", offset, length)
        need(len(data) == length, f"pack {name} ends early")
        return data

    def blob(self, kind, ref, extra):
        need(ref is not None and ref.level == 0, "no blob reference")
        sealed = self.pack_bytes(ref.pack, ref.offset, ref.sealed_len)
        return self.header.open_object(kind, ref.epoch, extra, ref.flags, sealed, ref.tag, ref.plain_len)

    def node(self, ref, top=False):
        where = (ref, top)
        if where not in self.seen_nodes:
            sealed = self.pack_bytes(ref.pack, ref.offset, ref.sealed_len)
            plain = self.header.open_object(
                NODE, ref.epoch, bytes([ref.level]), ref.flags, sealed, ref.tag, ref.plain_len)
            self.seen_nodes[where] = parse_node(plain, ref.level, top)
        return self.seen_nodes[where]

    def extent(self, value, this_pack, block_bytes):
        """As parse_extent(), the value perhaps standing in another leaf."""
        elsewhere = parse_extent_reference(value, this_pack)
        if elsewhere:
            leaf, key = elsewhere
            found = dict(self.node(leaf)).get(key)
            need(found is not None, "value by reference is not in its leaf")
            value, this_pack = found, leaf.pack
        return parse_extent(value, this_pack, block_bytes)

    def block(self, b):
        sealed = self.pack_bytes(b.pack, b.offset, b.sealed_len)
        return self.header.open_object(
            BLOCK, b.epoch, struct.pack("<QI", b.birth, b.index), b.flags, sealed, b.tag, b.plain_len)

    # The tree (section 5).

    def scan(self, ref, lo, hi, top=True, floor=b"", ceiling=None):
        """(key, value, pack of the leaf) with lo <= key < hi; None: no end.  Checks that
        every child keeps to the keys its parent gives it: [FLOOR, CEILING)."""
        entries = self.node(ref, top)
        if entries:
            need(entries[0][0] >= floor and (ceiling is None or entries[-1][0] < ceiling), "keys outside the subtree")
        for i, (key, value) in enumerate(entries):
            if hi is not None and key >= hi:
                return
            if ref.level == 0:
                if key >= lo:
                    yield key, value, ref.pack
                continue
            end = entries[i + 1][0] if i + 1 < len(entries) else ceiling
            if end is not None and end <= lo:
                continue
            child = get_ref(Rd(value), ref.pack)
            need(child is not None and child.level == ref.level - 1, "child of a wrong level")
            yield from self.scan(child, lo, hi, False, key, end)


class Tree:
    """One root as a filesystem."""

    def __init__(self, vault, root):
        self.vault, self.root = vault, root

    def items(self, ino, kind, a=None):
        lo = make_key(ino, kind, a or 0)
        hi = make_key(ino, kind + 1) if a is None else make_key(ino, kind, a, 2**64 - 1) + b"\0"
        return self.vault.scan(self.root, lo, hi)

    def inode(self, ino):
        for key, value, _pack in self.items(ino, K_INODE):
            need(key == make_key(ino, K_INODE), "inode key")
            return parse_inode(value)
        raise Bad(f"no inode {ino}")

    def check_name(self, name, name_hash):
        need(1 <= len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in (b".", b".."), "bad name")
        need(self.vault.header.name_hash(name) == name_hash, "name under a wrong hash")

    def entries(self, ino, name_hash=None):
        """(name, ino, type) of a directory."""
        for key, value, _pack in self.items(ino, K_DIRENT, name_hash):
            _, _, h, zero = struct.unpack(">QBQQ", key)
            need(zero == 0, "entry key")
            rd, before = Rd(value), b""
            while True:
                child, kind = rd.get("QB")
                name = rd.str8()
                self.check_name(name, h)
                need(name > before, "names of one hash out of order")
                before = name
                need(child in (1, 2) or 1 << 40 <= child < 1 << 63, "bad inode number")
                yield name, child, kind
                if not rd.more():
                    break

    def lookup(self, path):
        ino = 1
        for part in os.fsencode(path).split(b"/"):
            if part in (b"", b"."):
                continue
            for name, child, _ in self.entries(ino, self.vault.header.name_hash(part)):
                if name == part:
                    ino = child
                    break
            else:
                raise Bad(f"no such file: {path}")
        return ino

    def parents(self, ino):
        """(directory, name) of each link."""
        for key, value, _pack in self.items(ino, K_PARENT):
            _, _, parent, h = struct.unpack(">QBQQ", key)
            rd, before = Rd(value), b""
            while True:
                name = rd.str8()
                self.check_name(name, h)
                need(name > before, "names of one hash out of order")
                before = name
                yield parent, name
                if not rd.more():
                    break

    def xattrs(self, ino):
        for key, value, pack in self.items(ino, K_XATTR):
            _, _, h, _ = struct.unpack(">QBQQ", key)
            rd, before = Rd(value), b""
            while True:
                name, kind = rd.str8(), rd.get("B")
                need(name > before, "names of one hash out of order")
                before = name
                need(self.vault.header.name_hash(name) == h, "xattr under a wrong hash")
                need(kind in (0, 1), "xattr of unknown kind")
                if kind == 0:
                    yield name, rd.str16()
                else:
                    ref = get_ref(rd, pack)
                    yield name, self.vault.blob(XATTR, ref, rd.take(12))
                if not rd.more():
                    break

    def blocks(self, ino, inode):
        """(position in bytes, bytes) of what is no hole, cut at the size."""
        for key, value, pack in self.items(ino, K_EXTENT):
            _, _, first, zero = struct.unpack(">QBQQ", key)
            need(first % 128 == 0 and zero == 0 and not inode.flags & 1, "extent key")
            for i, b in sorted(self.vault.extent(value, pack, 1 << inode.shift).items()):
                at = (first + i) << inode.shift
                data = self.vault.block(b)
                if at < inode.size and data:
                    yield at, data[: inode.size - at]

    def content(self, ino, inode):
        if inode.flags & 1:
            if inode.inline:
                yield 0, inode.inline
        else:
            yield from self.blocks(ino, inode)


# -- commands ----------------------------------------------------------------------------


def cmd_heads(vault, _args, out):
    heads = vault.heads()
    leaves = vault.leaves(heads)
    for h in heads:
        mark = "leaf" if h in leaves else "    "
        out.write(f"{mark} {h.name} tag={h.tag.hex()} writer={h.writer}.{h.writer_seq} writers={len(h.vector)}\n")


def cmd_ls(vault, args, out):
    tree = Tree(vault, vault.leaf().root)
    ino = tree.lookup(args.path)
    for name, child, _kind in sorted(tree.entries(ino)):
        i = tree.inode(child)
        out.write(f"{stat.filemode(i.mode)} {i.nlink} {i.uid} {i.gid} {i.size} {i.mtime // 10**9} {os.fsdecode(name)}\n")


def cmd_cat(vault, args, _out):
    tree = Tree(vault, vault.leaf().root)
    ino = tree.lookup(args.path)
    inode = tree.inode(ino)
    need(stat.S_ISREG(inode.mode), "no regular file")
    at = 0
    for pos, data in tree.content(ino, inode):
        write_zeros(sys.stdout.buffer, pos - at)
        sys.stdout.buffer.write(data)
        at = pos + len(data)
    write_zeros(sys.stdout.buffer, inode.size - at)


def write_zeros(f, n):
    while n > 0:
        f.write(bytes(min(n, 1 << 20)))
        n -= 1 << 20


class Extractor:
    """The tree below root into an empty directory.  Names were checked, and each is made by
    us, so no link is ever followed."""

    def __init__(self, tree, warn):
        self.tree, self.warn, self.paths = tree, warn, {}

    def attempt(self, what, *args, **kw):
        try:
            what(*args, **kw)
        except OSError as e:
            self.warn(f"{os.fsdecode(args[0])}: {what.__name__}: {e.strerror}")

    def attributes(self, ino, i, path):
        self.attempt(os.chown, path, i.uid, i.gid, follow_symlinks=False)
        for name, value in self.tree.xattrs(ino):
            self.attempt(os.setxattr, path, name, value, follow_symlinks=False)
        if not stat.S_ISLNK(i.mode):
            self.attempt(os.chmod, path, stat.S_IMODE(i.mode))
        self.attempt(os.utime, path, ns=(i.atime, i.mtime), follow_symlinks=False)

    def regular(self, ino, i, path):
        with open(path, "xb") as f:
            for pos, data in self.tree.content(ino, i):
                f.seek(pos)
                f.write(data)
            f.truncate(i.size)

    def directory(self, ino, path, depth=0):
        need(depth < 4096, "directories too deep")
        for name, child, kind in self.tree.entries(ino):
            self.one(child, kind, os.path.join(path, name), depth)

    def one(self, ino, kind, path, depth):
        i = self.tree.inode(ino)
        need(kind == i.mode >> 12, "entry type is not the inode's")
        if ino in self.paths:
            need(not stat.S_ISDIR(i.mode), "directory with two names")
            os.link(self.paths[ino], path, follow_symlinks=False)
            return
        self.paths[ino] = path
        if stat.S_ISDIR(i.mode):
            os.mkdir(path, 0o700)
            self.directory(ino, path, depth + 1)
        elif stat.S_ISLNK(i.mode):
            os.symlink(i.inline, path)
        elif stat.S_ISREG(i.mode):
            self.regular(ino, i, path)
        else:
            self.attempt(os.mknod, path, i.mode, i.rdev)
            if not os.path.lexists(path):
                return
        self.attributes(ino, i, path)


def cmd_extract(vault, args, _out):
    tree = Tree(vault, vault.leaf().root)
    os.mkdir(args.path, 0o700)
    x = Extractor(tree, vault.warnings.append)
    x.paths[1] = os.fsencode(args.path)
    x.directory(1, os.fsencode(args.path))
    x.attributes(1, tree.inode(1), os.fsencode(args.path))


def parse_snapshots(value, pack):
    """(name, rand, root reference) of each entry."""
    rd, out = Rd(value), []
    while rd.at < len(value):
        name = rd.str8()
        seq, rand, _tag, _seconds = rd.get("Q16s16sq")
        need(seq and name and b"/" not in name and b"\0" not in name, "snapshot entry")
        out.append((name, rand, get_ref(rd, pack)))
        need(out[-1][2], "snapshot without a root")
    need(out and all(a[:2] < b[:2] for a, b in zip(out, out[1:])), "snapshots do not ascend")
    return out


def cmd_snapshots(vault, _args, out):
    for leaf in vault.leaves(vault.heads()):
        for key, value, pack in vault.scan(leaf.root, make_key(0, K_SNAPSHOT), make_key(0, K_SNAPSHOT + 1)):
            for name, rand, root in parse_snapshots(value, pack):
                inodes, _ = check_root(vault, root, set(), set())
                out.write(f"{rand.hex()[:8]} {len(inodes)} inodes {os.fsdecode(name)}\n")


def check_root(vault, root, done, deltas):
    """Opens everything below ROOT; older roots found on the way go to the list given back."""
    tree, inodes, named, parents, older = Tree(vault, root), {}, [], collections.Counter(), []
    for key, value, pack in vault.scan(root, b"", None):
        ino, kind, _a, _b = struct.unpack(">QBQQ", key)
        if kind == K_INODE:
            inodes[ino] = parse_inode(value)
        elif kind == K_ROOT:
            rd = Rd(value)
            rd.get("16s16sq")
            older.append(get_ref(rd, pack))
            if rd.more():
                older[-1] = get_ref(rd, pack)  # where the same tree stands now
                need(older[-1], "root moved to nowhere")
            rd.end()
        elif kind == K_SNAPSHOT:
            older += [ref for _, _, ref in parse_snapshots(value, pack)]
        elif kind == K_DELTA:
            rd = Rd(value)
            deltas.add((get_ref(rd, pack), _a, _b))
            rd.get("qQ")
            rd.end()
        elif kind == K_CONDEMNED:
            rd = Rd(value)
            rd.get("q")
            rd.end()
    for ino, i in inodes.items():
        if stat.S_ISDIR(i.mode):
            named += [(ino, name, child, kind) for name, child, kind in tree.entries(ino)]
        for parent, name in tree.parents(ino):
            parents[parent, name, ino] += 1
        for _ in tree.xattrs(ino):
            pass
        for key, value, pack in tree.items(ino, K_EXTENT):
            for b in vault.extent(value, pack, 1 << i.shift).values():
                if b not in done:
                    vault.block(b)
                    done.add(b)
    links = collections.Counter(child for _, _, child, _ in named)
    for ino, name, child, kind in named:
        need(child in inodes, f"entry without an inode: {name!r}")
        need(kind == inodes[child].mode >> 12, f"entry type: {name!r}")
        need(parents.pop((ino, name, child), 0) == 1, f"entry without a back-reference: {name!r}")
    need(not parents, "back-reference without an entry")
    for ino, i in inodes.items():
        if stat.S_ISDIR(i.mode):
            below = sum(1 for d, _, c, _ in named if d == ino and stat.S_ISDIR(inodes[c].mode))
            need(i.nlink == 2 + below, f"nlink of directory {ino}")
        else:
            need(i.nlink == links[ino], f"nlink of {ino}")
    return inodes, older


def cmd_check(vault, _args, out):
    heads = vault.heads()
    leaves = vault.leaves(heads)
    need(leaves, "no head")
    done, deltas, roots, queue, files = set(), set(), set(), [h.root for h in leaves], 0
    leaf_roots = {h.root for h in leaves}
    for h in leaves:
        if h.delta:
            deltas.add((h.delta, h.writer, h.writer_seq))
    while queue:
        root = queue.pop()
        if root in roots:
            continue
        roots.add(root)
        # What is kept is what the leaves say; an older root may name others that were let go since.
        of_leaf = root in leaf_roots
        inodes, older = check_root(vault, root, done, deltas if of_leaf else set())
        files = max(files, len(inodes))
        if of_leaf:
            queue += [r for r in older if r]
    for ref, writer, seq in deltas:
        vault.blob(DELTA, ref, struct.pack("<IQ", writer, seq))
    # Each sealed object once, wherever it stands.
    size = sum({r: r.sealed_len for r, _ in vault.seen_nodes}.values())
    size += sum({(b.tag, b.birth, b.index): b.sealed_len for b in done}.values())
    size += sum({d: d[0].sealed_len for d in deltas}.values())
    out.write(f"{len(leaves)} leaves, {len(roots)} roots, {files} inodes, {len(done)} blocks, {len(deltas)} deltas, {size} bytes\n")
    need(not vault.warnings, "; ".join(vault.warnings))


def read_secret(args):
    if args.recovery:
        return 3, recovery_parse(args.recovery)
    if args.keyfile:
        with open(args.keyfile, "rb") as f:
            return 2, f.read()
    if args.passphrase_file:
        with open(args.passphrase_file, "rb") as f:
            return 1, f.read().removesuffix(b"\n")
    import getpass
    return 1, getpass.getpass("passphrase: ").encode()


def main(argv):
    p = argparse.ArgumentParser(description="Reads a foliofs vault in a directory.")
    p.add_argument("--passphrase-file")
    p.add_argument("--keyfile")
    p.add_argument("--recovery")
    p.add_argument("--newest-keys-only", action="store_true", help="refuse what but heads is sealed under older epochs")
    p.add_argument("vault")
    sub = p.add_subparsers(required=True)
    for name, function, path in (("heads", cmd_heads, None), ("ls", cmd_ls, "?"), ("cat", cmd_cat, 1),
                                 ("extract", cmd_extract, 1), ("check", cmd_check, None), ("snapshots", cmd_snapshots, None)):
        s = sub.add_parser(name)
        s.set_defaults(function=function)
        if path == "?":
            s.add_argument("path", nargs="?", default="/")
        elif path:
            s.add_argument("path")
    args = p.parse_args(argv)
    sys.setrecursionlimit(20000)
    vault = None
    try:
        vault = Vault(args.vault, *read_secret(args))
        vault.header.newest_only = args.newest_keys_only
        args.function(vault, args, sys.stdout)
        return 0
    except (Bad, OSError) as e:
        print(f"foliofs_reader: {e}", file=sys.stderr)
        return 1
    finally:
        for w in vault.warnings if vault else []:
            print(f"warning: {w}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
