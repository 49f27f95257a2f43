"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint such as ``"did you mean 'pool2'? "``, with the most similar of ``names``.

    Return an empty string if no name is similar to ``name``.
    """
    near = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]!r}? " if near else ""
