"""Each misbehaviour of a server gives the documented error, or is healed."""
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import time

import pytest
from store_lib import body, tool, tool_lines
from stubserver import Stub

FAST = ["--timeout", 1500]


def get(s, *opts, name="x", offset=0, length=20000):
    s.objects.setdefault("/" + name, body(name, 20000))
    return tool(*FAST, *opts, s.url, "get", name, offset, length)


def test_the_good_server_is_good():
    with Stub() as s:
        r = get(s, offset=100, length=500)
        assert r["error"] == "" and r["same"] and r["transferred"] == 500 and r["size"] == 20000
        assert s.log == [("GET", "/x", 0)]


@pytest.mark.parametrize("fault,error", [
    ("short-length", "STORE_SHORT"), ("wrong-range", "STORE_PROTOCOL"),
    ("no-range", "STORE_PROTOCOL"), ("gzip", "STORE_PROTOCOL"),
    ("close-early", "STORE_SHORT"), ("stall", "TIMEOUT"), ("stall-body", "TIMEOUT")])
def test_a_wrong_body_is_never_served(fault, error):
    with Stub(fault) as s:
        began = time.monotonic()
        assert get(s)["error"] == error
        assert time.monotonic() - began < 30


def test_broken_reads_are_tried_again():
    for fault in ("close-early", "lost-request"):
        with Stub(fault, times=2) as s:
            r = get(s)
            assert r["error"] == "" and r["same"], fault


@pytest.mark.parametrize("fault", ["whole", "whole-unsized"])
def test_a_whole_answer_is_cut_to_the_range(fault):
    with Stub(fault) as s:
        r = get(s, offset=700, length=1000)
        assert r["error"] == "" and r["same"] and r["transferred"] == 1000
        assert r["size"] == 20000
        assert get(s, offset=19999, length=2)["error"] == "STORE_SHORT"
        assert get(s, "--whole", offset=0, length=100000)["transferred"] == 20000


def test_a_page_to_log_in_to_is_no_object():
    with Stub("portal") as s:
        for whole in ([], ["--whole"]):
            assert get(s, *whole, offset=0, length=1000)["error"] == "STORE_PROTOCOL"


def test_a_whole_answer_far_before_the_range_is_refused():
    with Stub("whole") as s:
        s.objects["/x"] = bytes(6 << 20)
        assert get(s, offset=5 << 20, length=10)["error"] == "STORE_PROTOCOL"
        assert get(s, "--whole", offset=0, length=10)["size"] == 6 << 20


@pytest.mark.parametrize("status,error", [
    (401, "STORE_DENIED"), (403, "STORE_DENIED"), (404, "STORE_NOT_FOUND"),
    (410, "STORE_NOT_FOUND"), (413, "STORE_TOO_LARGE"), (423, "STORE_BUSY"),
    (425, "STORE_BUSY"), (429, "STORE_BUSY"), (500, "STORE_BUSY"), (502, "STORE_BUSY"),
    (503, "STORE_BUSY"), (504, "STORE_BUSY"), (507, "STORE_FULL"), (418, "STORE_PROTOCOL")])
def test_each_status_has_its_error(status, error):
    with Stub("status", status=status) as s:
        assert tool(*FAST, s.url, "put", "x", 100)["error"] == error
        assert s.count("PUT") == 1, "a PUT is one attempt"
        assert tool(*FAST, "--retries", 1, s.url, "get", "x", 0, 10)["error"] == error
        assert s.count("GET") == (2 if error == "STORE_BUSY" else 1)


def test_retry_after_is_waited_for():
    with Stub("status", status=429, retry_after=1, times=1) as s:
        r = get(s)
        assert r["error"] == "" and r["ms"] >= 1000
    with Stub("status", status=503, retry_after=100) as s:
        r = get(s)
        assert r["error"] == "STORE_BUSY" and r["ms"] < 1000, "longer than the time-out: at once"


def test_retries_are_bounded():
    with Stub("status", status=503) as s:
        assert get(s, "--retries", 2, "--timeout", 20000)["error"] == "STORE_BUSY"
        assert s.count("GET") == 3


def test_413_lowers_the_largest_body():
    with Stub("too-large", limit=200000) as s:
        r = tool_lines(s.url, "put", "x", 1000000, 2)
        assert [x["error"] for x in r] == ["STORE_TOO_LARGE"] * 2
        assert r[0]["max_put"] == 500000
        assert s.count("PUT") == 1, "the second is known to be too large"


