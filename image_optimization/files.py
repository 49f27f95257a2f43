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
    """Return whether two paths lead to the same file, either directly or through symbolic links.

    If neither file exists, paths that differ only in upper and lower case count as the same, because some file systems
    ignore this difference.
    """
    if first.exists() and second.exists():
        return first.samefile(second)
    if first.exists() or second.exists():
        return False
    return os.path.realpath(first).casefold() == os.path.realpath(second).casefold()


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is ``folder`` or is inside it, after all symbolic links in both have been followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_distinct(role: str, path: Path, others: Iterable[tuple[str, Path]]) -> None:
    """Check that writing ``path`` overwrites no other file of the same run.

    Args:
        role: role of ``path`` in the run, such as "output", for the error message.
        path: the file to write.
        others: the other files and folders that the run reads or writes, each as a tuple (role, path). An example of a
            role is "style_mask". A new file in one of these folders is allowed as ``path``.

    Raises:
        ValueError: ``path`` is one of the other files, or an existing file in one of the folders.
    """
    for name, other in others:
        within = other.is_dir() and path.exists() and is_inside(path, other)
        if within or same_file(path, other):
            words = name.replace("_", " ")
            which = f"a file in the folder {other}, which is the {words}" if within else f"also the {words}"
            raise ValueError(f"the {role} {path} is {which}; choose another {role}")
