"""The library as others see it: what is installed, what it shows, and that the examples build with it alone."""
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT

HEADERS = ["conflict.h", "error.h", "events.h", "file.h", "fs.h", "ioctl.h", "netfs.h", "store.h"]


def run(*args, **kw):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=50, check=False, **kw)
    assert p.returncode == 0, f"{args}\n{p.stdout}\n{p.stderr}"
    return p.stdout


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    """The tree that `meson install` makes, and pkg-config's view of it."""
    dest = tmp_path_factory.mktemp("dest")
    run("meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", dest)
    pc = next(dest.rglob("foliofs.pc"))
    env = dict(os.environ, PKG_CONFIG_PATH=str(pc.parent), PKG_CONFIG_SYSROOT_DIR=str(dest),
               PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1", PKG_CONFIG_ALLOW_SYSTEM_LIBS="1")
    try:
        yield dest, env
    finally:
        shutil.rmtree(dest)


def flags(env):
    return run("pkg-config", "--cflags", "--libs", "foliofs", env=env).split()


def library(dest):
    return next(p for p in dest.rglob("libfoliofs.so.*") if p.name.endswith(".so.0"))


def declared():
    """Functions that the public headers declare."""
    names = set()
    for h in HEADERS:
        text = (ROOT / "include/foliofs" / h).read_text()
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.M)
        depth, flat = 0, ""
        for c in text:  # what is inside of a struct is no declaration of a function
            depth += (c == "{") - (c == "}")
            flat += c if depth == 0 else ""
        names |= {m for m in re.findall(r"\b(nf_\w+)\s*\((?!\*)", flat) if not re.search(rf"typedef[^;]*\b{m}\b", flat)}
    return names


def test_every_header_is_installed_and_stands_alone(installed, tmp_path):
    dest, env = installed
    found = next(dest.rglob("foliofs/netfs.h")).parent
    assert sorted(p.name for p in found.iterdir()) == HEADERS
    for h in HEADERS:
        for std in ["c11", "gnu17"]:
            c = tmp_path / "alone.c"
            c.write_text(f"#include <foliofs/{h}>\n#include <foliofs/{h}>\nint main(void) {{ return 0; }}\n")
            run("cc", f"-std={std}", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-c", c, "-o", tmp_path / "alone.o",
                *run("pkg-config", "--cflags", "foliofs", env=env).split())


def test_the_library_shows_what_the_headers_declare_and_nothing_else(installed):
    dest, _ = installed
    shown = {line.split()[-1].split("@")[0]
             for line in run("nm", "-D", "--defined-only", library(dest)).splitlines()}
    # A sanitizer build's own.
    shown = {n for n in shown if not n.startswith(("__", "_ZN", "asan", "ubsan"))}
    want = declared()
    assert shown - want == set() and want - shown == set()
    assert len(shown) > 30


def test_the_example_filesystem_builds_outside_of_the_tree_and_runs(installed, stage, build):
    options = {o["name"]: o["value"] for o in json.loads(run("meson", "introspect", "--buildoptions", build))}
    sanitize = [] if options["b_sanitize"] == "none" else [f"-fsanitize={options['b_sanitize']}"]
    dest, env = installed
    src = stage.folder("elsewhere")
    for p in (ROOT / "examples/toyfs").iterdir():
        shutil.copy(p, src)
    exe = stage.dir / "toyfs"
    run("cc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O1", "-D_GNU_SOURCE", *sanitize, *sorted(src.glob("*.c")), "-o", exe,
        *flags(env), "-lcrypto", "-pthread")
    (stage.dir / "key").write_bytes(os.urandom(32))
    mnt, store = stage.folder("mnt"), stage.folder("store")
    d = stage.daemon([exe, stage.dir / "key", store, mnt], mount=mnt, ready="ready",
                     env=dict(os.environ, LD_LIBRARY_PATH=str(library(dest).parent)))
    (mnt / "f").write_bytes(b"built elsewhere" * 10000)
    assert (mnt / "f").read_bytes() == b"built elsewhere" * 10000
    assert d.unmount() == 0


def test_the_barrier_example_needs_only_a_header(installed, stage):
    _, env = installed
    exe = stage.dir / "barrier"
    run("cc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", ROOT / "examples/barrier.c", "-o", exe,
        *run("pkg-config", "--cflags", "foliofs", env=env).split())
    # Not on foliofs: it says so and waits for the disk.
    p = subprocess.run([exe, stage.dir / "f"], capture_output=True, text=True, timeout=20, check=False)
    assert p.returncode == 0 and "not on foliofs" in p.stderr
    assert (stage.dir / "f").read_bytes().endswith(b"the data\n")


def test_every_call_of_the_headers_is_explained():
    """A declaration stands below a comment, or below another declaration of the same paragraph."""
    for h in HEADERS:
        text = (ROOT / "include/foliofs" / h).read_text()
        for m in re.finditer(r"^(?!#|\s|/|typedef|extern|enum)[\w *]+\b(nf_\w+)\(", text, re.M):
            above = text[:m.start()].rstrip("\n").split("\n\n")[-1]
            assert "/*" in above, f"{h}: {m[1]} has no comment"
