"""The program's own folder, and claims, which prevent two programs from writing the same file at the same time."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

STATE_VARIABLE = "DREAMGRAM_STATE"
"""Environment variable that holds the path of the program's own folder, in which the program keeps, for example, the
state of unfinished runs. If the variable is not set, :func:`state_folder` chooses the path."""

ONLY_CLOSED = sys.platform == "win32"
"""Whether the operating system deletes only files that no program has opened. Elsewhere, a lock file is deleted before
its lock ends, so that no other program locks a file that is about to be deleted."""

DAY = 24 * 60 * 60
"""Number of seconds in a day. Lock files of killed programs are deleted when they are more than a day old."""


def state_folder(name: str) -> Path:
    """Return the path of the subfolder ``name`` of the program's own folder, and create both folders if necessary.

    The program's own folder is the one that the environment variable :data:`STATE_VARIABLE` names. If this variable is
    not set, the program's own folder is ``dreamgram`` in the user's folder for application data, such as
    ``~/.local/state`` on Linux. If this function creates the program's own folder or the subfolder on Linux or macOS,
    only the user can read the new folder.

    Raises:
        OSError: a folder cannot be created, or the user has no home folder.
    """
    if given := os.environ.get(STATE_VARIABLE):
        base = Path(given)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local"), "dreamgram")
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support/dreamgram")
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state"), "dreamgram")
    try:
        base = base.expanduser()
    except RuntimeError as error:
        raise OSError("the user has no home folder") from error
    for folder in (base, base / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return base / name


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim the file ``path`` while the body of the ``with`` statement runs.

    No other process or thread can claim the file during this time. The file itself is not locked, so a program that
    does not call this function can still write the file. If a program is killed, the operating system ends its claims.

    Yields:
        True if this call has claimed the file, or False if a different process or thread holds a claim on the file. If
        the value is True, the caller must check whether a different program finished writing the file before this
        claim. If the program's own folder cannot be written to, the value is always True, and nothing is claimed.
    """
    try:
        lock = state_folder("claims") / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        file = lock.open("ab")
    except OSError:
        yield True
        return
    with file:
        mine = _lock(file.fileno()) and _is_at(file.fileno(), lock)
        try:
            yield mine
        finally:
            if mine and not ONLY_CLOSED:
                _delete(lock)
    if mine and ONLY_CLOSED:
        _delete(lock)


def delete_old_claims() -> None:
    """Delete all lock files that are more than a day old and that no running program has locked.

    Programs that were killed during a claim have left these files.
    """
    locks: list[Path] = []
    with suppress(OSError):
        locks += state_folder("claims").iterdir()
    for lock in locks:
        with suppress(OSError):  # another program might have deleted it
            if time.time() - lock.stat().st_mtime > DAY:
                with lock.open("ab") as file:
                    free = _lock(file.fileno())
                    if free and not ONLY_CLOSED:
                        lock.unlink()
                if free and ONLY_CLOSED:
                    lock.unlink()


def _delete(path: Path) -> None:
    """Delete the file ``path``, unless another program has deleted it, or has opened it on Windows."""
    with suppress(OSError):
        path.unlink()


def _is_at(file: int, path: Path) -> bool:
    """Return whether ``path`` is still the path of the open file with the descriptor ``file``.

    The result is False if the file was deleted or replaced after it was opened.
    """
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _lock(file: int) -> bool:
    """Lock the open file with the descriptor ``file`` until this file is closed. Return whether locking succeeded."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
