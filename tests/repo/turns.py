"""Actors that take turns: each runs in a thread of its own over a faulty store, and makes a request only when it has
the turn. So a schedule, which Hypothesis draws and shrinks, decides how the requests of several nodes interleave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from vfsd.store.faulty import Crashed, Fault, FaultyStore, Request, no_faults

PATIENCE_S = 60.0


class Actor:
    """What one node does in a race. error: what it ended with, None if nothing. died: by a crash that was planned."""

    def __init__(self, name: str, store: FaultyStore, act: Callable[[], object]) -> None:
        self.name = name
        self.store = store
        self.act = act
        self.fault: tuple[int, Fault] | None = None
        self.error: BaseException | None = None
        self.died = False
        self.ended = False


class _Turns:
    def __init__(self, actors: Sequence[Actor], schedule: Sequence[tuple[int, int]]) -> None:
        self._actors = actors
        self._rest = [(number % len(actors), count) for number, count in schedule]
        self._changed = threading.Condition()
        self._current, self._left = 0, 0
        with self._changed:
            self._next()

    def _next(self) -> None:
        """The turn passes on: by the schedule, then to whoever has not ended."""
        while self._rest:
            self._current, self._left = self._rest.pop(0)
            if not self._actors[self._current].ended:
                break
        else:
            waiting = [number for number, actor in enumerate(self._actors) if not actor.ended]
            self._current, self._left = (waiting[0] if waiting else 0), 1 << 60
        self._changed.notify_all()

    def wait(self, number: int) -> None:
        with self._changed:
            while not (self._current == number and self._left):
                if self._current == number:
                    self._next()  # only now: what it did with its last request is done
                elif not self._changed.wait(PATIENCE_S):
                    raise AssertionError(f"{self._actors[self._current].name} does not go on")
            self._left -= 1

    def end(self, number: int) -> None:
        with self._changed:
            self._actors[number].ended = True
            if self._current == number:
                self._next()


def race(actors: Sequence[Actor], schedule: Sequence[tuple[int, int]]) -> None:
    """Run all to their ends. schedule: (actor, how many requests) a turn; what is left over is done one by one."""
    turns = _Turns(actors, schedule)

    def run(number: int, actor: Actor) -> None:
        made = 0

        def plan(request: Request) -> Fault | None:
            nonlocal made
            turns.wait(number)
            made += 1
            if actor.fault is not None and made > actor.fault[0]:
                fault, actor.fault = actor.fault[1], None
                return fault
            return None

        actor.store.plan = plan
        try:
            actor.act()
        except Crashed:
            actor.died = True
        except BaseException as error:
            actor.error = error
        finally:
            actor.store.plan = no_faults
            turns.end(number)

    threads = [threading.Thread(target=run, args=(number, actor)) for number, actor in enumerate(actors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
