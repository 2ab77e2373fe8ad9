"""A vault on a store, and machines that mount it.  `program()` is the one place that knows how foliofs is
started; FOLIOFS names another one.

    store = Store.open(stage, "nginx")        file, apache, lighttpd, nginx, rclone
    vault = Vault(stage, store)               init
    m = vault.machine("laptop")               its own cache and state
    with m.mount() as t:                      t.dir, t.sync(), t.status(), t.kill()
        ...                                   unmounted at the end
"""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess

import cuts_lib
import folder
import servers
from conftest import ROOT, detach

LONG = os.environ.get("FOLIOFS_LONG") == "1"
KINDS = ("file",) + servers.KINDS
PASSWORD = "canary-passphrase correct horse"
# Exit codes: src/cli/exit.h.
EXITS = range(14)
(OK, ERROR, USAGE, KEY, DENIED, OFFLINE, NO_VAULT, FOREIGN, BUSY, FULL, DAMAGED, MOUNT, NOT_MOUNTED, NOT_DAV) = EXITS


def size(name, default, full):
    """A count of a test: NF_E2E_<name>, or by FOLIOFS_LONG."""
    return int(os.environ.get("NF_E2E_" + name, full if LONG else default))


def program():
    if os.environ.get("FOLIOFS"):
        return os.environ["FOLIOFS"]
    build = pathlib.Path(os.environ.get("NF_BUILD", ROOT / "build"))
    path = build / "src/foliofs"
    if path.exists():
        return str(path)
    raise FileNotFoundError(f"no foliofs in {build}")


class Store:
    """Where a vault's objects are: `url`, and `root`, the folder that holds them."""

    def __init__(self, stage, kind, auth=None):
        self.kind = kind
        self.vaults = []
        self.server = None
        self.auth = None
        if kind == "file":
            self.root = stage.folder("store") / "v"
            self.url = f"file://{self.root}"
        else:
            self.server = servers.start(kind, auth=auth)
            self.root = self.server.root / "v"
            self.url = f"dav://127.0.0.1:{self.server.port}/v"
            self.auth = auth

    def away(self):
        """The store cannot be reached until back()."""
        if self.server:
            self.server.halt()
        else:
            self.root.rename(self.root.with_name("away"))

    def back(self):
        if self.server:
            self.server.start()
        else:
            self.root.with_name("away").rename(self.root)

    def objects(self):
        return sorted(p for p, _ in folder.files(self.root))

    def end(self):
        if self.server:
            self.server.stop()


@contextlib.contextmanager
def store(stage, kind, auth=None):
    s = Store(stage, kind, auth)
    try:
        yield s
        for v in s.vaults:
            v.settle()
    finally:
        # Daemons first: one that waits for a dead server would take its time.
        for d in stage.daemons:
            d.end()
        s.end()


class Vault:
    def __init__(self, stage, where, password=PASSWORD):
        self.stage = stage
        self.store = where
        self.password = password
        self.machines = {}
        where.vaults = [*getattr(where, "vaults", []), self]
        if getattr(where, "auth", None):
            self.machine("init").netrc(*where.auth)
        done = self.machine("init").run("init", where.url, "--kdf-cost", "15")
        assert done.returncode == 0, done.stderr

    def settle(self):
        """The end of a test under cuts (cuts_lib)."""
        if cuts_lib.SEED is None:
            return
        for d in self.stage.daemons:
            d.end()
        took_part = [m for m in self.machines.values() if m.mounts]
        for m in took_part:
            m.whole_link = True
        judge = self.machine("judge")
        judge.whole_link = True
        cuts_lib.compare(self, [*took_part, judge],
                         lambda out: cuts_lib.extract(self.store.root, self.stage.dir / "judge-secret", self.password, out))

    def machine(self, name):
        if name not in self.machines:
            self.machines[name] = Machine(self, name)
        return self.machines[name]


