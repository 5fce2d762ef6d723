"""What a datum's command sees: a sandbox by bubblewrap, or, where that cannot work, paths in its environment.

In the sandbox the whole machine is there, read-only, so that every interpreter and tool runs as it does outside, less
vfsd's mount, state and store; /tmp is empty and private, /pfs/<input>/<path> holds the datum's inputs read-only and
/pfs/out takes its outputs. Without the sandbox the same tree is made of symbolic links in a directory of the datum's
own, which $VFSD_PFS names. Running the command is left to `vfsd.pipeline.executor`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from vfsd.model.datum import DatumInput
from vfsd.model.errors import InvalidArgument
from vfsd.model.ids import CommitId, DatumId, GlobalId, JobId
from vfsd.model.spec_transform import Transform
from vfsd.pipeline.accounts import Account
from vfsd.pipeline.executor import FIRST_SHELL, BoundedLog, Command, PlainCommand, Running, run_datum
from vfsd.pipeline.secrets import Given
from vfsd.pipeline.wardens import Datum, Warden, running_warden

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FRESH = (b"/dev", b"/proc", b"/tmp", b"/pfs")  # made anew in each sandbox
_PROBE_S = 60  # a machine that is loaded for a moment is not to lose its sandbox for good
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")  # what a shell can export
_NOBODY = 65534


class Mounted(msgspec.Struct, frozen=True):
    """An input of a datum as it lies on this machine.

    name: of the input. path: in its repo, as `/d/e`. source: where it is on this machine. commit: that it is read from.
    target: what a symbolic link points to, empty for everything else; the link is made anew, not followed. join_on,
    group_by: see DatumInput.
    """

    name: str
    path: bytes
    source: bytes
    commit: CommitId
    target: bytes = b""
    join_on: bytes = b""
    group_by: bytes = b""

    @property
    def place(self) -> bytes:
        """Where it belongs below /pfs: `name/d/e`."""
        return os.fsencode(self.name) + self.path.rstrip(b"/")


class DatumRun(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a datum. out: a directory for its outputs, None where there are none. scratch: an empty directory of
    its own. Both exist. gpus: numbers of those that it may use. size: bytes of its inputs."""

    transform: Transform
    inputs: tuple[Mounted, ...]
    out: bytes | None
    scratch: bytes
    job: JobId
    datum: DatumId
    output: GlobalId
    gpus: tuple[int, ...] = ()
    size: int = 0


