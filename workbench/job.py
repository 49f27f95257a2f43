"""Jobs: pieces of work that run in the same way in a terminal, a thread or a worker process.

A function that does the work takes a :class:`Job` as an argument and reports progress and messages to it. The
function returns its result and raises its errors as any function does. The code that starts the job gives it a
:class:`Watcher`, which shows the reports to the user, for example with a progress bar in a terminal or on a web page.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgram.image_optimization.errors import NotWrittenError, OutputExistsError
from dreamgram.image_optimization.files import same_file
from dreamgram.workbench.interrupts import leave
from dreamgram.workbench.state import state_folder

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dreamgram.image_optimization.optimize import Ending, Step
    from dreamgram.workbench.recipe import Recipe


class Watcher:
    """An observer of a job, which shows the progress and the messages of the job to the user.

    This base class shows nothing. A subclass, for example for a terminal or a web page, overrides the methods that it
    needs.
    """

    def begin(self, title: str, setting: str) -> None:
        """Show that a part of the job, such as the processing of one of several photos, begins.

        ``title`` identifies the part, for example by a file name. ``setting`` describes the device and the number
        format of the computation, such as "cpu x 2, bfloat16".
        """

    def progress(self, step: Step) -> None:
        """Show that a step of the optimization is done; ``step`` is the record of this step."""

    def end(self) -> None:
        """Show that the current part of the job has ended, successfully or not."""

    def tell(self, line: str) -> None:
        """Show a message of one line to the user."""

    def fail(self, line: str, error: Exception | None = None) -> None:
        """Show the message ``line``, which says that a file could not be processed because of ``error``.

        By default, this method calls :meth:`tell`.
        """
        self.tell(line)

    def wrote(self, path: Path, seconds: float) -> None:
        """Show that the file ``path`` has been written, ``seconds`` seconds after the job began."""

    def stopping(self) -> None:
        """Show that Ctrl-C was pressed, so that the job ends after its current step.

        The handler of the signal SIGINT calls this method, possibly while another method of the watcher is running.
        This method must therefore not write to ``sys.stderr`` or another stream that other methods use.
        """


@dataclass(frozen=True)
class Done:
    """The outcome of a command."""

    stopped: Ending = "finished"
    """Reason why the command ended: ``finished``, ``converged`` or ``interrupted``."""
    failed: int = 0
    """Number of files that could not be processed."""
    summary: str = ""
    """One-line summary of the whole job, such as how many files were painted; "" for no summary."""
    interrupted: str = "interrupted: saved the picture so far"
    """Message for the user if the job was interrupted. It says what was saved or how to resume."""
    answer: str = ""
    """Text that the command was asked for, such as a table of layers; "" if the command writes a file instead."""


@dataclass
class Job:
    """A piece of work in progress.

    The code that does the work reports progress and messages to the job, and the job passes them on to its watcher.
    """

    watcher: Watcher = field(default_factory=Watcher)
    """Watcher that shows the job to the user."""
    began: float = field(default_factory=time.perf_counter)
    """Time at which the job began, in seconds on the clock of :func:`time.perf_counter`."""
    stopping: bool = False
    """True if the job has been asked to stop. The optimization then ends after its current step."""
    stepped: bool = False
    """True if at least one step of the optimization is done, so that there is a picture to save."""
    over: bool = False
    """True if the work is done. Ctrl-C then does nothing."""
    interrupted: str = "interrupted: nothing was saved"
    """Message for the user if Ctrl-C ends the work at once, without a result. The code that does the work replaces this
    message as soon as something has been saved."""

    @contextmanager
    def part(self, title: str, setting: str = "") -> Iterator[Job]:
        """Run the body of the ``with`` statement as one part of the job, whose beginning and end the watcher shows.

        The arguments are those of :meth:`Watcher.begin`. The body typically runs one optimization. To report the
        optimization's progress, pass the job as the last of the ``listeners``, which are the functions that the
        optimization calls after every step. If the job has been asked to stop, it ends the optimization, and any
        listeners after the job are not called. The job must therefore be the last listener.
        """
        self.watcher.begin(title, setting)
        try:
            yield self
        finally:
            self.watcher.end()

    def __call__(self, step: Step) -> None:
        """Report ``step`` to the watcher. The optimization calls this method after every step.

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
        """Ask the job to end after its current step and save the current picture. Any thread may call this method."""
        self.stopping = True

    def tell(self, line: str) -> None:
        """Show a one-line message to the user; see :meth:`Watcher.tell`."""
        self.watcher.tell(line)

    def fail(self, line: str, error: Exception | None = None) -> None:
        """Show the user the message ``line`` about a file that could not be processed; see :meth:`Watcher.fail`."""
        self.watcher.fail(line, error)

    def wrote(self, path: Path) -> None:
        """Show the user that the file ``path`` has been written; see :meth:`Watcher.wrote`."""
        if self.interrupted == Job.interrupted:
            self.interrupted = f"interrupted: {path} was saved"
        self.watcher.wrote(path, time.perf_counter() - self.began)

    def save(
        self, picture: Tensor | Image.Image, path: Path, recipe: Recipe, overwrite: bool = False, **how: Any
    ) -> Path:
        """Save a picture with its recipe, which records how it was made, and return the path of the file.

        If ``path`` already exists and ``overwrite`` is False, the picture is saved under an unused name in the same
        folder. Finished work is therefore never lost, even if another program wrote ``path`` during the work. With
        ``overwrite``, the existing file is replaced. The method :meth:`wrote` reports the written file to the user. The
        keyword arguments ``how`` are passed to :func:`dreamgram.image_optimization.images.save`.

        Raises:
            NotWrittenError: the picture could not be written, for example because the disk is full; see :func:`save`.
        """
        path = save(picture, free(path, overwrite), recipe, overwrite, **how)
        self.wrote(path)
        return path

    @contextmanager
    def taking_interrupts(self) -> Iterator[Job]:
        """Let Ctrl-C, pressed during the ``with`` statement, end this job after its current step, as :meth:`stop` does.

        If Ctrl-C is pressed before the first step is done, or a second time, KeyboardInterrupt is raised at once. When
        the work is over, Ctrl-C does nothing. This context manager has no effect outside the main thread, or if the
        program already handles or ignores Ctrl-C.
        """
        main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
        if not main or before not in (signal.default_int_handler, leave):
            yield self
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, *_: object) -> None:
        if self.over:
            return
        if self.stopping or not self.stepped:
            raise KeyboardInterrupt
        self.stopping = True
        with suppress(Exception):  # a message that cannot be shown must not end the run before the picture is saved
            self.watcher.stopping()


