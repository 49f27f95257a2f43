"""Checkpoints: safetensors files with the state and the recipe of a run, so that a killed run can be resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dreamgram.image_optimization.images import check_folder, replacing
from dreamgram.image_optimization.optimize import State, Step
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.job import Job
from dreamgram.workbench.recipe import Recipe

NOTE = "dreamgram"
"""Key of the recipe in the metadata of a checkpoint file."""


class Checkpoint:
    """A listener that saves the state of the run to a file at regular intervals and when the job is asked to stop.

    The file is complete at any moment, even while a new state is being written.
    """

    def __init__(self, path: Path, recipe: Recipe, seconds: float, job: Job) -> None:
        """Store the settings. ``recipe`` is saved with each state; ``seconds`` is the time between two saves."""
        self.path = path
        self.note = {NOTE: recipe.note()}
        self.seconds = seconds
        self.job = job
        self.written = time.monotonic()

    def __call__(self, step: Step) -> None:
        if self.job.stopping or time.monotonic() - self.written >= self.seconds:
            self.write(step)

    def write(self, step: Step) -> None:
        """Write the state of ``step`` to the file. If writing fails, the job is told, and the run continues."""
        state = {name: tensor.contiguous().cpu() for name, tensor in step.state().items()}
        try:
            with replacing(self.path) as beside:
                save_file(state, beside, self.note)
        except (OSError, SafetensorError) as error:
            self.job.tell(f"the checkpoint could not be written, the run continues: {error}")
        self.written = time.monotonic()  # the next interval begins after the writing


def prepare_checkpoint(path: Path, overwrite: bool) -> None:
    """Check, before the work begins, that a checkpoint can be written to ``path``.

    Raises:
        FileExistsError: ``path`` is a checkpoint, and ``overwrite`` is False.
        ValueError: ``path`` is a file, but not a checkpoint.
        OSError: ``path`` is a folder, or its parent folder cannot be created or written to.
    """
    if path.exists():
        with _open(path):
            pass
        if not overwrite:
            raise FileExistsError(f"{path} exists: stylize resume {path} continues from it, --overwrite begins anew")
    check_folder(path.parent)


def read_checkpoint(path: Path) -> tuple[State, Recipe]:
    """Read the state and the recipe from the checkpoint ``path``.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
        ValueError: ``path`` is not a checkpoint.
    """
    with _open(path) as file:
        recipe = Recipe.parse(file.metadata()[NOTE], {"stylize": StylizeOptions}, path)
        # The tensors are cloned to memory that PyTorch allocates. In memory with a different alignment, sums would be
        # rounded differently.
        return {name: file.get_tensor(name).clone() for name in file.keys()}, recipe  # noqa: SIM118


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a checkpoint. It raises the same errors as :func:`read_checkpoint`."""
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