def mounted(mountpoint: bytes, one: DatumInput, target: bytes = b"") -> Mounted:
    """Where `one` lies in the mount: `<mountpoint>/<repo>/<branch>@<commit>/<path>`."""
    snapshot = os.fsencode(f"{one.repo}/{one.branch}@{one.commit}")
    return Mounted(one.name, one.path, mountpoint + b"/" + snapshot + one.path.rstrip(b"/"), one.commit, target)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all datums of a job.

    account: whom they run as. offline: without any network. gpus: with the machine's GPUs. files_in_memory: bytes that
    each of /tmp, /var/tmp and /dev/shm may hold. limits: of setrlimit(2), (resource, value). descriptors: that a
    process may have open, the soft limit that this one was started with and has raised; None where it has not. secrets:
    what they get of them.
    """

    account: Account
    offline: bool = False
    gpus: bool = False
    files_in_memory: int = 1 << 30
    limits: tuple[tuple[int, int], ...] = ()
    descriptors: int | None = None
    secrets: Given = Given()


class Sandbox:
    """Makes rooms for jobs whose datums run in a sandbox each; see `sandbox_works`.

    hidden: directories that no datum may see: vfsd's mount, state, cache, local store. mount: the one below which all
    inputs lie. They must exist, their paths be absolute and free of symbolic links; nothing here looks at them, for the
    mount's server may be this process.
    """

    def __init__(self, hidden: Iterable[bytes], mount: bytes) -> None:
        self._hidden = _outermost(hidden)
        self._mount = mount

    @contextlib.asynccontextmanager
    async def opened(self, folder: bytes, terms: Terms) -> AsyncIterator[Room]:
        """A room for the datums of one job, all whose outputs go below `folder`. OSError."""
        view = folder + b".view"
        places = (view, view + b".root")
        try:
            for path in places:
                os.mkdir(path, 0o700)
            made = tuple(folder for folder, _ in terms.secrets.folders)
            bwrap = tuple(_machine(self._hidden, view, made, gpus=terms.gpus))
            async with trio.open_nursery() as nursery:
                yield SandboxRoom(nursery, bwrap, view, (self._mount, folder), terms)
                nursery.cancel_scope.cancel()
        finally:
            for path in places:
                with contextlib.suppress(OSError):
                    os.rmdir(path)


class SandboxRoom:
    """Where the datums of a job are started by one warden, or by the next when it is killed."""

    def __init__(
        self, nursery: trio.Nursery, bwrap: tuple[bytes, ...], view: bytes, seen: tuple[bytes, ...], terms: Terms
    ) -> None:
        self._nursery = nursery
        self._bwrap = bwrap
        self._view = view
        self._seen = seen
        self._terms = terms
        self._warden: Warden | None = None
        self._starting = trio.Lock()

    def prepare(
        self, run: DatumRun, *, failed: bool = False, cgroup: int | None = None, sockets: int | None = None
    ) -> Command:
        """The command that runs a datum, or, once that has failed, its err_cmd; reads and makes no file. cgroup: see
        Warden.start. sockets: see vfsd.pipeline.own_network."""
        transform = run.transform
        request = {
            "argv": tuple(map(os.fsencode, transform.err_cmd if failed else transform.cmd)),
            "env": environment(run, b"/pfs", self._terms.account) | self._terms.secrets.env,
            "many": False,
            "sockets": sockets is not None,
            **self._place(run),
            **self._place_of_all(transform),
        }
        stdin = _lines(transform.err_stdin if failed else transform.stdin)
        return _Sandboxed(self, request, stdin, self._terms.offline, cgroup, sockets)

    async def start_many(self, run: DatumRun, fds: Sequence[int], cgroup: int | None) -> Datum:
        """Start the command that asks for its datums. run: one of them, for what all have in common. fds: see
        Warden.start. OSError."""
        env = environment(msgspec.structs.replace(run, inputs=()), b"/pfs", self._terms.account)
        env = {name: value for name, value in env.items() if not name.endswith(b"_DATUM_ID")}
        request = {
            "argv": tuple(map(os.fsencode, run.transform.cmd)),
            "env": env | self._terms.secrets.env | {b"VFSD_NEXT": b"/pfs/.next"},
            "many": True,
            "sockets": False,
            **self._place_of_all(run.transform),
        }
        warden = await self.warden()
        return await warden.start(request, fds, offline=self._terms.offline, cgroup=cgroup)

    def next_datum(self, run: DatumRun) -> dict[str, Any]:
        """What the first process of such a command is told of a datum; its environment is in /pfs/.env."""
        every = environment(msgspec.structs.replace(run, inputs=()), b"/pfs", self._terms.account)
        own = environment(run, b"/pfs", self._terms.account)
        lines = (
            b"export %s='%s'\n" % (name, value.replace(b"'", b"'\\''"))
            for name, value in own.items()
            if (name.endswith(b"_DATUM_ID") or name not in every) and _VARIABLE.fullmatch(name)
        )
        return self._place(run, files=((b".env", b"".join(lines)),))

    def _place(self, run: DatumRun, files: tuple[tuple[bytes, bytes], ...] = ()) -> dict[str, Any]:
        inputs = tuple(_outermost_inputs(run.inputs))
        return {
            "inputs": tuple((one.source, one.place) for one in inputs if not one.target),
            "links": tuple((one.target, one.place) for one in inputs if one.target),
            "out": run.out,
            "binds": (),
            "files": files,
        }

    def _place_of_all(self, transform: Transform) -> dict[str, Any]:
        terms, account = self._terms, self._terms.account
        return {
            "cwd": os.fsencode(transform.working_dir or "/tmp"),
            "memory": terms.files_in_memory,
            "uid": account.uid,
            "gid": account.gid,
            "groups": account.groups,
            "nested": os.geteuid() != 0,
            "limits": terms.limits,
            "descriptors": terms.descriptors,
            "secrets": terms.secrets.folders,
        }

    def stdin(self, transform: Transform) -> bytes:
        """What the command that asks for its datums reads."""
        return _lines(transform.stdin)

    def seen(self, run: DatumRun) -> tuple[bytes, bytes]:
        """The directories of a datum's inputs and of its output as its command sees them."""
        return b"/pfs", b"/pfs/out"

    def ancestor(self) -> int:
        """The process that all commands here descend from; 0 for none."""
        return self._warden.pid if self._warden is not None and self._warden.alive else 0

    async def warden(self) -> Warden:
        """One that is up. OSError."""
        async with self._starting:
            if self._warden is None or not self._warden.alive:
                started = await self._nursery.start(self._keep)
                if isinstance(started, OSError):
                    raise started
                self._warden = started
            return self._warden

    async def _keep(self, *, task_status: trio.TaskStatus[Warden | OSError]) -> None:
        try:
            async with running_warden(self._bwrap, self._view, self._seen) as warden:
                task_status.started(warden)
                await warden.gone.wait()
        except OSError as error:
            task_status.started(error)


