"""A writer of one node: it changes what is in a mount, and keeps outside of it what was acknowledged and when.

It works in two folders. `own` is its alone, so it knows what is in there; `shared` is worked in by one writer of each
node at a time, so calls may find that the other was faster, as on any filesystem. Nothing else may fail.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import random
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import msgspec

from tests.repo.parts import Blobs
from vfsd.model.commit import StoreFormat
from vfsd.repo.chunker import Chunker

SIZES = (100, 100, 4000, 4000, 20_000, 150_000, 600_000)
FILES, FOLDERS = 10, 4  # names of each kind that a folder may have
PAUSE_S = 0.02  # between two steps, at most
PATIENCE_S = 180.0
FOLDER = ""  # what a directory has for a digest
GONE = {errno.ENOTCONN, errno.ECONNABORTED}  # the daemon was killed
RACED = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY}
EXCHANGE = 2


class Change(msgspec.Struct, array_like=True):
    """One call that changes something. begun, ended: when, in ns of the system's monotonic clock; ended 0: it was never
    answered. touched: paths in the branch that it, or anything below them, concerned. made: path → digest of the
    files that it put there."""

    begun: int
    ended: int
    touched: list[str]
    made: dict[str, str]


class Record(msgspec.Struct):
    """What one writer did. holds: what its own folder has to hold: path → digest. raced: calls that came too late."""

    changes: list[Change]
    holds: dict[str, str]
    raced: int


class Gate:
    """Where writers wait while their mount is dead; whoever mounts it anew waits with them."""

    def __init__(self, stopped: Barrier, mounted: Barrier) -> None:
        self._stopped = stopped
        self._mounted = mounted

    def stop(self) -> None:
        """Returns when all have stopped."""
        self._stopped.wait(PATIENCE_S)

    def go_on(self) -> None:
        """Returns when the mount is there again."""
        self._mounted.wait(PATIENCE_S)


class _Raced(Exception):
    """The other node was faster."""


def digest_of(data: bytes) -> str:
    """The digest of a file with these bytes, as commits have it."""
    blobs = Blobs()
    return Chunker(StoreFormat(id="", created=0)).cut_bytes(data, blobs, blobs).digest.hex()


def found_below(top: str, start: str) -> dict[str, str]:
    """path → digest of all that is below `top`/`start`; paths are relative to `top`."""
    found: dict[str, str] = {}
    for folder, names, files in os.walk(f"{top}/{start}", onerror=_raise):
        where = os.path.relpath(folder, top)
        found |= {f"{where}/{name}": FOLDER for name in names}
        found |= {f"{where}/{name}": digest_of(Path(folder, name).read_bytes()) for name in files}
    return found


def _raise(error: OSError) -> None:
    raise error


def race(top: str, node: int, number: int, stop: Event, gate: Gate, record: str) -> None:
    """Be a writer until `stop`, in a process of its own. top: the mounted branch. record: file for the Record."""
    racer = _Racer(top, node, number, gate)
    while not stop.is_set():
        racer.step()
        time.sleep(racer.dice.uniform(0, PAUSE_S))
    Path(record).write_bytes(msgspec.json.encode(Record(racer.changes, racer.holds, racer.raced)))


class _Racer:
    def __init__(self, top: str, node: int, number: int, gate: Gate) -> None:
        self.dice = random.Random(100 * node + number)
        self.changes: list[Change] = []
        self.holds: dict[str, str] = {}
        self.raced = 0
        self._top = top
        self._who = f"{node}-{number}"
        self._own = f"own/{self._who}"
        self._shared = f"shared/{number}"
        self._gate = gate
        self._written = 0
        os.makedirs(f"{top}/{self._own}")
        os.makedirs(f"{top}/{self._shared}", exist_ok=True)

    def step(self) -> None:
        """One change, or a few that belong together."""
        own = self.dice.random() < 0.5
        try:
            self._step(self._own if own else self._shared)
        except _Raced:
            assert not own, f"{self._who}: somebody else was in the way in a folder that is its own"
            self.raced += 1

    def _step(self, base: str) -> None:
        dice, what = self.dice, self.dice.random()
        path, other = self._name(base), self._name(base)
        folder, target = (f"{base}/{dice.choice('fx')}{dice.randrange(FOLDERS)}" for _ in range(2))
        if what < 0.3:
            self._write(path, path)
        elif what < 0.5:
            self._write(f"{path}.{self._who}", path)
        elif what < 0.6:
            self._call([path], os.unlink, path)
        elif what < 0.75:
            self._call([path, other], os.rename, path, other)
        elif what < 0.8:
            self._call([path, other], _exchange, path, other)
        elif what < 0.88:
            self._call([folder], os.mkdir, folder)
        elif what < 0.94:
            self._call([folder, target], os.rename, folder, target)
        elif what < 0.97:
            self._clear(folder)
        else:
            self._read(path)

    def _is_own(self, path: str) -> bool:
        return path.startswith(f"{self._own}/")

    def _name(self, base: str) -> str:
        """Of a file: half of them in folders. Some names, `x`, are a file's now and a folder's then."""
        dice = self.dice
        where = f"{base}/{dice.choice('fx')}{dice.randrange(FOLDERS)}" if dice.random() < 0.5 else base
        return f"{where}/{dice.choice('aax')}{dice.randrange(FILES)}"

    def _write(self, beside: str, path: str) -> None:
        """A new version, in place or beside and then renamed."""
        self._written += 1
        data = f"{self._who} {self._written} ".encode()
        data += self.dice.randbytes(self.dice.choice(SIZES))
        made = digest_of(data)
        if self._call([beside], _write, beside, data, made={beside: made}) and beside != path:
            self._call([beside, path], os.rename, beside, path, made={path: made})

    def _clear(self, folder: str) -> None:
        """Remove a directory, name by name."""
        if self._is_own(folder) and self.holds.get(folder) != FOLDER:
            return
        try:
            names = sorted(os.listdir(f"{self._top}/{folder}"))
        except OSError as error:
            if error.errno in GONE:
                self._revive({})
                return
            raise _too_late(error) from None
        for name in names:
            if not self._call([f"{folder}/{name}"], os.unlink, f"{folder}/{name}"):
                return
        self._call([folder], os.rmdir, folder)

    def _read(self, path: str) -> None:
        if self._is_own(path) and not self.holds.get(path):
            return
        try:
            data = Path(self._top, path).read_bytes()
        except OSError as error:
            if error.errno in GONE:
                self._revive({})
                return
            raise _too_late(error) from None
        if self._is_own(path):
            assert digest_of(data) == self.holds.get(path), f"{path} holds other bytes than were written"

    def _call(
        self, touched: list[str], act: Callable[..., None], *words: str | bytes, made: dict[str, str] | None = None
    ) -> bool:
        """Make a change; whether it was acknowledged. `words` that are text are paths."""
        path, other = touched[0], touched[-1]
        if path != other and (_concerns([path], other) or _concerns([other], path)):
            return False  # nothing goes into itself
        own = self._is_own(path)
        after = self._after(act, touched, made) if own else {}
        if own and after is None:
            return False  # it would fail
        full = [f"{self._top}/{word}" if isinstance(word, str) else word for word in words]
        change = Change(time.monotonic_ns(), 0, touched, made or {})
        try:
            act(*full)
        except OSError as error:
            if error.errno not in GONE:
                raise _too_late(error) from None
            self.changes.append(change)
            self._revive(after if own else {})
            return False
        change.ended = time.monotonic_ns()
        if own and after is not None:
            change.made = {path: digest for path, digest in after.items() if digest and _concerns(touched, path)}
            self.holds = after
        self.changes.append(change)
        return True

    def _revive(self, after: dict[str, str] | None) -> None:
        """Wait until the mount is there again. The own folder is as before the call that was not answered, or `after`
        it."""
        found = None
        while found is None:
            self._gate.stop()
            self._gate.go_on()
            try:
                found = found_below(self._top, self._own)
            except OSError as error:
                if error.errno not in GONE:
                    raise
        if found != after:
            wrong = {path for path in {*found, *self.holds} if found.get(path) != self.holds.get(path)}
            assert not wrong, f"{self._who}: after the kill these are not as they were acknowledged: {sorted(wrong)}"
        self.holds = found

    def _after(
        self, act: Callable[..., None], touched: list[str], made: dict[str, str] | None
    ) -> dict[str, str] | None:
        """What the own folder holds after a call; None when it has to fail."""
        after = dict(self.holds)
        path, other = touched[0], touched[-1]
        kind, others = after.get(path), after.get(other)
        folders = {os.path.dirname(each) for each in touched} - {self._own}
        if any(after.get(folder) != FOLDER for folder in folders):
            return None
        if act is _write:
            if kind == FOLDER:
                return None
            return after | (made or {})
        if act is os.mkdir:
            return None if kind is not None else after | {path: FOLDER}
        if kind is None:
            return None
        if act is os.unlink or act is os.rmdir:
            if (kind == FOLDER) != (act is os.rmdir) or _below(after, path):
                return None
            del after[path]
            return after
        if path == other:
            return after
        if act is os.rename:
            if others is not None and ((kind == FOLDER) != (others == FOLDER) or _below(after, other)):
                return None
            after.pop(other, None)
        elif others is None:
            return None
        moved = {path: other} | {each: other + each[len(path) :] for each in _below(after, path)}
        if act is _exchange:
            moved |= {other: path} | {each: path + each[len(other) :] for each in _below(after, other)}
        kept = {each: digest for each, digest in after.items() if each not in moved}
        return kept | {new: after[old] for old, new in moved.items()}


def _below(held: dict[str, str], path: str) -> list[str]:
    return [each for each in held if each.startswith(path + "/")]


def _concerns(touched: list[str], path: str) -> bool:
    """Whether a change of `touched` may be one of `path`."""
    return any(f"{path}/".startswith(f"{one}/") for one in touched)


def _too_late(error: OSError) -> Exception:
    return _Raced() if error.errno in RACED else error


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        try:
            for start in range(0, len(data), 50_000):
                os.write(fd, data[start : start + 50_000])
        finally:
            os.close(fd)
    except OSError as error:
        assert error.errno in GONE, f"{path} was open, and could not be written: {error}"
        raise


def _exchange(one: str, other: str) -> None:
    if _libc().renameat2(-100, os.fsencode(one), -100, os.fsencode(other), EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
