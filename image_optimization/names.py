"""Functions that write error messages, for example about names that do not exist.

Every package of Dreamgram is allowed to import this module, because it imports no other module of Dreamgram.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 20
"""Largest number of existing names that a message lists."""

LONGEST = 80
"""Largest number of characters of a value that is quoted in a message."""


def shorten(value: object) -> str:
    """Return the ``repr`` of ``value`` for a message, on one line and cut to at most :data:`LONGEST` characters."""
    text = repr(value[:LONGEST]) if isinstance(value, str) else " ".join(repr(value).split())
    shortened = len(text) > LONGEST or (isinstance(value, str) and len(value) > LONGEST)
    return f"{text[: LONGEST - 3]}..." if shortened else text


def described(value: object) -> str:
    """Describe a value of the wrong type in a message, as in ``the class Conv2d``, ``the function f`` or ``int``."""
    name = getattr(value, "__name__", None)
    kind = "class" if isinstance(value, type) else type(value).__name__
    return f"the {kind} {name}" if name else type(value).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint such as ``"did you mean 'pool2'? "``, with the element of ``names`` most similar to ``name``.

    Return an empty string if no name is similar to ``name``.
    """
    near = difflib.get_close_matches(str(name), list(names), 1)
    return f"did you mean {near[0]!r}? " if near else ""


def unknown(kind: str, name: str, known: Iterable[str], listed: str = "there are") -> str:
    """Return the error message that says that there is no ``kind`` called ``name``.

    ``kind`` is a noun such as "preset". ``known`` holds the names that exist, and ``listed`` is the phrase before
    their list. An example of a message is "no preset 'gatis'; did you mean 'gatys'? there are ...".
    """
    known = list(known)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"no {kind} {shorten(name)}; {did_you_mean(name, known)}{listed} {', '.join(known[:LISTED])}{more}"


def must_be(name: object, choices: Iterable[object]) -> str:
    """Return the end of the error message that says that ``name`` is not one of ``choices``.

    An example is "must be 'adam' or 'lbfgs', not 'bfgs'; did you mean 'lbfgs'?".
    """
    choices = list(choices)
    hint = did_you_mean(str(name), [choice for choice in choices if isinstance(choice, str)]).strip()
    return f"must be {either(choices)}, not {shorten(name)}{hint and f'; {hint}'}"


def either(names: Iterable[object]) -> str:
    """Join the ``repr`` of each of ``names`` for a message, such as ``'gram', 'wasserstein' or 'nearest'``."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last
