"""OpenLineage events of a real mount: printed, and written as jobs run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lineage.test_openlineage import check_event
from tests.mount.conftest import Mounted


def events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        check_event(event)
    return found


def told(found: list[dict[str, Any]]) -> list[tuple[str, str, list[str], list[str]]]:
    def names(datasets: list[dict[str, Any]]) -> list[str]:
        return [one["name"] for one in datasets]

    return [
        (event["eventType"], event["job"]["name"], names(event["inputs"]), names(event["outputs"])) for event in found
    ]


def test_jobs_and_commits_of_programs_are_told_of(node: Mounted) -> None:
    path = node.folder / "events.jsonl"
    config = Path(node.environ["VFSD_CONFIG"])
    config.write_text(config.read_text() + f'openlineage = "{path}"\npipeline_users = ["root"]\n')
    node.mount()
    for repo in ("data", "models"):
        (node.path / repo).mkdir()
    (node.path / "data/main/a").write_text("a")
    node.run("commit", "data/main")
    for name, command in (("copy", 'cp "$data" /pfs/out'), ("broken", "exit 3")):
        spec = {
            "pipeline": {"name": name}, "transform": {"cmd": ["sh", "-c", command]}, "datum_tries": 1,
            "input": {"pfs": {"repo": "data", "glob": "/*"}},
        }  # fmt: skip
        file = node.folder / "spec.json"
        file.write_text(json.dumps(spec))
        node.run("pipeline", "create", "-f", file)
        node.run("job", "wait", "--pipeline", name, check=False)
    script = node.folder / "train.py"
    script.write_text('open("models/main/m", "w").write(open("copy/main/a").read())')
    subprocess.run([sys.executable, str(script)], cwd=node.path, check=True, start_new_session=True)
    node.run("commit", "models/main")
    train = f"{Path(sys.executable).name} train.py"
    printed = told(events(node.run("lineage", "models/main/m", "--openlineage").stdout))
    assert printed == [
        ("START", train, ["copy/main"], ["models/main"]), ("COMPLETE", train, ["copy/main"], ["models/main"]),
        ("START", "copy", ["data/main"], ["copy/main"]), ("COMPLETE", "copy", ["data/main"], ["copy/main"]),
    ]  # fmt: skip
    node.umount()
    written = told(events(path.read_text()))
    assert written == [
        ("START", "copy", ["data/main"], []), ("COMPLETE", "copy", ["data/main"], ["copy/main"]),
        ("START", "broken", ["data/main"], []), ("FAIL", "broken", ["data/main"], []),
        ("START", train, ["copy/main"], ["models/main"]), ("COMPLETE", train, ["copy/main"], ["models/main"]),
    ]  # fmt: skip