class Machine:
    """A home with cache and state of its own."""

    def __init__(self, vault, name):
        self.vault = vault
        self.name = name
        self.home = vault.stage.folder("machine-" + name)
        self.mounts = 0
        self.whole_link = False

    def env(self, password=None):
        e = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "FOLIOFS_"))}
        for what in ("cache", "state", "config", "runtime"):
            path = self.home / what
            path.mkdir(mode=0o700, exist_ok=True)
            e[f"XDG_{what.upper()}_HOME" if what != "runtime" else "XDG_RUNTIME_DIR"] = str(path)
        e["HOME"] = str(self.home)
        e["FOLIOFS_PASSWORD"] = password or self.vault.password
        return e

    def run_once(self, *args, password=None, timeout=60):
        return subprocess.run([program(), *map(str, args)], env=self.env(password), text=True,
                              capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)

    def run(self, *args, **kw):
        return cuts_lib.again_while(lambda done: done.returncode == OFFLINE, lambda: self.run_once(*args, **kw))

    def netrc(self, user, password):
        path = self.home / ".netrc"
        path.touch(mode=0o600)
        path.write_text(f"machine 127.0.0.1 login {user} password {password}\n")

    def folder(self):
        self.mounts += 1
        return self.vault.stage.folder(f"mnt-{self.name}-{self.mounts}")

    def mount_argv(self, where, options=()):
        argv = [program(), "mount", "-f"]
        url = self.vault.store.url
        if not self.whole_link:
            url, options = cuts_lib.through(url), cuts_lib.options(options)
        if options:
            argv += ["-o", ",".join(options)]
        return argv + [url, str(where)]

    def mount(self, *options, timeout_s=30):
        where = self.folder()

        def start():
            try:
                return self.vault.stage.daemon(self.mount_argv(where, options), mount=where, env=self.env(),
                                               timeout_s=timeout_s)
            except AssertionError as e:
                if "cannot be reached" not in str(e):
                    raise
                return e
        d = cuts_lib.again_while(lambda d: isinstance(d, AssertionError), start)
        if isinstance(d, AssertionError):
            raise d
        return Mount(self, where, d)

    def forget(self):
        """Cache and state as on a machine that never saw the vault."""
        for what in ("cache", "state"):
            shutil.rmtree(self.home / what)


class Mount:
    def __init__(self, machine, where, daemon):
        self.machine = machine
        self.dir = where
        self.daemon = daemon

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.daemon.proc.poll() is None:
            self.unmount()
        else:
            self.daemon.end()

    def has_not_looked(self):
        """What there was to send was sent, or there was nothing; what others did may still be missing."""
        s = self.status()
        return s["link"] != "connected" or s["last_error"]

    def sync(self, timeout=120):
        done = cuts_lib.again_while(lambda done: done.returncode == OFFLINE or (done.returncode == OK and self.has_not_looked()),
                                    lambda: self.machine.run_once("sync", self.dir, timeout=timeout))
        assert done.returncode == 0, (done.stdout, done.stderr, self.daemon.stderr(), self.daemon.how_it_ended())

    def try_sync(self, timeout=120):
        return self.machine.run_once("sync", self.dir, timeout=timeout).returncode

    def status(self):
        done = self.machine.run("status", "--json", self.dir)
        assert done.returncode == 0, (done.stderr, self.daemon.stderr(), self.daemon.how_it_ended())
        return json.loads(done.stdout)

    def counters(self):
        """{"area.name": value}"""
        done = self.machine.run("stats", self.dir)
        assert done.returncode == 0, (done.stderr, self.daemon.stderr(), self.daemon.how_it_ended())
        return {name: int(value) for name, value, _ in map(str.split, done.stdout.splitlines())}

    def unmount(self, timeout_s=60):
        if cuts_lib.SEED is not None:
            cuts_lib.note_lost(self.dir, self.counters())
        status = self.daemon.unmount(timeout_s)
        assert status == 0, (status, self.daemon.stderr(), self.daemon.how_it_ended())

    def kill(self):
        """As a crash leaves it: no word of farewell, the mount point dead until it is taken away."""
        self.daemon.kill()
        detach(self.dir)
