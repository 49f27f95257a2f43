"""Write docs/options.md and the types of Python keyword arguments from the declared options: ``make docs``."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

from dreamgram.activation_maximization.cli import DREAM_COMMANDS
from dreamgram.style_transfer.cli import STYLIZE_COMMANDS
from dreamgram.style_transfer.options import StyleOptions
from dreamgram.style_transfer.stylizer import Stylizer
from dreamgram.workbench.console import EXIT_CODES, Command, table

DOCUMENT = Path(__file__).with_name("options.md")
KEYWORDS = Path(__file__).parents[1] / "style_transfer" / "keywords.py"

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
    """Return the text of docs/options.md."""
    parts = [f"## {name}\n\n{command.help}\n\n{table(command.options)}\n" for name, command in commands().items()]
    return "\n".join([INTRODUCTION, *parts])


def keywords() -> str:
    """Return the source text of style_transfer/keywords.py, which declares the types of keyword arguments."""
    parameters = inspect.signature(Stylizer.__init__).parameters.values()
    own = {each.name: each.annotation for each in parameters if each.kind == each.KEYWORD_ONLY}
    options = {each.name: each.type for each in fields(StyleOptions) if each.name not in own}
    parts = ("\n".join(f"    {name}: {kind}" for name, kind in each.items()) for each in (options, own))
    return KEYWORDS_MODULE.format(*parts).replace("'", '"')


KEYWORDS_MODULE = '''\
"""The types of keyword arguments, for type checkers and editors. ``make docs`` writes this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from torch import nn

from dreamgram.image_optimization.images import ImageLike
from dreamgram.image_optimization.optimize import OptimizerFactory
from dreamgram.image_optimization.precision import Precision
from dreamgram.style_transfer.budget import Budget
from dreamgram.style_transfer.losses import Previous
from dreamgram.style_transfer.options import Colors, LayerWeights


class StyleKeywords(TypedDict, total=False):
    """The fields of :class:`StyleOptions` that are keyword arguments of :class:`Stylizer`."""

{}


class StylizerKeywords(StyleKeywords, total=False):
    """The keyword arguments of :class:`Stylizer`."""

{}
'''


if __name__ == "__main__":
    KEYWORDS.write_text(keywords(), encoding="utf-8")
    DOCUMENT.write_text(text(), encoding="utf-8")
