"""What `vfsd status` says of branches that are not open, and have changes of an earlier run, or from before they were
deleted."""

from __future__ import annotations

from typing import Any

from vfsd.index.journal import BranchRow


def unopened_facts(row: BranchRow, is_deleted: bool) -> dict[str, Any]:
    """One row of `branches`."""
    changed = "changed" if row.held is None else "transaction"
    return {
        "repo": row.repo,
        "branch": row.branch,
        "state": "deleted" if is_deleted else changed,
        "commit": row.base or None,
        "error": what_to_do(row.repo, row.branch) if is_deleted else None,
        "retries": 0,
        "gave_way": [],
    }


def what_to_do(repo: str, branch: str) -> str:
    """About changes of a branch that was deleted."""
    name = f"{repo}/{branch}"
    return f"`vfsd branch create {name}` brings its changes back, `vfsd commit discard {name}` gives them up"