@pytest.mark.parametrize("verb", ["put", "delete"])
def test_a_lost_reply_is_an_unknown_outcome(verb):
    with Stub("lost-reply") as s:
        args = ["x", 1000] if verb == "put" else ["x"]
        assert tool(*FAST, s.url, verb, *args)["error"] == "STORE_UNKNOWN_OUTCOME"
        assert s.count(verb.upper()) == 1
        assert ("/x" in s.objects) == (verb == "put")


@pytest.mark.parametrize("size", [0, 1, 3000000])
def test_a_lost_reply_on_a_kept_connection_is_not_sent_again(size):
    with Stub("lost-reply", verbs=("PUT",), times=1) as s:
        s.times = 0
        # The first makes the connection; the stub loses the reply to the third.
        s.hit = iter([False, False] + [True] * 9).__next__
        r = tool_lines(*FAST, s.url, "put", "x", size, 3)
        assert [x["error"] for x in r] == ["", "", "STORE_UNKNOWN_OUTCOME"]
        assert s.count("PUT") == 3


def test_a_put_that_stalls_is_an_unknown_outcome():
    with Stub("stall") as s:
        assert tool(*FAST, s.url, "put", "x", 10)["error"] == "STORE_UNKNOWN_OUTCOME"


def test_missing_collections_are_made_once():
    with Stub("no-collection") as s:
        assert all(r["error"] == "" for r in tool_lines(s.url, "put", "a/b/c", 10, 3))
        assert s.count("PUT") == 3 and s.count("MKCOL") == 1


def test_a_collection_made_by_another_at_the_same_moment_costs_no_second_put():
    with Stub("taken") as s:
        assert tool(s.url, "put", "a/b/c/d", 10)["error"] == ""
        assert s.count("PUT") == 1


def test_a_refused_collection_leaves_the_answer_to_the_put():
    with Stub("status", verbs=("MKCOL",)) as s:
        s.status = 403
        assert tool(*FAST, s.url, "put", "a/b/c", 10)["error"] == ""
        assert s.count("MKCOL") == 4 and s.count("PUT") == 1


def test_a_collection_that_vanishes_is_made_again():
    with Stub("no-collection") as s:
        s.collections = Forgetful()
        assert [r["error"] for r in tool_lines(s.url, "put", "a/b/c", 10, 2)] == ["", ""]
        assert s.count("PUT") == 3, "the refused one is sent again"


class Forgetful(set):
    """Loses everything before the second PUT looks."""
    looks = 0

    def __contains__(self, item):
        self.looks += 1
        if self.looks == 3:
            self.clear()
        return super().__contains__(item)


def test_redirects_stay_on_the_origin():
    with Stub() as other, Stub("redirect") as s:
        s.objects["/moved/x"] = body("x", 20000)
        s.location = f"http://127.0.0.1:{s.port}/moved"
        assert get(s)["same"]
        s.location = "/moved"
        assert get(s)["same"]
        s.location = f"http://127.0.0.1:{other.port}"
        assert get(s)["error"] == "STORE_PROTOCOL"
        assert tool(*FAST, s.url, "put", "x", 10)["error"] == "STORE_PROTOCOL"
        s.location = "file:///etc"
        assert get(s)["error"] == "STORE_PROTOCOL"
        assert other.log == []


def test_a_redirect_loop_ends():
    with Stub("redirect") as s:
        s.location = ""
        assert get(s)["error"] == "STORE_PROTOCOL"
        assert s.count("GET") <= 7


def test_stat_asks_by_propfind_when_head_has_no_length():
    with Stub("no-head-length") as s:
        s.objects["/x"] = bytes(123)
        r = tool(s.url, "stat", "x")
        assert r["error"] == "" and r["size"] == 123
        assert [m for m, *_ in s.log] == ["HEAD", "PROPFIND"]


def test_digest_is_learned_once():
    with Stub("digest") as s:
        r = tool_lines("--user", "u", "--password", "p", s.url, "put", "x", 5000, 3)
        assert [x["error"] for x in r] == [""] * 3
        assert s.objects["/x"] == body("x", 5000)
        assert len(s.log) <= 6
        assert all("Digest" in h["Authorization"] for h in s.headers[-2:])


