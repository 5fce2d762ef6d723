from __future__ import annotations

import trio
import trio.testing

from vfsd.pipeline.turns import Turns


async def test_no_more_run_than_there_are_places_and_pipelines_take_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns = Turns(2)
    order: list[str] = []
    running = most = 0

    async def datum(pipeline: str) -> None:
        nonlocal running, most
        async with turns.taken(pipeline):
            running += 1
            most = max(most, running)
            order.append(pipeline)
            await trio.sleep(1)
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(datum, "large")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(datum, "small")
    assert most == 2
    assert set(order[2:4]) == {"large", "small"} and set(order[4:6]) == {"large", "small"}, order
    assert len(order) == 8


async def test_who_is_stopped_while_waiting_leaves_no_place_taken(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns(1)
    async with turns.taken("a"):
        with trio.move_on_after(1):
            async with turns.taken("b"):
                raise AssertionError("there is no place")
    with trio.fail_after(1):
        async with turns.taken("c"):
            pass
