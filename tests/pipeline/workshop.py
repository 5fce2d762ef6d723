"""A real store with repos, commits and a pipeline service, for tests. Snapshots are directories exported from it."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from vfsd.index.index import Index
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import AlreadyExists, NotFound
from vfsd.model.ids import CommitId
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_reader import parse_specs
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import Registry
from vfsd.pipeline.service import WATCHED, PipelineService
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.ingest import Export
from vfsd.repo.repository import Repository, empty_root, init_store, now_ns, read_format
from vfsd.repo.tree import apply, change_set, walk
from vfsd.repo.watch import RefChange, RefWatcher
from vfsd.repo.writer import BlobWriter
from vfsd.store.api import ObjectStore
from vfsd.store.blob import read_chunk
from vfsd.store.local import LocalStore

Files = Mapping[str, bytes | str | None]  # path → content; None to remove
LIMIT_S = 600.0  # nothing here takes so long, on no machine


def spec(name: str = "count", repo: str = "texts", glob: str = "/*", cmd: str = "true", **more: Any) -> PipelineSpec:
    """A pipeline that runs a shell script."""
    document = {
        "pipeline": {"name": name},
        "transform": {"cmd": ["sh", "-ec", cmd]},
        "input": {"pfs": {"repo": repo, "glob": glob}},
        **more,
    }
    return parse_specs(msgspec.json.encode(document).decode(), "spec.json").specs[0]


def tree(room: Workshop, files: dict[str, str], mtime: int = 1) -> Entry:
    """A tree of these files, in a pack."""
    writer = room.repository.writer()
    changes = []
    for path, content in files.items():
        entry = room.entry(path, content, writer)
        assert entry is not None
        changes.append((tuple(path.encode().split(b"/")), msgspec.structs.replace(entry, mtime=mtime)))
    root = apply(room.repository.nodes, writer, empty_root(), change_set(changes))
    writer.flush()
    writer.close()
    return root


class Workshop:
    """A store in `folder`, with the repo `texts`, as one node has it; `index` is the index file."""

    def __init__(
        self, folder: Path, store: ObjectStore | None = None, index: str = "", node: str = "node"
    ) -> None:
        self.folder = folder
        self.node = node
        self.store = store or LocalStore(str(folder / "store"))
        try:
            read_format(self.store)
        except NotFound:
            init_store(self.store)
        self.open_index(index or f"{node}.sqlite")
        self.repo("texts")
        self._exporting = threading.Lock()
        self._exported: set[CommitId] = set()

    def open_index(self, name: str) -> None:
        """Go on with another index file, as another node, or this one after a loss, would."""
        index = Index(str(self.folder / name))
        self.repository = Repository(self.store, index, read_format(self.store))
        self.registry = Registry(self.repository)
        self.records = JobRecords(self.repository)

    def close(self) -> None:
        self.repository.close()

    # Contents

    def repo(self, name: str) -> None:
        try:
            self.repository.refs.create_repo(name, now_ns())
        except AlreadyExists:
            return
        self.repository.refs.create_branch(name, "main", None, now_ns())

    def put(self, files: Files, repo: str = "texts", branch: str = "main") -> CommitObject:
        """Commit files."""
        repository = self.repository

        def change(root: Entry, writer: BlobWriter) -> Entry:
            changes = (
                (tuple(path.encode(errors="surrogateescape").split(b"/")), self.entry(path, content, writer))
                for path, content in files.items()
            )
            return apply(repository.nodes, writer, root, change_set(changes), prune=True)

        writer = repository.writer()
        try:
            made = repository.commit(repo, branch, change, writer=writer, message="", author="tester")
        finally:
            writer.close()
        assert made is not None
        return made.commit

    def entry(self, path: str, content: bytes | str | None, writer: BlobWriter) -> Entry | None:
        """A file as it goes into a tree."""
        if content is None:
            return None
        data = content if isinstance(content, bytes) else content.encode()
        found = self.repository.chunker.cut_bytes(data, writer, self.repository.nodes)
        name = path.encode(errors="surrogateescape").rpartition(b"/")[2]
        return Entry(name, Kind.FILE, 0o644, 0, 0, 1, found.size, found.digest, found.chunks, found.node)

    def head(self, repo: str, branch: str = "main") -> CommitObject | None:
        commit = self.repository.refs.head(repo, branch).commit
        return None if commit is None else self.repository.commits.get(commit)

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """path → content of the files of a branch."""
        head = self.head(repo, branch)
        return self.tree(empty_root() if head is None else head.root)

    def tree(self, root: Entry) -> dict[str, bytes]:
        """path → content of the files of a tree, and of empty directories with a `/` behind."""
        found = {}
        for path, entry in walk(self.repository.nodes, root):
            name = os.fsdecode(b"/".join(path))
            if entry.kind == Kind.FILE:
                found[name] = b"".join(read_chunk(self.store, chunk) for chunk in entry.chunks)
            elif entry.kind == Kind.DIR and entry.node is None:
                found[name + "/"] = b""
        return found

    def snapshot(self, repo: str, branch: str, commit: CommitId) -> bytes:
        """Where a commit lies as a directory: exported when first asked for."""
        place = os.fsencode(self.folder / f"mount-{self.node}" / repo / f"{branch}@{commit}")
        with self._exporting:
            if commit not in self._exported:
                root = self.repository.commits.get(commit).root
                Export(self.repository.nodes, partial(read_chunk, self.store)).path(root, place)
                self._exported.add(commit)
        return place

    # Pipelines

    @asynccontextmanager
    async def service(self, *, deaf: bool = False, **more: Any) -> AsyncIterator[Running]:
        """The pipelines of the store, running, told of changes by a watcher as a daemon does."""
        (self.folder / f"mount-{self.node}").mkdir(exist_ok=True)
        running = Running(self, more, deaf)
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(running.watch)
                await nursery.start(running.service.run)
                yield running
                nursery.cancel_scope.cancel()


class Running:
    """A running service; jobs that ended come in `jobs`."""

    def __init__(self, shop: Workshop, more: dict[str, Any], deaf: bool) -> None:
        self._shop = shop
        self.deaf = deaf  # the service hears of nothing
        self._missed: list[RefChange] = []
        self._ended, self._jobs = trio.open_memory_channel[JobRecord](1000)
        self.watcher = RefWatcher(shop.store, WATCHED)
        self.service = PipelineService(
            shop.repository,
            mount=str(shop.folder / f"mount-{shop.node}"),
            snapshot=shop.snapshot,
            scratch=str(shop.folder / f"scratch-{shop.node}"),
            runner_file=str(shop.folder / f"runner-{shop.node}"),
            hidden=[str(shop.folder / f"mount-{shop.node}")],
            author="tester",
            tell=self.watcher.nudge,
            on_job=self._ended.send_nowait,
            **more,
        )

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        send, receive = trio.open_memory_channel[list[RefChange]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watcher.run, send)
            async for changes in receive:
                if self.deaf:
                    self._missed += changes
                else:
                    self.service.changed(changes)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED

    def hear(self) -> None:
        """Be deaf no more."""
        self.deaf = False
        self.service.changed(self._missed)

    async def job(self, pipeline: str = "count") -> JobRecord:
        """The next job of a pipeline to end."""
        while True:
            record = await self._jobs.receive()
            if record.pipeline == pipeline:
                return record

    async def jobs(self, number: int) -> Sequence[JobRecord]:
        """The next jobs to end."""
        return [await self._jobs.receive() for _ in range(number)]
