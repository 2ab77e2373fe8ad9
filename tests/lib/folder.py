"""Looking into a folder that a program changes meanwhile: what goes while it is looked at is left out."""
import contextlib
import os
import pathlib
import stat


def files(top):
    """(path, lstat) of the regular files below TOP."""
    for at, _, names in os.walk(top):  # a folder that has gone is passed over
        for name in names:
            path = pathlib.Path(at, name)
            with contextlib.suppress(FileNotFoundError):
                st = path.lstat()
                if stat.S_ISREG(st.st_mode):
                    yield path, st


def size_bytes(top):
    return sum(st.st_size for _, st in files(top))


def allocated_bytes(top, most=None):
    """What they take on the disk.  A look takes its time: what went and what came since may both be in it.  So where it is more than
    MOST it is looked again, a few times, and the least counts: what is really there stays."""
    looks = [sum(st.st_blocks * 512 for _, st in files(top))]
    while most is not None and looks[-1] > most and len(looks) < 5:
        looks.append(sum(st.st_blocks * 512 for _, st in files(top)))
    return min(looks)
