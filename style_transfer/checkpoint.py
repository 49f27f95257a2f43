"""Checkpoints: safetensors files from which a run that was stopped or killed can be resumed.

A checkpoint holds the optimizer's state and the recipe of the run, which consists of its options and the checksums of
its input files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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

_OLD_NAMES = {
    "image of the scale before": "image_before",
    "losses of scale ": "losses_of_scale_",
    "pairs and sides of tiles": "budgets",
}
"""Beginnings of the names of tensors in checkpoints of version 0.1.0, and what replaces them."""


class Checkpoint:
    """A listener, called by the optimization after every step, that saves the state of the run to a file.

    The state is saved at regular intervals, and when the user asks the run to stop. The file always holds a complete
    state, because a new state replaces the previous one only after it has been written.
    """

    def __init__(self, path: Path, recipe: Recipe, seconds: float, job: Job) -> None:
        """Store the settings; nothing is written yet.

        Args:
            path: the checkpoint file to write.
            recipe: the options and input files of the run, which are saved with each state.
            seconds: the interval between saves. When an interval is over, the state is saved after the current step.
            job: the job that performs the run. The state is also saved when this job is asked to stop.
        """
        self.path = path
        self.note = {NOTE: recipe.note()}
        self.seconds = seconds
        self.job = job
        self.written = time.monotonic()

    def __call__(self, step: Step) -> None:
        if self.job.stopping or time.monotonic() - self.written >= self.seconds:
            self.write(step)

    def write(self, step: Step) -> None:
        """Write the optimizer's state after ``step`` to the file.

        If writing fails, the user sees a message, and the run continues.
        """
        state = {name: tensor.contiguous().cpu() for name, tensor in step.state().items()}
        try:
            with replacing(self.path) as beside:
                save_file(state, beside, self.note)
        except (OSError, SafetensorError) as error:
            self.job.tell(f"the checkpoint could not be written, the run continues: {error}")
        self.written = time.monotonic()  # the next interval begins after the writing


def prepare_checkpoint(path: Path, overwrite: bool) -> None:
    """Check that a checkpoint can be written to ``path``, and create its parent folder if that does not exist.

    Call this function before the optimization begins.

    Raises:
        OutputExistsError: ``path`` is a checkpoint, and ``overwrite`` is False.
        ValueError: ``path`` is a file that is not a checkpoint. Such a file is never overwritten.
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
        # The tensors are cloned to memory that PyTorch allocates. In memory with a different alignment, sums would be
        # rounded differently.
        return {_new_name(name): file.get_tensor(name).clone() for name in file.keys()}, recipe  # noqa: SIM118


def _new_name(name: str) -> str:
    """Return the present name of a tensor, given its name in a checkpoint file of this or an older version."""
    for old, new in _OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a checkpoint file for reading. The errors raised are those of :func:`read_checkpoint`."""
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
