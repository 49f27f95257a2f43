"""The folder for the program's own files, and claims, which keep two running programs from writing the same file."""

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
"""Environment variable that names a different folder for the program's own files."""

DAY = 24 * 60 * 60
"""Number of seconds in a day. The lock file of a program that was killed is deleted after a day."""


def state_folder(name: str) -> Path:
    """Return the folder called ``name`` for the program's own files, and create it if it does not exist.

    Only the user can read a folder that this function creates. The folder is in the place that the operating system
    reserves for the state of programs, or in the folder that the environment variable :data:`STATE_VARIABLE` names.

    Raises:
        OSError: the folder cannot be created.
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
    """Claim the file ``path`` for the body of the ``with`` statement, so that no other process or thread can claim it.

    A claim does not lock the file itself. It keeps only those programs from writing the file that claim it, too. The
    operating system ends the claim of a program that is killed.

    Yields:
        True if the file is claimed, or False if another running program or another thread has claimed it. If True,
        the caller must check whether another program has finished the file in the meantime. If the program's own folder
        cannot be written to, the result is always True.
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
            if mine:
                with suppress(OSError):
                    lock.unlink()


def delete_old_claims() -> None:
    """Delete the lock files, older than a day, of the claims of programs that were killed."""
    with suppress(OSError):
        for lock in state_folder("claims").iterdir():
            if time.time() - lock.stat().st_mtime > DAY:
                with lock.open("ab") as file:
                    if _lock(file.fileno()):
                        lock.unlink()


def _is_at(file: int, path: Path) -> bool:
    """Return whether ``path`` still is the path of an open file, given its descriptor ``file``.

    The result is False if the file was deleted or replaced.
    """
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _lock(file: int) -> bool:
    """Lock an open file, given its descriptor, until it is closed. Return whether it could be locked."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
