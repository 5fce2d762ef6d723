"""What every command takes: `--store`, and `--json` where it prints facts; before or behind the command's name.

Imports no more than click, because `vfsd --help` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click


@dataclass
class Invocation:
    """One run of the program, as click's context object: the options that are not of one command."""

    store: str | None = None
    json: bool = False


def _take_store(context: click.Context, _: click.Parameter, value: str | None) -> None:
    invocation = context.ensure_object(Invocation)
    if value is not None:
        invocation.store = value


def _take_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    invocation = context.ensure_object(Invocation)
    invocation.json = invocation.json or value


def store_option() -> click.Option:
    """`--store`; a new one for each command."""
    return click.Option(
        ["--store"], metavar="URL", expose_value=False, callback=_take_store,
        help="The store: file:///folder, a path, or s3://bucket/prefix.  [default: VFSD_STORE, or the configuration's]",
    )  # fmt: skip


def json_option(text: str = "Print one JSON document.") -> click.Option:
    """`--json`; a new one for each command."""
    return click.Option(["--json"], is_flag=True, expose_value=False, callback=_take_json, help=text)


class StoreCommand(click.Command):
    """A command that works on the store and prints no facts."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params.append(store_option())

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.ensure_object(Invocation).json:
            raise click.UsageError("it prints no facts, so there is no --json", ctx)
        return super().invoke(ctx)


class FactsCommand(click.Command):
    """A command that works on the store and prints facts, as text or as JSON."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params += [store_option(), json_option()]
