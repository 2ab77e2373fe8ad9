"""The program as it is typed: a home, a vault and a mount in the background.  vault_lib has mounts that are watched."""
import contextlib
import json
import os
import pathlib
import subprocess

from vault_lib import OK

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

    def run(self, *args, code=OK, password=PASS, env=None, timeout=40, exe=None, cwd=None):
        e = dict(self.env, FOLIOFS_PASSWORD=password, **(env or {}))
        if password is None:
            del e["FOLIOFS_PASSWORD"]
        p = subprocess.run([exe or self.exe, *map(str, args)], env=e, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout, start_new_session=True, cwd=cwd)
        assert p.returncode == code, f"{args}: {p.returncode}\n{p.stdout}\n{p.stderr}"
        if code:
            assert p.stderr.startswith("foliofs: ") and p.stderr.count("\n") == 1, p.stderr
        return p

    def init(self, *more, **kw):
        return self.run("init", self.store, "--kdf-cost", "15", *more, **kw)

    def mount(self, *more, **kw):
        return self.run("mount", self.store, self.mnt, *more, **kw)

    def umount(self, *more, **kw):
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
