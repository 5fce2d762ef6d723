"""Is a store fit for use, as seen from here? Rights, conditions, clock, checksums, speed, one finding each.

Writes a few objects below `probe/` and deletes them again, whatever happens. What a store holds is not looked at.
"""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import msgspec

from vfsd.model.errors import AccessDenied, VfsdError
from vfsd.store.api import ObjectStore
from vfsd.store.keys import IN_PARTS
from vfsd.store.probe import probe_conditional_writes

OK, WARN, FAIL = "ok", "warn", "fail"
SMALL = 4 << 10  # bytes of the objects whose latency is measured
TIMES = 7  # how often
LARGE = 8 << 20  # bytes whose throughput is measured
PIECES = 4  # ranges at once that they are read in
SLOW = 0.25  # seconds of a small read, from which on working with the store is no joy
SKEW = 5.0  # seconds that the clocks may differ; at 15 minutes S3 refuses every request
DAY = 86_400.0


class Finding(msgspec.Struct, frozen=True):
    """What was found out. check: of what. state: OK, WARN or FAIL. text: in a sentence. remedy: what to do, if any."""

    check: str
    state: str
    text: str
    remedy: str = ""


@runtime_checkable
class ChecksUploads(Protocol):
    """A store whose server may compare uploads with a checksum that they carry."""

    @property
    def checksum(self) -> str:
        """What uploads carry: crc32, md5 or none."""
        ...

    def refuses_damaged(self, key: str, kind: str) -> bool:
        """Whether the server takes no object at `key` whose content is not that of its checksum of this kind."""
        ...


def failed(check: str, error: VfsdError) -> Finding:
    """What an error means; its line says what to do."""
    return Finding(check, FAIL, str(error))


def check_store(store: ObjectStore) -> Iterator[Finding]:
    """All that can be said of a store that answers, each as soon as it is known."""
    run = f"probe/{secrets.token_hex(8)}"
    checks = [("rights", _rights), ("conditional writes", _conditions), ("clock", _clock), ("speed", _speed)]
    if not store.is_local:
        checks[1:1] = [("uploads", _uploads)]
    if isinstance(store, ChecksUploads):
        checks.append(("checksums", _checksums))
    for name, check in checks:
        try:
            yield check(store, f"{run}-{name.partition(' ')[0]}")
        except VfsdError as error:
            yield failed(name, error)
            if name == "rights":
                return


def _rights(store: ObjectStore, key: str) -> Finding:
    with _kept(store, key):
        written = secrets.token_bytes(SMALL)
        store.put(key, written)
        read, etag = store.get(key)
        if read != written or store.stat(key).etag != etag:
            return Finding("rights", FAIL, f"{store.url} does not give back what was written to it: use another server")
        if key not in [item.key for item in store.list("probe/")]:
            return Finding("rights", FAIL, f"{store.url} does not list what was written to it: use another server")
    if key in [item.key for item in store.list("probe/")]:
        return Finding("rights", FAIL, f"{store.url} lists what was deleted: use another server")
    return Finding("rights", OK, "objects can be written, read, listed and deleted")


def _uploads(store: ObjectStore, key: str) -> Finding:
    try:
        left = sum(store.abort_uploads(prefix, DAY, dry_run=True) for prefix in IN_PARTS)
    except AccessDenied as error:
        return Finding(
            "uploads", WARN, f"what is left of large uploads cannot be seen, nor removed: {error}",
            "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or let the bucket remove them itself",
        )  # fmt: skip
    if left:
        return Finding("uploads", WARN, f"{left} large uploads are unfinished for a day", "vfsd gc removes them")
    return Finding("uploads", OK, "no large upload is unfinished for a day")


def _conditions(store: ObjectStore, key: str) -> Finding:
    result = probe_conditional_writes(store)
    if result.shared:
        return Finding("conditional writes", OK, "of racing writers one wins: several nodes may share the store")
    state = WARN if result.usable else FAIL
    return Finding("conditional writes", state, "; ".join(result.problems), "let one node alone use the store")


def _clock(store: ObjectStore, key: str) -> Finding:
    with _kept(store, key):
        before = time.time()
        store.put(key, b"")
        after = time.time()
        modified = store.stat(key).modified
    # Servers give whole seconds: what is written at 7.9 is stamped 7.
    skew = min(0.0, modified + 1 - before) + max(0.0, modified - after)
    if abs(skew) <= SKEW:
        return Finding("clock", OK, "this machine's clock and the store's agree")
    which = "behind" if skew > 0 else "ahead of"
    return Finding(
        "clock", WARN, f"this machine's clock is {abs(skew):.0f} s {which} the store's",
        "set it (timedatectl set-ntp true): times of commits come from it",
    )  # fmt: skip


def _speed(store: ObjectStore, key: str) -> Finding:
    with _kept(store, key):
        small = secrets.token_bytes(SMALL)
        write = statistics.median(_seconds(lambda: store.put(key, small)) for _ in range(TIMES))
        read = statistics.median(_seconds(lambda: store.get_range(key, 0, SMALL)) for _ in range(TIMES))
        large = secrets.token_bytes(LARGE)
        up = _seconds(lambda: store.put(key, large))
        with ThreadPoolExecutor(PIECES) as pool:
            size = LARGE // PIECES
            spans = [(number * size, size) for number in range(PIECES)]
            down = _seconds(lambda: list(pool.map(lambda span: store.get_range(key, *span), spans)))
    text = (
        f"{read * 1000:.1f} ms to read and {write * 1000:.1f} ms to write {SMALL >> 10} KiB;"
        f" {LARGE / down / 2**20:.0f} MiB/s in and {LARGE / up / 2**20:.0f} MiB/s out"
    )
    if read <= SLOW:
        return Finding("speed", OK, text)
    return Finding("speed", WARN, text, "use a store that is nearer: a commit takes several requests")


def _checksums(store: ObjectStore, key: str) -> Finding:
    assert isinstance(store, ChecksUploads)
    kind = store.checksum
    with _kept(store, key):
        if kind != "none":
            if store.refuses_damaged(key, kind):
                return Finding("checksums", OK, f"uploads carry a {kind}, and the server compares it")
            return Finding("checksums", WARN, f"uploads carry a {kind}, but the server does not compare it",
                           'set s3_checksum = "none", which is quicker')  # fmt: skip
        for better in ("crc32", "md5"):
            with contextlib.suppress(VfsdError):  # a server that refuses the header: not this one then
                if store.refuses_damaged(key, better):
                    return Finding("checksums", OK, f"uploads carry none, but the server would compare a {better}",
                                   f'set s3_checksum = "{better}" to have damage on the way noticed')  # fmt: skip
    return Finding("checksums", OK, "uploads carry none, and the server would not compare any")


@contextlib.contextmanager
def _kept(store: ObjectStore, key: str) -> Iterator[None]:
    """Have the object `key` gone afterwards."""
    try:
        yield
    finally:
        store.delete(key)


def _seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun
