#!/usr/bin/env python3
"""Starts a real WebDAV server on a free loopback port over a temporary directory.

As a module:
    with servers.start("apache", auth=("user", "secret")) as s:
        s.url, s.dav_url, s.root, s.log_path, s.requests()

From the shell:
    servers.py run apache [--auth USER:PASSWORD] -- COMMAND ARGUMENT...
runs COMMAND with FOLIOFS_TEST_DAV_URL (dav://..., credentials included) and
FOLIOFS_TEST_DAV_LOG (a line "METHOD PATH STATUS BYTES" for each request), and ends
with its exit status.

Nothing outside the temporary directory is used or written; no right of root is
needed.  The server is ended by its process id, and its children with it.
"""
import argparse
import base64
import contextlib
import hashlib
import http.client
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

KINDS = ("apache", "lighttpd", "nginx", "rclone")
LOG_MARK = "/written-out-"  # requests of requests() itself
BINARIES = {"apache": "apache2", "lighttpd": "lighttpd", "nginx": "nginx", "rclone": "rclone"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def binary(kind):
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(BINARIES[kind], path=path)
    if not found:
        raise FileNotFoundError(f"{BINARIES[kind]} is not installed")
    return found


def module(name, *folders):
    for folder in folders:
        path = pathlib.Path(folder) / name
        if path.exists():
            return path
    raise FileNotFoundError(f"{name} is not installed")


def worker_user():
    """The account a server started by root may drop to: none, it stays root."""
    return pwd.getpwuid(os.getuid()).pw_name


class Server:
    made = []  # folders of all of them

    def __init__(self, kind, auth=None, root=None):
        self.kind = kind
        self.auth = auth
        self.base = pathlib.Path(tempfile.mkdtemp(prefix=f"foliofs-{kind}-"))
        Server.made.append(self.base)
        self.root = pathlib.Path(root) if root else self.base / "root"
        self.root.mkdir(exist_ok=True)
        self.run = self.base / "run"
        self.run.mkdir()
        self.log_path = self.base / "access.log"
        self.log_path.touch()
        self.traffic_path = self.base / "traffic.log"
        self.traffic_path.touch()
        self.error_path = self.base / "error.log"
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    @property
    def dav_url(self):
        who = f"{self.auth[0]}:{self.auth[1]}@" if self.auth else ""
        return f"dav://{who}127.0.0.1:{self.port}/"

    # -- configuration, one function for each server --

    def passwd(self):
        path = self.base / "passwd"
        user, password = self.auth
        # Apache's htpasswd form of SHA-1: every server here reads it.
        digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
        path.write_text(f"{user}:{{SHA}}{digest}\n")
        return path

    def command_apache(self):
        d = "/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"
        names = {"mpm_event": "mpm_event", "authn_core": "authn_core", "authz_core": "authz_core",
                 "dav": "dav", "dav_fs": "dav_fs", "auth_basic": "auth_basic",
                 "authn_file": "authn_file", "authz_user": "authz_user", "status": "status"}
        if "mod_logio.c" not in self.built_in():
            names["logio"] = "logio"
        load = "\n".join(f"LoadModule {n}_module {module(f'mod_{f}.so', *d)}" for n, f in names.items())
        auth = "Require all granted"
        if self.auth:
            auth = f'AuthType Basic\nAuthName t\nAuthUserFile "{self.passwd()}"\nRequire valid-user'
        user = f"User {worker_user()}\n" if os.getuid() == 0 else ""
        # Debian's binary may run as root only if told so when it was built.
        if os.getuid() == 0:
            user = "User #65534\nGroup #65534\n"
            for p in (self.base, self.root, self.run):
                os.chown(p, 65534, 65534)
            load += f"\nLoadModule unixd_module {module('mod_unixd.so', *d)}" \
                if (pathlib.Path(d[0]) / "mod_unixd.so").exists() else ""
        (self.base / "conf").write_text(f"""
ServerRoot "{self.base}"
ServerName 127.0.0.1
Listen 127.0.0.1:{self.port}
PidFile "{self.run}/pid"
Mutex "file:{self.run}"
DefaultRuntimeDir "{self.run}"
ErrorLog "{self.error_path}"
{load}
{user}
LogFormat "%m %U %>s %B" short
{'' if "mod_log_config.c" in self.built_in() else f'LoadModule log_config_module {module("mod_log_config.so", *d)}'}
CustomLog "{self.log_path}" short
LogFormat "%I %O" traffic
CustomLog "{self.traffic_path}" traffic "expr=! %{{REQUEST_URI}} =~ m#^{LOG_MARK}#"
StartServers 1
ServerLimit 2
ThreadsPerChild 16
MaxRequestWorkers 32
DavLockDB "{self.run}/lock"
DocumentRoot "{self.root}"
<Directory "{self.root}">
  Dav On
  {auth}
</Directory>
<Location "{LOG_MARK}status">
  SetHandler server-status
  Require all granted
</Location>
""")
        return [binary("apache"), "-DFOREGROUND", "-f", str(self.base / "conf")]

    @staticmethod
    def built_in():
        """Debian builds the modules that log into the server."""
        return subprocess.run([binary("apache"), "-l"], capture_output=True, text=True, check=False).stdout

    def command_lighttpd(self):
        auth = ""
        modules = ["mod_webdav", "mod_accesslog"]
        if self.auth:
            modules += ["mod_auth", "mod_authn_file"]
            (self.base / "plain").write_text(f"{self.auth[0]}:{self.auth[1]}\n")
            auth = f"""
auth.backend = "plain"
auth.backend.plain.userfile = "{self.base}/plain"
auth.require = ( "/" => ( "method" => "basic", "realm" => "t", "require" => "valid-user" ) )
"""
        (self.base / "conf").write_text(f"""
server.modules = ( {', '.join(f'"{m}"' for m in modules)} )
server.document-root = "{self.root}"
server.bind = "127.0.0.1"
server.port = {self.port}
server.pid-file = "{self.run}/pid"
server.errorlog = "{self.error_path}"
server.upload-dirs = ( "{self.run}" )
accesslog.filename = "{self.log_path}"
accesslog.format = "%m %U %s %b"
webdav.activate = "enable"
webdav.is-readonly = "disable"
mimetype.assign = ( "" => "application/octet-stream" )
{auth}
""")
        return [binary("lighttpd"), "-D", "-f", str(self.base / "conf")]

    def command_nginx(self):
        dav_ext = module("ngx_http_dav_ext_module.so", "/usr/lib/nginx/modules",
                         "/usr/share/nginx/modules")
        auth = f'auth_basic t; auth_basic_user_file "{self.passwd()}";' if self.auth else ""
        paths = "\n".join(f'{n}_temp_path "{self.run}/{n}";'
                          for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = f"user {worker_user()};" if os.getuid() == 0 else ""
        (self.base / "conf").write_text(f"""
load_module "{dav_ext}";
{user}
daemon off;
master_process on;
worker_processes 1;
pid "{self.run}/pid";
error_log "{self.error_path}";
events {{ worker_connections 256; }}
http {{
  log_format short '$request_method $uri $status $body_bytes_sent';
  access_log "{self.log_path}" short;
  log_format traffic '$request_length $bytes_sent';
  access_log "{self.traffic_path}" traffic;
  {paths}
  client_max_body_size 64m;
  server {{
    listen 127.0.0.1:{self.port};
    root "{self.root}";
    location {LOG_MARK} {{
      access_log "{self.log_path}" short;
    }}
    location / {{
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
      create_full_put_path off;
      {auth}
    }}
  }}
}}
""")
        return [binary("nginx"), "-p", str(self.base), "-e", str(self.error_path), "-c",
                str(self.base / "conf")]

    def command_rclone(self):
        cmd = [binary("rclone"), "serve", "webdav", str(self.root), "--addr",
               f"127.0.0.1:{self.port}", "--config", str(self.base / "none.conf"),
               "--cache-dir", str(self.run), "--log-file", str(self.error_path), "-v"]
        if self.auth:
            cmd += ["--user", self.auth[0], "--pass", self.auth[1]]
        return cmd

    # -- life --

    def start(self):
        command = getattr(self, f"command_{self.kind}")()
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        with open(self.base / "out.log", "wb") as out:
            # A process group of its own, so that its children end with it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, start_new_session=True, env=env)
        deadline = time.monotonic() + 20
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.errors()
                self.stop()
                raise RuntimeError(f"{self.kind} did not start:\n{said}")
            time.sleep(0.05)
        return self

    def answers(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            c.request("OPTIONS", "/")
            c.getresponse().read()
            c.close()
            return True
        except OSError:
            return False

    def errors(self):
        text = ""
        for path in (self.base / "out.log", self.error_path):
            with contextlib.suppress(OSError):
                text += path.read_text(errors="replace")[-4000:]
        return text

    def requests(self):
        """[(method, path, status, bytes)] of all that were answered before; rclone's log has only the first two."""
        self.write_log_out()
        if self.kind == "rclone":
            # "INFO : /path: METHOD from 127.0.0.1:port"
            found = re.findall(r": (/.*?): ([A-Z]+) from ", self.error_path.read_text())
            rows = [(m, p, 0, 0) for p, m in found]
        else:
            found = re.findall(r"^(\S+) (.*) (\d+) (\d+|-)$", self.log_path.read_text(), re.M)
            rows = [(m, p, int(status), int(n) if n != "-" else 0) for m, p, status, n in found]
        return [r for r in rows if not r[1].startswith(LOG_MARK)]

    def ask(self, path):
        """The body of a GET."""
        headers = {}
        if self.auth:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.auth).encode()).decode()
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            c.request("GET", path, headers=headers)
            return c.getresponse().read().decode(errors="replace")
        finally:
            c.close()

    def write_log_out(self):
        """A request is logged when it has been answered, so a moment later than who made it knows; lighttpd writes its log in lumps,
        and told to reopen it writes what it has, sooner or later.  So a request is made here and waited for in the log.  All but
        Apache have one thread that answers and logs in order (rclone logs what changes something before it is answered); of
        Apache's no other is busy when it says so, and who logs is."""
        log = self.error_path if self.kind == "rclone" else self.log_path
        until = time.monotonic() + 60
        if self.kind == "apache":
            while "BusyWorkers: 1\n" not in self.ask(LOG_MARK + "status?auto"):
                self.not_later_than(until, "other requests are under way")
                time.sleep(0.02)
        mark = f"{LOG_MARK}{time.monotonic_ns()}"
        self.ask(mark)
        while mark not in log.read_text():
            self.not_later_than(until, f"{log}: no {mark} in it")
            if self.kind == "lighttpd":
                os.kill(self.process.pid, signal.SIGHUP)
            time.sleep(0.02)

    def not_later_than(self, until, what):
        if time.monotonic() > until:
            raise RuntimeError(f"{self.kind}: {what}: {self.errors()}")

    def traffic(self):
        """(bytes clients sent, bytes they were sent) in requests that have ended, heads included; Apache and nginx."""
        rows = [line.split() for line in self.traffic_path.read_text().splitlines()]
        return sum(int(r[0]) for r in rows), sum(int(r[1]) for r in rows)

    def halt(self):
        """Ends the process; what it serves stays, start() brings it back at the same address."""
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def stop(self):
        self.halt()
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self):
        return self if self.process else self.start()

    def __exit__(self, *_):
        self.stop()


def start(kind, auth=None, root=None):
    """A running server; use it in a `with`."""
    server = Server(kind, auth, root)
    try:
        return server.start()
    except BaseException:
        server.stop()
        raise


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("verb", choices=["run"])
    p.add_argument("kind", choices=KINDS)
    p.add_argument("--auth", metavar="USER:PASSWORD")
    p.add_argument("command", nargs=argparse.REMAINDER)
    a = p.parse_args()
    command = a.command[1:] if a.command[:1] == ["--"] else a.command
    if not command:
        p.error("no command")
    # Ctrl-C and kill must end the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with start(a.kind, tuple(a.auth.split(":", 1)) if a.auth else None) as s:
        env = dict(os.environ, FOLIOFS_TEST_DAV_URL=s.dav_url, FOLIOFS_TEST_DAV_LOG=str(s.log_path))
        code = subprocess.run(command, env=env, check=False).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
