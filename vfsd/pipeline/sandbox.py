"""What a datum's command sees: a sandbox by bubblewrap, or, where that cannot work, paths in its environment.

In the sandbox the whole machine is there, read-only, so that every interpreter and tool runs as it does outside, less
vfsd's mount, state and store; /tmp is empty and private, /pfs/<input>/<path> holds the datum's inputs read-only and
/pfs/out takes its outputs. Without the sandbox the same tree is made of symbolic links in a directory of the datum's
own, which $VFSD_PFS names. Running the command is left to `vfsd.pipeline.executor`.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping

import msgspec

from vfsd.model.datum import DatumInput
from vfsd.model.ids import CommitId, DatumId, GlobalId, JobId
from vfsd.model.pipeline_spec import Transform
from vfsd.pipeline.executor import FIRST_SHELL, DatumCommand

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FRESH = (b"/dev", b"/proc", b"/tmp", b"/pfs", b"/var/tmp")  # made anew in each sandbox
# What root needs to work on files and processes as it is used to; never what undoes a read-only mount.
_ROOT_KEEPS = (b"CHOWN", b"DAC_OVERRIDE", b"FOWNER", b"FSETID", b"KILL", b"SETGID", b"SETUID")
_PROBE_S = 10


class Mounted(msgspec.Struct, frozen=True):
    """An input of a datum as it lies on this machine.

    name: of the input. path: in its repo, as `/d/e`. source: where it is on this machine. commit: that it is read from.
    target: what a symbolic link points to, empty for everything else; the link is made anew, not followed.
    """

    name: str
    path: bytes
    source: bytes
    commit: CommitId
    target: bytes = b""

    @property
    def place(self) -> bytes:
        """Where it belongs below /pfs: `name/d/e`."""
        return os.fsencode(self.name) + self.path.rstrip(b"/")


class DatumRun(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a datum. out: a directory for its outputs. scratch: an empty directory of its own. Both exist."""

    transform: Transform
    inputs: tuple[Mounted, ...]
    out: bytes
    scratch: bytes
    job: JobId
    datum: DatumId
    output: GlobalId


def mounted(mountpoint: bytes, one: DatumInput, target: bytes = b"") -> Mounted:
    """Where `one` lies in the mount: `<mountpoint>/<repo>/<branch>@<commit>/<path>`."""
    snapshot = os.fsencode(f"{one.repo}/{one.branch}@{one.commit}")
    return Mounted(one.name, one.path, mountpoint + b"/" + snapshot + one.path.rstrip(b"/"), one.commit, target)


class Sandbox:
    """Makes commands that run in a sandbox each; see `sandbox_works`.

    hidden: directories that no datum may see: vfsd's mount, state, cache, local store. They must exist, their paths be
    absolute and free of symbolic links; nothing here looks at them, for the mount's server may be this process.
    """

    def __init__(self, hidden: Iterable[bytes]) -> None:
        # The shell is the first process of the pid namespace. bwrap's own would outlive bwrap by a moment, with all
        # that the command left behind, and be left to whoever is process 1 of the machine to reap.
        self._first = (b"--as-pid-1", b"--", b"/bin/sh", b"-c", b'(exec "$@"); exit $?', FIRST_SHELL)
        self._machine = tuple(_machine(_outermost(hidden)))

    def prepare(self, run: DatumRun) -> DatumCommand:
        """The command that runs a datum; reads and makes no file."""
        argv = list(self._machine)
        for one in _outermost_inputs(run.inputs):
            place = b"/pfs/" + one.place
            argv += (b"--symlink", one.target, place) if one.target else (b"--ro-bind", one.source, place)
        argv += (b"--bind", run.out, b"/pfs/out", b"--remount-ro", b"/pfs", b"--remount-ro", b"/", *self._first)
        argv += map(os.fsencode, run.transform.cmd)
        return DatumCommand(tuple(argv), environment(run, b"/pfs"), b"/", _stdin(run), sandboxed=True)


class Unsandboxed:
    """Makes commands that see the machine as it is, and their inputs and outputs through links in `scratch`."""

    def prepare(self, run: DatumRun) -> DatumCommand:
        """The command that runs a datum. Fills `run.scratch`: `pfs` with the links, `tmp` to work in. OSError."""
        pfs, temporary = run.scratch + b"/pfs", run.scratch + b"/tmp"
        os.mkdir(pfs)
        os.mkdir(temporary)
        for one in _outermost_inputs(run.inputs):
            place = pfs + b"/" + one.place
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(one.target or one.source, place)
        os.symlink(run.out, pfs + b"/out")
        argv = (b"/bin/sh", b"-c", b'exec "$@"', FIRST_SHELL, *map(os.fsencode, run.transform.cmd))
        env = {b"TMPDIR": temporary} | environment(run, pfs)
        return DatumCommand(argv, env, temporary, _stdin(run), sandboxed=False)