def unless_interrupted(work: Callable[[], int]) -> int | None:
    """Return the result of ``work``, or None if Ctrl-C ended it without a result.

    Ctrl-C ends ``work`` without a result if it is pressed before the first step of the optimization is done, or for the
    second time. Otherwise, the job saves the current picture, and ``work`` returns its result.
    """
    try:
        return work()
    except KeyboardInterrupt:
        return None


def save(picture: Tensor | Image.Image, path: Path, recipe: Recipe, overwrite: bool = False, **how: Any) -> Path:
    """Save a picture with its recipe, and return ``path``; see :func:`dreamgram.image_optimization.images.save`.

    A finished picture is not lost if ``path`` cannot be written, for example because the disk is full or the folder is
    gone. It is then saved in the program's own folder (see :func:`state_folder`) or, if that fails, in the operating
    system's folder for temporary files.

    Raises:
        NotWrittenError: the picture was saved elsewhere; the message names the file.
        OSError: the picture could not be saved anywhere.
    """
    from dreamgram.image_optimization import images

    try:
        return images.save(picture, path, recipe.note(), overwrite, **how)
    except OutputExistsError:
        raise
    except OSError as error:
        saved = None
        for folder in (partial(state_folder, "saved"), tempfile.gettempdir):
            if saved is None:
                with suppress(OSError):
                    saved = images.save(picture, free(Path(folder(), path.name)), recipe.note(), **how)
        if saved is None:
            raise
        raise NotWrittenError(f"{error}; the picture was saved as {saved}") from error


def free(path: Path, overwrite: bool = False) -> Path:
    """Return ``path`` if it does not exist or may be overwritten.

    Otherwise, append -2, -3, ... to the name, before the extension, and return the first path that does not exist.
    """
    if overwrite:
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def beside(path: Path, ending: str, overwrite: bool, input_files: Collection[str] = ()) -> Path:
    """Return the path of an additional file in the folder of the picture ``path``, such as a plot of the loss.

    Its name is the picture's name, in which an ``ending`` such as "-loss.png" replaces the extension. If a file of
    this name exists and ``overwrite`` is False, a number is added to the name. Even if ``overwrite`` is True, a number
    is added if the existing file is one of ``input_files``, the files that the picture is made from.
    """
    place = path.with_name(path.stem + ending)
    if place == path:
        place = path.with_name(f"{path.stem}-2{ending}")
    is_input = any(same_file(place, Path(name)) for name in input_files)
    return free(place, overwrite and not is_input)


def output_path(output: Path | None, name: str, overwrite: bool) -> Path:
    """Return the path of the file that a command will write.

    The path is ``output`` or, if ``output`` is None, ``outputs/`` followed by ``name``, with a number added if the file
    exists. Call this function before the work begins, so that a path that cannot be written is found at once.

    Raises:
        ValueError: the file extension is not that of a supported picture format.
        OutputExistsError: ``output`` exists, and ``overwrite`` is False.
        OSError: ``output`` is a folder, or its folder cannot be created or written to.
    """
    from dreamgram.image_optimization.images import check_output

    if output is not None:
        return check_output(output, overwrite)
    return check_output(free(Path("outputs", name)))
