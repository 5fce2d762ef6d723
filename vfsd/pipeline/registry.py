"""Which pipelines there are, and what they are asked to do: one small object a pipeline, moved by compare-and-swap.

    pipelines/<name>/head              PipelineHead: the spec in force, and what is wanted of the pipeline
    pipelines/<name>/specs/<version>   PipelineVersion: every spec that there was, written once

Commands write the head; whoever runs pipelines watches it and does what it says. So a command needs nobody to talk to,
and what it asked for is still asked for after a restart. Deleting a pipeline takes its head: its versions stay, because
jobs name them, and a pipeline that is made again under the name counts on from there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec

from vfsd.model.commit import BranchHead, decode, encode
from vfsd.model.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Refused
from vfsd.model.ids import DatumId, JobId
from vfsd.model.names import DEFAULT_BRANCH, check_label, from_key_part, key_part
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.schedule import parse_moment
from vfsd.model.spec_input import CronInput
from vfsd.model.trigger import Trigger
from vfsd.repo.refs import nonce
from vfsd.repo.repository import Repository
from vfsd.repo.triggered import check_settable, set_trigger, take_trigger
from vfsd.store.api import ETag

PREFIX = "pipelines/"
CAS_TRIES = 16  # lost races on one head: people type slower than that


class PipelineState(StrEnum):
    """What a pipeline is asked to do about new commits."""

    RUNNING = "running"  # each makes a job
    STOPPED = "stopped"  # none does; a job that runs is let finish


class PipelineHead(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `pipelines/<name>/head`.

    version: of the spec, counted from 1. created, updated: ns since 1970; updated is when this version was made.
    run: a nonce that changes when one more job is asked for; empty before. again: that job runs all datums, redo: it
    runs these, also those that are done. stop: the job that is to be ended, if any.
    nonce: fresh in each write, see BranchHead.
    """

    format: int = 1
    name: str
    version: int
    state: PipelineState = PipelineState.RUNNING
    created: int
    updated: int
    run: str = ""
    again: bool = False
    redo: tuple[DatumId, ...] = ()
    stop: JobId | None = None
    nonce: str
    spec: PipelineSpec

    def reads(self, repo: str) -> bool:
        """Whether a repo is among the inputs."""
        return any(pfs.repo == repo for pfs in self.spec.pfs_inputs())


class PipelineVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `pipelines/<name>/specs/<version>`. created: ns since 1970."""

    format: int = 1
    created: int
    spec: PipelineSpec


def pipeline_of(key: str) -> str | None:
    """The pipeline whose head has this key; None for every other key."""
    parts = key.split("/")
    return from_key_part(parts[1]) if len(parts) == 3 and parts[0] == "pipelines" and parts[2] == "head" else None


def read_head(data: bytes, key: str) -> PipelineHead:
    """A head from the bytes of its object; Damaged."""
    return decode(data, PipelineHead, key)


class Registry:
    """The pipelines of one store. Blocks; safe from any thread and process."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._store = repository.store
        self._refs = repository.refs

    # Reading

    def get(self, name: str) -> PipelineHead:
        """NotFound."""
        return self._read(name)[0]

    def find(self, name: str) -> PipelineHead | None:
        """The pipeline when there is one."""
        try:
            return self.get(name)
        except NotFound:
            return None

    def all(self) -> Iterator[PipelineHead]:
        """All pipelines, in order of their keys."""
        for folder in self._store.list_folders(PREFIX):
            head = self.find(from_key_part(folder))
            if head is not None:  # of one that was deleted the versions are left
                yield head

    def spec(self, name: str, version: int) -> PipelineSpec:
        """The spec of one version, also of a pipeline that was deleted; NotFound."""
        head = self.find(name)
        if head is not None and head.version == version:
            return head.spec
        key = _version_key(name, version)
        try:
            return decode(self._store.get(key)[0], PipelineVersion, key).spec
        except NotFound:
            raise NotFound(f"there is no version {version} of pipeline {name}") from None

    # Making and changing

    def create(self, spec: PipelineSpec, now: int) -> PipelineHead:
        """Make a pipeline, its output repo and branch. AlreadyExists; whatever `_check_inputs` raises."""
        spec = msgspec.structs.replace(spec, reprocess=False)
        name = spec.name
        if self.find(name) is not None:
            raise AlreadyExists(f"pipeline {name} exists already: `vfsd pipeline update` changes it")
        self._check_inputs(spec)
        self._check_free(name, name, "its output repo")
        self._check_crons(spec)
        self._make_branch(name, spec.output_branch, name, spec.description or f"output of pipeline {name}", now)
        self._make_crons(spec, (), now)
        self._set_triggers(spec, now)
        version = 1 + max(self._versions(name), default=0)
        head = PipelineHead(name=name, version=version, created=now, updated=now, nonce=nonce(), spec=spec)
        try:
            self._store.put_if_absent(_head_key(name), encode(head))
        except Conflict:
            raise AlreadyExists(f"pipeline {name} was created by somebody else just now") from None
        self._keep_version(head)
        return head

    def update(self, spec: PipelineSpec, now: int) -> PipelineHead:
        """Put a new spec in force; nothing happens when it is the one that is. NotFound, InvalidArgument.

        With `reprocess` all datums are run once more: the spec gets a fresh salt, which later specs without a salt
        take over.
        """
        before = self.get(spec.name)
        _check_output(before, spec)
        self._check_inputs(spec)
        self._check_crons(spec)
        self._make_crons(spec, before.spec.cron_inputs(), now)
        self._set_triggers(spec, now)
        salt = nonce() if spec.reprocess else spec.salt

        def change(head: PipelineHead) -> PipelineHead:
            new = msgspec.structs.replace(spec, reprocess=False, salt=salt or head.spec.salt)
            if new == head.spec:
                return head
            _check_output(head, spec)
            self._keep_version(head)  # in case whoever made it did not get to it
            return msgspec.structs.replace(head, version=head.version + 1, updated=now, spec=new)

        head = self._change(spec.name, change)
        self._keep_version(head)
        self._let_go(before.spec, head.spec)
        return head

    def set_state(self, name: str, state: PipelineState) -> PipelineHead:
        """Start or stop a pipeline. NotFound."""
        return self._change(name, lambda head: msgspec.structs.replace(head, state=state))

    def run(
        self, name: str, *, again: bool = False, redo: tuple[DatumId, ...] = (), stop: JobId | None = None
    ) -> PipelineHead:
        """Ask for a job over what the input branches hold, also when it was worked on already. again, redo: see
        PipelineHead. stop: a job that is to be ended first. NotFound; Refused for a pipeline that is stopped."""

        def change(head: PipelineHead) -> PipelineHead:
            if head.state is PipelineState.STOPPED:
                raise Refused(errno.EINVAL, f"pipeline {name} is stopped: `vfsd pipeline start {name}` starts it")
            return msgspec.structs.replace(head, run=nonce(), again=again, redo=redo, stop=stop or head.stop)

        return self._change(name, change)

    def stop_job(self, name: str, job: JobId) -> PipelineHead:
        """Ask for the end of a job. NotFound when the pipeline is gone."""
        return self._change(name, lambda head: msgspec.structs.replace(head, stop=job))

    def delete(self, name: str) -> None:
        """Delete a pipeline; what it wrote stays, and is ordinary data from then on, which users may change.

        NotFound; Refused while another pipeline reads it.
        """
        head = self.get(name)
        for other in self.all():
            if any(pfs.repo == name for pfs in other.spec.pfs_inputs()):
                raise Refused(errno.ENOTEMPTY, f"pipeline {name} is needed: pipeline {other.name} reads what it writes")
        self._keep_version(head)
        self._store.delete(_head_key(name))
        self._release(name, head.spec.output_branch, name)
        self._let_go(head.spec, None)

    # Within

    def _read(self, name: str) -> tuple[PipelineHead, ETag]:
        check_label("pipeline", name)
        key = _head_key(name)
        try:
            data, etag = self._store.get(key)
        except NotFound:
            raise NotFound(f"there is no pipeline {name} in {self._store.url}") from None
        return read_head(data, key), etag

    def _change(self, name: str, change: Callable[[PipelineHead], PipelineHead]) -> PipelineHead:
        for _ in range(CAS_TRIES):
            old, etag = self._read(name)
            new = change(old)
            if new == old:
                return old
            new = msgspec.structs.replace(new, nonce=nonce())
            try:
                self._store.put_if_match(_head_key(name), encode(new), etag)
            except Conflict:
                continue
            return new
        raise Conflict(f"pipeline {name} is being changed by others all the time: try again")

    def _versions(self, name: str) -> Iterator[int]:
        for stat in self._store.list(f"{PREFIX}{key_part(name)}/specs/"):
            yield int(stat.key.rpartition("/")[2])

    def _keep_version(self, head: PipelineHead) -> None:
        """Write down the spec in force. It follows from the head, so writing it again is as good as once."""
        value = PipelineVersion(created=head.updated, spec=head.spec)
        self._store.put(_version_key(head.name, head.version), encode(value))

    def _check_inputs(self, spec: PipelineSpec) -> None:
        """NotFound when an input is not there, InvalidArgument when the pipeline would read what it writes."""
        ticks = {cron.repo for cron in spec.cron_inputs()}
        for pfs in spec.pfs_inputs():
            if pfs.repo in ticks:
                continue  # made with the pipeline
            try:
                if pfs.trigger is not None:
                    check_settable(self._repository, pfs.repo, pfs.branch, pfs.trigger)
                else:
                    self._refs.head(pfs.repo, pfs.branch)
            except NotFound as error:
                raise NotFound(f"pipeline {spec.name}: its input {pfs.repo}/{pfs.branch}: {error}") from None
        reads = {head.name: _repos(head.spec) for head in self.all()} | {spec.name: _repos(spec)}
        came_from: dict[str, str] = {}  # repo → the pipeline that reads it, on a way from this one
        todo = [spec.name]
        while todo:
            name = todo.pop()
            for repo in reads.get(name, ()):
                if repo == spec.name:
                    way = [repo, name]
                    while way[-1] != spec.name:
                        way.append(came_from[way[-1]])
                    raise InvalidArgument(
                        f"pipeline {spec.name} would read what it writes: {' reads '.join(reversed(way))}"
                    )
                if repo not in came_from:
                    came_from[repo] = name
                    todo.append(repo)

    # The branches that are the pipeline's own

    def _check_free(self, repo: str, pipeline: str, what: str) -> None:
        """AlreadyExists when there is something in a repo that is to be a pipeline's own."""
        try:
            self._refs.repo(repo)
        except NotFound:
            return
        for _, other, _ in list(self._refs.branches(repo)):
            head = self._refs.head(repo, other)
            if head.commit is not None or head.head.pipeline not in {"", pipeline}:
                raise AlreadyExists(
                    f"pipeline {pipeline}: {what} {repo} exists already, with data on branch {other}: delete the repo"
                    " or give the pipeline another name"
                )

    def _make_branch(
        self, repo: str, branch: str, pipeline: str, description: str, now: int, ticked: int = 0
    ) -> None:
        """A branch of a pipeline's own."""
        try:
            self._refs.create_repo(repo, now, description)
        except AlreadyExists:
            pass  # and empty
        try:
            self._refs.create_branch(repo, branch, None, now, pipeline=pipeline, ticked=ticked)
        except AlreadyExists:
            self._mark(repo, branch, lambda head: msgspec.structs.replace(head, pipeline=pipeline, ticked=ticked))

    def _release(self, repo: str, branch: str, pipeline: str) -> None:
        """Make a branch of a pipeline's own an ordinary one, if it is there."""

        def change(head: BranchHead) -> BranchHead:
            return msgspec.structs.replace(head, pipeline="", ticked=0) if head.pipeline == pipeline else head

        try:
            self._mark(repo, branch, change)
        except NotFound:
            pass

    def _mark(self, repo: str, branch: str, change: Callable[[BranchHead], BranchHead]) -> None:
        for _ in range(CAS_TRIES):
            head = self._refs.head(repo, branch)
            new = change(head.head)
            if new == head.head:
                return
            try:
                self._refs.mark(head, new)
            except Conflict:
                continue
            return
        raise Conflict(f"{repo}/{branch} is being moved by others all the time: try again")

    # Ticks

    def _check_crons(self, spec: PipelineSpec) -> None:
        """AlreadyExists when something else is in a repo for ticks."""
        for cron in spec.cron_inputs():
            if not self._has_ticks(cron, spec.name):
                self._check_free(cron.repo, spec.name, f"the repo of its cron input {cron.name},")

    def _make_crons(self, spec: PipelineSpec, before: tuple[CronInput, ...], now: int) -> None:
        """Make repos for ticks. A schedule that was not there `before` counts from now, or from its start."""
        for cron in spec.cron_inputs():
            since = parse_moment(cron.start) if cron.start else now
            if not self._has_ticks(cron, spec.name):
                what = f"ticks of pipeline {spec.name}"
                self._make_branch(cron.repo, DEFAULT_BRANCH, spec.name, what, now, ticked=since)
            elif not any((cron.repo, cron.spec, cron.start) == (old.repo, old.spec, old.start) for old in before):
                self._mark(
                    cron.repo, DEFAULT_BRANCH,
                    lambda head: msgspec.structs.replace(head, ticked=max(since, head.ticked)),  # noqa: B023
                )

    def _has_ticks(self, cron: CronInput, pipeline: str) -> bool:
        try:
            return self._refs.head(cron.repo, DEFAULT_BRANCH).head.pipeline == pipeline
        except NotFound:
            return False

    def _let_go(self, old: PipelineSpec, new: PipelineSpec | None) -> None:
        """Make ordinary branches of what a pipeline needs no more."""
        kept = set() if new is None else {cron.repo for cron in new.cron_inputs()}
        for cron in old.cron_inputs():
            if cron.repo not in kept:
                self._release(cron.repo, DEFAULT_BRANCH, old.name)
        gone = _triggers(old).keys() - (set() if new is None else _triggers(new).keys())
        if gone:
            gone -= {branch for head in self.all() if head.name != old.name for branch in _triggers(head.spec)}
        for repo, branch in gone:
            try:
                take_trigger(self._repository, repo, branch)
            except NotFound:
                continue  # and the branch with it

    def _set_triggers(self, spec: PipelineSpec, now: int) -> None:
        """Make the branches that triggers of the spec move."""
        for (repo, branch), trigger in _triggers(spec).items():
            set_trigger(self._repository, repo, branch, trigger, now)


def _triggers(spec: PipelineSpec) -> dict[tuple[str, str], Trigger]:
    """(repo, branch) → what moves that branch, of the inputs that say so."""
    return {(pfs.repo, pfs.branch): pfs.trigger for pfs in spec.pfs_inputs() if pfs.trigger is not None}


def _check_output(head: PipelineHead, spec: PipelineSpec) -> None:
    """InvalidArgument when a new spec has another output branch, or is of another kind."""
    if spec.kind != head.spec.kind:
        raise InvalidArgument(
            f"pipeline {spec.name}: it is a {head.spec.kind} and stays one: delete the pipeline and its repo, and"
            f" create it again as a {spec.kind}"
        )
    if spec.output_branch != head.spec.output_branch:
        raise InvalidArgument(
            f"pipeline {spec.name}: its output branch is {head.spec.output_branch} and stays so: delete the pipeline"
            " and create it again to change that"
        )


def _repos(spec: PipelineSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pfs.repo for pfs in spec.pfs_inputs()))


def _head_key(name: str) -> str:
    return f"{PREFIX}{key_part(name)}/head"


def _version_key(name: str, version: int) -> str:
    return f"{PREFIX}{key_part(name)}/specs/{version}"
