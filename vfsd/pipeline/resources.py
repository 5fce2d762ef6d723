"""What the datums of a machine may use at a time: requests are counted against what it has.

A datum waits until what its pipeline requests is free, in the order in which they came: a large one is not kept waiting
for ever by small ones. A pipeline that requests nothing is not counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import deque
from collections.abc import AsyncIterator

import msgspec
import trio

from vfsd.model.errors import InvalidArgument
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.quantities import parse_quantity
from vfsd.model.spec_transform import Resources

_GPU = re.compile(r"nvidia(\d+)")


class Amount(msgspec.Struct, frozen=True):
    """An amount of each thing. cpu: cores. memory, disk: bytes. gpu: how many."""

    cpu: float = 0.0
    memory: int = 0
    disk: int = 0
    gpu: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.cpu + other.cpu, self.memory + other.memory, self.disk + other.disk, self.gpu + other.gpu
        )

    def __sub__(self, other: Amount) -> Amount:
        return self + Amount(-other.cpu, -other.memory, -other.disk, -other.gpu)

    def covers(self, other: Amount) -> bool:
        """Whether there is enough of each thing."""
        left = self - other
        return left.cpu >= -1e-9 and left.memory >= 0 and left.disk >= 0 and left.gpu >= 0


def amount(resources: Resources) -> Amount:
    """What a spec says, in numbers. InvalidArgument."""
    return Amount(
        resources.cpu,
        parse_quantity(resources.memory) if resources.memory else 0,
        parse_quantity(resources.disk) if resources.disk else 0,
        resources.gpu.number if resources.gpu is not None else 0,
    )


def requested(spec: PipelineSpec) -> Amount:
    """What each datum of a pipeline needs: as in Kubernetes, GPUs may stand among the limits alone."""
    asked, limits = amount(spec.resource_requests), amount(spec.resource_limits)
    return msgspec.structs.replace(asked, gpu=max(asked.gpu, limits.gpu))


class Machine(msgspec.Struct, frozen=True):
    """What there is. gpus: numbers of their device files."""

    cpu: int
    memory: int
    disk: int
    gpus: tuple[int, ...]


def machine(folder: str, devices: str = "/dev") -> Machine:
    """This machine. folder: on the disk where datums write. devices: where device files are. Blocks."""
    found = sorted(int(match[1]) for name in os.listdir(devices) if (match := _GPU.fullmatch(name)))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(len(os.sched_getaffinity(0)), memory, shutil.disk_usage(folder).free, tuple(found))


class Budget:
    """What is free of a machine. In one event loop."""

    def __init__(self, there: Machine) -> None:
        self._there = there
        self._free = Amount(there.cpu, there.memory, there.disk, len(there.gpus))
        self._all = self._free
        self._gpus = deque(there.gpus)
        self._waiting: deque[tuple[Amount, trio.Event]] = deque()

    def check(self, need: Amount) -> None:
        """InvalidArgument when the machine has less than that altogether."""
        for what, asked, there in (
            ("cpu", f"{need.cpu:g} cores", f"{self._there.cpu}"),
            ("memory", _size(need.memory), _size(self._there.memory)),
            ("disk", _size(need.disk), f"{_size(self._there.disk)} free"),
            ("gpu", f"{need.gpu}", f"{len(self._there.gpus) or 'none'}"),
        ):
            if not getattr(self._all, what) >= getattr(need, what):
                raise InvalidArgument(
                    f"resource_requests.{what}: a datum needs {asked}, and this machine has {there}: it could never run"
                )

    @contextlib.asynccontextmanager
    async def taken(self, need: Amount) -> AsyncIterator[tuple[int, ...]]:
        """Wait until so much is free and have it for the block; the numbers of the GPUs."""
        if need == Amount():
            yield ()
            return
        if self._waiting or not self._free.covers(need):
            mine = (need, trio.Event())
            self._waiting.append(mine)
            try:
                await mine[1].wait()
            except trio.Cancelled:
                if mine[1].is_set():
                    self._give_back(need)
                else:
                    self._waiting.remove(mine)
                    self._serve()
                raise
        else:
            self._free -= need
        gpus = tuple(sorted(self._gpus.popleft() for _ in range(need.gpu)))
        try:
            yield gpus
        finally:
            self._gpus.extend(gpus)
            self._give_back(need)

    def _give_back(self, need: Amount) -> None:
        self._free += need
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._free.covers(self._waiting[0][0]):
            need, event = self._waiting.popleft()
            self._free -= need
            event.set()


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number / (1 << 20):.1f} MiB"
