"""Activations by layer name, from any ``torch.nn.Module``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from image_optimization.float16 import Range
from image_optimization.layers import Layer, reach_layers

Activations = Mapping[str, Tensor]
"""By layer name: (N, C, H, W) of a convolution, (N, F) of a fully connected layer, (N, T, F) of a transformer's tokens.

A network that has its channels last, (N, H, W, C), is read as (N, C, H, W) too.
"""


@contextmanager
def capture(
    network: nn.Module, layers: Iterable[str], dtype: torch.dtype = torch.float32
) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
    """A function from images (N, C, H, W) in [0, 1] to the activations of ``layers``, differentiable in the images.

    The forward pass ends at the deepest layer asked for, and an operation that writes over a captured output gets
    a copy to write on. The network computes in ``dtype``, with activations of that type; those of float16 come out
    in float32, lest their gradients fall below its range. The parameters are read at the first call: changes after
    it are not seen. Inside the context the network is in evaluation mode and its weights take no gradient. On leaving
    it the network is as it was: modes, gradient flags and hooks, yours included.

    Example:
        >>> with capture(vgg, ["relu1_1", "relu4_1"]) as activations_of:
        ...     features = activations_of(image)["relu4_1"]

    Raises (from the function, on its first call):
        ValueError: a layer is unknown, is called several times by one forward pass (then ``name:0``, ``name:1``,
            ... are its calls), or cannot be reached with images of that shape.
    """
    modes = [(module, module.training) for module in network.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    reader = _Reader(network, dict.fromkeys(layers), dtype)
    try:
        network.eval().requires_grad_(False)
        yield reader
    finally:
        reader.remove_hooks()
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)


class _Complete(Exception):
    """Every layer asked for has answered."""


class _Reader:
    def __init__(self, network: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
        self.network = network
        self.names = list(names)
        self.dtype = dtype
        self.order = torch.channels_last  # in which the fast convolutions of all devices work
        self.weights: dict[str, Tensor] = {}
        self.handles: list[Any] = []
        self.calls: Counter[str] = Counter()
        self.activations: dict[str, Tensor] = {}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        if not self.names:
            return {}
        if not self.handles:
            self._add_hooks(image)
            self.weights = _fast_weights(self.network, self.dtype, self.order)
        range16 = Range() if self.dtype == torch.float16 else None
        if range16:
            image = range16.enter(image)
        try:
            self._run(image)
        except RuntimeError as error:
            # ``x.view(len(x), -1)`` after a convolution is common, and cannot be done in this order.
            if "view size is not compatible" not in str(error) or self.order == torch.contiguous_format:
                raise
            self.order = torch.contiguous_format
            self.weights = _fast_weights(self.network, self.dtype, self.order)
            self._run(image)
        names, outputs = list(self.activations), list(self.activations.values())
        self.activations = {}
        return dict(zip(names, range16.leave(outputs) if range16 else outputs, strict=True))

    def _run(self, image: Tensor) -> None:
        self.calls.clear()
        self.activations = {}
        low = self.dtype != torch.float32
        with suppress(_Complete), torch.autocast(image.device.type, self.dtype) if low else nullcontext():
            image = image.contiguous(memory_format=self.order)
            functional_call(self.network, self.weights, (image,), tie_weights=False)  # all are given

    def _add_hooks(self, image: Tensor) -> None:
        by_module: dict[str, dict[int, Layer]] = {}
        for layer in reach_layers(self.network, image, self.names):
            by_module.setdefault(layer.module, {})[layer.call] = layer
        for name, calls in by_module.items():
            self.handles.append(self.network.get_submodule(name).register_forward_hook(self._hook(name, calls)))

    def _hook(self, name: str, wanted: dict[int, Layer]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            layer = wanted.get(self.calls[name])
            self.calls[name] += 1
            if layer is None:
                return None
            self.activations[layer.name] = output.movedim(-1, 1) if layer.channels_last else output
            if len(self.activations) == len(self.names):
                raise _Complete
            return output.clone() if layer.overwritten else None

        return hook

    def remove_hooks(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def _fast_weights(network: nn.Module, dtype: torch.dtype, order: torch.memory_format) -> dict[str, Tensor]:
    """The parameters of ``network`` by name, those of convolutions and fully connected layers in ``dtype``.

    Converted once rather than in every step; autocast, under which the network must run, finds nothing left to do.
    """
    weights = {}
    for path, module in network.named_modules():
        low = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        for name, parameter in module.named_parameters(path, recurse=False):
            kind = dtype if low and parameter.dtype == torch.float32 else parameter.dtype
            form = order if parameter.dim() == 4 else torch.contiguous_format
            weights[name] = parameter.detach().to(kind, memory_format=form)
    return weights
