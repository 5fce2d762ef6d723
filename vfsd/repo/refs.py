"""Repos, branch heads, tags and global ids in the store: the small objects around commits. One place for their keys."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import msgspec

from vfsd.model.commit import BranchHead, GlobalRecord, RepoObject, Tag, decode, encode
from vfsd.model.errors import AlreadyExists, Ambiguous, Conflict, NotFound, ReadOnly
from vfsd.model.ids import CommitId, GlobalId
from vfsd.model.names import check_label, from_key_part, key_part
from vfsd.model.rev import check_tag
from vfsd.store.api import ETag, ObjectStore

_JOB_TAG = re.compile(r"job-[0-9a-f]+")  # or the beginning of one; see vfsd.pipeline.partial
_JOB_TAG_SIZE = len("job-") + 32


class Head(msgspec.Struct, frozen=True):
    """A branch's head as read, with the version to move it from."""

    repo: str
    branch: str
    head: BranchHead
    etag: ETag

    @property
    def commit(self) -> CommitId | None:
        """The commit that the branch stands at; None before the first."""
        return self.head.commit


def nonce() -> str:
    """Fresh 128 bits in hex."""
    return secrets.token_hex(16)


def ref_key(repo: str, branch: str) -> str:
    """Key of a branch head."""
    return f"refs/{key_part(repo)}/{key_part(branch)}"


def global_key(gid: GlobalId, repo: str, branch: str) -> str:
    """Key of the record of which commit of a branch carries a global id."""
    return f"globals/{gid}/{key_part(repo)}/{key_part(branch)}"


def _repo_key(repo: str) -> str:
    return f"repos/{key_part(repo)}"


def _tag_key(repo: str, tag: str) -> str:
    return f"tags/{key_part(repo)}/{key_part(tag)}"


