"""The folder of a datum's try: used again for the next try, measured, and filled for inputs with `empty_files`.

    out/       what the command writes to /pfs/out
    scratch/   hollow-<n>, what the command sees of the n-th input when that is without bytes; what an unsandboxed
               command works in
    log        what it prints
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat


def hollow(folder: bytes, number: int) -> bytes:
    """Where an input with `empty_files` is made."""
    return b"%s/scratch/hollow-%d" % (folder, number)


def make_hollow(source: bytes, place: bytes) -> None:
    """Make `place` from what is at `source`: directories and symbolic links as they are, all else as empty files with
    their permissions and times. OSError."""
    status = os.lstat(source)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(place)
        for name in os.listdir(source):
            make_hollow(source + b"/" + name, place + b"/" + name)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), place)
        return
    else:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.chmod(place, stat.S_IMODE(status.st_mode) & 0o777)
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))


def emptied(folder: bytes) -> bool:
    """Make a try's folder as good as new; whether that could be done. Making folders costs more than emptying them."""
    try:
        for inner in (folder + b"/out", folder + b"/scratch"):
            os.chmod(inner, 0o755)
            with os.scandir(inner) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder + b"/log")
    except OSError:
        return False  # it is removed with the others when the job ends
    return True


def is_within(folder: bytes, files: int, size: int) -> bool:
    """Whether a directory holds no more than so many files and bytes. OSError."""
    for top, folders, names in os.walk(folder):
        files -= len(folders) + len(names)
        if files < 0:
            return False
        size -= sum(os.lstat(os.path.join(top, name)).st_size for name in names)
        if size < 0:
            return False
    return True
