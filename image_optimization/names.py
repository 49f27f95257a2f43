"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``"did you mean 'pool2'? "`` with the nearest of ``names``, or "" if no name is similar."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]!r}? " if near else ""
