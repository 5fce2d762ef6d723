"""Triggers: a branch that goes where another one of its repo is, once enough has come there or it is time."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.model.names import check_label
from vfsd.model.quantities import parse_quantity
from vfsd.model.schedule import parse_schedule

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(i?)b?", re.IGNORECASE)
MAX_COMMITS = 1_000_000


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """When a branch goes where `branch` is: when one of the conditions that are given holds or, with `all`, when each
    does.

    size: by how much `branch` is larger, as `1M`. commits: how many more it has. rate_limit_spec: a schedule; a time of
    it lies between the commits of both. cron_spec: a schedule; it is time, and the branch goes where `branch` was then.
    Empty, or 0, for what is not given.
    """

    branch: str = ""
    all: bool = False
    size: str = ""
    commits: int = 0
    rate_limit_spec: str = ""
    cron_spec: str = ""

    @property
    def shown(self) -> str:
        """The conditions, for people."""
        words = [
            f"{self.size} more" if self.size else "",
            f"{self.commits} commits" if self.commits else "",
            f"not before {self.rate_limit_spec}" if self.rate_limit_spec else "",
            self.cron_spec,
        ]
        return (" and " if self.all else " or ").join(filter(None, words))


def parse_size(text: str) -> int:
    """Bytes of a trigger's `size`: a quantity, in either case and perhaps with a B behind. InvalidArgument."""
    found = _SIZE.fullmatch(text.strip())
    return parse_quantity(text if found is None else found[1] + found[2].upper() + found[3].lower())


def check_trigger(trigger: Trigger, branch: str) -> tuple[str, str] | None:
    """What is wrong with the trigger of a branch, behind the name of the field; None when nothing is."""
    checks: dict[str, Callable[[], object]] = {
        "branch": lambda: check_label("branch", trigger.branch),
        "size": lambda: parse_size(trigger.size) if trigger.size else None,
        "rate_limit_spec": lambda: parse_schedule(trigger.rate_limit_spec, 0) if trigger.rate_limit_spec else None,
        "cron_spec": lambda: parse_schedule(trigger.cron_spec, 0) if trigger.cron_spec else None,
    }
    for field, check in checks.items():
        try:
            check()
        except InvalidArgument as error:
            return field, str(error)
    if not 0 <= trigger.commits <= MAX_COMMITS:
        return "commits", f"{trigger.commits} is no number of commits to wait for: up to {MAX_COMMITS:,} can be"
    if trigger.branch == branch:
        return "branch", f"branch {branch} cannot wait for itself"
    if not trigger.shown:
        return "", "give one of size, commits, rate_limit_spec and cron_spec at least"
    return None
