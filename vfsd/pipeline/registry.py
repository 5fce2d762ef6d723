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
from vfsd.model.ids import JobId
from vfsd.model.names import check_label, from_key_part, key_part
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.repo.refs import Head, nonce, ref_key
from vfsd.repo.repository import Repository
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
    run: a nonce that changes when one more job is asked for; empty before. stop: the job that is to be ended, if any.
    nonce: fresh in each write, see BranchHead.
    """

    format: int = 1
    name: str
    version: int
    state: PipelineState = PipelineState.RUNNING
    created: int
    updated: int
    run: str = ""
    stop: JobId | None = None
    nonce: str
    spec: PipelineSpec


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
        """Make a pipeline, its output repo and branch. AlreadyExists; whatever `_check_input` raises."""
        name = spec.name
        if self.find(name) is not None:
            raise AlreadyExists(f"pipeline {name} exists already: `vfsd pipeline update` changes it")
        self._check_input(spec)
        self._make_output(spec, now)
        version = 1 + max(self._versions(name), default=0)
        head = PipelineHead(name=name, version=version, created=now, updated=now, nonce=nonce(), spec=spec)
        try:
            self._store.put_if_absent(_head_key(name), encode(head))
        except Conflict:
            raise AlreadyExists(f"pipeline {name} was created by somebody else just now") from None
        self._keep_version(head)
        return head

    def update(self, spec: PipelineSpec, now: int) -> PipelineHead:
        """Put a new spec in force; nothing happens when it is the one that is. NotFound, InvalidArgument."""
        self._check_input(spec)

        def change(head: PipelineHead) -> PipelineHead:
            if spec == head.spec:
                return head
            if spec.output_branch != head.spec.output_branch:
                raise InvalidArgument(
                    f"pipeline {spec.name}: its output branch is {head.spec.output_branch} and stays so: delete the"
                    " pipeline and create it again to change that"
                )
            self._keep_version(head)  # in case whoever made it did not get to it
            return msgspec.structs.replace(head, version=head.version + 1, updated=now, spec=spec)

        head = self._change(spec.name, change)
        self._keep_version(head)
        return head

    def set_state(self, name: str, state: PipelineState) -> PipelineHead:
        """Start or stop a pipeline. NotFound."""
        return self._change(name, lambda head: msgspec.structs.replace(head, state=state))

    def run(self, name: str) -> PipelineHead:
        """Ask for a job over what the input branch holds, also when it was worked on already. NotFound; Refused for a
        pipeline that is stopped."""

        def change(head: PipelineHead) -> PipelineHead:
            if head.state is PipelineState.STOPPED:
                raise Refused(errno.EINVAL, f"pipeline {name} is stopped: `vfsd pipeline start {name}` starts it")
            return msgspec.structs.replace(head, run=nonce())

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
            if other.spec.input.pfs.repo == name:
                raise Refused(errno.ENOTEMPTY, f"pipeline {name} is needed: pipeline {other.name} reads what it writes")
        self._keep_version(head)
        self._store.delete(_head_key(name))
        try:
            branch = self._refs.head(name, head.spec.output_branch)
        except NotFound:
            return
        if branch.head.pipeline == name:
            self._mark(branch, "")

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

    def _check_input(self, spec: PipelineSpec) -> None:
        """NotFound when the input is not there, InvalidArgument when the pipeline would read what it writes."""
        pfs = spec.input.pfs
        try:
            self._refs.head(pfs.repo, pfs.branch)
        except NotFound as error:
            raise NotFound(f"pipeline {spec.name}: its input {pfs.repo}/{pfs.branch}: {error}") from None
        reads = {head.name: head.spec.input.pfs.repo for head in self.all()}
        way = [spec.name, pfs.repo]
        while way[-1] in reads and way[-1] != spec.name:
            way.append(reads[way[-1]])
        if way[-1] == spec.name:
            raise InvalidArgument(f"pipeline {spec.name} would read what it writes: {' reads '.join(way)}")

    def _make_output(self, spec: PipelineSpec, now: int) -> None:
        """The output repo and branch. AlreadyExists when something else is in them."""
        name, branch = spec.name, spec.output_branch
        try:
            self._refs.create_repo(name, now, spec.description or f"output of pipeline {name}")
        except AlreadyExists:
            for _, other, _ in list(self._refs.branches(name)):
                if self._refs.head(name, other).commit is not None:
                    raise AlreadyExists(
                        f"pipeline {name}: its output repo {name} exists already, with data on branch {other}: delete"
                        " the repo or give the pipeline another name"
                    ) from None
        try:
            self._refs.create_branch(name, branch, None, now, pipeline=name)
        except AlreadyExists:
            self._mark(self._refs.head(name, branch), name)

    def _mark(self, branch: Head, pipeline: str) -> None:
        """Make a branch the output of a pipeline, or nobody's. Conflict when it was moved meanwhile."""
        value = BranchHead(commit=branch.commit, nonce=nonce(), moved=branch.head.moved, pipeline=pipeline)
        self._store.put_if_match(ref_key(branch.repo, branch.branch), encode(value), branch.etag)


def _head_key(name: str) -> str:
    return f"{PREFIX}{key_part(name)}/head"


def _version_key(name: str, version: int) -> str:
    return f"{PREFIX}{key_part(name)}/specs/{version}"
