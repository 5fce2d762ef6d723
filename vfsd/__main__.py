"""`python -m vfsd` and the `vfsd` program."""

from __future__ import annotations

from vfsd.daemon.cli import cli


def main() -> None:
    """Run the command line; ends the process."""
    cli.main(prog_name="vfsd")


if __name__ == "__main__":
    main()
