"""Watchers of jobs for tests: they record what a job tells, stop the job, or press Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from dreamgram.image_optimization.optimize import Step
from dreamgram.workbench.job import Job, Watcher


class Recorder(Watcher):
    """A watcher that records everything that it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.steps: list[int] = []
        self.told: list[str] = []
        self.written: list[Path] = []
        self.stops = 0

    def begin(self, title: str, setting: str) -> None:
        self.begun.append((title, setting))

    def progress(self, step: Step) -> None:
        self.steps.append(step.number)

    def tell(self, line: str) -> None:
        self.told.append(line)

    def wrote(self, path: Path, seconds: float) -> None:
        self.written.append(path)

    def stopping(self) -> None:
        self.stops += 1


class Stopping(Watcher):
    """A watcher that asks its job to stop during step ``number``, counted from 1."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.job = Job(self)

    def progress(self, step: Step) -> None:
        if step.number == self.number - 1:  # a step is told when it is done, so step ``number`` is next
            self.job.stop()


def stopping_at(number: int) -> Job:
    """Return a job that ends with step ``number``, which must be at least 2."""
    return Stopping(number).job


def ctrl_c_at(number: int) -> Callable[[object, Step], None]:
    """Return a replacement for :meth:`Terminal.progress` that presses Ctrl-C during step ``number``, at least 2."""

    def progress(terminal: object, step: Step) -> None:
        if step.number == number - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return progress
