"""The registry of the networks in this package and of their weights files.

To add a network, write a function that builds it, and decorate this function with :func:`network`. The function can be
in any module of this folder.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
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

    find_weights: Callable[[], Path]
    """Function that returns the weights file to use unless the user names a different one.

    It raises a ModuleNotFoundError if the weights are in a package that is not installed."""

    shipped: bool
    """True if the weights file is part of this package."""


registered: dict[str, Network] = {}
"""Networks of this package by name. A network is added when the module that defines it is imported."""


def network(name: str, weights: str | Callable[[], Path]) -> Callable[[Builder], Builder]:
    """Register the decorated function as the builder of the network ``name``, so that ``load(name)`` calls it.

    The function must build the network from a weights file. ``weights`` is the name of the file in
    ``models/weights/`` to use unless the user names a different one. If this file is part of a different package,
    ``weights`` is a function that returns its path, as :attr:`Network.find_weights` does.
    """

    def register(build: Builder) -> Builder:
        if isinstance(weights, str):
            registered[name] = Network(build, lambda: WEIGHTS / weights, shipped=True)
        else:
            registered[name] = Network(build, weights, shipped=False)
        return build

    return register


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors, by name, from a safetensors file or from a file that ``torch.save`` wrote.

    Tensors in nested dictionaries get dotted names: the tensor ``w`` of ``{"state_dict": {"w": ...}}``, as in the
    checkpoints of Lightning, is called ``state_dict.w``. Everything else in the file, such as hyperparameters, is
    ignored. Reading a file runs no code from it.

    Raises:
        ValueError: the file contains no named tensors, or it contains an object that could run code when it is loaded.
            The message names the class of this object.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    try:
        # A namespace holds only data. Many training programs store their arguments in one.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # PyTorch's message advises the user to run the code in the file.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise ValueError("the file holds no tensors that torch.save or safetensors wrote") from None
        raise ValueError(
            f"the file asks for {asked[1]}, which could run any code; save only model.state_dict() with torch.save"
        ) from None
    found: OrderedDict[str, Tensor] = OrderedDict()
    found._metadata = {}  # type: ignore[attr-defined]
    _collect(content, "", found)
    if not found:
        raise ValueError("the file holds no tensors by name, as in model.state_dict()")
    return found


def _collect(content: object, prefix: str, found: OrderedDict[str, Tensor]) -> None:
    """Add to ``found`` the tensors in the nested dictionary ``content``, and the ``_metadata`` of its state dicts."""
    if not isinstance(content, Mapping):
        return
    for name, version in getattr(content, "_metadata", {}).items():
        found._metadata[(prefix + name).removesuffix(".")] = version  # type: ignore[attr-defined]
    for name, value in content.items():
        if not isinstance(name, str):  # The state of an optimizer has numbers as names.
            continue
        if hasattr(value, "shape") or name.endswith("_extra_state"):
            found[prefix + name] = value
        else:
            _collect(value, f"{prefix}{name}.", found)
