"""What scripts/bench pipelines measures beside vfsd: programs that run a command many times, found on the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from scripts.benchmarks.peers import Failed, TooLong, last_line


class Errands:
    """A program that runs `true` many times in an empty folder, `cores` at a time. Raises Failed.

    share: of the asked number, for those that would take hours. program: its command.
    """

    name = ""
    program = ""
    share = 1.0
    about = ""

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return "" if shutil.which(self.program) else f"no {self.program} on the PATH"

    def version(self) -> str:
        """What it says of itself."""
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        return last_line(said.stdout.splitlines()[0] if said.stdout else said.stderr)

    def prepare(self, folder: Path, count: int) -> None:
        """Write down what is to be run."""
        raise NotImplementedError

    def words(self, cores: int) -> list[str]:
        """The command that runs it."""
        raise NotImplementedError

    def seconds(self, folder: Path, count: int, cores: int, limit: float) -> float:
        """How long it takes."""
        folder.mkdir()
        self.prepare(folder, count)
        stdin = folder / "list"
        stdin.write_text("".join(f"{number}\n" for number in range(count)))
        start = time.perf_counter()
        try:
            with stdin.open() as numbers:
                done = subprocess.run(
                    self.words(cores), cwd=folder, stdin=numbers, capture_output=True, text=True, timeout=limit,
                    check=False, env={**os.environ, "HOME": str(folder)},
                )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TooLong(f"not done within {limit:.0f} s") from None
        if done.returncode:
            raise Failed(f"it ended with {done.returncode}: {last_line(done.stderr or done.stdout)}")
        return time.perf_counter() - start


class Parallel(Errands):
    """GNU parallel."""

    name, program = "GNU parallel", "parallel"
    about = "no sandbox, nothing kept"

    def prepare(self, folder: Path, count: int) -> None:
        """Nothing: it reads the list."""

    def words(self, cores: int) -> list[str]:
        """A job for each line."""
        return ["parallel", "--will-cite", f"-j{cores}", "true"]


class Snakemake(Errands):
    """Snakemake, a rule with an output file."""

    name, program, share = "Snakemake", "snakemake", 0.1
    about = "no sandbox, output files touched"

    def prepare(self, folder: Path, count: int) -> None:
        """A rule for all."""
        (folder / "Snakefile").write_text(
            f'rule all:\n    input: expand("out/{{i}}", i=range({count}))\n'
            'rule one:\n    output: touch("out/{i}")\n    shell: "true"\n'
        )

    def words(self, cores: int) -> list[str]:
        """All of them."""
        return ["snakemake", "-j", str(cores), "--quiet", "all"]


class Dvc(Errands):
    """DVC, a stage for each."""

    name, program, share = "DVC", "dvc", 0.01
    about = "one at a time, no sandbox"

    def prepare(self, folder: Path, count: int) -> None:
        """A stage for each."""
        subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["dvc", "config", "core.analytics", "false"], cwd=folder, check=True, capture_output=True)
        stages = "".join(f"  s{number}:\n    cmd: 'true'\n" for number in range(count))
        (folder / "dvc.yaml").write_text(f"stages:\n{stages}")

    def words(self, cores: int) -> list[str]:
        """All of them."""
        return ["dvc", "repro", "-q"]


ERRANDS: tuple[Errands, ...] = (Parallel(), Snakemake(), Dvc())
