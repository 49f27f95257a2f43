"""Identify a network by the files that it comes from and by a hash of its weights, to recognize it later."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dreamgram.models.loading import loaded_files

if TYPE_CHECKING:
    from torch import nn


def sources(name: str, weights: Path | None) -> list[Path]:
    """List the local files that ``load(name, weights)`` reads outside the package.

    For ``path/to/file.py:function``, the list begins with this file. If the file has been loaded, the modules of its
    project that have been imported so far follow in alphabetical order. Paths of these modules are relative to the
    current folder if they are below it. The last file is ``weights``, if given. Networks of the package, torchvision
    and timm have no such files except ``weights``.
    """
    source, _, _ = name.rpartition(":")
    files = loaded_files(Path(source)) if source.endswith(".py") else []
    return files if weights is None else [*files, weights]


def state_hash(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers in the state dict of ``model``.

    The hash covers their names, types, shapes and values. It is the first 16 hexadecimal digits of a SHA-256. It does
    not depend on the device or the memory format. The values of a shared parameter are read once. A shared parameter
    and a copied parameter give different hashes.
    """
    import torch

    found = hashlib.sha256()
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):  # A module may have extra state of any type.
            continue
        first = first_names.setdefault(id(tensor), name)
        found.update(f"{name} {first} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if first == name:
            # NumPy has no bfloat16, but it accepts the bytes of any type.
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
