"""Functions that find the device and the number format for a computation from their names on the command line."""

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
        ValueError: this machine has no such device; the message lists the devices of the machine.
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
    """Return ``precision`` or, if this is ``auto``, the name of the number format chosen by :func:`choose_dtype`.

    The choice depends on ``device`` and on the network ``model``.
    """
    return cast("Precision", str(choose_dtype(precision, device, model)).removeprefix("torch."))


def describe_setting(device: torch.device, precision: Precision) -> str:
    """Describe a device and a number format in a few words, such as "cpu x 2, bfloat16" for two CPU threads."""
    threads = f" x {torch.get_num_threads()}" if device.type == "cpu" else ""
    return f"{device}{threads}, {precision}"
