"""Jobs: tasks, such as painting a photo, that run in a terminal, a thread or a worker process.

The function that does the work takes a :class:`Job` as an argument and reports its progress and messages to the job.
Like any function, it returns a result or raises an exception. The code that starts the job gives the job a
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

    The methods of this base class show nothing. A subclass, for example for a terminal or a web page, overrides the
    methods for the events that it shows.
    """

    def begin(self, title: str, setting: str) -> None:
        """Show that a part of the job, such as the processing of one of several photos, begins.

        ``title`` identifies the part, for example by a file name. ``setting`` describes the device and the number
        format of the computation, such as "cpu x 2, bfloat16".
        """

    def progress(self, step: Step) -> None:
        """Show that an optimization step is done; ``step`` is the record of this step."""

    def end(self) -> None:
        """Show that the current part of the job has ended, successfully or not."""

    def tell(self, line: str) -> None:
        """Show a one-line message to the user."""

    def fail(self, line: str, error: Exception | None = None) -> None:
        """Show the message ``line``, which says that a file could not be processed because of ``error``.

        In this base class, the method only calls :meth:`tell`.
        """
        self.tell(line)

    def wrote(self, path: Path, seconds: float) -> None:
        """Show that the file ``path`` has been written, ``seconds`` seconds after the job began."""

    def stopping(self) -> None:
        """Show that Ctrl-C was pressed and that the job will therefore end after its current step.

        The handler of the signal SIGINT calls this method, possibly while another method of the watcher is running.
        This method must therefore not write to ``sys.stderr`` or another stream that other methods use.
        """


@dataclass(frozen=True)
class Done:
    """The outcome of a command."""

    stopped: Ending = "finished"
    """Reason why the work of the command ended: ``finished``, ``converged`` or ``interrupted``."""
    failed: int = 0
    """Number of files that could not be processed."""
    summary: str = ""
    """One-line summary of the whole job, such as the number of painted files; "" for no summary."""
    interrupted: str = "interrupted: saved the picture so far"
    """Message for the user if the job was interrupted. It says what was saved or how to resume."""
    answer: str = ""
    """Text that the command prints as its result, such as a table of layers; "" for a command that writes a file."""


@dataclass
class Job:
    """A running task, such as the painting of a photo or the visualization of units.

    The code that does the work reports progress and messages to the job, and the job passes them on to its watcher.
    """

    watcher: Watcher = field(default_factory=Watcher)
    """Watcher that shows the job to the user."""
    began: float = field(default_factory=time.perf_counter)
    """Time at which the job began, in seconds on the clock of :func:`time.perf_counter`."""
    stopping: bool = False
    """True if the job has been asked to stop. The optimization then ends after its current step."""
    stepped: bool = False
    """True if at least one optimization step is done, so that there is a picture to save."""
    over: bool = False
    """True if all work is done. Ctrl-C then does nothing."""
    interrupted: str = "interrupted: nothing was saved"
    """Message for the user if Ctrl-C ends the work at once, without a result. The message is replaced when a file has
    been saved or when the run can be resumed."""

    @contextmanager
    def part(self, title: str, setting: str = "") -> Iterator[Job]:
        """Run the body of the ``with`` statement as one part of the job, and show when this part begins and ends.

        The arguments are those of :meth:`Watcher.begin`. The body typically runs one optimization. To report the
        optimization's progress, pass the job as the last of the ``listeners``, which are the functions that the
        optimization calls after every step. The job must be the last listener, because a job that has been asked to
        stop ends the optimization before later listeners are called.
        """
        self.watcher.begin(title, setting)
        try:
            yield self
        finally:
            self.watcher.end()

    def __call__(self, step: Step) -> None:
        """Report ``step`` to the watcher. The optimization calls this method after every step.

        Raises:
            StopRun: the job had been asked to stop before this call.
        """
        from dreamgram.image_optimization.optimize import StopRun

        stopping = self.stopping  # the value that earlier listeners, such as a checkpoint, have seen
        self.stepped = True
        self.watcher.progress(step)
        if stopping:
            raise StopRun

    def stop(self) -> None:
        """Ask the job to end after its current step and save the current picture. Any thread can call this method."""
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
        """Save a picture with its recipe, the record of how it was made, and return the path of the file.

        If ``overwrite`` is True, an existing file ``path`` is replaced. If ``overwrite`` is False and ``path`` exists,
        the picture is saved under an unused name in the same folder. A finished picture is therefore not lost, even if
        a different program wrote ``path`` while this job was running. The user is told the path of the saved file. The
        keyword arguments ``how`` are passed to :func:`dreamgram.image_optimization.images.save`.

        Raises:
            NotWrittenError: the picture could not be saved in the intended folder, for example because the disk is
                full, and was saved in a different folder; see :func:`save`.
            OSError: the picture could not be saved in any folder.
        """
        path = save(picture, free(path, overwrite), recipe, overwrite, **how)
        self.wrote(path)
        return path

    @contextmanager
    def taking_interrupts(self) -> Iterator[Job]:
        """Make Ctrl-C end this job after its current step, as :meth:`stop` does, while the ``with`` statement runs.

        KeyboardInterrupt is raised at once if Ctrl-C is pressed before the first step is done, or after the job has
        been asked to stop, for example by an earlier Ctrl-C. When :attr:`over` is True, Ctrl-C does nothing. This
        context manager has no effect outside the main thread. It also has no effect if the process ignores Ctrl-C, or
        if the handler of Ctrl-C is neither Python's default handler nor :func:`leave`, the handler that is active while
        a program starts.
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

    Ctrl-C ends ``work`` without a result if it is pressed before the first optimization step is done, or for the second
    time. If Ctrl-C is pressed once after the first step, the current picture is saved, and ``work`` returns its result.
    """
    try:
        return work()
    except KeyboardInterrupt:
        return None