def test_bearer_and_netrc_are_sent(tmp_path):
    with Stub() as s:
        tool("--bearer", "abc", s.url, "stat", "x")
        assert s.headers[-1]["Authorization"] == "Bearer abc"
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        tool("--netrc", s.url, "stat", "x", env=dict(os.environ, HOME=str(tmp_path)))
        assert s.headers[-1]["Authorization"] == "Basic bWU6c2VjcmV0"
        tool(s.url, "stat", "x", env=dict(os.environ, HOME=str(tmp_path)))
        assert "Authorization" not in s.headers[-1]


RESPONSE = (b"<D:response><D:href>%s</D:href><D:propstat><D:prop><D:resourcetype>"
            b"<D:collection/></D:resourcetype></D:prop></D:propstat></D:response>")


def endless():
    yield b'<D:multistatus xmlns:D="DAV:">' + RESPONSE % b"/"
    while True:
        yield b"<D:x>" + b"y" * 65536 + b"</D:x>"


BOMB = (b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
        b'<D:multistatus xmlns:D="DAV:">&b;</D:multistatus>')


@pytest.mark.parametrize("xml", [b"", b"<html>", b"garbage", BOMB, endless,
                                 b'<D:multistatus xmlns:D="DAV:">' + RESPONSE % b"/",
                                 b'<D:multistatus xmlns:D="DAV:">' + RESPONSE % b"/other/"
                                 + b"</D:multistatus>"],
                         ids=["empty", "html", "garbage", "bomb", "endless", "cut", "foreign"])
def test_hostile_listings_are_refused(xml):
    with Stub("xml", xml=xml() if callable(xml) else xml) as s:
        assert tool(*FAST, s.url, "list", "")["error"] == "STORE_PROTOCOL"


def test_endless_headers_and_errors_end():
    with Stub("huge-headers") as s:
        assert get(s)["error"] in ("STORE_PROTOCOL", "STORE_SHORT")
    with Stub("endless-error") as s:
        assert get(s, "--retries", 1)["error"] == "STORE_BUSY"


def test_a_server_without_dav_is_named_so():
    with Stub("status", status=405) as s:
        assert tool(s.url, "probe")["error"] == "STORE_NOT_DAV"
    with Stub("xml", xml=b"<html/>") as s:
        assert tool(s.url, "probe")["error"] == "STORE_NOT_DAV"


def test_an_absent_server_is_offline_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"dav://127.0.0.1:{free.getsockname()[1]}/"
        for args in (["get", "x", 0, 1], ["put", "x", 1], ["list", ""], ["probe"]):
            r = tool(url, *args)
            assert r["error"] == "OFFLINE" and r["ms"] < 10000


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_bandwidth_limit_holds(way):
    with Stub() as s:
        s.objects["/x"] = body("x", 600000)
        verb = ["put", "x", 600000] if way == "up" else ["get", "x", 0, 600000]
        r = tool(f"--{way}", 400000, "--timeout", 700, s.url, *verb)
        assert r["error"] == "" and r["same"]
        if way == "up":
            assert 1000 <= r["ms"] <= 4000
            assert s.objects["/x"] == body("x", 600000)


def test_clear_text_beyond_loopback_must_be_asked_for():
    assert tool("dav://192.0.2.1/", "probe")["error"] == "EPERM"
    assert tool("http://192.0.2.1/", "probe")["error"] == "EPERM"


@pytest.fixture(name="tls")
def tls_fixture():
    with tempfile.TemporaryDirectory(prefix="foliofs-tls-") as d:
        pem = pathlib.Path(d) / "pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", pem, "-out", str(pem) + ".crt"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(pem) + ".crt", pem)
        yield context, str(pem) + ".crt"


def test_certificates_are_verified(tls):
    context, ca = tls
    with Stub() as s:
        s.server.socket = context.wrap_socket(s.server.socket, server_side=True)
        url = f"davs://127.0.0.1:{s.port}/"
        assert tool(url, "put", "x", 10)["error"] == "STORE_TLS"
        assert s.log == []
        assert tool("--ca", ca, url, "put", "x", 10)["error"] == ""
        assert tool("--ca", ca, url, "get", "x", 0, 10)["same"]
