"""The result of activation maximization, which can be saved to a file and loaded again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dreamgram.image_optimization.checks import as_plain
from dreamgram.image_optimization.files import check_regular
from dreamgram.image_optimization.image_arguments import ROUNDING
from dreamgram.image_optimization.images import check_output, replacing
from dreamgram.image_optimization.names import described, shorten
from dreamgram.image_optimization.optimize import Ending
from dreamgram.workbench.recipe import parse_json
from dreamgram.workbench.sheets import contact_sheet, short
from dreamgram.workbench.version import __version__

ENDING_OF_DREAMS = ".safetensors"
"""Extension of the files in which :class:`Dreams` are saved."""

NOTE_OF_DREAMS, FORMAT_OF_DREAMS = "dreamgram dreams", 1
"""Key of the safetensors metadata entry with all data except the tensors, in JSON; and version of the file format."""

TENSORS = ("images", "activations", "history")
"""Names of the tensors in a file. Each tensor has the name of the field of :class:`Dreams` that it holds."""

NUMBER_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Data types that are allowed for the tensors in a file."""

MOST_SETTINGS, LONGEST_SETTING = 100, 10_000
"""Largest number of settings in a file, and largest number of characters in the name or the value of a setting."""


@dataclass(frozen=True, repr=False)
class Dreams:
    """The result of :func:`maximize`."""

    images: Tensor
    """Images (N, C, H, W) in [0, 1], on the CPU."""
    activations: Tensor
    """Value of the objective for each of :attr:`images`, (N,), computed without a random transform."""
    history: Tensor
    """Value of the objective before each step, (steps, N), for the images as randomly transformed in that step.

    If the optimization of a batch ended early, the values of its images for the remaining steps are NaN.
    """
    stopped: Ending
    """Reason why the run ended: ``finished``, ``converged`` or ``interrupted``.

    If the run was interrupted, for example by Ctrl-C, the result contains only the images whose optimization had begun.
    """
    silent: tuple[int, ...] = ()
    """Indices of the images to which at least one of the objective's layers passed back no gradient.

    These images are meaningless.
    """
    units: tuple[int, ...] = ()
    """Indices of the units that the images are made for, one index for each image.

    ``units`` is empty if an image is made for several units or for no unit.
    """
    settings: Mapping[str, str | float] = field(default_factory=dict)
    """Settings with which the images were made, by name, as strings and numbers.

    They include the objective, the class of the network and arguments of :func:`maximize`.
    """

    def __repr__(self) -> str:
        """Return a one-line summary."""
        count, _, height, width = self.images.shape
        parts = [f"{count} image{'s' * (count != 1)} of {width}x{height} pixels"]
        if len(self.activations):
            low, high = self.activations.min().item(), self.activations.max().item()
            parts.append(f"activation{f's {low:.4g} to' if count > 1 else ''} {high:.4g}")
        parts.append(f"{self.stopped} after {len(self.history)} steps")
        if self.silent:
            more = f" and {len(self.silent) - 10} more" if len(self.silent) > 10 else ""
            parts.append(f"silent: {', '.join(map(str, self.silent[:10]))}{more}")
        return f"Dreams({', '.join(parts)})"

    def _repr_png_(self) -> bytes | None:
        """Return a PNG file for notebooks: a contact sheet of the images with their activations.

        Return None if the images are neither gray nor RGB.
        """
        if self.images.shape[1] not in (1, 3):
            return None
        labels = self.units or range(len(self.images))
        captions = [f"{label}\t{short(value)}" for label, value in zip(labels, self.activations.tolist(), strict=True)]
        png: bytes | None = contact_sheet(self.images, captions)._repr_png_()
        return png

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Save all fields of this result to a file that :meth:`load` can read, and return the path of the file.

        All numbers are saved without rounding. If writing fails, no incomplete file is left, and an existing file is
        unchanged.

        Args:
            path: file to write, whose name ends in ``.safetensors``.
            overwrite: whether to replace an existing file.

        Raises:
            OutputExistsError: the file exists, and ``overwrite`` is False.
            OSError: the file cannot be written.
            ValueError: the name of the file does not end in ``.safetensors``, or a field is not valid. For example, a
                pixel value is outside [0, 1], or a setting is neither a string nor a finite number.
        """
        path = check_output(path, overwrite, (ENDING_OF_DREAMS,))
        note: dict[str, Any] = {"format": FORMAT_OF_DREAMS, "version": __version__, "stopped": self.stopped}
        note |= {name: [as_plain(each) for each in getattr(self, name)] for name in ("silent", "units")}
        note["settings"] = self.settings
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in TENSORS}
        try:
            _check(note, tensors)
        except ValueError as error:
            raise ValueError(f"the dreams cannot be saved: {error}") from None
        note["settings"] = {name: as_plain(value) for name, value in self.settings.items()}
        data = save(tensors, {NOTE_OF_DREAMS: json.dumps(note)})
        with replacing(path) as beside:
            beside.write_bytes(data)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dreams:
        """Load a result from a file that :meth:`save` wrote.

        Files from untrusted sources are safe to load: no code in the file is executed, and all of its content is
        checked.

        Raises:
            FileNotFoundError, IsADirectoryError: ``path`` does not exist, or is a folder.
            ValueError: the file was not written by :meth:`save`, is damaged, or has a format that this version of the
                package cannot read.
        """
        path = Path(path)
        check_regular(path)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, not a file of dreams")
        if not path.exists():
            raise FileNotFoundError(f"no file {path}")
        try:
            with safe_open(path, "pt") as file:
                note = (file.metadata() or {}).get(NOTE_OF_DREAMS)
                if note is None:
                    raise ValueError("it was not written by Dreams.save")
                if set(file.keys()) != set(TENSORS):
                    raise ValueError(f"its tensors must be {', '.join(TENSORS)}")
                # Like results of maximize, the tensors are in memory that PyTorch allocates.
                tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
            parsed = parse_json(note)
            _check(parsed, tensors)
            found: dict[str, Any] = {name: tuple(parsed[name]) for name in ("silent", "units")}
            return cls(**tensors, **found, stopped=parsed["stopped"], settings=parsed["settings"])
        except SafetensorError:
            raise ValueError(f"{path} holds no dreams: it is not a safetensors file, or is damaged") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} holds no dreams: {error}") from None


def _check(note: Any, tensors: Mapping[str, Tensor]) -> None:
    """Check the content of a file after reading it or before writing it.

    ``note`` holds all data except the tensors (see :data:`NOTE_OF_DREAMS`), and ``tensors`` holds the tensors by name.

    Raises:
        ValueError: the format is not supported, or the value of a field of :class:`Dreams` is missing or not valid.
    """
    if not isinstance(note, dict) or type(note.get("format")) is not int:
        raise ValueError("its note is damaged")
    if note["format"] != FORMAT_OF_DREAMS:
        raise ValueError(f"it has the format {shorten(note['format'])}, and this version reads {FORMAT_OF_DREAMS}")
    count = _check_tensors(tensors)
    if note.get("stopped") not in get_args(Ending):
        raise ValueError(f"its stopped must not be {shorten(note.get('stopped'))}")
    for name in ("silent", "units"):
        value = note.get(name)
        if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 2**63 for each in value):
            raise ValueError(f"its {name} must be whole numbers, not {shorten(value)}")
    if len(set(note["silent"])) != len(note["silent"]) or max(note["silent"], default=0) >= count:
        raise ValueError(f"its silent must be different numbers below {count}, not {shorten(note['silent'])}")
    if len(note["units"]) not in (0, count):
        raise ValueError(f"it has {count} images, but {len(note['units'])} units")
    _check_settings(note.get("settings"))


def _check_tensors(tensors: Mapping[str, Tensor]) -> int:
    """Check the types and shapes of the tensors and the range of the pixel values, and return the number of images."""
    for name, tensor in tensors.items():
        if tensor.dtype not in NUMBER_TYPES:
            known = ", ".join(map(str, NUMBER_TYPES))
            raise ValueError(f"{name} must be fractions, not {tensor.dtype}; there are {known}")
    images, activations, history = (tensors[name] for name in TENSORS)
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be (N, C, H, W), not {tuple(images.shape)}")
    count = len(images)
    if activations.shape != (count,) or history.ndim != 2 or history.shape[1] != count:
        shapes = f"{tuple(activations.shape)} and {tuple(history.shape)}"
        raise ValueError(f"activations and history must be ({count},) and (steps, {count}), not {shapes}")
    low, high = (bound.item() for bound in images.aminmax())
    if not math.isfinite(low + high):
        raise ValueError("images have values that are infinite or not a number")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"images must be in [0, 1], but go from {low:.3g} to {high:.3g}")
    return count


def _check_settings(settings: Any) -> None:
    """Raise a ValueError unless ``settings`` maps names to strings and finite numbers and does not exceed the limits.

    The limits are :data:`MOST_SETTINGS` and :data:`LONGEST_SETTING`.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"the settings must be a dictionary, not {described(settings)}")
    if len(settings) > MOST_SETTINGS:
        raise ValueError(f"there are more than {MOST_SETTINGS} settings")
    for name, given in settings.items():
        value = as_plain(given)
        texts = [each for each in (name, value) if isinstance(each, str)]
        if not isinstance(name, str) or not isinstance(value, str | int | float):
            raise ValueError(f"the setting {shorten(name)} must be a text or a number, not {shorten(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the setting {shorten(name)} must be a finite number, not {value}")
        if max(map(len, texts)) > LONGEST_SETTING:
            raise ValueError(f"the setting {shorten(name)} has more than {LONGEST_SETTING} characters")
