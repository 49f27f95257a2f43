"""A run that is killed goes on: its state and its settings in a file, written anew every so many seconds."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from image_optimization.optimize import State, Step

SETTINGS = "dreamgram"
"""The entry of the file's header that holds the settings."""


class Checkpoint:
    """A listener that keeps the state of the run in a file (safetensors), whole at any moment.

    Within ``with`` Ctrl-C waits for the end of the step, so that the last state is kept, too; again, it does not.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], seconds: float) -> None:
        """``settings`` are kept with the state; ``seconds``: between one writing and the next."""
        self.path = path
        self.settings = {SETTINGS: json.dumps(dict(settings))}
        self.seconds = seconds
        self.written = time.monotonic()
        self.stopping = False

    def __enter__(self) -> Checkpoint:
        self.handler = signal.signal(signal.SIGINT, self.stop)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.handler)

    def stop(self, *_: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        typer.echo("stopping after this step; Ctrl-C again stops at once", err=True)

    def __call__(self, step: Step) -> None:
        if self.stopping or time.monotonic() - self.written >= self.seconds:
            self.write(step)
        if self.stopping:
            raise KeyboardInterrupt

    def write(self, step: Step) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from image_optimization.images import whole

        state = {name: tensor.contiguous().cpu() for name, tensor in step.state().items()}
        try:
            with whole(self.path) as beside:
                save_file(state, beside, self.settings)
        except (OSError, SafetensorError) as error:  # a full disk, say, which may have room again
            typer.echo(f"the checkpoint could not be written, the run goes on: {error}", err=True)
        self.written = time.monotonic()  # however long the writing took


def prepare_checkpoint(path: Path, overwrite: bool) -> None:
    """Make sure, before the work, that a checkpoint can be written to ``path``.

    Raises:
        FileExistsError: there is one, and ``overwrite`` is False.
        ValueError: there is something else.
        OSError: the folder cannot be made or written.
    """
    from image_optimization.images import check_folder

    if path.exists():
        read_checkpoint(path)
        if not overwrite:
            raise FileExistsError(f"{path} exists: stylize resume {path} goes on from it, --overwrite begins anew")
    check_folder(path.parent)


def read_checkpoint(path: Path) -> tuple[State, dict[str, Any]]:
    """The state and the settings in a file.

    Raises:
        FileNotFoundError: there is none.
        IsADirectoryError: it is a folder.
        ValueError: it is no checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a checkpoint")
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            settings = (file.metadata() or {})[SETTINGS]
            # Cloned to where PyTorch allocates: sums are rounded otherwise where memory is aligned otherwise.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, json.loads(settings)  # noqa: SIM118
    except (SafetensorError, KeyError):
        raise ValueError(f"{path} is not a checkpoint of stylize") from None
