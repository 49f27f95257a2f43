"""Checkpoints: safetensors files from which a run that was stopped or killed can be resumed.

A checkpoint holds the optimizer's state and the recipe of the run, which consists of its options and the checksums of
its input files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.files import check_regular
from dreamgram.image_optimization.images import check_folder, replacing
from dreamgram.image_optimization.optimize import State, Step
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.job import Job
from dreamgram.workbench.recipe import Recipe

NOTE = "dreamgram"
"""Key of the metadata entry in which a checkpoint file holds the recipe, the settings of the run."""

INTERVAL, LARGEST_SHARE = 50, 0.02
"""Minimum interval between two saves of the state, in seconds, and maximum fraction of the run's time that is spent on
saving. Both apply only if the user has not chosen an interval."""

_OLD_NAMES = {
    "image of the scale before": "image_before",
    "losses of scale ": "losses_of_scale_",
    "pairs and sides of tiles": "budgets",
}
"""Prefixes of the names of tensors in checkpoints that version 0.1.0 wrote, each with the prefix that replaced it."""


class Checkpoint:
    """A listener, called by the optimization after every step, that saves the state of the run to a file.

    The state is saved at intervals and when the user asks the run to stop. The file always holds a complete state,
    because the previous state is replaced only after the new state has been written completely.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        seconds: float | None,
        job: Job,
        onward: str = "",
        has_room: Callable[[int], bool] | None = None,
        has_state: bool = False,
    ) -> None:
        """Store the settings; nothing is written yet.

        Args:
            path: the checkpoint file to write.
            recipe: the options of the run and the checksums of its input files. The recipe is saved with each state.
            seconds: the interval between two saves, in seconds. When an interval is over, the state is saved after the
                current step. If ``seconds`` is None, the first interval is :data:`INTERVAL`. Each later interval is
                also at least that long, and long enough that saving takes at most the fraction :data:`LARGEST_SHARE` of
                the time.
            job: the job that performs the run. When this job is asked to stop, the state is saved after the current
                step.
            onward: the text that tells the user how to resume the run.
            has_room: a function that takes the size of a state in bytes and returns whether there is room for the
                state. If there is no room, the state is not saved, and the user is told so once. By default, all states
                are saved.
            has_state: True if the file already holds a state of this run.
        """
        self.path = path
        self.note = {NOTE: recipe.note()}
        self.seconds = seconds
        self.job = job
        self.onward = onward
        self.has_room = has_room
        self.crowded = False
        """True if the user has been told that there is no room for a state."""
        self.has_state = has_state
        if has_state:
            self._tell_job()
        self.next = time.monotonic() + (INTERVAL if seconds is None else seconds)

    def __call__(self, step: Step) -> None:
        if self.job.stopping or time.monotonic() >= self.next:
            self.write(step)

    def write(self, step: Step) -> None:
        """Write the optimizer's state after ``step`` to the file.

        If writing fails, the user sees a message, and the run continues.
        """
        began = time.monotonic()
        state = step.state()
        size = sum(tensor.nbytes for tensor in state.values())
        if self.has_room is None or self.has_room(size):
            self._save(state)
        elif not self.crowded:
            self.crowded = True
            onward = "continues from an earlier step" if self.has_state else "starts over"
            self.job.tell(
                f"the state of the run, {size / 1e9:.2g} GB, is too large to be kept, so a stopped run {onward}"
            )
        now = time.monotonic()  # the next interval begins after the state is written
        self.next = now + (max(INTERVAL, (now - began) / LARGEST_SHARE) if self.seconds is None else self.seconds)

    def _save(self, state: State) -> None:
        copies = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        try:
            with replacing(self.path) as beside:
                save_file(copies, beside, self.note)
        except (OSError, SafetensorError) as error:
            self.job.tell(f"the checkpoint could not be written, the run continues: {error}")
            return
        self.has_state = True
        self._tell_job()

    def _tell_job(self) -> None:
        """Set the message that the user sees if Ctrl-C ends the job at once. The message says how to resume the run."""
        self.job.interrupted = f"interrupted: {self.onward}"


def prepare_checkpoint(path: Path, overwrite: bool) -> None:
    """Check that a checkpoint can be written to ``path``.

    Call this function before the optimization begins.

    Raises:
        OutputExistsError: ``path`` is a checkpoint, and ``overwrite`` is False.
        ValueError: ``path`` is a file, but not a checkpoint. Such a file is never overwritten.
        OSError: ``path`` is a folder, or its parent folder cannot be created or written to.
    """
    if path.exists():
        with _open(path):
            pass
        if not overwrite:
            raise OutputExistsError(f"{path} exists: stylize resume {path} continues it; overwrite it to begin anew")
    check_folder(path.parent)


def read_checkpoint(path: Path) -> tuple[State, Recipe]:
    """Read the optimizer's state and the recipe, which holds the settings of the run, from the checkpoint ``path``.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
        ValueError: ``path`` is not a checkpoint, or the recipe in it is not valid.
    """
    with _open(path) as file:
        recipe = Recipe.parse(file.metadata()[NOTE], {"stylize": StylizeOptions}, path)
        # The tensors are copied to memory that PyTorch allocates. The memory of the file may have a different
        # alignment, with which sums would be rounded differently.
        return {_new_name(name): file.get_tensor(name).clone() for name in file.keys()}, recipe  # noqa: SIM118


def read_recipe(path: Path) -> Recipe:
    """Read only the recipe, which holds the settings of the run, from the checkpoint ``path``.

    The function raises the same errors as :func:`read_checkpoint`.
    """
    with _open(path) as file:
        return Recipe.parse(file.metadata()[NOTE], {"stylize": StylizeOptions}, path)


def _new_name(name: str) -> str:
    """Return the current name of a tensor, given its name in a checkpoint written by this or an older version."""
    for old, new in _OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a checkpoint file for reading. The function raises the same errors as :func:`read_checkpoint`."""
    check_regular(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a checkpoint")
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            if NOTE not in (file.metadata() or {}):
                raise ValueError(f"{path} is not a checkpoint of stylize")
            yield file
    except SafetensorError:
        raise ValueError(f"{path} is not a checkpoint of stylize") from None
