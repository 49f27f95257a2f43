"""A deep comparison of a network, and of the state of the process, before and after something was done with it.

The code shares nothing with the code that puts networks back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Portrait = dict[str, Any]
"""The objects that were found at each place in a network, such as ``layer1.0.bn1._buffers.running_mean``."""


def portrait(model: nn.Module) -> Portrait:
    """Return a description of everything in ``model``, and of the settings and random states of this process."""
    found = dict(_settings())
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name} is"] = id(module), type(module)
        seen: set[int] = set()
        for key, value in vars(module).items():
            if key != "_modules":
                found.update(_describe(f"{name}.{key}", value, seen))
        found[f"{name} holds"] = [(key, id(child)) for key, child in module._modules.items()]
    return found


def differences(before: Portrait, after: Portrait) -> list[str]:
    """Return the places at which two portraits differ."""
    return [place for place in sorted({*before, *after}) if before.get(place, ...) != after.get(place, ...)]


def _settings() -> Iterator[tuple[str, Any]]:
    yield "random state of PyTorch", torch.get_rng_state().tolist()
    yield "random state of NumPy", [str(part) for part in np.random.get_state()]
    yield "random state of Python", random.getstate()
    yield "gradients", (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    yield "autocast", torch.is_autocast_enabled("cpu")
    yield "types", (torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision())


def _describe(place: str, thing: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield everything in ``thing``, which is at ``place``. ``seen`` holds the identities of what was described."""
    if isinstance(thing, Tensor):
        yield place, _tensor(thing)
        if thing.is_leaf and thing.grad is not None:
            yield f"{place}.grad", _tensor(thing.grad)
        return
    if isinstance(thing, np.ndarray):
        yield place, (id(thing), thing.tobytes())
        return
    if isinstance(thing, torch.Generator):
        yield place, thing.get_state().tolist()
        return
    if isinstance(thing, str | int | float | bytes | None | torch.Size):
        yield place, thing
        return
    yield place, (id(thing), type(thing))
    if id(thing) in seen or callable(thing) or isinstance(thing, nn.Module):
        return
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        parts: Any = thing.items()
        yield f"{place} has", list(map(str, thing))
    elif isinstance(thing, set | frozenset):
        parts = ()
        yield f"{place} has", sorted(map(str, thing))
    elif hasattr(thing, "__len__") and hasattr(thing, "__iter__"):
        parts = enumerate(thing)
        yield f"{place} has", len(thing)
    else:
        parts = getattr(thing, "__dict__", {}).items()
        yield f"{place} has", list(map(str, getattr(thing, "__dict__", {})))
    for key, value in parts:
        yield from _describe(f"{place}.{key}", value, seen)


def _tensor(tensor: Tensor) -> tuple[Any, ...]:
    shape = tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device), tensor.requires_grad
    if tensor.is_meta:
        return id(tensor), *shape
    elements = tensor.detach().contiguous().flatten()
    data = elements.view(torch.uint8).numpy() if elements.numel() else b""
    return id(tensor), *shape, hashlib.sha1(bytes(data)).hexdigest()
