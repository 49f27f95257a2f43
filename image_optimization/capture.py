"""Capture activations by layer name, from any ``torch.nn.Module``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamgram.image_optimization.gradient_scaling import Range
from dreamgram.image_optimization.layers import Layer, reach_layers

Activations = Mapping[str, Tensor]
"""Activations by layer name: (N, C, H, W) of a convolution, (N, F) of a fully connected layer, (N, T, F) of tokens.

Activations with channels last, (N, H, W, C), are converted to (N, C, H, W)."""


@contextmanager
def capture(
    model: nn.Module, layers: Iterable[str], dtype: torch.dtype = torch.float32
) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
    """Yield a differentiable function from images (N, C, H, W) in [0, 1] to the activations of ``layers`` by name.

    The forward pass ends at the deepest of the layers. If an in-place operation would overwrite a captured output, the
    operation gets a copy of it. The network computes in ``dtype``, and its activations have that type. Activations in
    float16 are converted to float32, because their gradients would fall below the range of float16. The parameters are
    read at the first call, and later changes to them have no effect. Inside the context, the network is in evaluation
    mode and its weights get no gradients. Afterwards, its modes and gradient flags are restored and the added hooks are
    removed. Your own hooks stay.

    Example:
        >>> with capture(vgg, ["relu1_1", "relu4_1"]) as activations_of:
        ...     features = activations_of(image)["relu4_1"]

    Raises (when the yielded function is first called):
        ValueError: a layer is unknown, cannot be reached with images of that shape, or is called several times by one
            forward pass. In the last case, ``name:0``, ``name:1``, ... are the names of its calls.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    reader = _Reader(model, dict.fromkeys(layers), dtype)
    try:
        model.eval().requires_grad_(False)
        yield reader
    finally:
        reader.remove_hooks()
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)


class _Complete(Exception):
    """Exception that ends the forward pass when all layers have been captured."""


class _Reader:
    """A function from images to activations, with the hooks that it needs."""

    def __init__(self, model: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
        """Prepare to read the layers ``names`` of ``model``; the hooks are added at the first call."""
        self.model = model
        self.names = list(names)
        self.dtype = dtype
        self.order = torch.channels_last  # the memory format in which convolutions are fast on all devices
        self.weights: dict[str, Tensor] = {}
        self.handles: list[Any] = []
        self.calls: Counter[str] = Counter()
        self.activations: dict[str, Tensor] = {}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return the activations for ``image`` (N, C, H, W) in [0, 1] by layer name."""
        if not self.names:
            return {}
        if not self.handles:
            self._add_hooks(image)
            self.weights = _fast_weights(self.model, self.dtype, self.order)
        range16 = Range() if self.dtype == torch.float16 else None
        if range16:
            image = range16.enter(image)
        try:
            self._run(image)
        except RuntimeError as error:
            # Many networks call ``x.view(len(x), -1)`` after a convolution, which fails with channels last.
            if "view size is not compatible" not in str(error) or self.order == torch.contiguous_format:
                raise
            self.order = torch.contiguous_format
            self.weights = _fast_weights(self.model, self.dtype, self.order)
            self._run(image)
        names, outputs = list(self.activations), list(self.activations.values())
        self.activations = {}
        return dict(zip(names, range16.leave(outputs) if range16 else outputs, strict=True))

    def _run(self, image: Tensor) -> None:
        """Run the network until all layers have been captured."""
        self.calls.clear()
        self.activations = {}
        low = self.dtype != torch.float32
        with suppress(_Complete), torch.autocast(image.device.type, self.dtype) if low else nullcontext():
            image = image.contiguous(memory_format=self.order)
            functional_call(self.model, self.weights, (image,), tie_weights=False)  # ``weights`` is complete

    def _add_hooks(self, image: Tensor) -> None:
        """Add a hook to each module that the layers belong to, if images like ``image`` reach them."""
        by_module: dict[str, dict[int, Layer]] = {}
        for layer in reach_layers(self.model, image, self.names):
            by_module.setdefault(layer.module, {})[layer.call] = layer
        for name, calls in by_module.items():
            self.handles.append(self.model.get_submodule(name).register_forward_hook(self._hook(name, calls)))

    def _hook(self, name: str, wanted: dict[int, Layer]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        """Return the hook for the module ``name``. ``wanted`` maps the zero-based index of a call to its layer."""

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
        """Remove all hooks that were added."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def _fast_weights(model: nn.Module, dtype: torch.dtype, order: torch.memory_format) -> dict[str, Tensor]:
    """Return the parameters of ``model`` by name.

    The float32 parameters of convolutions and fully connected layers are converted to ``dtype`` once instead of in
    every step. The network must run under autocast, which then has nothing left to convert. 4-dimensional parameters
    are stored in the memory format ``order``.
    """
    weights = {}
    for path, module in model.named_modules():
        low = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        for name, parameter in module.named_parameters(path, recurse=False):
            kind = dtype if low and parameter.dtype == torch.float32 else parameter.dtype
            form = order if parameter.dim() == 4 else torch.contiguous_format
            weights[name] = parameter.detach().to(kind, memory_format=form)
    return weights
