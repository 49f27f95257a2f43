"""Capture the activations of layers, given by name, of any ``torch.nn.Module``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamgram.image_optimization.compilation import Program, compile_for
from dreamgram.image_optimization.fusion import Group, fused, groups_in, hooks_of
from dreamgram.image_optimization.gradient_scaling import Range
from dreamgram.image_optimization.layers import Layer, reach_layers
from dreamgram.image_optimization.recording import is_own

ActivationsOf = Callable[[Tensor], dict[str, Tensor]]
"""A function that returns the activations of images (N, C, H, W) in [0, 1], by layer name."""

Activations = Mapping[str, Tensor]
"""Activations by layer name: (N, C, H, W) of a convolution, (N, F) of a fully connected layer, (N, T, F) of T tokens.

Activations with channels last, (N, H, W, C), are converted to (N, C, H, W)."""


@contextmanager
def capture(model: nn.Module, layers: Iterable[str], dtype: torch.dtype = torch.float32) -> Iterator[Reader]:
    """Yield a differentiable function from images (N, C, H, W) in [0, 1] to the activations of ``layers`` by name.

    The forward pass ends as soon as all of ``layers`` have run. If an in-place operation would overwrite a captured
    output, the operation gets a copy of the output instead. The network computes in ``dtype``, by autocast if
    ``dtype`` is not float32. If ``dtype`` is float16, the returned activations are converted to float32, because their
    gradients could be too small for float16. The network's parameters are read when the yielded function is first
    called, and later changes to these parameters may have no effect. Inside the context, the network is in evaluation
    mode and its weights get no gradients. On leaving the context, the ``training`` and ``requires_grad`` flags of the
    network are restored, and the hooks that :func:`capture` added are removed. Hooks that you added yourself stay.

    Example:
        >>> with capture(vgg, ["relu1_1", "relu4_1"]) as activations_of:
        ...     features = activations_of(image)["relu4_1"]

    Raises (when the yielded function is first called):
        ValueError: a layer is unknown, is not reached by a forward pass of the given images, or is called several times
            by one forward pass. In the last case, use ``name:0``, ``name:1``, ... to choose one of its calls.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    reader = Reader(model, dict.fromkeys([layers] if isinstance(layers, str) else layers), dtype)
    try:
        model.eval().requires_grad_(False)
        yield reader
    finally:
        reader.remove_hooks()
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)


def is_recordable(model: nn.Module) -> bool:
    """Return whether a forward pass of ``model`` may be recorded and replayed, instead of being run in every step.

    The result is False if any module of ``model`` has a hook that is defined outside this package, or an attribute
    ``recordable`` that is False.
    """
    allowed = all(getattr(module, "recordable", True) for module in model.modules())
    return allowed and is_own(*itertools.chain(*map(hooks_of, model.modules())))


class _Complete(Exception):
    """Exception that ends the forward pass when the activations of all requested layers have been captured."""