class _Sandboxed(msgspec.Struct, frozen=True):
    """A command in a room's sandbox."""

    room: SandboxRoom
    request: dict[str, Any]
    stdin: bytes
    offline: bool
    cgroup: int | None
    sockets: int | None

    async def start(self, stdin: int, output: int) -> Running:
        """See vfsd.pipeline.executor.Command."""
        warden = await self.room.warden()
        fds = (stdin, output) if self.sockets is None else (stdin, output, self.sockets)
        return await warden.start(self.request, fds, offline=self.offline, cgroup=self.cgroup)


class Unsandboxed:
    """Makes rooms whose datums see the machine as it is, and their inputs and outputs through links in `scratch`."""

    @contextlib.asynccontextmanager
    async def opened(self, folder: bytes, terms: Terms) -> AsyncIterator[Room]:
        """See Sandbox.opened. InvalidArgument when it would be another user's datums."""
        if terms.account.uid != os.geteuid():
            raise InvalidArgument(
                "datums would run as root, because nothing keeps them apart here (`vfsd status` says why there is no"
                " sandbox): the setting pipeline_users = [\"root\"] allows it"
            )
        if terms.offline or terms.secrets.folders:
            what = "network: false" if terms.offline else "secrets with a mount_path"
            raise InvalidArgument(f"{what} needs a sandbox, and `vfsd status` says why there is none")
        yield PlainRoom(terms)


class PlainRoom:
    """Where nothing keeps the datums of a job apart."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._started = 0  # the newest command

    def ancestor(self) -> int:
        """See SandboxRoom.ancestor: the newest command."""
        return self._started

    def _note(self, pid: int) -> None:
        self._started = pid

    def prepare(
        self, run: DatumRun, *, failed: bool = False, cgroup: int | None = None, sockets: int | None = None
    ) -> Command:
        """See SandboxRoom.prepare. Fills `run.scratch`: `pfs` with the links, `tmp` to work in. OSError."""
        pfs, temporary = self.seen(run)[0], run.scratch + b"/tmp"
        if not os.path.lexists(pfs):
            os.mkdir(pfs)
            os.mkdir(temporary)
            for one in _outermost_inputs(run.inputs):
                place = pfs + b"/" + one.place
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.symlink(one.target or one.source, place)
            if run.out is not None:
                os.symlink(run.out, pfs + b"/out")
        transform = run.transform
        cmd = transform.err_cmd if failed else transform.cmd
        argv = (b"/bin/sh", b"-c", self._limit() + b'exec "$@"', FIRST_SHELL, *map(os.fsencode, cmd))
        env = {b"TMPDIR": temporary} | environment(run, pfs, self._terms.account) | self._terms.secrets.env
        cwd = os.fsencode(transform.working_dir) or temporary
        stdin = _lines(transform.err_stdin if failed else transform.stdin)
        return PlainCommand(argv, env, cwd, stdin, cgroup, self._note)

    def _limit(self) -> bytes:
        """What the shell is to do first."""
        most = self._terms.descriptors
        return b"" if most is None else b"ulimit -Sn %d; " % most

    def seen(self, run: DatumRun) -> tuple[bytes, bytes]:
        """See SandboxRoom.seen."""
        pfs = run.scratch + b"/pfs"
        return pfs, run.out or pfs + b"/out"


Room = SandboxRoom | PlainRoom


@functools.cache
def sandbox_works() -> str | None:
    """Why no sandbox can be made here, in one line; None when it can. Tries once; blocks for some milliseconds."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (its program is bwrap)"
    return trio.run(_probe)


async def _probe() -> str | None:
    root = os.geteuid() == 0
    me = Account("", _NOBODY, _NOBODY, (), "/") if root else Account("", os.geteuid(), os.getegid(), (), "/")
    with tempfile.TemporaryDirectory(prefix="vfsd-probe-") as folder:
        place = os.fsencode(os.path.realpath(folder))
        for name in (b"/job", b"/job/out", b"/mount"):
            os.mkdir(place + name)
        run = DatumRun(
            transform=Transform(("true",)), inputs=(), out=place + b"/job/out", scratch=place, job=JobId(""),
            datum=DatumId(""), output=GlobalId(""),
        )  # fmt: skip
        with trio.move_on_after(_PROBE_S):
            async with Sandbox((), place + b"/mount").opened(place + b"/job", Terms(account=me)) as room:
                with BoundedLog(place + b"/log") as log:
                    outcome = await run_datum(room.prepare(run), log, timeout_s=None)
                return None if outcome.ok else f"no sandbox can be made here: {outcome.reason}"
        return f"no sandbox can be made here: bubblewrap did not answer for {_PROBE_S} s"


