"""The command line. `main` is the console script; nothing heavy is imported before a command needs it."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with 0 (done), 1 (refused or failed verification) or 2 (usage)."""
    from fedsec.cli.app import run

    run()
