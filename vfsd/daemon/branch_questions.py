"""What `vfsd commit` and `vfsd status` ask of the heads of branches on this node."""

from __future__ import annotations

from typing import Any

from vfsd.daemon import control_server
from vfsd.model.errors import InvalidArgument
from vfsd.model.location import parse_branch
from vfsd.repo.repository import Committed
from vfsd.serve.loads import Loads
from vfsd.worktree.branch import LiveBranch
from vfsd.worktree.live import LiveBranches


class BranchQuestions:
    """What `vfsd commit` asks of a branch's head; in the daemon, or in its own process when there is no daemon."""

    def __init__(self, live: LiveBranches, loads: Loads) -> None:
        self._live = live
        self._loads = loads

    def handlers(self) -> dict[str, control_server.Handler]:
        """question → handler."""
        return {
            "commit": self._commit, "start": self._start, "finish": self._finish, "abort": self._abort,
            "discard": self._discard,
        }  # fmt: skip

    async def _branch(self, question: dict[str, Any]) -> LiveBranch:
        repo, branch = parse_branch(question["branch"])
        return await self._loads.run(lambda: self._live.get(repo, branch))

    async def _commit(self, question: dict[str, Any]) -> dict[str, Any]:
        live = await self._branch(question)
        if live.held is not None:
            raise InvalidArgument(f"{live.name} has an open transaction: `vfsd commit finish {live.name}` commits it")
        return _result(live, await self._live.commit(live, question["message"]))

    async def _start(self, question: dict[str, Any]) -> dict[str, Any]:
        live = await self._branch(question)
        await self._live.start_transaction(live, question["message"])
        return _result(live, None)

    async def _finish(self, question: dict[str, Any]) -> dict[str, Any]:
        live = await self._branch(question)
        return _result(live, await self._live.finish_transaction(live, question["message"]))

    async def _abort(self, question: dict[str, Any]) -> dict[str, Any]:
        live = await self._branch(question)
        await self._live.abort_transaction(live)
        return _result(live, None)

    async def _discard(self, question: dict[str, Any]) -> dict[str, Any]:
        await self._live.discard(*parse_branch(question["branch"]))
        return {}


def _result(live: LiveBranch, committed: Committed | None) -> dict[str, Any]:
    """id: the commit that holds all that is closed. new: whether it was made just now."""
    return {"id": live.head.commit, "new": committed is not None}


def branch_facts(live: LiveBranch) -> dict[str, Any]:
    """What `vfsd status` shows of an open branch."""
    changed = "changed" if live.is_changed else "clean"
    state = "transaction" if live.held is not None else "failing" if live.error else changed
    return {
        "repo": live.row.repo,
        "branch": live.row.branch,
        "state": state,
        "commit": live.head.commit,
        "error": live.error or None,
        "retries": live.retries,
        "gave_way": live.gave_way,
    }