def environment(
    run: DatumRun, pfs: bytes, account: Account, outside: Mapping[bytes, bytes] = os.environb
) -> dict[bytes, bytes]:
    """All variables of a datum's command, its inputs standing in the directory `pfs`.

    PATH and LANG come from `outside`, HOME is that of the user, unless the spec sets them; nothing else does. For each
    input, `<name>` is its path and `<name>_COMMIT` its commit. VFSD_PFS and VFSD_OUT name the directories.
    """
    found = {
        b"PATH": outside.get(b"PATH", DEFAULT_PATH),
        b"HOME": os.fsencode(account.home if os.path.isdir(account.home) else "/tmp"),
        b"LANG": outside.get(b"LANG", b"C.UTF-8"),
    }
    found |= {os.fsencode(name): os.fsencode(value) for name, value in run.transform.env.items()}
    for one in run.inputs:
        name = os.fsencode(one.name)
        found[name] = pfs + b"/" + one.place
        found[name + b"_COMMIT"] = one.commit.encode()
        found |= _keys(name, one)
    for name, value in ((b"JOB_ID", run.job), (b"DATUM_ID", run.datum), (b"OUTPUT_COMMIT_ID", run.output)):
        found[b"PACH_" + name] = found[b"VFSD_" + name] = value.encode()
    if run.gpus:
        found[b"CUDA_DEVICE_ORDER"] = b"PCI_BUS_ID"  # the order of the device files
        found[b"CUDA_VISIBLE_DEVICES"] = ",".join(map(str, run.gpus)).encode()
    return found | {b"VFSD_PFS": pfs, b"VFSD_OUT": pfs + b"/out"}


def _keys(name: bytes, one: Mounted) -> dict[bytes, bytes]:
    """What an input was joined and grouped by; of several files under one name the last counts."""
    keys = ((b"JOIN_ON", one.join_on), (b"GROUP_BY", one.group_by))
    return {
        b"%s_DATUM_%s_%s" % (whose, name, which): key
        for which, key in keys if key
        for whose in (b"PACH", b"VFSD")
    }  # fmt: skip


def _lines(stdin: tuple[str, ...]) -> bytes:
    return "".join(f"{line}\n" for line in stdin).encode()


def _machine(hidden: tuple[bytes, ...], view: bytes, made: Iterable[bytes], *, gpus: bool) -> Iterable[bytes]:
    """bwrap's arguments that make, in the directory `view`, this machine as all datums see it, and run a program that
    sees the machine as it is. made: directories that it is to have where their first part is not there. gpus: whether
    its GPUs are to be seen.

    It is a new tmpfs with everything of the root in it, because /pfs need not exist there.
    """
    yield os.fsencode(shutil.which("bwrap") or "bwrap")
    yield from (b"--die-with-parent", b"--unshare-pid", b"--unshare-ipc", b"--unshare-uts", b"--as-pid-1")
    if os.geteuid() != 0:  # else bwrap would end in one more user namespace, which owns none of the mounts
        yield from (b"--unshare-user", b"--uid", b"0", b"--gid", b"0")
    yield from (b"--cap-add", b"ALL", b"--dev-bind", b"/", b"/", b"--proc", b"/proc", b"--tmpfs", view)
    with os.scandir(b"/") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.path in _FRESH or entry.path in hidden:
                continue
            if entry.is_symlink():
                yield from (b"--symlink", os.readlink(entry.path), view + entry.path)
            else:
                yield from (b"--ro-bind-try", entry.path, view + entry.path)
    yield from (b"--proc", view + b"/proc", b"--dev", view + b"/dev", b"--dir", view + b"/tmp")
    if gpus:
        for name in sorted(name for name in os.listdir(b"/dev") if name.startswith(b"nvidia")):
            yield from (b"--dev-bind", b"/dev/" + name, view + b"/dev/" + name)
    for path in hidden:
        if path.count(b"/") > 1 and not path.startswith(tuple(fresh + b"/" for fresh in _FRESH)):
            yield from (b"--tmpfs", view + path, b"--remount-ro", view + path)
    for path in made:
        if not os.path.lexists(b"/" + path.split(b"/")[1]):
            yield from (b"--dir", view + path)
    yield from (b"--dir", view + b"/pfs", b"--remount-ro", view + b"/dev", b"--remount-ro", view)
    yield from (b"--chdir", b"/", b"--")


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
