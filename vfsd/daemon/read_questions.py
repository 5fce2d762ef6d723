"""The daemon's side of `vfsd.daemon.observing`: what commands that go past the mount tell and ask it."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from vfsd.daemon import control_server
from vfsd.daemon.observing import Seen, path_of
from vfsd.serve.observer import Observer
from vfsd.worktree.runs import SourceKey


class ReadQuestions:
    """What such commands tell and ask the daemon. observer: None to look at nobody."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer

    def handlers(self) -> dict[str, control_server.Handler]:
        """question → handler."""
        return {"has_read": self._has_read, "had_read": self._had_read}

    async def _has_read(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._observer is not None:
            source = SourceKey(question["repo"], question["branch"], question["commit"], changed=False)
            self._observer.told(question["pid"], source, path_of(question["names"]), whole=question["whole"])
        return {}

    async def _had_read(self, question: dict[str, Any]) -> Any:
        if self._observer is None:
            return msgspec.to_builtins(Seen())
        where = question["repo"], question["branch"], path_of(question["names"])
        seen = self._observer.seen_of(question["pid"], *where)
        return msgspec.to_builtins(Seen(seen.provenance, base64.b64encode(seen.data).decode()))
