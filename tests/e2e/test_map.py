"""foliofs map: what of a file is where, on a terminal, as SVG and as JSON."""
import fcntl
import json
import os
import pty
import struct
import subprocess
import threading
import time
import xml.etree.ElementTree as xml

import pytest

from conftest import wait_for
from test_barrier import BARRIER
from cli_lib import Site
from vault_lib import NOT_MOUNTED

K, M = 1024, 1024 * 1024


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


def away(site):
    """The server cannot be reached: what is written stays here."""
    site.store.rename(site.stage.dir / "away")


def back(site):
    (site.stage.dir / "away").rename(site.store)


@pytest.fixture
def file(site):
    """Half a MiB of text on the server, a hole, random bytes sealed here only, two groups of modified bytes."""
    f = site.mnt / "a <file> & more"
    with open(f, "wb", buffering=0) as out:
        out.write(b"text that compresses well. " * (512 * K // 27 + 1))
        out.truncate(512 * K)
    site.run("sync", site.mnt)
    away(site)
    with open(f, "r+b", buffering=0) as out:
        os.pwrite(out.fileno(), os.urandom(256 * K), 768 * K)
        os.fsync(out.fileno())
        os.pwrite(out.fileno(), b"x" * 100, 5)
        fcntl.ioctl(out.fileno(), BARRIER)
        os.pwrite(out.fileno(), b"y" * 3000, 600 * K)
    return f


def the_map(site, f):
    return json.loads(site.run("map", "--json", f).stdout)


def test_json_says_what_every_byte_is(site, file):
    m = the_map(site, file)
    assert (m["file"], m["size_bytes"], m["block_bytes"]) == (file.name, M, 16 * K)
    assert [(e["start"], e["end"], e["is"]) for e in m["stored"]] == [
        (0, 512 * K, ["remote", "cached"]), (512 * K, 768 * K, ["hole"]), (768 * K, M, ["local"])]
    text, hole, noise = (e["sealed_bytes"] for e in m["stored"])
    assert text < 200 * K and hole == 0 and 256 * K < noise < 300 * K
    assert [(e["start"], e["end"], e["state"], e["group"]) for e in m["regions"]] == [
        (5, 105, "D", m["regions"][0]["group"]), (600 * K, 600 * K + 3000, "D", m["regions"][0]["group"] + 1)]
    back(site)
    site.run("sync", site.mnt)
    m = the_map(site, file)
    assert m["regions"] == []
    assert all("remote" in e["is"] or e["is"] == ["hole"] for e in m["stored"])
    assert sum(e["end"] - e["start"] for e in m["stored"]) == M


def test_memory_is_what_was_read_and_kept(site, file):
    back(site)
    site.run("sync", site.mnt)
    site.umount()
    site.mount()
    assert the_map(site, file)["memory"] == []
    with open(file, "rb", buffering=0) as f:
        os.pread(f.fileno(), 10, 512 * K - 10)
    m = the_map(site, file)
    assert any(e["start"] < 512 * K <= e["end"] for e in m["memory"])


def test_a_small_an_empty_and_a_long_file(site):
    small, empty, long = site.mnt / "small", site.mnt / "empty", site.mnt / "long"
    small.write_bytes(b"abc")
    empty.touch()
    site.run("sync", site.mnt)
    assert [(e["start"], e["end"], e["is"]) for e in the_map(site, small)["stored"]] == [(0, 3, ["inline"])]
    assert the_map(site, empty)["stored"] == []
    assert site.run("map", empty).stdout.startswith("empty: ")
    with open(long, "wb", buffering=0) as f:
        for i in range(600):  # more extents than one answer holds
            os.pwrite(f.fileno(), b"x", i * 64 * K)
        f.truncate(1 << 40)
        os.fsync(f.fileno())
    m = the_map(site, long)
    assert len(m["stored"]) == 1200 and m["stored"][-1]["end"] == 1 << 40
    assert all(a["end"] == b["start"] for a, b in zip(m["stored"], m["stored"][1:]))


def test_the_picture_has_the_width_of_the_terminal(site, file):
    utf8 = dict(site.env, LC_ALL="C.UTF-8")
    for columns in [40, 80, 133]:
        out = site.run("map", file, env={"LC_ALL": "C.UTF-8", "COLUMNS": str(columns)}).stdout.splitlines()
        assert out[1].startswith("stored ") and len(out[1]) == columns
        assert all(len(line) <= columns for line in out[1:7])
        cells = out[1][9:]
        half = len(cells) // 2
        assert set(cells[:half - 1]) == {"█"} and set(cells[half + 1:half + half // 2 - 1]) == {"·"} and cells[-1] == "▓"
        assert out[2][9] in "▁▂▃" and out[2][-1] == "█"
        assert out[4][9] == "D" and set(out[4][9:]) == {"D", " "}
        assert set(out[5][9:]) == {out[5][9], " ", str((int(out[5][9]) + 1) % 10)}
    ascii_out = site.run("map", file, env={"LC_ALL": "C", "COLUMNS": "80"}).stdout
    assert ascii_out.isascii() and ascii_out.splitlines()[1][9:12] == "###" and ascii_out.splitlines()[1][-1] == "L"
    # On a terminal: what it says itself.
    master, slave = pty.openpty()
    fcntl.ioctl(slave, 0x5414, struct.pack("HHHH", 24, 60, 0, 0))  # TIOCSWINSZ
    utf8.pop("COLUMNS", None)
    p = subprocess.run([site.exe, "map", file], env=utf8, stdout=slave, timeout=20, check=True)
    assert p.returncode == 0
    lines = os.read(master, 65536).decode().split("\r\n")
    assert len(lines[1]) == 60
    os.close(master)
    os.close(slave)


def test_svg_is_well_formed_and_has_every_extent(site, file):
    out = site.stage.dir / "map.svg"
    site.run("map", "--svg", out, file)
    root = xml.parse(out).getroot()
    ns = "{http://www.w3.org/2000/svg}"
    titles = [t.text for t in root.iter(ns + "title")]
    assert f"0-{512 * K} on the server, with a copy here" in titles[0]
    assert sum("group" in t for t in titles) == 2
    assert any("a <file> & more" in (t.text or "") for t in root.iter(ns + "text"))
    for r in root.iter(ns + "rect"):
        assert 0 <= float(r.get("x")) and float(r.get("x")) + float(r.get("width")) <= 1000


def test_what_is_on_no_vault_is_refused(site):
    other = site.stage.dir / "plain"
    other.write_bytes(b"abc")
    site.run("map", other, code=NOT_MOUNTED)
    site.run("map", site.mnt, code=NOT_MOUNTED)
    site.run("map", site.mnt / "nothing", code=1)


def test_trace_has_the_events_of_a_region_and_its_request(site):
    """new, reserved, active, commit, merge, split or superseded, flushing, complete; R= lines; folios; groups."""
    want = {" new ORD", "s=P>R", "s=R>A", " commit ", "merge back", "superseded", "s=D>F", " split ", "s=F>C", "closed size=",
            "drained", "new write", "terminated err=0", "folio new"}
    p = subprocess.Popen([site.exe, "trace", site.mnt, "--set", "region,req,folio"], env=site.env, stdout=subprocess.PIPE,
                         text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(p.stdout), daemon=True)
    reader.start()

    def missing():
        said = "".join(list(lines))
        return {w for w in want if w not in said}
    try:
        for n in range(60):  # the first may come before the daemon listens
            with open(site.mnt / f"traced{n}", "w+b", buffering=0) as f:
                os.pwrite(f.fileno(), b"x" * 5000, 0)
                os.pwrite(f.fileno(), b"x" * 5000, 5000)    # merged
                os.pwrite(f.fileno(), b"y" * 100, 3000)     # superseded in part
                os.pwrite(f.fileno(), b"x" * 60000, 30000)  # cut at blocks when it is stored
                os.fsync(f.fileno())
            time.sleep(0.5)
            if n >= 2 and not missing():
                break
    finally:
        p.terminate()
        p.wait(30)
        reader.join(30)
    assert missing() == set()


def test_files_may_be_mapped_while_they_are_written(site):
    f = site.mnt / "busy"
    with open(f, "wb", buffering=0) as out:
        for i in range(200):
            os.pwrite(out.fileno(), b"z" * 5000, i * 7000)
            if i % 10 == 0:
                m = the_map(site, f)
                assert m["size_bytes"] <= i * 7000 + 5000
    wait_for(lambda: the_map(site, f)["size_bytes"] == 199 * 7000 + 5000)
