"""Space: two mounts write, overwrite and delete at random for ten times the size of what lives, `foliofs gc` runs now and
then; in the end the store holds at most 1.5 times what the last ten commits and two snapshots reach, by the account of
the second reader, which opens all of it."""
import json
import os
import random
import re

import pytest
from folder import size_bytes
from test_reader import reader
from vault_lib import KINDS, LONG, Vault, size, store

KEEP = ["--keep-heads", "10", "--keep-days", "0", "--lease-days", "0", "--grace", "0"]
FILE_MAX = 1 << 20
AT_MOST = 1.5


class Load:
    """What the two of them should find."""

    def __init__(self, seed, files):
        self.rng = random.Random(seed)
        self.files = files
        self.now = {}
        self.written = 0

    def bytes(self, n):
        self.written += n
        return self.rng.randbytes(n)

    def live(self):
        return sum(map(len, self.now.values()))

    def replace(self, m, name):
        self.now[name] = bytearray(self.bytes(self.rng.randrange(1, FILE_MAX)))
        (m.dir / name).write_bytes(self.now[name])

    def change(self, m):
        name = f"f{self.rng.randrange(self.files)}"
        have = self.now.get(name)
        what = self.rng.randrange(8)
        if have is None or what < 2:
            self.replace(m, name)
        elif what == 2:
            (m.dir / name).unlink()
            del self.now[name]
        else:
            at = self.rng.randrange(len(have))
            data = self.bytes(self.rng.randrange(1, len(have) - at + 1))
            have[at:at + len(data)] = data
            with open(m.dir / name, "r+b") as f:
                f.seek(at)
                f.write(data)

    def compare(self, folder):
        assert set(os.listdir(folder)) - {".foliofs"} == set(self.now)
        for name, data in self.now.items():
            assert (folder / name).read_bytes() == data, name


def collect(machine, m):
    done = machine.run("gc", m.dir, "--json", *KEEP, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.limit(1800)
@pytest.mark.parametrize("kind", KINDS if LONG else ("file",))
def test_the_store_ends_at_one_and_a_half_of_what_is_kept(stage, kind):
    seed = int(os.environ.get("NF_SEED", 7))
    load = Load(seed, size("SPACE_FILES", 8, 64))
    with store(stage, kind) as s:
        v = Vault(stage, s)
        machines = [v.machine(n) for n in "ab"]
        mounts = [x.mount("poll=1s") for x in machines]
        for i in range(load.files):
            load.replace(mounts[0], f"f{i}")
        mounts[0].sync()
        upto, step, shots = 11 * load.live(), 0, []
        while load.written < upto:
            step += 1
            m = mounts[load.rng.randrange(2)]
            m.sync()  # and what the other one did
            for _ in range(load.rng.randrange(1, 5)):
                load.change(m)
            m.sync()
            if len(shots) < 2 and load.written > upto * (len(shots) + 1) / 3:
                mounts[0].sync()
                done = machines[0].run("snapshot", mounts[0].dir, "create", f"s{len(shots)}")
                assert done.returncode == 0, done.stderr
                shots.append({k: bytes(x) for k, x in load.now.items()})
            if step % 10 == 0:
                collect(machines[step // 10 % 2], m if m is mounts[step // 10 % 2] else mounts[step // 10 % 2])
        for m in mounts:
            m.sync()
        for _ in range(3):
            collect(machines[0], mounts[0])
        for m in mounts:
            m.sync()
            load.compare(m.dir)
            m.unmount()
        held = size_bytes(s.root / "packs")
        said = reader(stage, s, "check").decode()
        reach = int(re.search(r"(\d+) bytes", said).group(1))
        print(f"seed {seed}: {kind}: live {load.live()}, written {load.written}, reached {reach}, held {held}: {held / reach:.2f}; {said}")
        assert held <= AT_MOST * reach
        with v.machine("c").mount() as m:
            load.compare(m.dir)
        for i, files in enumerate(shots):
            with v.machine(f"d{i}").mount(f"snapshot=s{i}") as m:
                load.now = files
                load.compare(m.dir)