class Refs:
    """Reads and moves the refs of one store. Every call is one or two requests."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    # Repos

    def create_repo(self, repo: str, now: int, description: str = "") -> None:
        """AlreadyExists when there is one of that name."""
        check_label("repo", repo)
        value = RepoObject(created=now, description=description, nonce=nonce())
        try:
            self._store.put_if_absent(_repo_key(repo), encode(value))
        except Conflict:
            raise AlreadyExists(f"repo {repo} exists already") from None

    def repo(self, repo: str) -> RepoObject:
        """NotFound."""
        check_label("repo", repo)
        try:
            data, _ = self._store.get(_repo_key(repo))
        except NotFound:
            raise NotFound(f"there is no repo {repo} in {self._store.url}") from None
        return decode(data, RepoObject, _repo_key(repo))

    def repos(self) -> Iterator[str]:
        """Names, in order of their keys."""
        for stat in self._store.list("repos/"):
            yield from_key_part(stat.key.removeprefix("repos/"))

    def delete_repo(self, repo: str) -> None:
        """Remove the repo's record; its branches and tags go first, by the caller."""
        self._store.delete(_repo_key(repo))

    # Branch heads

    def create_branch(
        self, repo: str, branch: str, commit: CommitId | None, now: int, pipeline: str = "", ticked: int = 0
    ) -> Head:
        """AlreadyExists when there is one of that name. The repo must be there."""
        check_label("branch", branch)
        head = BranchHead(commit=commit, nonce=nonce(), moved=now, pipeline=pipeline, ticked=ticked)
        try:
            etag = self._store.put_if_absent(ref_key(repo, branch), encode(head))
        except Conflict:
            raise AlreadyExists(f"branch {repo}/{branch} exists already") from None
        return Head(repo, branch, head, etag)

    def has_branch(self, repo: str, branch: str) -> bool:
        """Whether there is one of that name."""
        try:
            self.head(repo, branch)
        except NotFound:
            return False
        return True

    def head(self, repo: str, branch: str) -> Head:
        """NotFound names the repo or the branch, whichever is missing."""
        check_label("repo", repo)
        check_label("branch", branch)
        try:
            data, etag = self._store.get(ref_key(repo, branch))
        except NotFound:
            self.repo(repo)
            raise NotFound(f"there is no branch {branch} in repo {repo}") from None
        return Head(repo, branch, decode(data, BranchHead, ref_key(repo, branch)), etag)

    def move(self, old: Head, commit: CommitId | None, now: int) -> Head:
        """Move a branch from the version `old`; Conflict when somebody else moved or deleted it."""
        head = msgspec.structs.replace(old.head, commit=commit, nonce=nonce(), moved=now)
        key = ref_key(old.repo, old.branch)
        return Head(old.repo, old.branch, head, self._store.put_if_match(key, encode(head), old.etag))

    def mark(self, old: Head, head: BranchHead) -> Head:
        """Write a branch head again with what else it says, and a fresh nonce: whoever read it before cannot move it
        any more. Conflict when somebody else moved or deleted it."""
        head = msgspec.structs.replace(head, nonce=nonce())
        key = ref_key(old.repo, old.branch)
        return Head(old.repo, old.branch, head, self._store.put_if_match(key, encode(head), old.etag))

    def touch(self, old: Head) -> Head:
        """Write a branch head again as it is: see `mark`."""
        return self.mark(old, old.head)

    def hand_over(self, old: Head, holder: str, epoch: int) -> Head:
        """Give an output branch to a runner, in a new epoch: who had it before cannot move it any more. Conflict when
        somebody else moved or deleted it."""
        return self.mark(old, msgspec.structs.replace(old.head, holder=holder, epoch=epoch))

    def branches(self, repo: str | None = None) -> Iterator[tuple[str, str, ETag]]:
        """(repo, branch, etag) of the branches of `repo`, or of all: one listing."""
        prefix = "refs/" if repo is None else f"refs/{key_part(repo)}/"
        for stat in self._store.list(prefix):
            owner, branch = stat.key.removeprefix("refs/").split("/", 1)
            yield from_key_part(owner), from_key_part(branch), stat.etag

    def delete_branch(self, repo: str, branch: str) -> None:
        """Remove a branch; its commits stay until they are collected."""
        self.head(repo, branch)
        self._store.delete(ref_key(repo, branch))

    # Tags

    def create_tag(self, repo: str, tag: str, commit: CommitId, now: int, message: str = "") -> None:
        """AlreadyExists when the name is taken by another commit."""
        check_tag(tag)
        try:
            self._store.put_if_absent(_tag_key(repo, tag), encode(Tag(commit=commit, created=now, message=message)))
        except Conflict:
            raise AlreadyExists(f"tag {tag} exists already in repo {repo}: delete it first to move it") from None

    def tag(self, repo: str, tag: str) -> Tag:
        """NotFound. The tag of a job, `job-ID`, is found by the beginning of the id too; Ambiguous."""
        return self._named_tag(repo, tag)[1]

    def _named_tag(self, repo: str, tag: str) -> tuple[str, Tag]:
        """With its whole name."""
        try:
            data, _ = self._store.get(_tag_key(repo, tag))
        except NotFound:
            names = self._job_tags(repo, tag) if _JOB_TAG.fullmatch(tag) else []
            if not names:
                raise NotFound(f"there is no tag {tag} in repo {repo}") from None
            if len(names) > 1:
                raise Ambiguous(f"{len(names)} jobs of repo {repo} begin with {tag}: give more digits") from None
            return self._named_tag(repo, names[0])
        return tag, decode(data, Tag, _tag_key(repo, tag))

    def _job_tags(self, repo: str, beginning: str) -> list[str]:
        folder = _tag_key(repo, "")
        found = (stat.key.removeprefix(folder) for stat in self._store.list(folder + beginning))
        return [tag for tag in found if _JOB_TAG.fullmatch(tag) and len(tag) == _JOB_TAG_SIZE]

    def tags(self, repo: str) -> Iterator[tuple[str, Tag]]:
        """(name, tag) in order of their keys."""
        prefix = f"tags/{key_part(repo)}/"
        for stat in self._store.list(prefix):
            name = from_key_part(stat.key.removeprefix(prefix))
            yield name, self.tag(repo, name)

    def delete_tag(self, repo: str, tag: str) -> None:
        """NotFound when it is not there."""
        name, _ = self._named_tag(repo, tag)
        self._store.delete(_tag_key(repo, name))

    # Global ids

    def record_global(self, gid: GlobalId, repo: str, branch: str, commit: CommitId, time: int) -> None:
        """Say which commit of a branch carries a global id; written before the branch moves."""
        self._store.put(global_key(gid, repo, branch), encode(GlobalRecord(commit=commit, time=time)))

    def global_records(self, gid: GlobalId) -> dict[tuple[str, str], GlobalRecord]:
        """(repo, branch) → record of what carries a global id; empty when nothing does."""
        prefix = f"globals/{gid}/"
        found = {}
        for stat in self._store.list(prefix):
            repo, branch = stat.key.removeprefix(prefix).split("/", 1)
            data, _ = self._store.get(stat.key)
            found[from_key_part(repo), from_key_part(branch)] = decode(data, GlobalRecord, stat.key)
        return found

    def global_ids(self) -> Iterator[GlobalId]:
        """All global ids, in order of their digits."""
        for folder in self._store.list_folders("globals/"):
            yield GlobalId(folder)


def kept_from_users(repo: str, branch: str, head: BranchHead) -> str:
    """Why users may not write to a branch; empty when they may."""
    pipeline = head.pipeline
    if head.trigger is not None:
        return f"{repo}/{branch} is moved by its trigger to where {head.trigger.branch} is: write to that"
    if not pipeline:
        return ""
    if pipeline != repo:
        return f"{repo}/{branch} has the ticks of pipeline {pipeline}: `vfsd pipeline run-cron {pipeline}` makes one"
    return f"{repo}/{branch} is the output of pipeline {pipeline}: only the pipeline writes to it"


def check_writable(head: Head) -> None:
    """ReadOnly for a branch that users may not write to."""
    if why := kept_from_users(head.repo, head.branch, head.head):
        raise ReadOnly(why)
