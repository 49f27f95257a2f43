"""The program ``dreamgram``, which runs the programs ``dream`` and ``stylize`` as its commands."""

from __future__ import annotations

import sys
import textwrap
from importlib import import_module

from dreamgram.image_optimization.names import unknown
from dreamgram.workbench.console import EXIT_CODES
from dreamgram.workbench.version import __version__

SUBPROGRAMS = {
    "dream": ("activation_maximization.cli", "Make pictures of what a filter, a neuron or a class looks for."),
    "stylize": ("style_transfer.cli", "Paint photos and videos in the style of a painting."),
}
"""Programs by name, each with its module and a sentence for the help. The function ``main`` of the module runs the
program. Its argument is the name that the help shows for the program."""

HELP = "\n".join(
    [
        "usage: dreamgram COMMAND [OPTIONS]",
        "",
        *textwrap.wrap("Activation maximization and style transfer by gradient ascent on the input of a network.", 80),
        "",
        "Commands:",
        *(f"  {name:9}{text}" for name, (_, text) in SUBPROGRAMS.items()),
        "",
        "Options:",
        "  -h, --help  Show this help and exit.",
        "  --version   Show the version and exit.",
        "",
        "dreamgram COMMAND --help lists the options of a command.",
        *textwrap.wrap(EXIT_CODES, 80),
    ]
)


def main() -> None:
    """Run the command that the first command-line argument names, with the remaining arguments."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in SUBPROGRAMS:
        del sys.argv[1]
        import_module(f"dreamgram.{SUBPROGRAMS[word][0]}").main(f"dreamgram {word}")
    elif word == "--version":
        print(f"dreamgram {__version__}")
    elif word in ("", "-h", "--help"):
        print(HELP)
    else:
        kind, known = ("option", ["--help", "--version"]) if word.startswith("-") else ("command", SUBPROGRAMS)
        print(f"error: {unknown(kind, word, known)}", file=sys.stderr)
        sys.exit(2)
