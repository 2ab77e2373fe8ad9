"""Folder trees with everything a filesystem can hold, and what is different between two of them."""
import hashlib
import os
import pathlib
import random
import socket
import stat
import subprocess

SKIPPED_XATTRS = ("security.", "trusted.", "user.foliofs.")


def xattrs(path):
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith(SKIPPED_XATTRS):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def content(path):
    h = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def facts(path):
    """What must be the same of one thing, by name."""
    st = os.lstat(path)
    f = {"mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid, "mtime": st.st_mtime_ns,
         "xattrs": xattrs(path)}
    if stat.S_ISREG(st.st_mode):
        f.update(size=st.st_size, nlink=st.st_nlink, content=content(path))
    elif stat.S_ISLNK(st.st_mode):
        f.update(target=os.readlink(path))
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        f.update(rdev=st.st_rdev)
    return f


def survey(top):
    """{path: facts} of everything under TOP, and the sets of paths that are one inode."""
    top = os.fsencode(top)
    found, inodes = {}, {}
    queue = [b""]
    while queue:
        at = queue.pop()
        for name in os.listdir(os.path.join(top, at) if at else top):
            rel = os.path.join(at, name)
            path = os.path.join(top, rel)
            found[rel] = facts(path)
            st = os.lstat(path)
            if stat.S_ISDIR(st.st_mode):
                queue.append(rel)
            elif st.st_nlink > 1:
                inodes.setdefault((st.st_dev, st.st_ino), set()).add(rel)
    return found, {frozenset(s) for s in inodes.values() if len(s) > 1}


def differences(a, b, most=10):
    """Lines that say how survey A and survey B differ."""
    out = []
    for path in sorted(set(a[0]) | set(b[0])):
        x, y = a[0].get(path), b[0].get(path)
        if x is None or y is None:
            out.append(f"{path!r}: only in the {'second' if x is None else 'first'}")
        else:
            out += [f"{path!r}: {k} {x.get(k)!r} became {y.get(k)!r}"
                    for k in sorted(set(x) | set(y)) if x.get(k) != y.get(k)]
    out += [f"hard links differ: {sorted(s)!r}" for s in a[1] ^ b[1]]
    return out[:most] + ([f"... {len(out) - most} more"] if len(out) > most else [])


def real_files(top, count):
    """Copies COUNT files of this system to TOP, with their folders and attributes."""
    chosen = []
    for source in ("/usr/include", "/usr/share/doc", "/usr/lib/python3"):
        for folder, dirs, files in os.walk(source):
            dirs.sort()
            chosen += [os.path.join(folder, f)[1:] for f in sorted(files)]
            if len(chosen) >= count:
                break
    top.mkdir()
    subprocess.run(["rsync", "-a", "--files-from=-", "--from0", "/", str(top)], check=True,
                   input=b"\0".join(os.fsencode(p) for p in chosen[:count]), timeout=300)


def odd_things(top, seed=1):
    """What ordinary trees seldom have."""
    rnd = random.Random(seed)
    top = pathlib.Path(top)
    top.mkdir()
    names = ["-rf", " leading and trailing ", "new\nline", "tab\tand \"quotes\" 'too'", "umlaut äöü ß",
             "日本語の名前", "emoji 🙂", "e\u0301 and é", "%41%2f", "*?[a]", "a" * 255, "ä" * 127, ".hidden", "back\\slash", "CON",
             "semi;colon:&|"]
    for i, name in enumerate(names):
        (top / name).write_bytes(rnd.randbytes(i * 777 % 5000))
    (top / os.fsdecode(b"not \xff\xfe utf-8")).write_bytes(b"bytes")
    for n in (0, 1, 511, 512, 513, 4095, 4096, 4097, 32767, 32768, 32769, 1 << 20, (1 << 20) + 1):
        (top / f"size-{n}").write_bytes(rnd.randbytes(n))
    (top / "zeros").write_bytes(bytes(300000))
    (top / "text").write_text("all work and no play\n" * 20000)
    with open(top / "sparse", "wb") as f:
        f.truncate(100 << 20)
        for at in (0, 1 << 20, (50 << 20) + 17, (100 << 20) - 5):
            f.seek(at)
            f.write(b"data!")
    links = top / "links"
    links.mkdir()
    (links / "one").write_bytes(b"linked")
    os.link(links / "one", links / "two")
    os.link(links / "one", top / "three")
    os.symlink("links/one", top / "relative")
    os.symlink("/nowhere/at/all", top / "dangling")
    os.symlink("x" * 4095, top / "long target")
    os.symlink("umlaut äöü ß", top / "symlink ü")
    attrs = top / "attributes"
    attrs.mkdir()
    (attrs / "file").write_bytes(b"x")
    os.setxattr(attrs, "user.of.directory", b"value")
    os.setxattr(attrs / "file", "user.short", b"")
    os.setxattr(attrs / "file", "user.binary", bytes(range(256)))
    os.setxattr(attrs / "file", "user.long", rnd.randbytes(3000))
    os.setxattr(attrs / "file", "user." + "n" * 200, b"long name")
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:77:r", str(attrs / "file")], check=True, timeout=10)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(attrs)], check=True, timeout=10)
    modes = top / "modes"
    modes.mkdir()
    for mode in (0o4755, 0o2755, 0o1777, 0o000, 0o400, 0o222, 0o7777):
        (modes / oct(mode)).write_bytes(b"m")
        os.chmod(modes / oct(mode), mode)
    (modes / "dir").mkdir()
    os.chmod(modes / "dir", 0o3770)
    if os.geteuid() == 0:
        (modes / "owned").write_bytes(b"o")
        os.chown(modes / "owned", 4321, 8765)
        (modes / "setuid of another").write_bytes(b"o")
        os.chown(modes / "setuid of another", 4321, 8765)
        os.chmod(modes / "setuid of another", 0o6711)
        os.mknod(modes / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.chown(top / "dangling", 99, 98, follow_symlinks=False)
    os.mkfifo(modes / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        old = os.getcwd()
        try:
            os.chdir(modes)
            s.bind("socket")
        finally:
            os.chdir(old)
    times = top / "times"
    times.mkdir()
    for i, ns in enumerate((0, 1, 1_000_000_000, 1_234_567_890_123_456_789, -1_000_000_001, 4_000_000_000_999_999_999)):
        (times / str(i)).write_bytes(b"t")
        os.utime(times / str(i), ns=(ns, ns))
    os.utime(top / "relative", ns=(5, 123_456_789), follow_symlinks=False)
    deep = top / "deep"
    for i in range(40):
        deep = deep / f"level {i}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("here")
    many = top / "many"
    many.mkdir()
    for i in range(300):
        (many / f"entry-{i}").touch()
    os.utime(times, ns=(7, 8_000_000_009))
