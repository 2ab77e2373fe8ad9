"""Neither the server nor the local disk learns names or content."""
import base64
import os
import re

import pytest
from vault_lib import KINDS, PASSWORD, Vault, store

# The same canaries in several places; long enough that base64 of any alignment holds a piece of them.
NAME = "canary-name-Zx81qLpT7"
FOLDER = "canary-folder-Wm40vRkE2"
TARGET = "canary-target-Qb93nYsD5"
XATTR = "user.canary-xattr-Hc62jUfA8"
VALUE = b"canary-value-Gd17tOiN3"
CONTENT = b"canary-content-Ke58wXzM6 "
CANARIES = [NAME.encode(), FOLDER.encode(), TARGET.encode(), XATTR.encode(), VALUE, CONTENT, PASSWORD.encode(), b"canary-"]

OBJECTS = re.compile(r"header/([0-9a-f]{8}/[0-9a-f]+|current)|heads/[0-9a-f]{16}-[0-9a-f]+|hint|packs/([0-9a-f]{2})/\2[0-9a-f]+")


def forms(canary):
    """CANARY as grep could see it."""
    core = canary[1:-1]
    yield "plain", canary
    yield "reversed", canary[::-1]
    yield "hex", canary.hex().encode()
    yield "HEX", canary.hex().upper().encode()
    yield "utf-16", canary.decode().encode("utf-16-le")
    yield "rot13", bytes((c - 97 + 13) % 26 + 97 if 97 <= c <= 122 else (c - 65 + 13) % 26 + 65 if 65 <= c <= 90 else c
                         for c in canary)
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + core)
        piece = text[4:len(text) // 4 * 4 - 4]
        if len(piece) >= 8:
            yield f"base64+{shift}", piece
            yield f"base64url+{shift}", piece.translate(bytes.maketrans(b"+/", b"-_"))


def scan(top, needles):
    files = 0
    for folder, dirs, names in os.walk(os.fsencode(top)):
        for name in dirs + names:
            for what, needle in needles:
                assert needle not in name, f"{what} in the name {os.path.join(folder, name)!r}"
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                continue
            files += 1
            with open(path, "rb") as f:
                data = f.read()
            for what, needle in needles:
                assert needle not in data, f"{what} in {path!r}"
    return files


def plant(top):
    (top / FOLDER).mkdir()
    (top / FOLDER / NAME).write_bytes(CONTENT)
    (top / FOLDER / (NAME + "-small")).write_bytes(CONTENT[:40])
    (top / FOLDER / (NAME + "-large")).write_bytes(CONTENT * 40000)
    with open(top / (NAME + "-mixed"), "wb") as f:
        # What cannot be compressed around what can be seen.
        for _ in range(50):
            f.write(os.urandom(20000) + CONTENT)
    os.symlink(TARGET, top / FOLDER / "link")
    os.symlink(TARGET * 50, top / FOLDER / "long-link")
    os.setxattr(top / FOLDER / NAME, XATTR, VALUE)
    os.setxattr(top / FOLDER, XATTR, VALUE * 100)
    (top / (NAME + "-gone")).write_bytes(CONTENT * 3)
    (top / (NAME + "-old")).rename(top / (NAME + "-new")) if (top / (NAME + "-old")).exists() else None


def test_the_search_finds_what_is_there(stage):
    top = stage.folder("x")
    for what, needle in [(w, n) for c in CANARIES[:2] for w, n in forms(c)]:
        (top / "f").write_bytes(os.urandom(777) + needle + os.urandom(55))
        with pytest.raises(AssertionError):
            scan(top, [(what, needle)])
    for shift in range(3):
        (top / "f").write_bytes(base64.b64encode(os.urandom(300 + shift) + CONTENT + os.urandom(40)))
        with pytest.raises(AssertionError):
            scan(top, list(forms(CONTENT)))


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind", KINDS)
def test_no_canary_is_found_outside_the_mount(stage, kind):
    needles = [x for c in CANARIES for x in forms(c)]
    with store(stage, kind) as s:
        v = Vault(stage, s)
        with v.machine("first").mount() as m:
            plant(m.dir)
            with open(m.dir / FOLDER / NAME, "ab") as f:
                f.write(CONTENT)
                os.fsync(f.fileno())
            home = v.machine("first").home
            assert scan(home, needles) > 1, "the journal"
            m.sync()
            (m.dir / (NAME + "-gone")).unlink()
            m.sync()
        with v.machine("second").mount() as m:
            # Everything through the second machine's cache.
            assert (m.dir / FOLDER / (NAME + "-large")).read_bytes() == CONTENT * 40000
            (m.dir / (NAME + "-mixed")).read_bytes()
            assert os.getxattr(m.dir / FOLDER / NAME, XATTR) == VALUE
            assert scan(v.machine("second").home, needles) > 1
        assert scan(s.root, needles) >= 5
        for name in ("first", "second", "init"):
            scan(v.machine(name).home, needles)
        for path in s.objects():
            rel = str(path.relative_to(s.root))
            if "/.DAV/" not in f"/{rel}":
                assert OBJECTS.fullmatch(rel), rel
