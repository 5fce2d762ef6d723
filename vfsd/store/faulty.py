"""A store that fails on purpose: before acting, after acting, or for good, as a plan says. For tests only.

A plan sees every request before it is made and may name a fault. It may also block, which is how a slow store is had.
"""

from __future__ import annotations

import enum
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from vfsd.model.errors import Unavailable
from vfsd.store.api import ObjectStore
from vfsd.store.wrapped import WrappedStore

T = TypeVar("T")
WRITES = frozenset({"put", "put_if_absent", "put_if_match", "delete"})


class Fault(enum.Enum):
    """What may go wrong with one request.

    FAIL: Unavailable, nothing happened. LOSE: it happened, but the caller sees Unavailable. REPEAT: it happened, its
    response was lost, and it is sent again, as a client does on its own; the caller sees the second answer.
    CRASH, CRASH_AFTER: the process dies before or after the request happens: Crashed, now and ever after.
    """

    FAIL = "fail"
    LOSE = "lose"
    REPEAT = "repeat"
    CRASH = "crash"
    CRASH_AFTER = "crash after"


class Crashed(BaseException):
    """The process is dead. Not an Exception, so that nothing but the test handles it."""


class Request(msgspec.Struct, frozen=True):
    """number: counts from 0, over all threads. kind: the method's name. key: key or prefix."""

    number: int
    kind: str
    key: str


Plan = Callable[[Request], Fault | None]


def no_faults(request: Request) -> Fault | None:
    """The plan in which nothing goes wrong."""
    return None


def script(faults: Mapping[int, Fault]) -> Plan:
    """The plan in which the requests of these numbers go wrong."""
    return lambda request: faults.get(request.number)


def seeded(seed: int, rate: float, faults: Collection[Fault], kinds: Collection[str] = WRITES) -> Plan:
    """The plan in which a share `rate` of the requests of these kinds go wrong, the same ones for the same seed."""
    choices = list(faults)

    def plan(request: Request) -> Fault | None:
        dice = random.Random(f"{seed} {request.number}")
        return dice.choice(choices) if dice.random() < rate and request.kind in kinds else None

    return plan


def slow(seconds: float) -> Plan:
    """The plan in which every request takes `seconds` longer, and nothing goes wrong."""

    def plan(request: Request) -> None:
        time.sleep(seconds)

    return plan


class FaultyStore(WrappedStore):
    """Passes calls on to `inner` but for what `plan` says. `requests` holds all that were made, in order."""

    def __init__(self, inner: ObjectStore, plan: Plan = no_faults) -> None:
        super().__init__(inner)
        self.plan = plan
        self.requests: list[Request] = []
        self._crashed = False
        self._lock = threading.Lock()

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        with self._lock:
            request = Request(len(self.requests), kind, key)
            self.requests.append(request)
        fault = None if self._crashed else self.plan(request)
        if self._crashed or fault is Fault.CRASH:
            self._crashed = True
            raise Crashed(f"{kind} {key}")
        if fault is Fault.FAIL:
            raise Unavailable(f"{kind} {key}: failed on purpose, before anything happened")
        result = act()
        match fault:
            case Fault.LOSE:
                raise Unavailable(f"{kind} {key}: response lost on purpose")
            case Fault.CRASH_AFTER:
                self._crashed = True
                raise Crashed(f"{kind} {key}")
            case Fault.REPEAT:
                return act()
        return result
