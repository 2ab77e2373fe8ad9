#!/usr/bin/env python3
"""Below src/ only src/aio calls the system to change or read files by name or by place: cache, journal, state and directory
store go through the table of aio/file.h, so that tests can put a disk under them that crashes.

What has nothing to do with these is in the list below, by file and call, with what it opens."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
CALLS = """access chmod close_range copy_file_range creat fallocate fchmod fdatasync fdopendir flock fopen freopen fsync fstatat
ftruncate futimens lchown link linkat lstat mkdir mkdirat mkdtemp mkostemp mkstemp open openat opendir posix_fallocate pread
preadv pwrite pwritev readlink realpath remove rename renameat renameat2 rmdir scandir sendfile stat statvfs symlink sync sync_file_range
syncfs tmpfile truncate unlink unlinkat utimensat""".split()
MAY = {
    "src/fuse/mount.c": {"fopen": "mountinfo, fuse.conf", "statvfs": "the mount point", "open": "the mount", "stat": "the mount point",
                         "access": "/dev/fuse", "realpath": "the mount point", "syncfs": "the mount"},
    "src/daemon/mounts.c": {"fopen": "mountinfo", "realpath": "a mount point"},
    "src/daemon/paths.c": {"mkdir": "the runtime directory, which a reboot clears", "lstat": "its owner"},
    "src/daemon/control.c": {"unlink": "its socket", "lstat": "the same"},
    "src/cli/open.c": {"access": "netrc", "unlink": "scratch in the runtime directory", "rmdir": "the same", "mkdtemp": "the same"},
    "src/cli": {"*": "files the user names: passphrases, results, logs"},
}
call = re.compile(r"(?<![\w.>])(" + "|".join(CALLS) + r")\(")
comment = re.compile(r"/\*.*?\*/|\"(?:\\.|[^\"\\])*\"", re.S)

bad = used = 0
for path in sorted((root / "src").rglob("*.[ch]")):
    name = str(path.relative_to(root))
    if name.startswith("src/aio/"):
        continue
    text = comment.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), path.read_text())
    for n, line in enumerate(text.splitlines(), 1):
        for m in call.finditer(line):
            # A declaration or a definition of the same name in a table is no call.
            if re.search(r"\b(int|void|static|struct \w+ \*?)\s*$", line[: m.start()]):
                continue
            may = MAY.get(name, MAY.get(str(path.parent.relative_to(root)), {}))
            if m.group(1) in may or "*" in may:
                used += 1
                continue
            print(f"{name}:{n}: {m.group(1)}() goes past the table of aio/file.h")
            bad += 1
print(f"{used} calls that are no files of the cache, the journal, the state or the store; {bad} wrong")
sys.exit(1 if bad or not used else 0)
