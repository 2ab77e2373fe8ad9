"""The second reader, which knows only docs/format.md, sees what the vault was given."""
import os
import shutil
import subprocess
import sys

import pytest
import tree_lib
from vault_lib import PASSWORD, ROOT, Vault, size, store

READER = ROOT / "tests/reader/foliofs_reader.py"


def reader(stage, s, *args, options=()):
    secret = stage.dir / "secret"
    secret.write_text(PASSWORD)
    done = subprocess.run([sys.executable, str(READER), "--passphrase-file", str(secret), *options, str(s.root), *map(str, args)],
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout


@pytest.mark.limit(600)
def test_the_second_reader_extracts_what_was_put_in(stage):
    source = stage.dir / "source"
    tree_lib.odd_things(source)
    (source / "modes/socket").unlink()  # it makes none
    tree_lib.real_files(source / "real", size("READER_FILES", 300, 3000))
    with store(stage, "file") as s:
        v = Vault(stage, s)
        with v.machine("a").mount() as m:
            subprocess.run(["cp", "-a", str(source), str(m.dir / "copy")], check=True, timeout=300)
            m.sync()
            # A few commits on top: changes within files, holes, removals, renames.
            with open(m.dir / "copy/odd-change", "wb") as f:
                f.write(os.urandom(300000))
            m.sync()
            with open(m.dir / "copy/odd-change", "r+b") as f:
                f.seek(100000)
                f.write(b"changed")
                f.truncate(250001)
            os.truncate(m.dir / "copy/text", 70000)
            os.rename(m.dir / "copy/zeros", m.dir / "copy/renamed zeros")
            shutil.rmtree(m.dir / "copy/many")
            (m.dir / "copy/many").mkdir()
            with open(m.dir / "copy/big", "wb") as f:
                f.write(os.urandom(5 << 20))
            m.sync()
            # By reference to the published leaves; one clone changed since.
            for name in ("clone", "changed clone"):
                subprocess.run(["cp", "--reflink=auto", str(m.dir / "copy/big"), str(m.dir / "copy" / name)], check=True, timeout=60)
            with open(m.dir / "copy/changed clone", "r+b") as f:
                f.seek(3 << 20)
                f.write(b"changed")
            m.sync()
            want = tree_lib.survey(m.dir)
        names = reader(stage, s, "ls", "/")
        assert b"copy" in names
        assert reader(stage, s, "cat", "/copy/odd-change") == extracted(stage, s, want)
        reader(stage, s, "check")


def extracted(stage, s, want):
    out = stage.dir / "out"
    reader(stage, s, "extract", out)
    assert not tree_lib.differences(want, tree_lib.survey(out))
    return (out / "copy/odd-change").read_bytes()
