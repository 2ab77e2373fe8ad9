"""How many requests and bytes things take, by the log of a real server."""
import os
import subprocess

import pytest

import figures
from figures import KIB, MIB, Bench


@pytest.fixture(params=["apache", "lighttpd", "nginx"])
def bench(request, stage, build):
    with Bench(stage, build, request.param) as b:
        yield b


def say(what, w, bound):
    print(f"{what}: {w} (bound {bound})")


@pytest.mark.limit(240)
def test_small_files_travel_together(bench):
    m = bench.machine("a")
    logged = len(bench.server.requests())
    with bench.measure() as w:
        figures.small_files(m.mnt / "s")
        m.sync()
    say("5,000 files of 4 KiB", w, "60 requests")
    # Who is slow commits in between, every few seconds.
    assert w.requests <= 60 + 5 * int(w.seconds / 10)
    assert abs(len(bench.log_since(logged)) - w.requests) <= 2  # a poll may fall between
    assert w.sent <= 5000 * 4 * KIB * 1.1

    cold = bench.machine("b")
    with bench.measure() as w:
        listing = figures.list_all(cold.mnt / "s")
    say("cold ls -lR", w, "40 requests")
    assert listing.count(b"\n-rw") == 5000
    assert w.requests <= 40

    with bench.measure() as w:
        os.rename(cold.mnt / "s", cold.mnt / "t")
        cold.sync()
    say("rename of the directory", w, "20 requests")
    assert w.requests <= 20 and w.sent <= 128 * KIB
    with bench.measure() as w:
        figures.remove_all(cold.mnt / "t")
        cold.sync()
    say("removal of the directory", w, "20 requests")
    assert w.requests <= 20


@pytest.mark.limit(240)
def test_a_small_change_and_clones_send_little(stage, build):
    with Bench(stage, build) as bench:
        m = bench.machine("a")
        figures.big_file(m.mnt / "big", 1024)
        m.sync()
        with bench.measure() as w:
            with open(m.mnt / "big", "r+b") as f:
                f.seek(500 * MIB + 8 * KIB)
                f.write(os.urandom(4 * KIB))
            m.sync()
        say("4 KiB changed in 1 GiB", w, "100 KiB")
        assert w.sent <= 100 * KIB
        # No data travels, and of each 128 blocks only where their references stand.
        with bench.measure() as w:
            clone(m.mnt / "big", m.mnt / "copy")
            m.sync()
        say("cp --reflink=auto of 1 GiB", w, "1 MiB")
        assert w.sent <= MIB
        with bench.measure() as w:
            clone(m.mnt / "copy", m.mnt / "copy of the copy")
            m.sync()
        say("cp --reflink=auto of the copy", w, "1 MiB")
        assert w.sent <= MIB
        with bench.measure() as w:
            with open(m.mnt / "copy", "r+b") as f:
                f.seek(300 * MIB)
                f.write(os.urandom(64 * KIB))
            m.sync()
        say("64 KiB of the copy overwritten", w, "160 KiB")
        assert w.sent <= 160 * KIB
        with bench.measure() as w:
            os.truncate(m.mnt / "copy of the copy", 500 * MIB + 1)
            os.unlink(m.mnt / "big")
            m.sync()
        say("the other copy cut off, the source removed", w, "160 KiB")
        assert w.sent <= 160 * KIB
        other = bench.machine("b")
        for name in ("copy", "copy of the copy"):
            for at in (0, 299, 499):
                assert piece(other.mnt / name, at) == piece(m.mnt / name, at), (name, at)


def clone(source, target):
    subprocess.run(["cp", "--reflink=auto", source, target], check=True, timeout=120)


def piece(path, at):
    with open(path, "rb") as f:
        f.seek(at * MIB)
        return f.read(2 * MIB)


@pytest.mark.limit(120)
def test_polling_is_one_request_at_a_time(stage, build):
    with Bench(stage, build) as bench:
        m = bench.machine("a", "poll=1")
        (m.mnt / "x").write_text("x")
        m.sync()
        with bench.measure() as w:
            subprocess.run(["sleep", "5"], check=True)
        say("idle for 5 s, poll 1 s", w, "6 requests")
        assert 2 <= w.requests <= w.seconds + 1


@pytest.mark.limit(240)
def test_a_server_that_takes_small_bodies_only(stage, build):
    """nginx as it comes: client_max_body_size 1m."""
    servers_nginx = figures.servers.Server.command_nginx

    def small(self):
        command = servers_nginx(self)
        conf = self.base / "conf"
        conf.write_text(conf.read_text().replace("client_max_body_size 64m", "client_max_body_size 1m"))
        return command

    figures.servers.Server.command_nginx = small
    try:
        with Bench(stage, build, "nginx") as bench:
            m = bench.machine("a")
            figures.big_file(m.mnt / "big", 20)
            figures.small_files(m.mnt / "s", 500)
            m.sync()
            b = bench.machine("b")
            assert (b.mnt / "big").read_bytes() == (m.mnt / "big").read_bytes()
            assert figures.list_all(b.mnt / "s").count(b"\n-rw") == 500
    finally:
        figures.servers.Server.command_nginx = servers_nginx
