"""Sends what a job wrote to where its spec says, once the output commit is there.

Files go to a bucket or a folder under their paths, rows to the tables of a database. Doing it again is as good as once:
an interrupted job does it from the beginning. To a bucket or folder that the job before has filled only what is not the
same goes; nothing is ever deleted there, as in Pachyderm. What fails for a moment is tried again for some minutes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator

import msgspec
import trio

from vfsd.model.entry import Chunk, Entry, Kind
from vfsd.model.errors import InvalidArgument, NotFound, Unavailable, VfsdError
from vfsd.model.job import JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_egress import SqlDatabaseEgress
from vfsd.model.spec_transform import Secret
from vfsd.pipeline.egress_files import Bucket, Folder, Outgoing, send_files
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import Registry
from vfsd.pipeline.secrets import Secrets
from vfsd.repo.chunklist import content_of
from vfsd.repo.content import read_content
from vfsd.repo.diff import diff
from vfsd.repo.repository import Repository
from vfsd.store.blob import read_chunk
from vfsd.store.s3_options import S3Options

TRIES = 9
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # four minutes and a half in all

_log = logging.getLogger(__name__)


class Reach(msgspec.Struct, frozen=True):
    """What output may leave a node by. s3: how buckets are spoken to. folders: below which files and databases on this
    machine may be written, absolute paths."""

    s3: S3Options = S3Options()
    folders: tuple[str, ...] = ()


class Egress:
    """The egress of one job. record: with its output commit. last: the pipeline's job before."""

    def __init__(
        self, repository: Repository, secrets: Secrets, reach: Reach, spec: PipelineSpec, record: JobRecord,
        last: JobRecord | None,
    ) -> None:
        self._repository = repository
        self._secrets = secrets
        self._reach = reach
        self._spec = spec
        self._record = record
        self._last = last

    async def run(self, given_up: trio.Event) -> None:
        """Do it. VfsdError says why it could not be done; Unavailable also when it was given up."""
        wait_s = FIRST_RETRY_S
        for number in range(1, TRIES + 1):
            try:
                await self._once(given_up)
                return
            except Unavailable as error:
                if number == TRIES or given_up.is_set():
                    raise
                name = self._record.pipeline
                _log.warning("pipeline %s: egress: %s: trying again in %g s", name, error, wait_s)
            with trio.move_on_after(wait_s):
                await given_up.wait()
            wait_s = min(2 * wait_s, LAST_RETRY_S)

    async def _once(self, given_up: trio.Event) -> None:
        stopped = threading.Event()
        failed: VfsdError | None = None

        async def mind() -> None:
            try:
                await given_up.wait()
            finally:
                stopped.set()  # also when this node is to end: the thread then ends soon

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mind)
            try:
                await trio.to_thread.run_sync(self._send, stopped)
            except VfsdError as error:
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    # In a thread

    def _send(self, stopped: threading.Event) -> None:
        egress = self._spec.egress
        assert egress is not None
        if egress.sql_database is not None:
            self._send_rows(egress.sql_database, stopped)
            return
        kind = Bucket if egress.files_to.startswith("s3://") else Folder
        target = kind(egress.files_to, self._repository.store.url, self._reach.s3, self._reach.folders)
        try:
            send_files(self._files(stopped, changed=True), target)
        finally:
            target.close()

    def _send_rows(self, database: SqlDatabaseEgress, stopped: threading.Event) -> None:
        try:
            from vfsd.pipeline.egress_sql import send_rows  # noqa: PLC0415  (an extra of the package)
        except ImportError:
            raise InvalidArgument(
                "egress.sql_database needs SQLAlchemy on each node that runs pipelines: pip install 'vfsd[sql]'"
            ) from None
        password = None
        if (secret := database.secret) is not None:
            given = self._secrets.give([Secret(name=secret.name, key=secret.key, env_var="PASSWORD")])
            password = os.fsdecode(given.env[b"PASSWORD"])
        send_rows(self._files(stopped, changed=False), database, password, self._reach.folders)

    def _files(self, stopped: threading.Event, *, changed: bool) -> Iterator[Outgoing]:
        """The files of the output commit, in order of paths. changed: only those that are to be sent again."""
        repository, output = self._repository, self._record.output
        assert output is not None
        before = self._sent_before() if changed else None
        for path, old, entry in diff(repository.nodes, before, repository.commits.get(output).root):
            if entry is not None and entry.kind == Kind.FILE and not _is_as_before(old, entry):
                _check(stopped)
                yield Outgoing(path, entry.size, entry.mode, self._reader(entry, stopped))

    def _reader(self, entry: Entry, stopped: threading.Event) -> Callable[[int, int], bytes]:
        repository, content = self._repository, content_of(entry)

        def chunks(wanted: list[Chunk], *, small: bool) -> list[bytes]:
            return [read_chunk(repository.store, chunk) for chunk in wanted]

        def read(offset: int, size: int) -> bytes:
            _check(stopped)
            return read_content(repository.nodes, chunks, content, offset, size)  # type: ignore[arg-type]

        return read

    def _sent_before(self) -> Entry | None:
        """The tree that is at the target already, if that is known."""
        last = self._last
        if last is None or last.output is None or last.state is not JobState.SUCCESS or self._record.again:
            return None
        try:
            if Registry(self._repository).spec(last.pipeline, last.version).egress != self._spec.egress:
                return None
            self._repository.drops.check(last.output)
            return self._repository.commits.get(last.output).root
        except NotFound:
            return None


def _is_as_before(old: Entry | None, entry: Entry) -> bool:
    """Whether a file of another time or owner is the same at the target."""
    return old is not None and (old.kind, old.digest, old.mode) == (entry.kind, entry.digest, entry.mode)


def _check(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Unavailable("it was stopped")
