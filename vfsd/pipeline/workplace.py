"""What a node gives to the jobs that run on it, and the room in which the commands of a pipeline run."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import trio

from vfsd.model.datum import DatumInput
from vfsd.model.errors import InvalidArgument
from vfsd.model.ids import CommitId, JobId
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.accounts import Account, Accounts
from vfsd.pipeline.cgroups import Cgroups, Group, Limits
from vfsd.pipeline.egress import Reach
from vfsd.pipeline.formation import Work
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.records import JobRecords
from vfsd.pipeline.resources import Amount, Budget, amount, requested
from vfsd.pipeline.sandbox import Mounted, Room, Sandbox, Terms, Unsandboxed
from vfsd.pipeline.secrets import Given, Secrets
from vfsd.pipeline.try_folder import hollow, make_hollow
from vfsd.pipeline.turns import Turns
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository


class Outlets(Protocol):
    """Output branches that the processes of a spout may write to."""

    async def open(
        self, repo: str, branch: str, job: JobId, owner: tuple[int, int], ancestor: Callable[[], int]
    ) -> None:
        """Let the children of the process that `ancestor` gives, as `owner`'s (user, group), write to a branch; its
        commits are the job's. VfsdError."""

    async def close(self, repo: str, branch: str) -> None:
        """Let nobody write any more, and commit what is closed."""


Show = Callable[[Head], Awaitable[None]]


class Quarters(msgspec.Struct, frozen=True):
    """A room, and what holds in it. account: as whom commands run. need: what each requests. masked: what no log is to
    show."""

    room: Room
    account: Account
    need: Amount
    masked: tuple[bytes, ...]


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What a node gives to its jobs.

    mount: the directory below which everything is. snapshot: (repo, branch, commit) → where that commit lies as a
    directory there. scratch: a directory on a local disk for what datums write. maker: of the rooms in which datums
    run. accounts: as whom they may. secrets: that they can be given. budget: what they may request. turns: how many run
    at a time, of all jobs. cgroups: to limit them by, None where that cannot be. tasks: that one may have at a time.
    descriptors, files_in_memory: see Terms. cores: how many datums of a job run at a time when a spec does not say.
    storing: threads that store results at a time. reach: what output may leave this node by. outlets: by which spouts
    write, None where nothing is mounted. tell: called with the key of a ref that was moved. show: awaited with the head
    of an output branch that a job has moved, before anybody hears that the job has ended.
    """

    repository: Repository
    mount: bytes
    outcomes: Outcomes
    records: JobRecords
    snapshot: Callable[[str, str, CommitId], bytes]
    scratch: bytes
    maker: Sandbox | Unsandboxed
    accounts: Accounts
    secrets: Secrets
    budget: Budget
    turns: Turns
    cgroups: Cgroups | None
    tasks: int
    descriptors: int | None
    files_in_memory: int
    cores: int
    storing: trio.CapacityLimiter
    reach: Reach
    outlets: Outlets | None
    tell: Callable[[str], None]
    show: Show

    @contextlib.asynccontextmanager
    async def outlet(self, spec: PipelineSpec, job: JobId, quarters: Quarters) -> AsyncIterator[bytes]:
        """Where the commands of a spout write: its output branch in the mount. InvalidArgument where there is none."""
        if self.outlets is None:
            raise InvalidArgument("a spout writes into a mount, and there is none")
        branch, account = spec.output_branch, quarters.account
        await self.outlets.open(spec.name, branch, job, (account.uid, account.gid), quarters.room.ancestor)
        try:
            yield self.mount + os.fsencode(f"/{spec.name}/{branch}")
        finally:
            with trio.CancelScope(shield=True):
                await self.outlets.close(spec.name, branch)

    def source(self, one: DatumInput) -> bytes:
        """Where an input lies on this machine."""
        return self.snapshot(one.repo, one.branch, one.commit) + one.path.rstrip(b"/")

    def mounted(self, work: Work, folder: bytes) -> tuple[Mounted, ...]:
        """The inputs of a datum. folder: of its try, where those without bytes are."""
        return tuple(
            Mounted(
                one.name, one.path, hollow(folder, number) if one.empty else self.source(one), one.commit, target,
                one.join_on, one.group_by,
            )
            for number, (one, target) in enumerate(zip(work.datum.inputs, work.targets, strict=True))
        )

    def make_hollow(self, work: Work, folder: bytes) -> None:
        """Make what a try sees of its inputs with empty_files. Blocks. OSError."""
        for number, one in enumerate(work.datum.inputs):
            if one.empty:
                make_hollow(self.source(one), hollow(folder, number))

    @contextlib.asynccontextmanager
    async def quarters(self, spec: PipelineSpec, folder: bytes) -> AsyncIterator[Quarters]:
        """A room for the commands of a pipeline, which write below `folder`. OSError and InvalidArgument say why there
        is none."""
        transform = spec.transform
        account = self.accounts.of(transform.user)
        secrets = await trio.to_thread.run_sync(self.secrets.give, transform.secrets)
        need = requested(spec)
        self.budget.check(need)
        if transform.datum_batching and not isinstance(self.maker, Sandbox):
            raise InvalidArgument("datum_batching needs a sandbox, and `vfsd status` says why there is none")
        async with self.maker.opened(folder, self._terms(spec, account, need, secrets)) as room:
            yield Quarters(room, account, need, secrets.masked)

    def _terms(self, spec: PipelineSpec, account: Account, need: Amount, secrets: Given) -> Terms:
        """What holds for all commands. Where there are no cgroups, the memory of each process is limited for itself."""
        most = amount(spec.resource_limits)
        limits = [(resource.RLIMIT_NPROC, self.tasks)]
        if most.disk:
            limits.append((resource.RLIMIT_FSIZE, most.disk))
        if most.memory and self.cgroups is None:
            limits.append((resource.RLIMIT_DATA, most.memory))
        return Terms(
            account=account, offline=not spec.transform.network, gpus=need.gpu > 0, secrets=secrets,
            files_in_memory=most.disk or self.files_in_memory, limits=tuple(limits), descriptors=self.descriptors,
        )  # fmt: skip

    @contextlib.contextmanager
    def group(self, spec: PipelineSpec) -> Iterator[Group | None]:
        """A cgroup for one command; None where there are none, or nothing is to be limited."""
        most = amount(spec.resource_limits)
        if self.cgroups is None or not (most.memory or most.cpu):
            yield None
            return
        with self.cgroups.made(Limits(most.memory, most.cpu, self.tasks)) as group:
            yield group