class Reader:
    """A differentiable function that runs a network on images and returns activations captured by forward hooks.

    :func:`capture` makes and yields it.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
        """Prepare to capture the layers ``names`` of ``model``; the hooks are added when the object is first called."""
        self.model = model
        self.names = list(names)
        self.dtype = dtype
        self.order = torch.channels_last  # the memory format in which convolutions are fast on all devices
        self.weights: dict[str, Tensor] = {}
        self.groups: dict[nn.Sequential, list[Group]] = {}
        self.handles: list[Any] = []
        self.calls: Counter[str] = Counter()
        self.activations: dict[str, Tensor] = {}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return the activations for ``image`` (N, C, H, W) in [0, 1] by layer name."""
        if not self.names:
            return {}
        self._prepare(image)
        try:
            return self._read(self._run, image)
        except RuntimeError as error:
            # Many networks call ``x.view(len(x), -1)`` after a convolution, which fails with channels last.
            if "view size is not compatible" not in str(error) or self.order == torch.contiguous_format:
                raise
            self.order = torch.contiguous_format
            self.weights = _fast_weights(self.model, self.dtype, self.order)
            return self._read(self._run, image)

    def compiled(self) -> ActivationsOf:
        """Return a function that does the same as this object, but runs a compiled network.

        The network is compiled for each shape of the images, when images of this shape are passed for the first time.
        A network that cannot be compiled, that changes its buffers or that may do something else in every forward pass
        (:func:`is_recordable`) runs as usual.
        """
        programs: dict[tuple[torch.Size, bool], Program] = {}
        steady: bool | None = None

        def activations_of(image: Tensor) -> dict[str, Tensor]:
            nonlocal steady
            if not self.names or not is_recordable(self.model):
                return self(image)
            if steady is None:
                steady = self._is_steady(image)
            if not steady:
                return self(image)
            image = image.contiguous(memory_format=self.order)  # a program is compiled for one memory format
            case = image.shape, torch.is_grad_enabled() and image.requires_grad
            if case not in programs:
                programs[case] = compile_for(self._run, image, self._tensors()) or self._run
            return self._read(programs[case], image, self._tensors())

        return activations_of

    def _prepare(self, image: Tensor) -> None:
        """Add the hooks and convert the weights, unless this has been done already."""
        if not self.handles:
            self._add_hooks(image)
            self.weights = _fast_weights(self.model, self.dtype, self.order)

    def _read(self, run: Program, image: Tensor, tensors: Iterable[Tensor] = ()) -> dict[str, Tensor]:
        """Return the activations for ``image`` by layer name. ``run`` is :meth:`_run`, or does the same."""
        within = Range() if self.dtype == torch.float16 else None
        outputs = run(within.enter(image) if within else image, *tensors)
        return dict(zip(self.names, within.leave(outputs) if within else outputs, strict=True))

    def _is_steady(self, image: Tensor) -> bool:
        """Run the network on ``image``, and return whether it changes none of its buffers."""
        before = [(buffer, buffer._version) for buffer in self._buffers().values()]
        with torch.no_grad():
            self(image)
        after = self._buffers().values()
        return all(new is old and new._version == version for (old, version), new in zip(before, after, strict=True))

    def _tensors(self) -> list[Tensor]:
        """Return the converted parameters and the buffers of the network."""
        return [*self.weights.values(), *self._buffers().values()]

    def _buffers(self) -> dict[str, Tensor]:
        return dict(self.model.named_buffers(remove_duplicate=False))

    def _run(self, image: Tensor, *tensors: Tensor) -> list[Tensor]:
        """Run the network on ``image``, and return the activations of all requested layers.

        If ``tensors`` are given, the network uses them instead of its converted parameters and its buffers.
        """
        state = dict(zip([*self.weights, *self._buffers()], tensors, strict=True)) if tensors else self.weights
        self.calls.clear()
        low = self.dtype != torch.float32
        autocast = torch.autocast(image.device.type, self.dtype) if low else nullcontext()
        try:
            with suppress(_Complete), autocast, fused(self.groups):
                image = image.contiguous(memory_format=self.order)
                functional_call(self.model, state, (image,), tie_weights=False)  # all parameters are given
            return [self.activations[name] for name in self.names]
        finally:
            self.activations = {}  # even after an error, such as running out of memory

    def _add_hooks(self, image: Tensor) -> None:
        """Add a forward hook to each module whose activations are requested.

        Raises:
            ValueError: a layer is unknown, or a forward pass of ``image`` does not reach the layer.
        """
        by_module: dict[str, dict[int, Layer]] = {}
        for layer in reach_layers(self.model, image, self.names):
            by_module.setdefault(layer.module, {})[layer.call] = layer
        self.groups = groups_in(self.model, [self.model.get_submodule(name) for name in by_module])
        for name, calls in by_module.items():
            self.handles.append(self.model.get_submodule(name).register_forward_hook(self._hook(name, calls)))

    def _hook(self, name: str, wanted: dict[int, Layer]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        """Return the forward hook for the module called ``name``.

        A forward pass may call the module several times. ``wanted`` maps the zero-based index of such a call to the
        layer whose activations are captured at that call.
        """

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
        """Remove all hooks that this object has added to the network."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def _fast_weights(model: nn.Module, dtype: torch.dtype, order: torch.memory_format) -> dict[str, Tensor]:
    """Return the parameters of ``model`` by name, stored for a fast forward pass in ``dtype``.

    The float32 parameters of convolutions and fully connected layers are converted to ``dtype`` once instead of in
    every forward pass. If ``dtype`` is not float32, the network must run under autocast, which then does not have to
    convert these parameters. 4-dimensional parameters are stored in the memory format ``order``.
    """
    weights = {}
    for path, module in model.named_modules():
        low = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        for name, parameter in module.named_parameters(path, recurse=False):
            kind = dtype if low and parameter.dtype == torch.float32 else parameter.dtype
            form = order if parameter.dim() == 4 else torch.contiguous_format
            weights[name] = parameter.detach().to(kind, memory_format=form)
    return weights
