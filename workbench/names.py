"""Messages for names that were not found."""

from __future__ import annotations

from collections.abc import Iterable

from dreamgram.image_optimization.names import did_you_mean

LISTED = 20
"""Largest number of names that a message lists."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message which says that there is no ``kind`` called ``name``.

    For example: "no preset 'gatis'; did you mean 'gatys'? there are ...". ``known`` holds the names that exist.
    """
    known = list(known)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"no {kind} {name!r}; {did_you_mean(name, known)}there are {', '.join(known[:LISTED])}{more}"
