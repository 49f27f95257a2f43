"""Cache of the losses' targets: the statistics of the paintings and the activations of the photo."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")

KEPT = 64_000_000
"""Maximum total size, in bytes, of the cached statistics of paintings that the current run does not use."""


class Targets:
    """A cache of the targets of the losses: the statistics of paintings and the activations of a photo.

    The keys contain hashes of the pictures. A cache is valid for only one network. If several photos are
    stylized one after another, they share a cache, so that the statistics of each painting are computed only once. The
    cache holds the activations of only one photo at a time.
    """

    def __init__(self) -> None:
        self._painting_targets: dict[tuple[Hashable, ...], Any] = {}
        self._photo_targets: dict[Hashable, Any] = {}
        self._photo_hash = ""

    def begin(self, photo_hash: str, painting_hashes: Collection[str]) -> None:
        """Make room in the cache for a run that is about to start, by deleting targets that the run does not need.

        ``photo_hash`` and ``painting_hashes`` are the hashes (:func:`fingerprint`) of the run's pictures. Targets of a
        different photo are deleted. Targets of paintings that the run does not use are deleted, oldest first, until at
        most :data:`KEPT` bytes of them remain.
        """
        if photo_hash != self._photo_hash:
            self._photo_hash, self._photo_targets = photo_hash, {}
        others = [key for key in self._painting_targets if key[0] not in painting_hashes]
        excess = sum(_bytes_of(self._painting_targets[key]) for key in others) - KEPT
        for key in others:
            if excess > 0:
                excess -= _bytes_of(self._painting_targets.pop(key))

    def of_painting(self, key: tuple[Hashable, ...], compute: Callable[[], Value]) -> Value:
        """Return the statistics of a painting that are cached under ``key``.

        If they are not cached yet, ``compute`` computes them, and they are added to the cache. ``key`` begins with the
        painting's fingerprint (hash).
        """
        return _remembered(self._painting_targets, key, compute)

    def of_photo(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the activations of the photo that are cached under ``key``.

        If they are not cached yet, ``compute`` computes them, and they are added to the cache. ``key`` must be
        different for each size to which the photo is resized.
        """
        return _remembered(self._photo_targets, key, compute)


def _remembered(known: dict[Any, Any], key: Hashable, compute: Callable[[], Value]) -> Value:
    if key not in known:
        known[key] = compute()
    value: Value = known[key]
    return value


def _bytes_of(value: Any) -> int:
    """Return the total size, in bytes, of all tensors in ``value``, a tensor or a nested container of tensors."""
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
        # The channels of a gray picture may share their memory. Each channel is copied separately, because a copy of
        # the whole tensor would take three times as much memory.
        for part in tensor.detach().flatten(0, -4).unbind() if tensor.ndim > 3 else [tensor.detach()]:
            for channel in part.unbind() if tensor.ndim > 2 else [part]:
                found.update(channel.cpu().contiguous().numpy().data)
    return found.hexdigest()[:16]
