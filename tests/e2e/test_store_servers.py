"""The conformance run over the four real servers."""
import pytest
from store_lib import tool, tool_lines
import servers


@pytest.mark.parametrize("kind", servers.KINDS)
def test_the_store_conforms_on_a_real_server(kind):
    with servers.start(kind) as s:
        url = s.dav_url + "a%20b/vault"
        assert tool(url, "probe")["error"] == "STORE_NOT_FOUND"
        assert tool("--create", url, "probe")["error"] == ""
        assert tool(url, "probe")["error"] == ""
        result = tool(url, "conform")
        assert result["conform"], result["why"]
        puts = sum(r[0] == "PUT" for r in s.requests())
        assert 44 <= puts < 50, "each PUT is one request, unless one was tried again"


@pytest.mark.parametrize("kind", servers.KINDS)
def test_credentials_are_needed_and_enough(kind):
    with servers.start(kind, auth=("me", "s%20/:@x")) as s:
        plain = f"dav://127.0.0.1:{s.port}/"
        assert tool(plain, "probe")["error"] == "STORE_DENIED"
        assert tool(plain, "put", "x", 10)["error"] == "STORE_DENIED"
        assert tool("--user", "me", "--password", "wrong", plain, "probe")["error"] == "STORE_DENIED"
        opt = ["--user", "me", "--password", "s%20/:@x"]
        assert tool(*opt, plain, "probe")["error"] == ""
        assert tool(*opt, plain, "put", "x", 10)["error"] == ""
        url = f"dav://me:s%2520%2F%3A%40x@127.0.0.1:{s.port}/"
        assert tool(url, "get", "x", 0, 10)["same"]


@pytest.mark.parametrize("kind", servers.KINDS)
def test_plain_http_reads_what_dav_wrote(kind):
    with servers.start(kind) as s:
        assert tool(s.dav_url, "put", "packs/a/b", 100000)["error"] == ""
        got = tool(s.url, "get", "packs/a/b", 5000, 1000)
        assert got["error"] == "" and got["same"] and got["size"] == 100000
        assert tool(s.url, "probe")["error"] == ""
        assert tool(s.url, "put", "x", 1)["error"] == "STORE_READONLY"
        assert tool(s.url, "delete", "x")["error"] == "STORE_READONLY"
        assert tool(s.url, "list", "packs")["error"] == "EOPNOTSUPP"


def test_connections_are_kept():
    with servers.start("nginx") as s:
        assert all(r["error"] == "" for r in tool_lines(s.dav_url, "put", "x/y", 1000, 50))
        assert all(r["same"] for r in tool_lines(s.dav_url, "get", "x/y", 0, 1000, 50))
        counts = {}
        for method, *_ in s.requests():
            counts[method] = counts.get(method, 0) + 1
        # The server may close a connection just when it is used; then that request is made again.
        assert 50 <= counts["PUT"] <= 52 and counts["MKCOL"] <= 2 and 50 <= counts["GET"] <= 52
