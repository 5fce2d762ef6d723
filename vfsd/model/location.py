"""Locations: `repo/branch[@rev]/path`, the path of something as it stands in the mount. Commands call it SPEC."""

from __future__ import annotations

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.model.names import check_label, split_path
from vfsd.model.rev import Rev, parse_rev


class Location(msgspec.Struct, frozen=True):
    """Where something is. `rev` is None on the live branch; `path` holds the components below the root."""

    repo: str
    branch: str
    rev: Rev | None = None
    path: tuple[bytes, ...] = ()
    rev_text: str = ""

    def __str__(self) -> str:
        head = f"{self.repo}/{self.branch}" + (f"@{self.rev_text}" if self.rev is not None else "")
        return "/".join([head, *(part.decode(errors="surrogateescape") for part in self.path)])


def split_branch(text: str) -> tuple[str, str | None]:
    """`branch@rev` as (branch, rev text), `branch` as (branch, None)."""
    branch, at, rev = text.partition("@")
    return branch, rev if at else None


def parse_location(text: str) -> Location:
    """Parse `repo/branch[@rev][/path]`; a leading `/` is allowed. InvalidArgument names what is missing.

    `text` is as the shell passed it: bytes that are not UTF-8 arrive as surrogate escapes and stay as they are.
    """
    parts = text.removeprefix("/").split("/", 2)
    if len(parts) < 2 or not parts[0] or not parts[1]:
        raise InvalidArgument(f"{text!r}: name it as REPO/BRANCH[@REV][/PATH]")
    repo = check_label("repo", parts[0])
    branch, rev = split_branch(parts[1])
    check_label("branch", branch)
    try:
        path = split_path(parts[2].encode(errors="surrogateescape")) if len(parts) > 2 else ()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{text!r}: the path is no text that a file name can be") from None
    if rev is None:
        return Location(repo, branch, None, path)
    return Location(repo, branch, parse_rev(rev), path, rev)


def parse_branch(text: str) -> tuple[str, str]:
    """Parse `repo/branch` and nothing more."""
    where = parse_location(text)
    if where.rev is not None or where.path:
        raise InvalidArgument(f"{text!r}: a branch is meant here, REPO/BRANCH")
    return where.repo, where.branch
