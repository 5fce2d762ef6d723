"""The pipelines of a store as a graph: branches that they read, and layers in which everything stands behind what it
reads. Pipelines cannot read in circles; should the store say so all the same, the layers end there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.trigger import Trigger
from vfsd.pipeline.registry import PipelineHead, PipelineState


class Box(msgspec.Struct, frozen=True):
    """A pipeline with its output branch, or a branch that no pipeline writes. name: `repo/branch`. pipeline: empty for
    a branch. layer: 0 for what reads nothing. kind: of the pipeline, see PipelineSpec, empty for a branch. schedule: of
    a branch with ticks, empty for the others."""

    name: str
    pipeline: str
    stopped: bool
    layer: int
    kind: str = ""
    schedule: str = ""

    @property
    def label(self) -> str:
        """How it is shown."""
        note = self.schedule or self.kind.removeprefix("transform")
        return f"{self.name}  ({note})" if note else self.name


class Arrow(msgspec.Struct, frozen=True):
    """A pipeline reads a branch, or a trigger moves one. source, target: names of boxes. glob: what it reads there,
    several joined by a space; trigger: when it is moved; one of them is empty."""

    source: str
    target: str
    glob: str
    trigger: str = ""

    @property
    def label(self) -> str:
        """How it is shown."""
        return self.glob or self.trigger


class Dag(msgspec.Struct, frozen=True):
    """boxes: by layers, then by names. arrows: by target, then source."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def dag(heads: Iterable[PipelineHead], trigger_of: Callable[[str, str], Trigger | None]) -> Dag:
    """The graph of these pipelines, all that they read, and what moves it. trigger_of: (repo, branch) → trigger."""
    pipelines = {f"{head.name}/{head.spec.output_branch}": head for head in heads}
    reads: dict[str, dict[str, list[str]]] = {}
    for name, head in pipelines.items():
        for pfs in head.spec.pfs_inputs():
            reads.setdefault(name, {}).setdefault(f"{pfs.repo}/{pfs.branch}", []).append(pfs.glob)
    triggers = _triggers({source for sources in reads.values() for source in sources} - pipelines.keys(), trigger_of)
    for name, trigger in triggers.items():
        reads[name] = {_beside(name, trigger.branch): []}
    names = {*pipelines, *(source for sources in reads.values() for source in sources)}
    layers = _layers(names, reads)
    schedules = {
        f"{cron.repo}/{DEFAULT_BRANCH}": cron.spec for head in pipelines.values() for cron in head.spec.cron_inputs()
    }
    boxes = []
    for name in sorted(names, key=lambda name: (layers[name], name)):
        found = pipelines.get(name)
        stopped = found is not None and found.state is not PipelineState.RUNNING
        pipeline, kind = ("", "") if found is None else (found.name, found.spec.kind)
        boxes.append(Box(name, pipeline, stopped, layers[name], kind, schedules.get(name, "")))
    arrows = [
        Arrow(source, target, " ".join(dict.fromkeys(globs)), triggers[target].shown if target in triggers else "")
        for target, sources in sorted(reads.items())
        for source, globs in sorted(sources.items())
    ]
    return Dag(tuple(boxes), tuple(arrows))


def _triggers(branches: set[str], trigger_of: Callable[[str, str], Trigger | None]) -> dict[str, Trigger]:
    """What moves these branches, and those that they wait for."""
    found: dict[str, Trigger] = {}
    todo = sorted(branches)
    while todo:
        name = todo.pop()
        repo, branch = name.split("/")
        trigger = trigger_of(repo, branch)
        if trigger is not None and name not in found:
            found[name] = trigger
            todo.append(_beside(name, trigger.branch))
    return found


def _beside(name: str, branch: str) -> str:
    return f"{name.split('/', maxsplit=1)[0]}/{branch}"


def _layers(names: set[str], reads: dict[str, dict[str, list[str]]]) -> dict[str, int]:
    """Name → one more than the last layer of what it reads."""
    layers = dict.fromkeys(names, 0)
    for _ in names:  # a longest way has at most so many steps
        moved = False
        for target, sources in reads.items():
            layer = 1 + max(layers[source] for source in sources)
            if layers[target] < layer:
                layers[target], moved = layer, True
        if not moved:
            break
    return layers
