"""The command line: the list of all commands, and the one place where errors become exit codes.

A command's module is imported when the command is used, so that `vfsd --help` and shell completion stay quick.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from vfsd import __version__
from vfsd.daemon.invocation import json_option, store_option
from vfsd.model.errors import VfsdError
from vfsd.model.shown import shown_text

DEPTH = 20_000  # frames: trees are walked recursively, and a path may have some thousand components


@dataclass(frozen=True)
class Listed:
    """A command: its name, the module and the attribute where it is, and the first sentence of its help."""

    name: str
    module: str
    attribute: str
    help: str


SECTIONS: dict[str, tuple[Listed, ...]] = {
    "The mount": (
        Listed("mount", "vfsd.daemon.commands.mounting", "mount", "Mount the store and serve it."),
        Listed("umount", "vfsd.daemon.commands.mounting", "umount", "Commit what is closed, and unmount."),
        Listed("status", "vfsd.daemon.commands.mounting", "status", "Show the daemon and what is not committed yet."),
        Listed("commit", "vfsd.daemon.commands.commits", "commit", "Commit now, or hold commits back."),
    ),
    "The store": (
        Listed("init", "vfsd.daemon.commands.init", "init", "Make a store."),
        Listed("index", "vfsd.daemon.commands.index", "index", "Look after this node's index of the store."),
        Listed("cache", "vfsd.daemon.commands.cache", "cache", "Look after the data that this node keeps on its disk."),
        Listed("fsck", "vfsd.daemon.commands.fsck", "fsck", "Check that the store is whole."),
        Listed("gc", "vfsd.daemon.commands.gc", "gc", "Delete what no branch, tag or job leads to."),
        Listed("compact", "vfsd.daemon.commands.compact", "compact", "Rewrite packs of which little is needed."),
        Listed("doctor", "vfsd.daemon.commands.doctor", "doctor", "Check what this machine and the store need."),
    ),
    "Versions": (
        Listed("repo", "vfsd.daemon.commands.repos", "repo", "Create, list, inspect and delete repos."),
        Listed(
            "branch", "vfsd.daemon.commands.branches", "branch",
            "Create, move, trigger, list, inspect and delete branches.",
        ),
        Listed("tag", "vfsd.daemon.commands.tags", "tag", "Create, list and delete tags."),
        Listed("log", "vfsd.daemon.commands.history", "log", "List the commits of a branch, newest first."),
        Listed("show", "vfsd.daemon.commands.history", "show", "Show one commit."),
        Listed("diff", "vfsd.daemon.commands.history", "diff", "List what differs between two trees."),
        Listed("lineage", "vfsd.daemon.commands.lineage", "lineage", "Show what something was made from."),
        Listed("drop", "vfsd.daemon.commands.retention", "drop", "Drop the contents of commits."),
        Listed("squash", "vfsd.daemon.commands.retention", "squash", "Drop the contents of all commits between two."),
        Listed(
            "retention", "vfsd.daemon.commands.retention", "retention", "Keep rules: which commits keep their contents."
        ),
    ),
    "Pipelines": (
        Listed("pipeline", "vfsd.daemon.commands.pipelines", "pipeline", "Create, change, list and delete pipelines."),
        Listed("job", "vfsd.daemon.commands.jobs", "job", "List, inspect, await and stop jobs."),
        Listed("datum", "vfsd.daemon.commands.datums", "datum", "List and inspect the datums of a job."),
        Listed("next", "vfsd.daemon.commands.next", "next_", "Within a pipeline: ask for the next datum."),
    ),
    "Files": (
        Listed("ls", "vfsd.daemon.commands.reading", "ls", "List a directory."),
        Listed("cat", "vfsd.daemon.commands.reading", "cat", "Write files to standard output."),
        Listed("stat", "vfsd.daemon.commands.reading", "stat", "Show all that is known of a file or directory."),
        Listed("get", "vfsd.daemon.commands.reading", "get", "Copy a file or directory out of the store."),
        Listed("put", "vfsd.daemon.commands.writing", "put", "Copy a local file or directory into a branch."),
        Listed("watch", "vfsd.daemon.commands.watching", "watch", "Commit what happens in a local directory."),
        Listed("cp", "vfsd.daemon.commands.writing", "cp", "Copy within the store."),
        Listed("rm", "vfsd.daemon.commands.writing", "rm", "Remove a file or directory from a branch."),
    ),
    "Other": (
        Listed("completion", "vfsd.daemon.commands.completion", "completion", "Print a script for shell completion."),
    ),
}


class Cli(click.Group):
    """The root of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [listed.name for part in SECTIONS.values() for listed in part]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for part in SECTIONS.values():
            for listed in part:
                if listed.name == cmd_name:
                    found: click.Command = getattr(importlib.import_module(listed.module), listed.attribute)
                    return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, part in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(listed.name, listed.help) for listed in part])

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run one command and end with its exit code."""
        extra["standalone_mode"] = False
        sys.exit(run(lambda: super(Cli, self).main(args, prog_name or "vfsd", *rest, **extra)))


def run(command: Callable[[], object]) -> int:
    """Run `command`, say on one line of standard error what went wrong, and give the exit code."""
    sys.setrecursionlimit(DEPTH)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except VfsdError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return _fail(error.format_message().rstrip(".") + where, error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone. Python flushes once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RecursionError as error:
        return _fail("the tree is nested too deeply for this", 1, error)
    except OSError as error:
        return _fail(": ".join(filter(None, (str(error.filename or ""), error.strerror or str(error)))), 1, error)
    except Exception as error:
        return _fail(f"unexpected {type(error).__name__}: {error} (VFSD_DEBUG=1 shows where)", 1, error)


def _fail(text: str, code: int, error: Exception | None = None) -> int:
    if os.environ.get("VFSD_DEBUG") == "1":
        traceback.print_exc()
    line = shown_text(" ".join(text.split()))
    line = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", line)  # a byte of an argument, in Python's notation
    click.echo(f"vfsd: {line}", err=True)
    return code


@click.command(
    cls=Cli, params=[store_option(), json_option("Print one JSON document (of commands that print facts).")],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip
@click.version_option(__version__, message="vfsd %(version)s")
def cli() -> None:
    """Versioned data as directories.

    A SPEC names something as its path in the mount does: REPO/BRANCH[@REV][/PATH]. A REV is a commit id or the
    beginning of one, a tag, a time like 2026-11-22T10:00:00Z, or ~N for N commits back, also behind one of the others.

    \b
    Example:
      vfsd init
      vfsd repo create texts
      vfsd put licences texts/main/licences
      vfsd log texts/main
      vfsd cat texts/main@~1/licences/GPL-3
    """
