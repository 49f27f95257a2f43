"""A run that is killed goes on: its state and its settings in a file, written anew every so many seconds."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it may be ignored
            signal.signal(signal.SIGINT, self.stop)
        return self

    def __exit__(self, *error: object) -> None:
        if signal.getsignal(signal.SIGINT) == self.stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(self, *_: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        # Not by way of sys.stderr, which the progress bar may be writing to.
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")

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
        read_kept_settings(path)
        if not overwrite:
            raise FileExistsError(f"{path} exists: stylize resume {path} goes on from it, --overwrite begins anew")
    check_folder(path.parent)


def read_state(path: Path) -> State:
    """The state in a file; raises as :func:`read_kept_settings`."""
    with _opened(path) as file:
        # Cloned to where PyTorch allocates: sums are rounded otherwise where memory is aligned otherwise.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def read_kept_settings(path: Path) -> dict[str, Any]:
    """The settings of the run whose state is in a file.

    Raises:
        FileNotFoundError: there is none.
        IsADirectoryError: it is a folder.
        ValueError: it is no checkpoint.
    """
    with _opened(path) as file:
        settings: dict[str, Any] = json.loads(file.metadata()[SETTINGS])
        return settings


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a checkpoint")
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError):
        raise ValueError(f"{path} is not a checkpoint of stylize") from None
