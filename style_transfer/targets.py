"""Cache of the losses' targets: the statistics of the paintings and the activations of the photo."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")

KEPT = 64_000_000
"""Bytes of the statistics of paintings that are kept although the present run does not use them."""


class Targets:
    """A cache of what the losses need to know about pictures. Its keys depend on the content of the pictures.

    Each cache belongs to one network. Photos that are painted one after another share a cache, so that the activations
    of each painting are captured only once. The cache holds only one photo at a time.
    """

    def __init__(self) -> None:
        self._paintings: dict[tuple[Hashable, ...], Any] = {}
        self._photo: dict[Hashable, Any] = {}
        self._subject = ""

    def begin(self, photo: str, paintings: Collection[str]) -> None:
        """Make room for a run with a photo and paintings that have these fingerprints.

        Values of a different photo are deleted. Of the paintings that the run does not use, the oldest values are
        deleted until at most :data:`KEPT` bytes remain.
        """
        if photo != self._subject:
            self._subject, self._photo = photo, {}
        others = [key for key in self._paintings if key[0] not in paintings]
        excess = sum(_bytes_of(self._paintings[key]) for key in others) - KEPT
        for key in others:
            if excess > 0:
                excess -= _bytes_of(self._paintings.pop(key))

    def of_painting(self, key: tuple[Hashable, ...], compute: Callable[[], Value]) -> Value:
        """Return a painting's value under ``key``, which begins with its fingerprint. It is computed if missing."""
        return _remembered(self._paintings, key, compute)

    def of_photo(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of the photo, at one scale, under ``key``. A missing value is computed and stored."""
        return _remembered(self._photo, key, compute)


def _remembered(known: dict[Any, Any], key: Hashable, compute: Callable[[], Value]) -> Value:
    if key not in known:
        known[key] = compute()
    value: Value = known[key]
    return value


def _bytes_of(value: Any) -> int:
    """Return the total size, in bytes, of all tensors in ``value``."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return sum(map(_bytes_of, parts))


def fingerprint(*tensors: Tensor | None) -> str:
    """Return a hash of the shapes, types and values of ``tensors``: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            found.update(b"none")
            continue
        found.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()[:16]
