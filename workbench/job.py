"""A job: one piece of work, which runs in the same way in a terminal, a thread or a worker process.

A function that does work takes a :class:`Job`, reports to the job, returns values and raises errors. The code that
started the job follows it through a :class:`Watcher`, such as the progress bar of a terminal or a web page.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dreamgram.image_optimization.optimize import Step
    from dreamgram.workbench.recipe import Recipe


class Watcher:
    """An observer of a job. This base class shows nothing; a front end overrides the methods that it needs."""

    def begin(self, title: str, setting: str) -> None:
        """Show that a part of the job begins.

        ``title`` is for example a file name, and ``setting`` describes for example the device.
        """

    def progress(self, step: Step) -> None:
        """Show that a step of the optimization is done."""

    def end(self) -> None:
        """Show that the part has ended, successfully or not."""

    def tell(self, line: str) -> None:
        """Show a line that the user should know."""

    def fail(self, line: str) -> None:
        """Show that a file could not be processed. By default, ``line`` is shown as by :meth:`tell`."""
        self.tell(line)

    def wrote(self, path: Path, seconds: float) -> None:
        """Show that the file ``path`` was complete ``seconds`` seconds after the job began."""


@dataclass(frozen=True)
class Done:
    """The outcome of a command."""

    stopped: str = "finished"
    """Reason why the command ended: ``finished``, ``converged`` or ``interrupted``."""
    failed: int = 0
    """Number of files that could not be processed."""
    summary: str = ""
    """One-line summary of the whole job, such as how many files were painted."""
    interrupted: str = "interrupted: saved the picture so far"
    """Line to print if the job was interrupted. It says what was saved and how to resume."""


@dataclass
class Job:
    """A piece of work in progress."""

    watcher: Watcher = field(default_factory=Watcher)
    """Watcher that shows the job to the user."""
    began: float = field(default_factory=time.perf_counter)
    """Time at which the job began, in seconds on the clock of :func:`time.perf_counter`."""
    stopping: bool = False
    """Whether the job was asked to stop. The optimization then ends after its current step."""
    stepped: bool = False
    """Whether at least one step is done, so that there is a picture to save."""

    @contextmanager
    def part(self, title: str, setting: str = "") -> Iterator[Job]:
        """Run the body of the ``with`` statement as a part of the job that has its own steps.

        Pass the job to the optimization as its last listener.
        """
        self.watcher.begin(title, setting)
        try:
            yield self
        finally:
            self.watcher.end()

    def __call__(self, step: Step) -> None:
        """Report ``step`` to the watcher, as a listener of the optimization.

        Raises:
            StopRun: the job was asked to stop.
        """
        from dreamgram.image_optimization.optimize import StopRun

        stopping = self.stopping  # the value that earlier listeners, such as a checkpoint, have seen
        self.stepped = True
        self.watcher.progress(step)
        if stopping:
            raise StopRun

    def stop(self) -> None:
        """Ask the job to end after its current step and save the picture so far. Any thread may call this method."""
        self.stopping = True

    def tell(self, line: str) -> None:
        """Tell the watcher something that the user should know."""
        self.watcher.tell(line)

    def fail(self, line: str) -> None:
        """Tell the watcher that a file could not be processed."""
        self.watcher.fail(line)

    def wrote(self, path: Path) -> None:
        """Tell the watcher that a file is complete."""
        self.watcher.wrote(path, time.perf_counter() - self.began)

    def save(
        self, picture: Tensor | Image.Image, path: Path, recipe: Recipe, overwrite: bool = False, **how: Any
    ) -> Path:
        """Save a picture with its recipe, tell the watcher, and return the path.

        If another file has been saved as ``path`` during the work, the picture is saved under a free name beside it, so
        that finished work is never lost. With ``overwrite``, the file is replaced. ``how`` is passed to
        :func:`dreamgram.image_optimization.images.save`.
        """
        from dreamgram.image_optimization import images

        path = free(path, overwrite)
        images.save(picture, path, recipe.note(), overwrite, **how)
        self.wrote(path)
        return path

    @contextmanager
    def taking_interrupts(self) -> Iterator[Job]:
        """Let Ctrl-C stop this job gently: after the current step, the picture so far is saved.

        Before the first step, and at the second Ctrl-C, the job stops at once. This context does nothing outside the
        main thread, or if Ctrl-C is already handled or ignored.
        """
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield self
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, *_: object) -> None:
        if self.stopping or not self.stepped:
            raise KeyboardInterrupt
        self.stopping = True
        # sys.stderr is bypassed, because the progress bar may be writing to it.
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")


def free(path: Path, overwrite: bool = False) -> Path:
    """Return ``path`` if it does not exist or may be overwritten.

    Otherwise, append -2, -3, ... to the name and return the first path that does not exist.
    """
    if overwrite:
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def beside(path: Path, ending: str, overwrite: bool, inputs: Collection[str] = ()) -> Path:
    """Return the path of a file beside the picture ``path``: the picture's name with an ``ending`` like "-loss.png".

    If this path exists and may not be overwritten, a number is added. The files that the picture is made from,
    ``inputs``, are never overwritten.
    """
    place = path.with_name(path.stem + ending)
    if place == path:
        place = path.with_name(f"{path.stem}-2{ending}")
    is_input = place.resolve() in [Path(name).resolve() for name in inputs]
    return free(place, overwrite and not is_input)


def output_path(output: Path | None, name: str, overwrite: bool) -> Path:
    """Return the path of the file that a command will write: ``output``, or a new file in ``outputs/`` called ``name``.

    Raises:
        As :func:`dreamgram.image_optimization.images.check_output`, before the work begins.
    """
    from dreamgram.image_optimization.images import check_output

    if output is not None:
        return check_output(output, overwrite)
    return check_output(free(Path("outputs", name)))
