"""from a closed write to the pipeline's command running: time beyond the quiet period"""

from __future__ import annotations

import json
import sys
import time

from scripts.benchmarks.rig import QUIET_S, quantile, rig, table


def main() -> None:
    """Print the table; argument: number of runs."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    times = []
    with rig() as node:
        (node.mnt / "input").mkdir()
        spec = {
            "pipeline": {"name": "clock"},
            "input": {"pfs": {"repo": "input", "glob": "/*"}},
            "transform": {"cmd": ["sh"], "stdin": ["date +%s%N >/pfs/out/started"]},
        }
        path = node.folder / "clock.json"
        path.write_text(json.dumps(spec))
        node.run("pipeline", "create", "-f", path)
        for number in range(runs):
            (node.mnt / "input/main/file").write_text(str(number))
            closed = time.time_ns()
            started = node.mnt / "clock/main/started"
            while not started.exists() or int(started.read_text() or 0) < closed:
                time.sleep(0.02)
            times.append((int(started.read_text()) - closed) / 1e6 - QUIET_S * 1000)
    table(
        ("closed write → command runs, beyond the quiet period", "runs", "p50 ms", "p95 ms", "max ms"),
        [("one file, one datum", runs, *(f"{quantile(times, share):.0f}" for share in (0.5, 0.95, 1)))],
    )


if __name__ == "__main__":
    main()
