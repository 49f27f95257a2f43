"""Write docs/options.md, the tables of all options, from their declarations: ``make docs``."""

from __future__ import annotations

from pathlib import Path

from dreamgram.activation_maximization.cli import DREAM_COMMANDS
from dreamgram.style_transfer.cli import STYLIZE_COMMANDS
from dreamgram.workbench.console import EXIT_CODES, Command, table

DOCUMENT = Path(__file__).with_name("options.md")

INTRODUCTION = f"""# Options

This page lists every option of every command. `make docs` generates it from the declarations in the code. In Python,
each option has the same name, with `_` in place of `-`.

Every command also has the flags `--help`, `--version`, `--quiet` and `--debug`. `--quiet` shows only errors. `--debug`
shows debug messages and the traceback of an error.

{EXIT_CODES}
"""


def commands() -> dict[str, Command]:
    """Return all commands by their full names."""
    found = {"stylize" if name == "stylize" else f"stylize {name}": each for name, each in STYLIZE_COMMANDS.items()}
    return found | {f"dream {name}": command for name, command in DREAM_COMMANDS.items()}


def text() -> str:
    """Return the page as Markdown."""
    parts = [f"## {name}\n\n{command.help}\n\n{table(command.options)}\n" for name, command in commands().items()]
    return "\n".join([INTRODUCTION, *parts])


if __name__ == "__main__":
    DOCUMENT.write_text(text(), encoding="utf-8")
