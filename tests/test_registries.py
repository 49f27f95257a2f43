"""Every registered name occurs in the help and on the pages that list such names by hand.

The help of a command must not import PyTorch, so it cannot read the registries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields

import pytest

from dreamgram.activation_maximization.cli import DREAM_COMMANDS
from dreamgram.activation_maximization.objectives import OBJECTIVES
from dreamgram.activation_maximization.options import AscentOptions, PhotoOptions
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.optimize import OPTIMIZERS
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS
from dreamgram.models.loading import networks
from dreamgram.style_transfer.losses import STYLE_LOSSES
from dreamgram.style_transfer.options import StyleOptions
from dreamgram.workbench.options import NetworkOptions, Options, declaration
from tests.test_package import ROOT


def help_of(options: type[Options], name: str) -> str:
    """Return the help text of the option ``name``."""
    [found] = [declaration(each).help for each in fields(options) if each.name == name]
    return found


def page(path: str) -> str:
    """Return the names in code type on a page. A name may be the value of an option, as in ``--style-loss gram``."""
    text = re.sub(r"^```.*?^```", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    code = re.findall(r"`([^`]+)`", text)
    return " ".join(text.split()[-1] for text in code)


def missing(names: Iterable[str], text: str) -> list[str]:
    """Return the ``names`` that are not words of ``text``. A hyphen is part of a word."""
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


FUNCTIONS = {**OBJECTIVES, **REGULARIZERS}
LISTS: dict[str, tuple[Iterable[str], str]] = {
    "the help of `maximize` in activation_maximization/cli.py": (FUNCTIONS, DREAM_COMMANDS["maximize"].help),
    "the list of objectives and regularizers in README.md": (FUNCTIONS, page("README.md")),
    "the help of `parameterization` in activation_maximization/options.py": (
        PARAMETERIZATIONS,
        help_of(AscentOptions, "parameterization"),
    ),
    "the list of parameterizations in README.md": (PARAMETERIZATIONS, page("README.md")),
    "the help of `style_loss` in style_transfer/options.py": (STYLE_LOSSES, help_of(StyleOptions, "style_loss")),
    "the table of losses in docs/style-transfer.md": (STYLE_LOSSES, page("docs/style-transfer.md")),
    "the help of `optimizer` in style_transfer/options.py": (OPTIMIZERS, help_of(StyleOptions, "optimizer")),
    "NETWORKS in workbench/options.py": (networks(), help_of(NetworkOptions, "model")),
    "the help of `model` in activation_maximization/options.py": (networks(), help_of(PhotoOptions, "model")),
    "the table of networks in README.md": (networks(), page("README.md")),
}
"""The names that must occur in each place, and the text of the place."""


@pytest.mark.parametrize("place", LISTS)
def test_every_registered_name_is_listed(place: str) -> None:
    names, text = LISTS[place]
    assert not missing(names, text), f"add {', '.join(missing(names, text))} to {place}"


def test_a_missing_name_is_seen() -> None:
    assert missing(["digits", "vgg16"], "Network to use: digits-robust, vgg16.") == ["digits"]
    assert not missing(["l1", "l2"], "the regularizers l1, l2.")
