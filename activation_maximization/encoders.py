"""Encoders: modules and functions that compute features from the activations of a layer.

Examples are sparse autoencoders, linear probes and projections to an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dreamgram.image_optimization.memory import is_out_of_memory
from dreamgram.image_optimization.names import described
from dreamgram.image_optimization.settings import TURN
from dreamgram.image_optimization.state import Snapshot

Encoder = Callable[[Tensor], Any]
"""Type of an encoder, see :func:`dreamgram.activation_maximization.objectives.feature`."""


def as_encoder(given: Any) -> Encoder:
    """Return ``given``, or raise a TypeError if it cannot be called or is a class."""
    if not callable(given) or isinstance(given, type):
        raise TypeError(f"an encoder is a module or a function, such as sae.encode, not {described(given)}")
    encoder: Encoder = given
    return encoder


def encode(encoder: Encoder, activation: Tensor, layer: str) -> Tensor:
    """Return the features (N, positions..., F) that ``encoder`` computes from the activations of ``layer``.

    ``activation`` is (N, positions..., C). The result is float32, on the same device. It is (N, F) if the encoder
    returns features of the whole image.

    Raises:
        TypeError: the encoder does not return a tensor.
        ValueError: the encoder fails, does not return one row for each image, or passes no gradient back.
    """
    given = f"activations {tuple(activation.shape)} of layer {layer!r}, with the units on the last axis"
    try:
        features: object = _call(encoder, activation)
    except Exception as error:  # the user's encoder may raise anything
        if is_out_of_memory(error):
            raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the encoder fails for {given}: {type(error).__name__}: {words}") from error
    wanted = f"the encoder must return features ({len(activation)}, ..., F) for {given}"
    if not isinstance(features, Tensor):
        raise TypeError(f"{wanted}, not {described(features)}")
    if features.ndim < 2 or len(features) != len(activation) or not features.numel():
        raise ValueError(f"{wanted}, not shape {tuple(features.shape)}")
    if activation.requires_grad and torch.is_grad_enabled() and not features.requires_grad:
        raise ValueError(f"the encoder of layer {layer!r} passes no gradient back: it must not use detach or no_grad")
    return features.to(activation.device).float()


def _call(encoder: Encoder, activation: Tensor) -> Any:
    """Call ``encoder`` with ``activation``. If it is a module or a method of a module, leave this module unchanged.

    The activations are moved to the device of the module's weights and converted to their data type. The module is in
    evaluation mode, and its weights get no gradients.
    """
    module = getattr(encoder, "__self__", encoder)
    if not isinstance(module, nn.Module):
        return encoder(activation)
    weights = chain(module.parameters(), module.buffers())
    like = next((weight for weight in weights if weight.is_floating_point()), activation)
    with TURN, Snapshot(module):
        module.eval()
        module.requires_grad_(False)
        return encoder(activation.to(like.device, like.dtype))
