"""Identify a network by its local files and by a hash of its weights, so that it can be recognized later."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dreamgram.models.loading import loaded_files, networks

if TYPE_CHECKING:
    from torch import nn


def sources(name: str, weights: Path | None) -> list[Path]:
    """List the user's files and folders that ``load(name, weights)`` reads.

    If ``name`` is ``path/to/file.py:function``, the list begins with this file. If ``load`` has loaded the file, the
    next items are the files of the modules that the user's file has imported so far from its folder, its package or the
    current folder, in alphabetical order. The path of a module inside the current folder is relative to that folder.
    The path of any other module is absolute. If ``name`` is ``hf:FOLDER``, the list begins with the folder. If
    ``weights`` is not None, it is the last item. If ``name`` has neither form, the list contains at most ``weights``.
    """
    source, _, _ = name.rpartition(":")
    files = loaded_files(Path(source)) if source.endswith(".py") else []
    folder = Path(name.removeprefix("hf:"))
    if name.startswith("hf:") and folder.is_dir():
        files = [folder]
    return files if weights is None else [*files, weights]


def is_shipped(name: str) -> bool:
    """Return whether the default weights of the network called ``name`` are part of this package."""
    entry = networks().get(name)
    return entry is not None and entry.shipped


def state_hash(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers in the state dict of ``model``.

    The hash covers their names, types, shapes and values. It is the first 16 hexadecimal digits of a SHA-256. It does
    not depend on the device or the memory format of the tensors. If several names share one parameter, its values are
    hashed once. If each of these names has its own copy of the parameter instead, the hash is different.
    """
    import torch

    found = hashlib.sha256()
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):  # The extra state of a module can have any type.
            continue
        first = first_names.setdefault(id(tensor), name)
        found.update(f"{name} {first} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if first == name:
            # NumPy has no bfloat16, but it accepts the bytes of any type.
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
