"""A WebDAV server that misbehaves in one chosen way, for tests on loopback.

    with Stub("short-length") as s:
        s.url, s.objects, s.log      # log: [(method, path, body length)]

Objects live in memory by path; collections always exist.  `times` is how often the
fault happens before the server is good again (None: always).  Faults:

  none            a good server
  close-early     GET: the connection ends in mid-body
  short-length    GET: Content-Length and body shorter than Content-Range says
  wrong-range     GET: 206 with another range than asked
  no-range        GET: 206 without Content-Range
  whole           GET: 200 with the whole object
  whole-unsized   GET: 200, whole, no Content-Length
  stall           the request is read, no answer comes
  stall-body      GET: half of the body, then nothing
  status          answers `status` (with Retry-After: `retry_after` if not None)
  too-large       PUT: 413 above `limit` bytes
  portal          200 with a page to log in to everything, as a captive portal does
  redirect        301 to `location` + path
  lost-reply      PUT and DELETE take effect, then the connection closes
  lost-request    the connection closes before anything is read
  no-collection   PUT: 409 until MKCOL of the parent
  taken           MKCOL: 409 below what is not there, 403 and 423 where another is just making it
  digest          401 with a Digest challenge until an answer comes
  no-head-length  HEAD: no Content-Length
  gzip            GET: says Content-Encoding: gzip
  xml             PROPFIND: 207 with `xml` (bytes, or an iterable of bytes)
  huge-headers    endless header lines
  endless-error   500 with an endless body
"""
import http.server
import itertools
import re
import socket
import threading
import time
from email.utils import formatdate
from xml.sax.saxutils import escape


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_):
        pass

    @property
    def stub(self):
        return self.server.stub

    def handle_one_request(self):
        if self.stub.fault == "lost-request" and self.stub.hit():
            self.close_connection = True
            return
        try:
            super().handle_one_request()
        except (ConnectionError, socket.timeout):
            self.close_connection = True

    def answer(self, status, body=b"", headers=(), length=True):
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def dispatch(self):
        s = self.stub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert "Expect" not in self.headers and "Transfer-Encoding" not in self.headers
        with s.lock:
            s.log.append((self.command, self.path, len(body)))
            s.headers.append(dict(self.headers))
        fault = getattr(self, "fault_" + s.fault.replace("-", "_"), None)
        if fault and (not s.verbs or self.command in s.verbs) and s.hit() and fault(body):
            return
        getattr(self, "good_" + self.command)(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_MKCOL = do_PROPFIND = do_OPTIONS = dispatch

    # -- the good server --

    def range(self, size):
        m = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(m[1]), min(int(m[2]) + 1, size)) if m else None

    def good_GET(self, _):
        data = self.stub.objects.get(self.path)
        if data is None:
            return self.answer(404)
        r = self.range(len(data))
        if not r:
            return self.answer(200, data)
        if r[0] >= len(data):
            return self.answer(416, headers=[("Content-Range", f"bytes */{len(data)}")])
        return self.answer(206, data[r[0]:r[1]],
                           [("Content-Range", f"bytes {r[0]}-{r[1] - 1}/{len(data)}")])

    def good_HEAD(self, _):
        data = self.stub.objects.get(self.path)
        return self.answer(404) if data is None else self.answer(200, data)

    def good_PUT(self, body):
        self.stub.objects[self.path] = body
        self.answer(201)

    def good_DELETE(self, _):
        self.answer(204 if self.stub.objects.pop(self.path, None) is not None else 404, length=False)

    def good_MKCOL(self, _):
        with self.stub.lock:
            new = self.path not in self.stub.collections
            self.stub.collections.add(self.path)
        self.answer(201 if new else 405)

    def good_OPTIONS(self, _):
        self.answer(200, headers=[("DAV", "1")])

    def good_PROPFIND(self, _):
        rows = []
        if self.path in self.stub.objects:
            rows.append((self.path, len(self.stub.objects[self.path])))
        else:
            rows.append((self.path, None))
            if self.headers.get("Depth") == "1":
                rows += [(p, len(d)) for p, d in self.stub.objects.items()
                         if p.startswith(self.path) and "/" not in p[len(self.path):]]
        out = ['<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">']
        for path, size in rows:
            kind = "<d:collection/>" if size is None else ""
            length = "" if size is None else f"<d:getcontentlength>{size}</d:getcontentlength>"
            out.append(f"<d:response><d:href>{escape(path)}</d:href><d:propstat><d:prop>"
                       f"<d:resourcetype>{kind}</d:resourcetype>{length}</d:prop>"
                       f"<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>")
        out.append("</d:multistatus>")
        self.answer(207, "".join(out).encode())

    # -- the faults; True: answered --

    def part(self):
        data = self.stub.objects[self.path]
        a, b = self.range(len(data)) or (0, len(data))
        return data[a:b], f"bytes {a}-{b - 1}/{len(data)}"

    def fault_close_early(self, _):
        data, cr = self.part()
        self.send_response(206)
        self.send_header("Content-Range", cr)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        self.wfile.flush()
        self.reset()
        return True

    def fault_short_length(self, _):
        data, cr = self.part()
        self.answer(206, data[:-1], [("Content-Range", cr)])
        return True

    def fault_wrong_range(self, _):
        data, _ = self.part()
        self.answer(206, data, [("Content-Range", f"bytes 7-{6 + len(data)}/99999999")])
        return True

    def fault_no_range(self, _):
        self.answer(206, self.part()[0])
        return True

    def fault_whole(self, _):
        self.answer(200, self.stub.objects[self.path])
        return True

    def fault_whole_unsized(self, _):
        self.close_connection = True
        self.answer(200, self.stub.objects[self.path], [("Connection", "close")], length=False)
        return True

    def fault_stall(self, _):
        self.stub.ended.wait(60)
        self.close_connection = True
        return True

    def fault_stall_body(self, _):
        data, cr = self.part()
        self.send_response(206)
        self.send_header("Content-Range", cr)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        self.wfile.flush()
        return self.fault_stall(None)

    def fault_status(self, _):
        after = self.stub.retry_after
        self.answer(self.stub.status, b"no", [("Retry-After", str(after))] if after is not None else ())
        return True

    def fault_too_large(self, body):
        if self.command != "PUT" or len(body) <= self.stub.limit:
            return False
        self.answer(413)
        return True

    def fault_portal(self, _):
        self.answer(200, b"<html><title>Welcome</title>Accept the terms</html>", [("Content-Type", "text/html")])
        return True

    def fault_redirect(self, _):
        if self.path.startswith("/moved"):
            return False
        self.answer(301, headers=[("Location", self.stub.location + self.path)])
        return True

    def fault_lost_reply(self, body):
        if self.command == "PUT":
            self.stub.objects[self.path] = body
        elif self.command == "DELETE":
            self.stub.objects.pop(self.path, None)
        else:
            return False
        self.reset()
        return True

    def fault_no_collection(self, _):
        if self.command != "PUT" or self.path.rsplit("/", 1)[0] + "/" in self.stub.collections:
            return False
        self.answer(409)
        return True

    def fault_taken(self, _):
        above = self.path.rstrip("/").rsplit("/", 1)[0] + "/"
        if self.command != "MKCOL":
            return self.fault_no_collection(_)
        with self.stub.lock:
            missing = above != "/" and above not in self.stub.collections
            if missing or self.path in self.stub.collections:
                self.answer(409 if missing else 405)
                return True
            self.stub.collections.add(self.path)
            self.answer(403 if len(self.stub.collections) % 2 else 423)
        return True

    def fault_digest(self, _):
        if self.headers.get("Authorization", "").startswith("Digest "):
            return False
        self.answer(401, headers=[("WWW-Authenticate", 'Digest realm="t", nonce="n1", qop="auth"')])
        return True

    def fault_no_head_length(self, _):
        if self.command != "HEAD":
            return False
        self.answer(200, length=False)
        return True

    def fault_gzip(self, _):
        data, cr = self.part()
        self.answer(206, data, [("Content-Range", cr), ("Content-Encoding", "gzip")])
        return True

    def fault_xml(self, _):
        if self.command != "PROPFIND":
            return False
        self.close_connection = True
        self.answer(207, b"", [("Connection", "close")], length=False)
        for piece in [self.stub.xml] if isinstance(self.stub.xml, bytes) else self.stub.xml:
            self.wfile.write(piece)
        return True

    def fault_huge_headers(self, _):
        self.send_response(200)
        self.end_headers_forever()
        return True

    def end_headers_forever(self):
        self.flush_headers()
        for i in itertools.count():
            self.wfile.write(b"X-%d: %s\r\n" % (i, b"y" * 1000))

    def fault_endless_error(self, _):
        self.close_connection = True
        self.answer(500, b"", [("Connection", "close")], length=False)
        while True:
            self.wfile.write(b"z" * 65536)


class Stub:
    def __init__(self, fault="none", times=None, verbs=(), status=500, retry_after=None,
                 limit=0, location="", xml=b""):
        self.fault, self.times, self.verbs = fault, times, verbs
        self.status, self.retry_after, self.limit = status, retry_after, limit
        self.location, self.xml = location, xml
        self.objects, self.collections = {}, set()
        self.log, self.headers = [], []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.server.stub = self

    def hit(self):
        with self.lock:
            if self.times is None:
                return True
            self.times -= 1
            return self.times >= 0

    @property
    def port(self):
        return self.server.server_address[1]

    @property
    def url(self):
        return f"dav://127.0.0.1:{self.port}/"

    def count(self, method):
        return sum(row[0] == method for row in self.log)

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


if __name__ == "__main__":
    import sys
    with Stub(*sys.argv[1:]) as stub:
        print(f"http://127.0.0.1:{stub.port}/ at {formatdate()}", flush=True)
        while True:
            time.sleep(1)
