"""Unfinished runs of the command ``stylize``, which the user can resume.

The program keeps the state of a run as a file in the program's own folder until the run has finished its picture.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dreamgram.image_optimization.images import check_folder
from dreamgram.style_transfer.checkpoint import read_recipe
from dreamgram.workbench.recipe import Recipe
from dreamgram.workbench.state import DAY, claimed, delete_old_claims, state_folder
from dreamgram.workbench.trust import needs_trust

ABANDONED = 30 * DAY
"""Age, in seconds, at which the state of an unfinished run is deleted, counted from when the state was last saved."""

ENDING = ".ckpt"
"""File extension of the files that hold the states of unfinished runs."""


def runs_folder() -> Path:
    """Return the folder that holds the states of unfinished runs.

    Raises:
        OSError: the folder cannot be created.
    """
    return state_folder("runs")


@contextmanager
def keeping_run(output: Path, same: Callable[[Recipe], bool]) -> Iterator[Path | None]:
    """Yield the path of the file that is to hold the state of a new run, claimed so that no other program writes it.

    The file is named after ``output``, the picture to write. If a different run already has a file with this name, a
    number is appended. However, if that run would make the same picture and is not in progress, its file is used again.
    States that are older than :data:`ABANDONED` are deleted. If there is no folder in which the program can keep
    states, yield None.

    Args:
        output: the picture to write.
        same: a function that returns whether a recipe (the settings of a run) makes the same picture as the new run.
    """
    try:
        folder = runs_folder()
        check_folder(folder)
    except OSError:
        yield None
        return
    delete_old_claims()
    for path in folder.glob(f"*{ENDING}"):
        if time.time() - _written(path) > ABANDONED:
            _delete(path)
    for number in itertools.count(1):
        path = folder / f"{output.stem[:40]}{f'-{number}' if number > 1 else ''}{ENDING}"
        with claimed(path) as mine:
            if mine and (not path.exists() or _is_of_run(path, output, same)):
                yield path
                return


def list_runs() -> dict[str, Recipe]:
    """Return a dictionary from the name of each unfinished run to its recipe, which holds the settings of the run.

    The runs are sorted by the time at which their states were last saved, the oldest first.
    """
    try:
        paths = sorted(runs_folder().glob(f"*{ENDING}"), key=_written)
    except OSError:
        return {}
    found = {}
    for path in paths:
        with suppress(ValueError, OSError):
            found[path.name.removesuffix(ENDING)] = read_recipe(path)
    return found


def find_run(checkpoint: Path | None) -> Path:
    """Return the path of the file that holds the state of the run to resume.

    Args:
        checkpoint: a checkpoint file or the name of an unfinished run. If ``checkpoint`` is None, one of the
            unfinished runs that were started in the current folder is chosen: the run whose state was saved last. A run
            that is in progress is chosen only if all of these runs are in progress.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the run was started in a different folder. In the current folder, its relative file names would
            refer to different files.
    """
    is_kept = checkpoint is not None and is_kept_by_program(checkpoint)
    if checkpoint is not None and checkpoint.is_file() and not is_kept:
        return checkpoint
    runs = list_runs()
    here = [each for each, recipe in runs.items() if recipe.made.get("folder") == str(Path.cwd())]
    listed = ", ".join(f"{each} in {recipe.made.get('folder')}" for each, recipe in runs.items())
    if checkpoint is None and not here:
        others = f"; there are {listed}" if runs else ""
        raise FileNotFoundError(f"no unfinished run was started in this folder{others}")
    if checkpoint is None:
        paths = [runs_folder() / f"{each}{ENDING}" for each in reversed(here)]
        return next((path for path in paths if not _is_running(path)), paths[0])
    wanted = checkpoint.name.removesuffix(ENDING) if is_kept else str(checkpoint)
    if wanted not in runs:
        if checkpoint.exists():
            return checkpoint  # reading the file raises an error that says what it is
        raise FileNotFoundError(f"no checkpoint {checkpoint}" + (f"; the unfinished runs are {listed}" if runs else ""))
    if wanted not in here:
        raise ValueError(f"{wanted} was started in {runs[wanted].made.get('folder')}: resume it there")
    return runs_folder() / f"{wanted}{ENDING}"


def how_to_resume(path: Path, recipe: Recipe) -> str:
    """Return a message that tells the user how to resume the run whose state is in the checkpoint ``path``.

    ``recipe`` holds the settings of the run.
    """
    is_kept = is_kept_by_program(path)
    name = shlex.quote(path.name.removesuffix(ENDING) if is_kept else str(path))
    is_unsafe = not is_kept and needs_trust(recipe.options, recipe.files, recipe.output or Path(), path)
    return f"stylize resume {name}{' --trust' if is_unsafe else ''} continues it"


def is_kept_by_program(path: Path) -> bool:
    """Return whether ``path`` is in the folder in which the program keeps the states of unfinished runs."""
    try:
        return path.resolve().parent == runs_folder().resolve()
    except OSError:
        return False


def _is_of_run(path: Path, output: Path, same: Callable[[Recipe], bool]) -> bool:
    """Return whether the run whose state is in the file ``path`` would write the same picture file as a new run.

    ``output`` is the file that the new run will write. ``same`` is a function that returns whether a recipe (the
    settings of a run) makes the same picture as the new run.
    """
    try:
        recipe = read_recipe(path)
        return Path(recipe.made["folder"], recipe.made["output"]) == output.absolute() and same(recipe)
    except (KeyError, OSError, TypeError, ValueError):
        return False


def make_room(path: Path, size: int, limit: int) -> bool:
    """Make room to save a state of ``size`` bytes as the file ``path``, and return whether there is enough room.

    All states together are allowed to take at most ``limit`` bytes. If they would take more, the oldest states of other
    runs are deleted, except the states of runs that are in progress. If deleting them would not free enough room, no
    state is deleted.
    """
    others = sorted((each for each in path.parent.glob(f"*{ENDING}") if each != path), key=_written)
    free = limit - size - sum(map(_size_of, others))
    with ExitStack() as claims:
        old = []
        for each in others:
            if free >= 0:
                break
            if claims.enter_context(claimed(each)):
                old.append(each)
                free += _size_of(each)
        if free < 0:
            return False
        try:
            for each in old:
                each.unlink(missing_ok=True)
        except OSError:
            return False
    return True


def _delete(path: Path) -> None:
    """Delete the file ``path``, which holds the state of a run, unless the run is in progress."""
    with claimed(path) as mine, suppress(OSError):
        if mine:
            path.unlink()


def _is_running(path: Path) -> bool:
    """Return whether the run whose state is in the file ``path`` is in progress."""
    with claimed(path) as mine:
        return not mine


def _written(path: Path) -> float:
    """Return the time at which ``path`` was written, in seconds, or the current time if the file has been deleted."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
