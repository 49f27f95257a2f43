"""Choice of the device and the precision (number format) of a computation, given their names on the command line."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from dreamgram.image_optimization.names import unknown
from dreamgram.image_optimization.precision import Precision, choose_dtype


def find_device(name: str) -> torch.device:
    """Return the device called ``name``, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` stands for the accelerator of this machine, such as ``cuda`` or ``mps``, or for the CPU if there is none.

    Raises:
        ValueError: this machine has no such device; the message lists the devices that it has.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu"]
    if accelerator is not None:
        there += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
    if name == "auto":
        return torch.device(there[min(1, len(there) - 1)])
    if name not in there:
        raise ValueError(unknown("device", name, there, "this machine has"))
    return torch.device(name)


def find_precision(precision: Precision, device: torch.device, model: nn.Module) -> Precision:
    """Return ``precision`` or, if it is ``auto``, the number format that is chosen for ``model`` on ``device``."""
    return cast("Precision", str(choose_dtype(precision, device, model)).removeprefix("torch."))


def describe_setting(device: torch.device, precision: Precision) -> str:
    """Describe a device and a precision in a few words, such as "cpu x 2, bfloat16".

    The number after "cpu" is the number of threads.
    """
    threads = f" x {torch.get_num_threads()}" if device.type == "cpu" else ""
    return f"{device}{threads}, {precision}"
