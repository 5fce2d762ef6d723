"""Which node runs a pipeline, as one of them sees it: a synchronous state machine, events in, instructions out. No I/O.

Each node that runs pipelines is a *runner*, and beats: it writes one small object of its own anew, several times in the
time that the object states as its life. The head of a pipeline's output branch names the runner that has the pipeline,
and the epoch in which it was given to it. A runner whose beat has not changed for the life that it states is dead. That
is measured by the observer's own monotonic clock from when it saw the beat change, so clocks of different nodes are
never held against each other. A runner without a beat is dead at once: that is how one gives up all that it has.

What is concluded here may be late or wrong, as what was seen may be old; that costs time and never a commit. A claim
raises the epoch by compare-and-swap, and a branch is moved for a pipeline in its present epoch only.
"""

from __future__ import annotations

import math

import msgspec


class BeatSeen(msgspec.Struct, frozen=True):
    """Event: a runner's beat, new or not. life_s: seconds without a change after which it is dead."""

    runner: str
    nonce: str
    life_s: float


class BeatGone(msgspec.Struct, frozen=True):
    """Event: a runner has no beat any more."""

    runner: str


class HeadSeen(msgspec.Struct, frozen=True):
    """Event: who has a pipeline, as the head of its output branch says; perhaps an old one."""

    pipeline: str
    holder: str
    epoch: int


class HeadGone(msgspec.Struct, frozen=True):
    """Event: a pipeline's output branch is gone, or nothing may be concluded any more from what was seen of it."""

    pipeline: str


class Claimed(msgspec.Struct, frozen=True):
    """Event: this runner has been given a pipeline."""

    pipeline: str
    epoch: int


class TimePassed(msgspec.Struct, frozen=True):
    """Event: a moment that `next_check` named has come."""


Event = BeatSeen | BeatGone | HeadSeen | HeadGone | Claimed | TimePassed


class Lost(msgspec.Struct, frozen=True):
    """Instruction: this runner has the pipeline no more. What runs of it ends; nothing of it is written down."""

    pipeline: str


class Free(msgspec.Struct, frozen=True):
    """Instruction: nobody who lives has the pipeline: claim it if there is something to do."""

    pipeline: str


Instruction = Lost | Free


class _Beat(msgspec.Struct, frozen=True):
    nonce: str
    life_s: float
    changed: float  # when it was seen to change, by the observer's clock


class _Holding(msgspec.Struct, frozen=True):
    holder: str
    epoch: int


class LeaseMachine:
    """What one runner, `me`, knows of all. `now` is always its monotonic clock, in seconds."""

    def __init__(self, me: str) -> None:
        self.me = me
        self._beats: dict[str, _Beat] = {}
        self._heads: dict[str, _Holding] = {}
        self._mine: dict[str, int] = {}  # pipeline → epoch that this runner was given
        self._held_by_the_living: set[str] = set()  # pipelines of others, as was said last

    # Asking

    def epoch(self, pipeline: str) -> int | None:
        """The epoch in which this runner has a pipeline; None when it does not have it."""
        return self._mine.get(pipeline)

    def is_free(self, pipeline: str, now: float) -> bool:
        """Whether this runner may claim a pipeline that it does not have."""
        if pipeline in self._mine:
            return False
        head = self._heads.get(pipeline)
        return head is None or head.holder in {"", self.me} or not self._lives(head.holder, now)

    def holder(self, pipeline: str) -> str:
        """The runner that has a pipeline; empty for none."""
        head = self._heads.get(pipeline)
        return "" if head is None else head.holder

    def last_beat(self, runner: str) -> str:
        """The nonce of a runner's beat as it was last seen; empty when it has none."""
        beat = self._beats.get(runner)
        return "" if beat is None else beat.nonce

    def next_check(self, now: float) -> float:
        """When TimePassed is due: the next moment at which somebody who has a pipeline may be found dead."""
        holders = {self._heads[pipeline].holder for pipeline in self._held_by_the_living}
        ends = (beat.changed + beat.life_s for runner, beat in self._beats.items() if runner in holders)
        return min((end for end in ends if end > now), default=math.inf)

    def _lives(self, runner: str, now: float) -> bool:
        beat = self._beats.get(runner)
        return beat is not None and now < beat.changed + beat.life_s

    # Telling

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in an event."""
        lost: list[Instruction] = []
        match event:
            case BeatSeen(runner, nonce, life_s):
                known = self._beats.get(runner)
                if known is None or known.nonce != nonce:
                    self._beats[runner] = _Beat(nonce, life_s, now)
            case BeatGone(runner):
                self._beats.pop(runner, None)
            case HeadSeen(pipeline, holder, epoch):
                self._head_seen(pipeline, _Holding(holder, epoch), lost)
            case HeadGone(pipeline):
                self._heads.pop(pipeline, None)
                self._lose(pipeline, lost)
            case Claimed(pipeline, epoch):
                self._heads[pipeline] = _Holding(self.me, epoch)
                self._mine[pipeline] = epoch
            case TimePassed():
                pass
        return lost + self._freed(now)

    def _head_seen(self, pipeline: str, seen: _Holding, out: list[Instruction]) -> None:
        known = self._heads.get(pipeline)
        if known is not None and seen.epoch < known.epoch:
            return  # an old one
        self._heads[pipeline] = seen
        if (seen.holder, seen.epoch) != (self.me, self._mine.get(pipeline)):
            self._lose(pipeline, out)

    def _lose(self, pipeline: str, out: list[Instruction]) -> None:
        if self._mine.pop(pipeline, None) is not None:
            out.append(Lost(pipeline))

    def _freed(self, now: float) -> list[Instruction]:
        """Pipelines that somebody else was taken to have, and nobody does any more."""
        held = {
            pipeline
            for pipeline, head in self._heads.items()
            if head.holder not in {"", self.me} and self._lives(head.holder, now)
        }
        freed = sorted(self._held_by_the_living - held - self._mine.keys())
        self._held_by_the_living = held
        return [Free(pipeline) for pipeline in freed]

    def validate(self, now: float) -> None:
        """AssertionError when the machine contradicts itself; tests call it after each step."""
        for pipeline, epoch in self._mine.items():
            assert self._heads[pipeline] == _Holding(self.me, epoch)
            assert not self.is_free(pipeline, now)
        for pipeline, head in self._heads.items():
            if head.holder not in {"", self.me} and not self.is_free(pipeline, now):
                assert self.next_check(now) < math.inf, "nobody will ever look whether its holder lives"
