"""Says what is wrong with the inputs of a pipeline spec: names that clash, globs and templates that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.model.glob import Glob
from vfsd.model.names import DEFAULT_BRANCH, check_label
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.schedule import parse_moment, parse_schedule
from vfsd.model.spec_input import COMBINATIONS, CronInput, Input, PfsInput
from vfsd.model.trigger import Trigger, check_trigger

MAX_DEPTH = 20  # inputs within inputs
_RESERVED = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})


class InputChecker:
    """Checks the inputs of one spec; `place` begins each message. InvalidArgument."""

    def __init__(self, place: str) -> None:
        self.place = place

    def fail(self, path: str, why: str) -> NoReturn:
        """One line: where, what."""
        raise InvalidArgument(f"{self.place}: {path}: {why}" if path else f"{self.place}: {why}")

    def checked(self, path: str, check: Callable[[], object]) -> None:
        """Run a check of the model on a field; what it raises gets the field's path."""
        try:
            check()
        except InvalidArgument as error:
            self.fail(path, str(error))

    def inputs(self, spec: PipelineSpec) -> None:
        """All that a pipeline reads."""
        self._shape(spec.input, "input", 1)
        self._names(spec, spec.input, "input", {})
        moved: dict[tuple[str, str], Trigger] = {}
        for pfs in spec.pfs_inputs():
            known = moved.setdefault((pfs.repo, pfs.branch), pfs.trigger) if pfs.trigger and pfs.branch else None
            if known not in {None, pfs.trigger}:
                self.fail("input", f"two inputs give the branch {pfs.repo}/{pfs.branch} different triggers")
        repos = [cron.pfs(spec.name).repo for cron in spec.cron_inputs()]
        for repo in repos:
            if repos.count(repo) > 1:
                self.fail("input", f"two cron inputs write to the repo {repo}; give one of them another name")

    def _shape(self, one: Input, path: str, depth: int) -> None:
        given = [name for name in one.__struct_fields__ if getattr(one, name)]
        if len(given) != 1:
            had = f", not {' and '.join(given)}" if given else ""
            self.fail(path, f"give just one of pfs, {', '.join(COMBINATIONS)} and cron{had}")
        if depth > MAX_DEPTH:
            self.fail(path, f"inputs stand more than {MAX_DEPTH} deep in each other")
        if one.pfs is not None:
            self._pfs(one.pfs, f"{path}.pfs")
        if one.cron is not None:
            self._cron(one.cron, f"{path}.cron")
        for number, part in enumerate(one.parts):
            self._shape(part, f"{path}.{one.kind}[{number}]", depth + 1)

    def _names(self, spec: PipelineSpec, one: Input, path: str, taken: dict[str, str]) -> dict[str, str]:
        """The names of an input and those that were taken ahead of it, each with its path. Parts of a union may have
        the same."""
        if one.parts:
            found = dict(taken)
            for number, part in enumerate(one.parts):
                ahead = taken if one.kind == "union" else found
                found |= self._names(spec, part, f"{path}.{one.kind}[{number}]", ahead)
            return found
        (pfs,) = one.leaves(spec.name)
        path = f"{path}.{one.kind}"
        name = pfs.name or pfs.repo
        where = f"{path}.name" if pfs.name else path
        if name in taken:
            self.fail(where, f"{taken[name]} is named {name} too; give one of them another name")
        if pfs.repo == spec.name:
            self.fail(f"{path}.repo", "a pipeline cannot read the repo that it writes")
        if spec.transform.env.keys() & {name, f"{name}_COMMIT"}:
            self.fail(f"transform.env.{name}", "the input of that name sets it")
        return taken | {name: path}

    def _pfs(self, pfs: PfsInput, path: str) -> None:
        self.checked(f"{path}.repo", lambda: check_label("repo", pfs.repo))
        if pfs.branch:
            self.checked(f"{path}.branch", lambda: check_label("branch", pfs.branch))
        if pfs.trigger is not None:
            trigger = msgspec.structs.replace(pfs.trigger, branch=pfs.trigger.branch or DEFAULT_BRANCH)
            if (wrong := check_trigger(trigger, pfs.branch)) is not None:
                self.fail(".".join(filter(None, (f"{path}.trigger", wrong[0]))), wrong[1])
        self.checked(f"{path}.glob", lambda: Glob(pfs.glob))
        self._name(pfs.name or pfs.repo, f"{path}.name" if pfs.name else path)

    def _cron(self, cron: CronInput, path: str) -> None:
        self.checked(f"{path}.name", lambda: check_label("repo", cron.name))
        if cron.repo:
            self.checked(f"{path}.repo", lambda: check_label("repo", cron.repo))
        if cron.start:
            self.checked(f"{path}.start", lambda: parse_moment(cron.start))
        self.checked(f"{path}.spec", lambda: parse_schedule(cron.spec, 0))
        self._name(cron.name, f"{path}.name")

    def _name(self, name: str, where: str) -> None:
        if name in {"out", ".env"}:
            self.fail(where, f"{name!r} is taken: /pfs/{name} has a meaning of its own; give the input another name")
        self.checked(where, lambda: check_label("input", name))
        if "=" in name or name in _RESERVED or name.startswith(("PACH_", "VFSD_")):
            self.fail(where, f"{name!r} cannot name the input's variable; give the input another name")
