"""What every object store gives, whichever it is. tests/store/conformance.py holds each of them to this page.

All calls block; all are safe from any thread and, on shared stores, from any process and node. A call either happens
wholly or not at all: no reader ever sees half an object, also after a crash or a power cut. Each implementation
retries what is safe to retry, within a budget, and then raises Unavailable.

Conditional writes tell a lost response apart from a lost race by reading the object back: bytes equal to those that
the caller wrote are taken for its own write and count as success, so whoever must be the only winner puts a nonce
into them. One case remains: a write that landed, whose response was lost, and which somebody else replaced before it
was read back gives Conflict. Whoever must know looks for it in the history of what is there now.

Errors: NotFound, Conflict (a condition did not hold), AccessDenied, NoSpace, Unavailable, Damaged, and InvalidArgument
for a key that no store can hold; never another. After Unavailable a write may have happened or not: repeat it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NewType, Protocol

import msgspec

ETag = NewType("ETag", str)  # opaque; equal for equal versions of one key
Buffer = bytes | bytearray | memoryview  # bytes to be written
Plain = bytes | memoryview  # bytes that were read


class Sliced(Protocol):
    """Bytes of an object, wherever they are. Slices may be asked for by several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Buffer: ...


class Stat(msgspec.Struct, frozen=True):
    """An object in a listing. size: bytes. modified: seconds since 1970, by the store's clock."""

    key: str
    size: int
    etag: ETag
    modified: float


class ObjectStore(Protocol):
    """Keys are printable ASCII, `/` separates components, no component is empty, `.` or `..` (`keys.check_key`).

    No key may be a folder of another: where there is `a/b`, there is no `a`. An ETag may be a hash of the content, so
    that bytes which come back bring their ETag back: objects that are replaced carry a nonce. Objects under `packs/`
    and `commits/` are written once; replacing one has no defined result.
    """

    @property
    def url(self) -> str:
        """What a user would type to name this store; no credentials in it."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether reads come from this machine's disk or memory, so that a disk cache would gain nothing."""
        ...

    def get(self, key: str) -> tuple[bytes, ETag]:
        """The whole object. NotFound."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the object's end, none behind it. NotFound."""
        ...

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        """As `get_range`, for a MiB and more: where the store can, in memory of `store.buffers`, which is used again
        once there is no view of it. The bytes begin the memory that they are in."""
        ...

    def stat(self, key: str) -> Stat:
        """NotFound when there is no such object."""
        ...

    def put(self, key: str, data: Buffer) -> ETag:
        """Write, whatever was there. Durable when it returns."""
        ...

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        """Write a new object; Conflict when the key holds other bytes already. Durable when it returns."""
        ...

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        """Replace exactly the version `etag`; Conflict when it is another one by now, or gone.

        Succeeds whatever `etag` is when the key holds just these bytes. Durable when it returns.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing happens when it is not there."""
        ...

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        """Objects whose key begins with `prefix` and sorts behind the key `after`, in byte order of keys.

        Streamed: of each server's answers, at most what lies in one folder below `prefix` is held. What is written or
        deleted meanwhile may be in it or not; everything else is, once.
        """
        ...

    def list_folders(self, prefix: str) -> Iterator[str]:
        """The distinct next components below `prefix` (empty, or ending in `/`) that have objects below them, without
        `prefix` and `/`, in byte order of the keys there. Some servers name a folder for a while after its last
        object was deleted."""
        ...

    def abort_uploads(self, prefix: str, older_s: float, *, dry_run: bool = False) -> int:
        """Remove what is left of uploads that never ended: of keys that begin with `prefix`, begun more than `older_s`
        seconds ago by the store's clock. How many there were. They take room, and no listing shows them; `older_s` is
        to be longer than any upload takes. `dry_run` only counts. Stores without such uploads have none."""
        ...

    def close(self) -> None:
        """Give back connections and file descriptors. The store may not be used afterwards."""
        ...
