"""`vfsd completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for shell completion.

    It completes commands, options, and the names of what is in the store.

    \b
    Examples:
      eval "$(vfsd completion bash)"
      vfsd completion fish > ~/.config/fish/completions/vfsd.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "vfsd", "_VFSD_COMPLETE").source())