@functools.cache
def sandbox_works() -> str | None:
    """Why no sandbox can be made here, in one line; None when it can. Tries once; blocks for some milliseconds."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (its program is bwrap)"
    try:
        argv = (*_machine(()), b"--remount-ro", b"/", b"--", b"/bin/sh", b"-c", b":")
        probe = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap cannot be run: {error}"
    if probe.returncode == 0:
        return None
    lines = probe.stderr.decode(errors="replace").splitlines()
    return f"bubblewrap cannot make one here: {lines[0] if lines else f'exit code {probe.returncode}'}"


def environment(run: DatumRun, pfs: bytes, outside: Mapping[bytes, bytes] = os.environb) -> dict[bytes, bytes]:
    """All variables of a datum's command, its inputs standing in the directory `pfs`.

    PATH, HOME and LANG come from `outside` unless the spec sets them; nothing else does. For each input, `<name>` is
    its path and `<name>_COMMIT` its commit. VFSD_PFS and VFSD_OUT name the directories.
    """
    found = {
        b"PATH": outside.get(b"PATH", DEFAULT_PATH),
        b"HOME": outside.get(b"HOME", b"/"),
        b"LANG": outside.get(b"LANG", b"C.UTF-8"),
    }
    found |= {os.fsencode(name): os.fsencode(value) for name, value in run.transform.env.items()}
    for one in run.inputs:
        name = os.fsencode(one.name)
        found[name] = pfs + b"/" + one.place
        found[name + b"_COMMIT"] = one.commit.encode()
    for name, value in ((b"JOB_ID", run.job), (b"DATUM_ID", run.datum), (b"OUTPUT_COMMIT_ID", run.output)):
        found[b"PACH_" + name] = found[b"VFSD_" + name] = value.encode()
    return found | {b"VFSD_PFS": pfs, b"VFSD_OUT": pfs + b"/out"}


def _stdin(run: DatumRun) -> bytes:
    return "".join(f"{line}\n" for line in run.transform.stdin).encode()


def _machine(hidden: tuple[bytes, ...]) -> Iterable[bytes]:
    """bwrap's arguments for this machine as a datum sees it, up to /pfs, which is empty and may still be written.

    The root is a new tmpfs with everything of the old one in it, because /pfs need not exist there.
    """
    yield os.fsencode(shutil.which("bwrap") or "bwrap")
    yield from (b"--die-with-parent", b"--new-session", b"--unshare-pid", b"--unshare-ipc", b"--unshare-uts")
    yield from (b"--cap-drop", b"ALL")
    if os.geteuid() == 0:
        for capability in _ROOT_KEEPS:
            yield from (b"--cap-add", b"CAP_" + capability)
    yield from (b"--tmpfs", b"/")
    with os.scandir(b"/") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.path in _FRESH or entry.path in hidden:
                continue
            if entry.is_symlink():
                yield from (b"--symlink", os.readlink(entry.path), entry.path)
            else:
                yield from (b"--ro-bind-try", entry.path, entry.path)
    yield from (b"--proc", b"/proc", b"--dev", b"/dev", b"--perms", b"1777", b"--tmpfs", b"/tmp")
    if os.path.isdir("/var/tmp"):
        yield from (b"--perms", b"1777", b"--tmpfs", b"/var/tmp")
    for path in hidden:
        if path.count(b"/") > 1 and not path.startswith(tuple(fresh + b"/" for fresh in _FRESH)):
            yield from (b"--tmpfs", path, b"--remount-ro", path)
    yield from (b"--tmpfs", b"/pfs", b"--chdir", b"/tmp")


def _outermost(paths: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those paths that do not lie below another one of them."""
    kept: list[bytes] = []
    for path in sorted((path.rstrip(b"/") for path in paths), key=lambda path: path.split(b"/")):
        if not kept or not (path + b"/").startswith(kept[-1] + b"/"):  # what lies below a path sorts right behind it
            kept.append(path)
    return tuple(kept)


def _outermost_inputs(inputs: tuple[Mounted, ...]) -> Iterable[Mounted]:
    """The inputs less those that stand below a directory which is an input too, and show there anyway."""
    outermost = set(_outermost(one.place for one in inputs))
    return {one.place: one for one in inputs if one.place in outermost}.values()
