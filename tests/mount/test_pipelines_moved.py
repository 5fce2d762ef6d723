"""What runs pipelines besides writes: clocks, triggers, and branches that are moved by hand."""

from __future__ import annotations

import errno
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.mount.test_pipelines import UPPER, outputs, write

STAMP = {"cmd": ["sh"], "stdin": ['basename "$clock" >/pfs/out/stamp']}


def create(mounted: Mounted, name: str, given: dict[str, Any], transform: dict[str, Any]) -> None:
    path = mounted.folder / f"{name}.json"
    path.write_text(json.dumps({"pipeline": {"name": name}, "input": given, "transform": transform}))
    mounted.run("pipeline", "create", "-f", path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_ticks_are_files_that_run_the_pipeline_and_a_killed_daemon_leaves_out_none(mounted: Mounted) -> None:
    create(mounted, "count", {"cron": {"name": "clock", "spec": "@every 1s", "overwrite": True}}, STAMP)
    create(mounted, "all", {"cron": {"name": "clock", "spec": "@every 1s"}}, {"cmd": ["true"]})
    ticks = mounted.path / "all_clock/main"
    wait_for(lambda: len(names(ticks)) >= 1 and (mounted.path / "count/main/stamp").exists())
    with pytest.raises(OSError) as caught:
        (ticks / "mine").write_text("x")
    assert caught.value.errno == errno.EROFS
    mounted.kill()
    mounted.run("umount", mounted.path, check=False)
    mounted.mount()
    before = len(names(ticks))
    wait_for(lambda: len(names(ticks)) > before)
    mounted.run("pipeline", "stop", "all")
    found = names(ticks)
    moments = [datetime.fromisoformat(name) for name in found]
    assert moments == [moments[0] + number * timedelta(seconds=1) for number in range(len(moments))]
    assert len(names(mounted.path / "count_clock/main")) == 1
    stamp = mounted.path / "count/main/stamp"
    wait_for(lambda: datetime.fromisoformat(stamp.read_text().strip()) >= moments[0])


def test_a_tick_by_hand_runs_the_pipeline(mounted: Mounted) -> None:
    create(mounted, "count", {"cron": {"name": "clock", "spec": "@never"}}, STAMP)
    assert mounted.facts("pipeline", "inspect", "count")["ticks"] == [{"repo": "count_clock", "next": None}]
    (made,) = mounted.facts("pipeline", "run-cron", "count")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["tick"])
    mounted.run("job", "wait", "--pipeline", "count")
    assert outputs(mounted.path / "count/main") == {"stamp": f"{made['tick']}\n"}
    assert names(mounted.path / "count_clock/main") == [made["tick"]]
    assert mounted.facts("show", "count/main")["global_id"] == mounted.facts("show", "count_clock/main")["global_id"]


def test_a_branch_that_is_moved_by_hand_runs_the_pipeline_once_a_move(mounted: Mounted) -> None:
    mounted.run("branch", "create", "data/released")
    create(mounted, "upper", {"pfs": {"repo": "data", "branch": "released", "glob": "/*"}}, UPPER)
    assert names(mounted.path / "data/released") == []
    write(mounted, a="one")
    write(mounted, b="two")
    mounted.run("branch", "move", "data/released", "--to", "main")
    mounted.run("job", "wait", "--pipeline", "upper")
    wait_for(lambda: outputs(mounted.path / "data/released") == {"a": "one", "b": "two"})
    mounted.run("branch", "move", "data/released", "--to", "main@~1")
    mounted.run("job", "wait", "--pipeline", "upper")
    wait_for(lambda: outputs(mounted.path / "data/released") == {"a": "one"})
    assert outputs(mounted.path / "upper/main") == {"a": "ONE"}
    assert len(mounted.facts("job", "list", "upper")) == 2


def test_a_trigger_moves_a_branch_that_users_only_read_and_outlives_a_killed_daemon(mounted: Mounted) -> None:
    mounted.run("branch", "trigger", "data/batch", "--on", "main", "--commits", "2")
    trigger = {"commits": 2}
    create(mounted, "upper", {"pfs": {"repo": "data", "glob": "/*", "trigger": trigger}}, UPPER)
    batch = mounted.path / "data/batch"
    with pytest.raises(OSError) as caught:
        (batch / "mine").write_text("x")
    assert caught.value.errno == errno.EROFS
    write(mounted, a="one")
    assert names(batch) == names(mounted.path / "upper/main") == []
    mounted.kill()
    mounted.run("umount", mounted.path, check=False)
    mounted.run("put", "-", "data/main/b", input="two")
    mounted.mount()
    wait_for(lambda: names(batch) == ["a", "b"])
    wait_for(lambda: outputs(mounted.path / "upper/main") == {"a": "ONE", "b": "TWO"})
    assert len(mounted.facts("job", "list", "upper")) == 1
    mounted.run("branch", "trigger", "data/batch", "--off")

    def writes() -> bool:
        try:
            (batch / "mine").write_text("x")
        except OSError as error:
            assert error.errno == errno.EROFS
            return False
        return True

    wait_for(writes)
    mounted.run("commit", "data/batch")
    assert mounted.run("cat", "data/batch/mine").stdout == "x"
