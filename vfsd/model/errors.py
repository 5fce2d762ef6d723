"""The error tree. A class says what the one who catches it does; the message says what, where and what to do.

    VfsdError                EIO     InternalError        exit 1
    ├── InvalidArgument      EINVAL  InvalidArgument      exit 2   the caller asked for something meaningless
    ├── NotFound             ENOENT  NoSuchKey            exit 1   it is not there (repo, branch, rev, path, key)
    │   └── Ambiguous        ENOENT  NoSuchKey            exit 1   more than one thing answers to that rev
    ├── AlreadyExists        EEXIST  ...                  exit 1
    ├── AccessDenied         EACCES  AccessDenied         exit 1   the store's or the system's credentials refuse
    ├── ReadOnly             EROFS   MethodNotAllowed     exit 1   snapshots, output branches, a read-only mount
    ├── Conflict             EAGAIN  ConditionalRequestConflict  exit 1   somebody else moved it first: fetch and retry
    ├── NoSpace              ENOSPC  InsufficientStorage  exit 1
    ├── Unavailable          EIO     ServiceUnavailable   exit 1   the store does not answer: try again later
    ├── Damaged              EIO     InternalError        exit 1   bytes do not match the id that names them
    └── Refused              (own)   InvalidRequest       exit 1   a filesystem rule; carries the errno of that rule

`NotCached` is not an error: it is how an operation that may not block says which bytes it needs first.
"""

from __future__ import annotations

import errno as e
from collections.abc import Callable


class VfsdError(Exception):
    """What every layer raises for a user to read: one line, no traceback."""

    errno: int = e.EIO
    s3_code: str = "InternalError"
    exit_code: int = 1


class InvalidArgument(VfsdError):
    errno = e.EINVAL
    s3_code = "InvalidArgument"
    exit_code = 2


class NotFound(VfsdError):
    errno = e.ENOENT
    s3_code = "NoSuchKey"


class Ambiguous(NotFound):
    """A rev that more than one commit answers to."""


class AlreadyExists(VfsdError):
    errno = e.EEXIST
    s3_code = "BucketAlreadyExists"


class AccessDenied(VfsdError):
    errno = e.EACCES
    s3_code = "AccessDenied"


class ReadOnly(VfsdError):
    errno = e.EROFS
    s3_code = "MethodNotAllowed"


class Conflict(VfsdError):
    errno = e.EAGAIN
    s3_code = "ConditionalRequestConflict"


class NoSpace(VfsdError):
    errno = e.ENOSPC
    s3_code = "InsufficientStorage"


class Unavailable(VfsdError):
    errno = e.EIO
    s3_code = "ServiceUnavailable"


class Damaged(VfsdError):
    errno = e.EIO
    s3_code = "InternalError"


class Refused(VfsdError):
    """A rule of the filesystem said no; `errno` is that rule's own."""

    s3_code = "InvalidRequest"

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or e.errorcode.get(number, str(number)))
        self.errno = number


class NotCached(Exception):
    """Raised instead of blocking: run `load` where blocking is allowed, then start the operation again.

    `key` is equal for equal loads, so that concurrent misses of one thing are loaded once.
    """

    def __init__(self, key: object, load: Callable[[], object]) -> None:
        super().__init__(key)
        self.key = key
        self.load = load
