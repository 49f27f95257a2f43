"""Checks of files that are about to be read or written."""

from __future__ import annotations

import os
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
