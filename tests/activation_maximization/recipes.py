"""Recipes of pictures that ``dream`` made, and a run that stops."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from dreamgram.activation_maximization.options import OPTIONS_OF_COMMANDS
from dreamgram.image_optimization.optimize import Step
from dreamgram.workbench.job import Job, Watcher
from dreamgram.workbench.recipe import Recipe

NEWER = ("transform", "parameterization", "log_odds", "border")
"""Options that version 0.1.0 did not have."""


def recipe(path: str | Path) -> Recipe:
    return Recipe.read(Path(path), OPTIONS_OF_COMMANDS)


def recorded(path: str | Path) -> dict[str, Any]:
    return recipe(path).options.record()


def old_note(new: Recipe, **found: Any) -> str:
    """The note that version 0.1.0 kept for a picture with the recipe ``new``: all in one table."""
    kept = {name: value for name, value in new.options.record().items() if name not in NEWER}
    kept |= {"command": new.command, "version": "0.1.0", "device": "cpu", "output": None, "overwrite": False}
    kept |= {"folder": "each"} if new.command == "dream units" else {}
    return json.dumps({**kept, "files": dict(new.files), "stopped": "finished", **found})


def unresolved_note(new: Recipe) -> str:
    """The note of a picture with the recipe ``new`` from before the recipe said what the defaults stand for."""
    kept = json.loads(new.note())
    defaults = {each.name: each.default for each in fields(new.options)}
    kept["options"] |= {name: None for name in ("parameterization", "size", "columns") if defaults.get(name, 0) is None}
    kept["options"] |= {"transform": "robust"}
    return json.dumps(kept)


class Stopping(Watcher):
    """Asks the job to stop at its first step."""

    def __init__(self) -> None:
        self.job = Job(self)

    def progress(self, step: Step) -> None:
        self.job.stop()
