"""What scripts/bench versions measures: programs that keep versions of a directory in a store on the disk.

What is counted is every file of their store, data and metadata alike. What they keep beside it and can make again
from it, an index or a cache, is counted apart.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from scripts.benchmarks.peers import Local
from scripts.benchmarks.rig import Rig


class Keeper(Local):
    """What all have in common. `data` is the directory whose versions they keep, counted from 1. Raises Failed.

    program: a command in the peers' environment, or in PATH. stores, beside: folders with what it stores, and with what
    can be made again from that.
    """

    program = ""
    stores: tuple[str, ...] = ("store",)
    beside: tuple[str, ...] = ()

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, programs, limit)
        self.data = folder / "data"

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        if shutil.which(self.program, path=f"{self.programs}:{os.environ['PATH']}"):
            return ""
        return f"no {self.program} in {self.programs} and in PATH, see scripts/bench peers --help"

    def make(self) -> None:
        """Make an empty store."""
        for name in self.stores:
            (self.folder / name).mkdir()

    def begin(self, number: int) -> None:
        """Get ready to store that version."""

    def keep(self, number: int) -> None:
        """Store `data` as a version."""
        raise NotImplementedError

    def restore(self, number: int) -> Path:
        """A directory that is as that version was."""
        raise NotImplementedError

    def kept(self, number: int) -> list[int]:
        """Those of the versions up to `number` that `restore` can give."""
        return list(range(1, number + 1))

    def stored(self) -> tuple[int, int]:
        """Bytes and objects in the store."""
        return _count(self.folder / name for name in self.stores)

    def local(self) -> int:
        """Bytes beside the store."""
        return _count(self.folder / name for name in self.beside)[0]

    def command(self, *words: str | Path) -> str:
        """Run its program, wherever it is; what it printed."""
        here = self.programs / self.program
        return self.run(here if here.exists() else shutil.which(self.program) or here, *words)


class Copies(Keeper):
    """Plain copies. To spare the disk, each is counted and removed before the next one is made."""

    name = "copies"
    settings = "cp -r"
    program = "cp"

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, programs, limit)
        self._removed = (0, 0)

    def version(self) -> str:
        """What it is, in a few words."""
        return self.command("--version").splitlines()[0].split()[-1]

    def begin(self, number: int) -> None:
        """Get ready to store that version."""
        before = self.folder / "store" / str(number - 1)
        if before.exists():
            size, count = _count([before])
            self._removed = self._removed[0] + size, self._removed[1] + count
            shutil.rmtree(before)

    def keep(self, number: int) -> None:
        """Store `data` as a version."""
        self.command("-r", self.data, self.folder / "store" / str(number))

    def restore(self, number: int) -> Path:
        """A directory that is as that version was."""
        return self.folder / "store" / str(number)

    def kept(self, number: int) -> list[int]:
        """Those of the versions up to `number` that `restore` can give."""
        return [number]

    def stored(self) -> tuple[int, int]:
        """Bytes and objects in the store."""
        size, count = super().stored()
        return self._removed[0] + size, self._removed[1] + count


class Vfsd(Keeper):
    """vfsd as it is in this checkout: a commit for each version."""

    name = "vfsd"
    settings = "default configuration; vfsd put"
    program = "vfsd"
    beside = ("state", "cache")

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, Path(sys.executable).parent, limit)
        self._rig = Rig(folder)
        self._commits: dict[int, str] = {}

    def version(self) -> str:
        """What it is, in a few words."""
        return self.command("--version").split()[-1]

    def environ(self) -> dict[str, str]:
        """The environment of its commands."""
        return self._rig.environ

    def make(self) -> None:
        """Make an empty store."""
        self.command("init")
        self.command("repo", "create", "bench")

    def keep(self, number: int) -> None:
        """Store `data` as a version."""
        self._commits[number] = json.loads(self.command("--json", "put", self.data, "bench/main/data"))["id"]

    def restore(self, number: int) -> Path:
        """A directory that is as that version was."""
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        self.command("get", f"bench/main@{self._commits[number]}/data", target)
        return target

    def stored(self) -> tuple[int, int]:
        """Bytes and objects in the store."""
        size, count = super().stored()
        return size, count - _count([self.folder / "store/tmp", self.folder / "store/locks"])[1]


class Restic(Keeper):
    """restic with a repository in a directory: a snapshot for each version. It encrypts, which adds little."""

    name = "restic"
    settings = "restic backup, repository format 2, compression auto"
    program = "restic"
    beside = ("cache",)

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, programs, limit)
        self._snapshots: dict[int, str] = {}

    def version(self) -> str:
        """What it is, in a few words."""
        return self.command("version").split()[1]

    def environ(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            **os.environ, "RESTIC_REPOSITORY": str(self.folder / "store"), "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
        }  # fmt: skip

    def make(self) -> None:
        """Make an empty store."""
        self.command("init", "--repository-version", "2")

    def keep(self, number: int) -> None:
        """Store `data` as a version."""
        lines = self.command("backup", "--json", self.data).splitlines()
        self._snapshots[number] = json.loads(lines[-1])["snapshot_id"]

    def restore(self, number: int) -> Path:
        """A directory that is as that version was."""
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        self.command("restore", self._snapshots[number], "--target", target)
        return target / self.data.relative_to("/")


class Dvc(Keeper):
    """DVC without git: the small file that git would keep is copied for each version, and counted as stored."""

    name = "dvc"
    settings = "dvc add, default cache type (reflink, copy)"
    program = "dvc"
    stores = (".dvc/cache", "history")
    beside = (".dvc/tmp", "site")

    def version(self) -> str:
        """What it is, in a few words."""
        return self.command("--version").strip()

    def environ(self) -> dict[str, str]:
        """The environment of its commands; nothing is asked of or told to the network."""
        return {**os.environ, "DVC_NO_ANALYTICS": "1", "CI": "1", "DVC_SITE_CACHE_DIR": str(self.folder / "site")}

    def make(self) -> None:
        """Make an empty store."""
        self.command("init", "--no-scm", "--quiet")
        (self.folder / "history").mkdir()

    def keep(self, number: int) -> None:
        """Store `data` as a version."""
        self.command("add", "--quiet", self.data)
        shutil.copy(self.folder / "data.dvc", self.folder / "history" / str(number))

    def restore(self, number: int) -> Path:
        """A directory that is as that version was."""
        shutil.copy(self.folder / "history" / str(number), self.folder / "data.dvc")
        self.command("checkout", "--quiet", "--force", "data.dvc")
        return self.data


def _count(folders: Iterable[Path]) -> tuple[int, int]:
    """Bytes and number of all files in folders."""
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum(sizes), len(sizes)


KEEPERS: dict[str, type[Keeper]] = {kind.name: kind for kind in (Vfsd, Dvc, Restic, Copies)}
