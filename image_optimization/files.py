"""Checks of files that are about to be read or written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def check_regular(path: Path) -> None:
    """Raise ValueError if ``path`` exists but is neither a regular file nor a folder.

    Reading a pipe or a device, such as ``/dev/zero``, might never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not a regular file")


def same_file(first: Path, second: Path) -> bool:
    """Return whether two paths lead to the same file, also by symbolic links.

    If neither file exists, names that differ only in case count as the same, because some file systems do not
    distinguish them.
    """
    if first.exists() and second.exists():
        return first.samefile(second)
    if first.exists() or second.exists():
        return False
    return os.path.realpath(first).casefold() == os.path.realpath(second).casefold()


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether ``path`` leads to ``folder`` or to a place inside it, after following all symbolic links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_distinct(role: str, path: Path, others: Iterable[tuple[str, Path]]) -> None:
    """Check that writing ``path`` destroys no other file of the same run.

    Args:
        role: what ``path`` is, such as "output", for the message.
        path: the file to write.
        others: the other files that the run reads or writes, as pairs of a role, such as "photo" or "style_mask", and a
            path. If a path is a folder, writing a new file in it is allowed.

    Raises:
        ValueError: ``path`` is one of the other files, or an existing file in a folder among them.
    """
    for name, other in others:
        within = other.is_dir() and path.exists() and is_inside(path, other)
        if within or same_file(path, other):
            words = name.replace("_", " ")
            which = f"a file in the folder {other}, which is the {words}" if within else f"also the {words}"
            raise ValueError(f"the {role} {path} is {which}; choose another {role}")
