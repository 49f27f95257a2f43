"""The registry of the networks in this package and of their weights files.

To add a network, write a function that builds it, and decorate this function with :func:`network`. The function may be
in any module of this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights files that are part of this package."""

Builder = TypeVar("Builder", bound="Callable[[Path], nn.Module]")


@dataclass(frozen=True)
class Network:
    """A network of this package: the function that builds it, and its weights file."""

    build: Callable[[Path], nn.Module]
    """Function that builds the network from a weights file."""

    weights: Path
    """Weights file to use unless the user names a different one."""


registered: dict[str, Network] = {}
"""Networks of this package by name. A network is added when the module that defines it is imported."""


def network(name: str, weights: str) -> Callable[[Builder], Builder]:
    """Register the decorated function as the builder of the network ``name``, so that ``load(name)`` calls it.

    The function must build the network from a weights file. ``weights`` is the name of the file in
    ``models/weights/`` to use unless the user names a different one.
    """

    def register(build: Builder) -> Builder:
        registered[name] = Network(build, WEIGHTS / weights)
        return build

    return register


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors, by name, from a safetensors file or from a PyTorch state dict.

    Raises:
        ValueError: the file name does not end in ``.safetensors``, and the file is not a PyTorch state dict.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # PyTorch's message advises to run whatever code is in the file.
        raise ValueError("the file holds no tensors that torch.save or safetensors wrote") from None
    return state