def save(picture: Tensor | Image.Image, path: Path, recipe: Recipe, overwrite: bool = False, **how: Any) -> Path:
    """Save a picture with its recipe, and return ``path``; see :func:`dreamgram.image_optimization.images.save`.

    The recipe is the record of how the picture was made. If ``path`` cannot be written, for example because the disk is
    full or the folder was deleted, the picture is saved in the program's own folder (see :func:`state_folder`). If this
    fails, too, the picture is saved in the operating system's folder for temporary files.

    Raises:
        OutputExistsError: ``path`` exists, and ``overwrite`` is False.
        NotWrittenError: the picture could not be saved as ``path``, and was saved in the program's own folder or the
            folder for temporary files; the message names the file.
        OSError: the picture could not be saved in any folder.
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
    """Return ``path`` if it does not exist or ``overwrite`` is True, or else a similar path that does not exist.

    The similar path has a number before the extension, the first of -2, -3 and so on for which no file exists.
    """
    if overwrite:
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def beside(path: Path, ending: str, overwrite: bool, input_files: Collection[str] = ()) -> Path:
    """Return the path of an additional file, such as a plot of the loss, in the folder of the picture ``path``.

    The name of the additional file is the picture's name with an ``ending`` such as "-loss.png" in place of the
    extension. If a file of this name exists and ``overwrite`` is False, a number is added to the name. A number is also
    added if the file would otherwise replace the picture itself or one of ``input_files``, the files that the picture
    is made from.
    """
    place = path.with_name(path.stem + ending)
    if place == path:
        place = path.with_name(f"{path.stem}-2{ending}")
    is_input = any(same_file(place, Path(name)) for name in input_files)
    return free(place, overwrite and not is_input)


def output_path(output: Path | None, name: str, overwrite: bool) -> Path:
    """Return the path of the file that a command will write.

    If ``output`` is None, the file is called ``name`` and is in the folder ``outputs``; if this file exists already, a
    number is added to its name. Otherwise, the path is ``output``. Call this function before the work begins, so that
    an error is raised at once if the file cannot be written.

    Raises:
        ValueError: the file extension is not that of a supported picture format.
        OutputExistsError: ``output`` exists, and ``overwrite`` is False.
        OSError: ``output`` is a folder, or the folder that contains the file cannot be created or written to.
    """
    from dreamgram.image_optimization.images import check_output

    if output is not None:
        return check_output(output, overwrite)
    return check_output(free(Path("outputs", name)))
