"""Every error says what an errno, an S3 code and an exit code are made of, and the picture of them is complete."""

from __future__ import annotations

import errno
import re

import pytest

import vfsd.cache.chunk_cache
import vfsd.daemon.cli
import vfsd.lineage.graph
import vfsd.pipeline.service
import vfsd.repo.rebuild
import vfsd.serve.fuse.mount
import vfsd.store.s3
import vfsd.worktree.live  # noqa: F401  so that every subclass there is has been defined
from vfsd.model import errors
from vfsd.model.errors import NotCached, Refused, VfsdError


def subclasses(kind: type[VfsdError]) -> list[type[VfsdError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in subclasses(below))]


ALL = [kind for kind in subclasses(VfsdError) if kind.__module__ == errors.__name__]
LINE = re.compile(
    r"^    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?P<errno>E\w+|\(own\)) +(?P<s3>[\w.]+) +exit (?P<exit>\d)",
    re.MULTILINE,
)


def drawn() -> dict[str, re.Match[str]]:
    assert errors.__doc__ is not None
    return {found["name"]: found for found in LINE.finditer(errors.__doc__)}


def test_the_picture_has_every_error_and_no_other() -> None:
    assert set(drawn()) == {kind.__name__ for kind in ALL}
    assert all(kind.__module__ == "vfsd.model.errors" for kind in ALL), "one place for them"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_picture_says_what_each_error_is(kind: type[VfsdError]) -> None:
    line = drawn()[kind.__name__]
    if line["errno"] == "(own)":
        assert kind is Refused
    else:
        assert getattr(errno, line["errno"]) == kind.errno
    assert line["s3"] in {kind.s3_code, "..."}
    assert int(line["exit"]) == kind.exit_code
    depth = sum(base is not VfsdError and issubclass(base, VfsdError) for base in kind.__mro__[1:])
    assert (len(line["branch"]) >= 8) == (depth > 0), "drawn below its parent"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_can_be_told_to_a_kernel_a_client_and_a_shell(kind: type[VfsdError]) -> None:
    error = Refused(errno.ENOTEMPTY, "why") if kind is Refused else kind("why")
    assert errno.errorcode[error.errno]
    assert re.fullmatch(r"[A-Z][A-Za-z]+", error.s3_code)
    assert error.exit_code in {1, 2}
    assert str(error) == "why"


def test_a_refusal_carries_its_own_errno_and_is_named_by_it() -> None:
    assert Refused(errno.EXDEV).errno == errno.EXDEV
    assert str(Refused(errno.EXDEV)) == "EXDEV"
    assert str(Refused(12345)) == "12345"


def test_not_cached_is_no_error_that_a_user_sees() -> None:
    assert not issubclass(NotCached, VfsdError)
    miss = NotCached("key", lambda: 7)
    assert (miss.key, miss.load()) == ("key", 7)
