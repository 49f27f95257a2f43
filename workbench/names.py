"""Error messages for names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable

from dreamgram.image_optimization.names import did_you_mean

LISTED = 20
"""Maximum number of existing names that a message lists."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error message that says that there is no ``kind`` called ``name``.

    ``kind`` is a noun such as "preset", and ``known`` holds the names that exist. An example of a message is "no preset
    'gatis'; did you mean 'gatys'? there are ...".
    """
    known = list(known)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"no {kind} {name!r}; {did_you_mean(name, known)}there are {', '.join(known[:LISTED])}{more}"
