"""The program as it is typed: a home, a vault and a mount in the background.  vault_lib has mounts that are watched."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess

import cuts_lib
import tree_lib
from conftest import detach, wait_for
from vault_lib import OFFLINE, OK

PASS = "correct horse"


class Site:
    """A home of its own, a vault in it, and the program."""

    def __init__(self, stage, build):
        self.stage = stage
        self.exe = build / "src" / "foliofs"
        self.home = stage.folder("home")
        self.store = stage.dir / "store"
        self.mnt = stage.folder("mnt")
        run = stage.folder("run")
        run.chmod(0o700)
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("XDG_", "FOLIOFS_")) and k not in ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")}
        self.env |= {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(run), "FOLIOFS_PASSWORD": PASS}

    def run(self, *args, code=OK, **kw):
        p = cuts_lib.again_while(lambda p: p.returncode == OFFLINE != code, lambda: self.run_once(*args, **kw))
        assert p.returncode == code, f"{args}: {p.returncode}\n{p.stdout}\n{p.stderr}"
        if code:
            assert p.stderr.startswith("foliofs: ") and p.stderr.count("\n") == 1, p.stderr
        return p

    def run_once(self, *args, password=PASS, env=None, timeout=40, exe=None, cwd=None):
        e = dict(self.env, FOLIOFS_PASSWORD=password, **(env or {}))
        if password is None:
            del e["FOLIOFS_PASSWORD"]
        return subprocess.run([exe or self.exe, *map(str, args)], env=e, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout, start_new_session=True, cwd=cwd, check=False)

    def settle(self):
        """The end of a test under cuts (cuts_lib): with the link whole, what this home has is what the store has."""
        if cuts_lib.SEED is None or not (self.store / "header").exists():
            return
        if self.daemon():
            os.kill(self.daemon(), signal.SIGKILL)
            wait_for(lambda: self.daemon() is None, what="the daemon's end")
        detach(self.mnt)
        self.run("mount", self.store, self.mnt)
        self.run("sync", self.mnt)
        here = tree_lib.survey(self.mnt)
        self.umount()
        out = self.stage.dir / "extracted"
        cuts_lib.extract(self.store, self.stage.dir / "judge-secret", PASS, out)
        assert not tree_lib.differences(here, tree_lib.survey(out))

    def init(self, *more, **kw):
        return self.run("init", self.store, "--kdf-cost", "15", *more, **kw)

    def mount(self, *more, code=OK, **kw):
        if code or cuts_lib.SEED is None:
            return self.run("mount", self.store, self.mnt, *more, code=code, **kw)
        return self.run("mount", cuts_lib.through(f"file://{self.store}"), self.mnt, *more, "-o", ",".join(cuts_lib.options([])), **kw)

    def umount(self, *more, **kw):
        if cuts_lib.SEED is not None:
            rows = map(str.split, self.run_once("stats", self.mnt).stdout.splitlines())
            cuts_lib.note_lost(len(cuts_lib.lost), {name: int(value) for name, value, _ in rows})
        return self.run("umount", self.mnt, *more, **kw)

    def status(self):
        return json.loads(self.run("status", self.mnt, "--json").stdout)

    def daemon(self):
        """Its pid (a zombie is none): who has the store's mount point on its command line in this home."""
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (p / "cmdline").read_bytes().split(b"\0")
                if str(self.mnt).encode() in words and b"mount" in words:
                    return int(p.name)
        return None
