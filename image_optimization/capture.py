"""Capture the activations of named layers of any ``torch.nn.Module``."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamgram.image_optimization.compilation import Program, compile_for
from dreamgram.image_optimization.fusion import Group, fused, groups_in, hooks_of
from dreamgram.image_optimization.gradient_scaling import Range
from dreamgram.image_optimization.layers import Layer, OneByOneError, RowsError, reach_layers_among_all
from dreamgram.image_optimization.memory import is_out_of_memory
from dreamgram.image_optimization.operators import WriteError, WriteGuard
from dreamgram.image_optimization.recording import is_own
from dreamgram.image_optimization.settings import TURN, default_type
from dreamgram.image_optimization.state import Snapshot, same, unwrapped
from dreamgram.image_optimization.trial import tensors_in, working_dtype

_logger = logging.getLogger(__name__)

_told: WeakSet[nn.Module] = WeakSet()
"""Networks for which the warning that they do not run in low precision has already been logged."""


class Activations(dict[str, Tensor]):
    """Activations by layer name. The first axis of each tensor is the batch axis.

    The second axis is the axis of the units (channels or features), as in (N, C, H, W) for a convolution or (N, F) for
    a fully connected layer. Activations whose axes are in a different order in the network, such as (N, H, W, C), are
    converted. Activations with three axes are the exception: they keep the order of their axes, such as (N, T, F) for T
    tokens or (N, C, L) for a one-dimensional convolution.
    """

    def __init__(self, activations: Mapping[str, Tensor], unit_axes: Mapping[str, int] | None = None) -> None:
        """Store ``activations``. ``unit_axes`` maps layer names to indices of the unit axes, if known."""
        super().__init__(activations)
        self.unit_axes: Mapping[str, int] = unit_axes or {}


ActivationsOf = Callable[[Tensor], Activations]
"""Type of a function that returns the activations for images (N, C, H, W) in [0, 1] by layer name."""


@contextmanager
def capture(model: nn.Module, layers: Iterable[str], dtype: torch.dtype = torch.float32) -> Iterator[Reader]:
    """Yield a differentiable function that maps images (N, C, H, W) in [0, 1] to activations of ``layers`` by name.

    The forward pass ends as soon as all of ``layers`` have run. If a later in-place operation would overwrite a
    captured output, the output is copied first. The network computes in ``dtype``, with autocast if ``dtype`` is not
    float32. If the network fails in ``dtype``, it computes in float32 instead, and one warning is logged. If ``dtype``
    is float16, the returned activations are converted to float32, because their gradients could be too small for
    float16. The images of a batch pass through the network one at a time if a batch gives no separate output for each
    image, or if the output for one image depends on the other images. A network with modules that might cause such a
    dependence, such as modules that are not from PyTorch, torchvision or timm, is tested: after the first batch, three
    random images pass through it.

    The network's parameters are read when the yielded function is first called, and later changes to these parameters
    might have no effect. Inside the context, the network is in evaluation mode, and its weights get no gradients. On
    leaving the context, the training modes, ``requires_grad`` flags, hooks, buffers and attributes of the network are
    restored (:mod:`dreamgram.image_optimization.state`). If a forward pass changes the network, they are also restored
    after every pass, so that the order of passes makes no difference. Only one thread at a time can be inside the
    context; other threads wait.

    Example:
        >>> with capture(vgg, ["relu1_1", "relu4_1"]) as activations_of:
        ...     features = activations_of(image)["relu4_1"]

    Raises (when the yielded function is first called):
        ValueError: a layer is unknown, is not reached by a forward pass of the given images, or is called several times
            by one forward pass. In the last case, choose one of the calls by its index, as in ``name:0`` or ``name:1``.
    """
    model = unwrapped(model)
    with TURN, Snapshot(model):
        for module in model.modules():
            module.training = False  # ``eval`` might do more if the network overrides it
            if module._compiled_call_impl:  # a module that the caller has compiled runs uncompiled
                module._compiled_call_impl = None
        model.requires_grad_(False)
        yield Reader(model, dict.fromkeys([layers] if isinstance(layers, str) else layers), dtype)


def is_recordable(model: nn.Module) -> bool:
    """Return whether a forward pass of ``model`` can be recorded as a CUDA graph and replayed in every step.

    The result is False if any module of ``model`` has a hook that is defined outside Dreamgram, or an attribute
    ``recordable`` that is False.
    """
    model = unwrapped(model)
    allowed = all(getattr(module, "recordable", True) for module in model.modules())
    return allowed and is_own(*itertools.chain(*map(hooks_of, model.modules())))


PER_IMAGE = frozenset(["torch", "torchvision", "timm", "dreamgram"])
"""Packages whose modules compute the output for an image from this image alone, except for the classes :data:`MIXING`
and batch normalization without running statistics."""

SEQUENTIAL = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Classes of PyTorch modules that treat one axis as a sequence. Their attribute ``batch_first`` says which axis."""

ARBITRARY = (torch.fx.GraphModule, torch.jit.ScriptModule)
"""Classes of PyTorch modules that can contain arbitrary code."""


def runs_own_code(module: nn.Module) -> bool:
    """Return whether ``module``, apart from the modules inside it, might run code from outside :data:`PER_IMAGE`."""
    own = type(module).__module__.partition(".")[0] not in PER_IMAGE or "forward" in vars(module)
    return own or isinstance(module, ARBITRARY)


def _may_mix_images(model: nn.Module, layers: Iterable[Layer]) -> bool:
    """Return whether ``model`` has a module whose output for an image might depend on the other images in the batch.

    ``layers`` are all layers of the network.
    """
    outputs: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.key in ("", "[0]"):
            outputs.setdefault(layer.module, []).append(layer)
    return any(_is_suspicious(module, outputs.get(name, [])) for name, module in model.named_modules())


def _is_suspicious(module: nn.Module, outputs: Sequence[Layer]) -> bool:
    """Return whether the output of ``module`` for an image might depend on the other images in the batch.

    ``outputs`` are the layers that the calls of the module give. If the module treats one axis as a sequence, they show
    whether this is the batch axis.
    """
    normalizes = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
    if normalizes or runs_own_code(module):
        return True
    if not isinstance(module, SEQUENTIAL):
        return False
    batch_axis = 0 if getattr(module, "self_attn", module).batch_first else 1
    return any(layer.singly or layer.image_axis != batch_axis or len(layer.shape) < 2 for layer in outputs)


class _Complete(Exception):
    """Exception that ends the forward pass when the activations of all requested layers have been captured."""


class Reader:
    """A differentiable function that runs a network on images and returns activations captured by forward hooks.

    :func:`capture` yields an object of this class.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
        """Prepare to capture the layers ``names`` of ``model``; the hooks are added when the object is first called."""
        self.model = model
        self.names = list(names)
        self.dtype = dtype
        self.order = torch.channels_last  # the memory format in which convolutions are fast on all devices
        self.layers: dict[str, Layer] = {}
        self.weights: dict[str, Tensor] = {}
        self.groups: dict[nn.Sequential, list[Group]] = {}
        self.calls: Counter[str] = Counter()
        self.count = 1
        """Number of images in the current forward pass."""
        self.activations: dict[str, Tensor] = {}
        self.singly = False
        """Whether images pass through the network one at a time."""
        self.unproven = False
        """Whether the next batch is used to find out if the activations for an image depend on the other images."""
        self.refuses_batches = False
        """Whether a batch of several images raises an error if the images have to pass through the network one at a
        time. If this attribute is False, such a batch is split into single images."""
        self.guarded = True
        """Whether passes that must not change the parameters use the parameters themselves, under a guard that stops a
        pass before it changes them, or copies of the parameters."""
        self.leaves_traces: bool | None = None
        """Whether a forward pass changes the network, so that the network must be restored after each pass; None before
        the first pass."""

    def __call__(self, image: Tensor) -> Activations:
        """Return the activations for ``image`` (N, C, H, W) in [0, 1] by layer name."""
        if not self.names:
            return Activations({})
        self._prepare(image)
        return self._in_parts(self._pass, image)

    def compiled(self) -> ActivationsOf:
        """Return a function that does the same as this object, but runs a compiled network.

        The network is compiled once for each image shape, when the function first receives images of this shape. The
        network runs uncompiled if compiling it fails or if a forward pass changes it. It also runs uncompiled if
        :func:`is_recordable` returns False, because its operations might then differ from pass to pass.
        """
        programs: dict[tuple[torch.Size, bool], Program] = {}

        def read(image: Tensor) -> Activations:
            image = image.contiguous(memory_format=self.order)  # a program is compiled for one memory format
            case = image.shape, torch.is_grad_enabled() and image.requires_grad
            if case not in programs:
                programs[case] = compile_for(self._run, image, self._tensors()) or self._run
            return self._read(programs[case], image, self._tensors())

        def activations_of(image: Tensor) -> Activations:
            if not self.names or not is_recordable(self.model):
                return self(image)
            if self.leaves_traces is None:
                with torch.enable_grad():  # some networks change only if gradients are computed
                    self(image.detach().requires_grad_())
            if self.leaves_traces:
                return self(image)
            self._prepare(image)
            return self._in_parts(read, image)

        return activations_of

    def compute_in(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` from the next call on."""
        if dtype != self.dtype:
            self.dtype = dtype
            if self.layers:
                self.weights = self._fast_weights()

    def _prepare(self, image: Tensor) -> None:
        """Add the hooks and convert the weights, unless this has been done already."""
        if not self.layers:
            self._add_hooks(image)
            self.weights = self._fast_weights()

    def _in_parts(self, read: ActivationsOf, image: Tensor) -> Activations:
        """Call ``read`` with the whole batch or, if necessary, with one image at a time; return all activations.

        Raises:
            OneByOneError: the images have to pass through the network one at a time, and :attr:`refuses_batches` is
                True.
            RowsError: the number of positions of a layer differs between the images.
        """
        if len(image) == 1:
            return read(image)
        if not self.singly:
            result = self._read_batch(read, image)
            if result is not None:
                return result
        if self.refuses_batches:
            raise OneByOneError("the images have to pass through the network one at a time")
        parts = [read(each) for each in image.split(1)]
        for name in self.names:
            if len({part[name].shape for part in parts}) > 1:
                raise RowsError(f"{name} has another number of positions for each image: pass one image at a time")
        return Activations({name: torch.cat([part[name] for part in parts]) for name in self.names}, self.unit_axes)

    def _read_batch(self, read: ActivationsOf, image: Tensor) -> Activations | None:
        """Return the result of ``read`` for a batch, or None if the network has to run on one image at a time.

        The first batch is used to find out whether the network has to run on one image at a time.
        """
        try:
            result = read(image)
        except RowsError:
            if not self.unproven:
                raise
            self.singly = True
        else:
            if self.unproven:
                self.singly = self._mixes_images(image)
        self.unproven = False
        return None if self.singly else result

    def _pass(self, image: Tensor) -> Activations:
        """Return the activations for ``image``, and leave the network unchanged."""
        if self.leaves_traces is None:
            return self._pass_first(image)
        if not self.leaves_traces:
            return self._read(self._run, image)
        if image.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a forward pass changes the network, so that it cannot be recorded")
        with Snapshot(self.model):
            return self._read_safely(image)[0]

    def _pass_first(self, image: Tensor) -> Activations:
        """Return the activations for ``image``, and find out in which formats the network runs.

        If the network fails in the current memory format and number format, one of the two is changed and the pass is
        repeated. The method also finds out whether a forward pass changes the network.

        Raises:
            ValueError: the network fails in every format.
        """
        try:
            with Snapshot(self.model) as saved:
                result, wrote = self._read_safely(image)
        except Exception as error:  # the user's network may raise anything
            if is_out_of_memory(error) or isinstance(error, RowsError):
                raise
            self._change_format(error)
            return self._pass_first(image)
        self.leaves_traces = saved.changed or wrote
        return result

    def _read_safely(self, image: Tensor) -> tuple[Activations, bool]:
        """Run the network on ``image`` without changing its parameters.

        Return the activations, and whether the network tried to change its parameters. Copies of all parameters take
        time and memory, so they are made only if guarding the parameters is not possible (:attr:`guarded`).

        Raises:
            WriteError: the parameters are guarded, and the network tried to change them.
        """
        given = self.weights
        guard = WriteGuard(given.values()) if self.guarded else None
        # A network that gives other memory to a tensor, as in ``x.data = y``, does so to an alias.
        lent = {name: weight.detach() if guard else weight.clone() for name, weight in given.items()}
        try:
            self.weights = lent
            with guard or nullcontext():
                result = self._read(self._run, image)
        finally:
            self.weights = given
        if guard is None:
            return result, not all(same(weight, given[name]) for name, weight in lent.items())
        if guard.broken or any(weight.data_ptr() != given[name].data_ptr() for name, weight in lent.items()):
            raise WriteError("the network has changed its weights")
        return result, False

    def _change_format(self, error: Exception) -> None:
        """Choose a different memory format or number format, because the network has raised ``error``.

        If the parameters are guarded, give up guarding them instead, because the network changes them, or does not run
        while they are guarded.

        Raises:
            ValueError: there is no other format to try. The message contains the first line of the message of
                ``error``.
        """
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = type(self.model).__name__
        if "view size is not compatible" in str(error) and self.order == torch.channels_last:
            # Many networks call ``x.view(len(x), -1)`` after a convolution, which fails with channels last.
            self.order = torch.contiguous_format
        elif self.guarded:
            self.guarded = False
        elif self.dtype != torch.float32:
            if self.model not in _told:
                _told.add(self.model)
                kind = str(self.dtype).removeprefix("torch.")
                _logger.warning("%s does not run in %s (%s): it runs in float32", name, kind, words)
            self.dtype = torch.float32
        else:
            raise ValueError(f"{name} does not run: {type(error).__name__}: {words}") from error
        self.weights = self._fast_weights()

    def _mixes_images(self, image: Tensor) -> bool:
        """Return whether the activations for an image depend on the other images in its batch.

        Such a dependence exists, for example, if a network subtracts the mean of all images, treats the batch as a
        sequence, or interleaves parts of different images. To find out, a batch of three random images of the same
        shape as those in ``image`` (N, C, H, W) passes through the network. The result is False if the gradient of the
        second image's activations with respect to the first and the third image is zero. The first and the third image
        have more contrast than the second, so that a maximum over the whole batch probably lies in one of them. If the
        rows of a layer's output cannot be assigned to the three images, the result is True. If no gradient can be
        computed for another reason, the result is True only if a layer has several rows per image.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand((3, *image.shape[1:]), generator=generator) - 0.5
        images = (0.5 + noise * torch.tensor([1, 0.5, 1])[:, None, None, None]).to(image).requires_grad_()
        accelerators = [image.device] if image.is_cuda else []
        try:
            with torch.enable_grad(), torch.random.fork_rng(accelerators), Snapshot(self.model):
                activations, _ = self._read_safely(images)
                answers = [activations[name][1] for name in self.names if activations[name].requires_grad]
                # Random weights keep gradients from canceling each other, for example after a normalization.
                weights = [torch.rand(answer.shape, generator=generator).to(answer) for answer in answers]
                [gradient] = torch.autograd.grad(answers, images, weights, allow_unused=True)
        except RowsError:
            return True
        except Exception:  # the user's network may raise anything, such as an out-of-memory error
            gradient = None
        if gradient is None:  # the test gave no result
            return self._has_several_rows()
        return bool(gradient[::2].nan_to_num().any())

    def _has_several_rows(self) -> bool:
        """Return whether any captured layer has several rows per image, such as one row for each window."""
        return any(layer.rows_per_image > 1 for layer in self.layers.values())

    def _read(self, program: Program, image: Tensor, tensors: Iterable[Tensor] = ()) -> Activations:
        """Return the activations for ``image`` by layer name. ``program`` is :meth:`_run`, perhaps compiled."""
        within = Range() if self.dtype == torch.float16 else None
        outputs = program(within.enter(image) if within else image, *tensors)
        outputs = [output.float() if output.dtype == torch.float64 else output for output in outputs]
        return Activations(
            dict(zip(self.names, within.leave(outputs) if within else outputs, strict=True)), self.unit_axes
        )

    @property
    def unit_axes(self) -> dict[str, int]:
        """Return a dictionary from the name of each layer to the index of the unit axis in its activations."""
        return {name: layer.unit_axis + 1 if len(layer.shape) == 2 else 1 for name, layer in self.layers.items()}

    def _tensors(self) -> list[Tensor]:
        """Return all parameters and buffers of the network, converted where necessary."""
        return [*self.weights.values(), *self._buffers().values()]

    def _buffers(self) -> dict[str, Tensor]:
        """Return the buffers of the network that need no conversion, by name."""
        buffers = self.model.named_buffers(remove_duplicate=False)
        return {name: buffer for name, buffer in buffers if name not in self.weights}

    def _run(self, image: Tensor, *tensors: Tensor) -> list[Tensor]:
        """Run the network on ``image``, and return the activations of all requested layers.

        If ``tensors`` are given, the network uses them instead of its converted parameters and its buffers.
        """
        state = dict(zip([*self.weights, *self._buffers()], tensors, strict=True)) if tensors else self.weights
        self.calls.clear()
        self.count = len(image)
        kind = working_dtype(self.model)
        try:
            with suppress(_Complete), self._autocast(image.device.type), default_type(kind), fused(self.groups):
                image = image.to(kind).contiguous(memory_format=self.order)
                functional_call(self.model, state, (image,), tie_weights=False)  # all parameters are given
            return [self.activations[name] for name in self.names]
        finally:
            self.activations = {}  # even after an error, such as running out of memory

    def _autocast(self, device_type: str) -> AbstractContextManager[Any]:
        """Return a context in which the network computes in ``self.dtype``, even if the caller uses autocast."""
        if self.dtype != torch.float32:
            return torch.autocast(device_type, self.dtype)
        return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()

    def _add_hooks(self, image: Tensor) -> None:
        """Add a forward hook to each module whose activations are requested.

        Raises:
            ValueError: a layer is unknown, or a forward pass of ``image`` does not reach the layer.
        """
        found, layers = reach_layers_among_all(self.model, image, self.names)
        self.layers = dict(zip(self.names, found, strict=True))
        self.singly = any(layer.singly for layer in self.layers.values())
        self.unproven = not self.singly and (_may_mix_images(self.model, layers) or self._has_several_rows())
        by_module: dict[str, list[str]] = {}
        for name, layer in self.layers.items():
            by_module.setdefault(layer.module, []).append(name)
        self.groups = groups_in(self.model, [self.model.get_submodule(module) for module in by_module])
        for module, names in by_module.items():
            self.model.get_submodule(module).register_forward_hook(self._hook(module, names))

    def _hook(self, module_name: str, names: Sequence[str]) -> Callable[[nn.Module, Any, Any], Any]:
        """Return the forward hook for the module called ``module_name``, which captures the layers ``names``.

        All layers ``names`` belong to this module. A forward pass might call the module several times, and each layer
        belongs to one of these calls.
        """

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            wanted = {name: self.layers[name] for name in names if self.layers[name].call == self.calls[module_name]}
            self.calls[module_name] += 1
            if not wanted:
                return None
            tensors = dict(tensors_in(output))
            for name, layer in wanted.items():
                self.activations[name] = layer.of_images(tensors[layer.key], self.count)
            if len(self.activations) == len(self.names):
                raise _Complete
            overwritten = [name for name, layer in wanted.items() if layer.overwritten]
            if isinstance(output, Tensor):
                return output.clone() if overwritten else None
            for name in overwritten:
                self.activations[name] = self.activations[name].clone()
            return None

        return hook

    def _fast_weights(self) -> dict[str, Tensor]:
        """Return the parameters, and the buffers that need conversion, by name, in formats for a fast forward pass.

        The parameters of convolutions and fully connected layers are converted to the number format ``self.dtype`` once
        instead of in every forward pass. If this format is not float32, the network must run under autocast, which then
        does not have to convert these parameters. All other parameters and buffers get the number format of the images
        (:func:`working_dtype`). Parameters with four dimensions are stored in the memory format ``self.order``.
        """
        self.weights = {}
        kind = working_dtype(self.model)
        weights = {}
        for path, module in self.model.named_modules():
            low = isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and kind == torch.float32
            for name, parameter in module.named_parameters(path, recurse=False):
                to = (self.dtype if low else kind) if parameter.is_floating_point() else parameter.dtype
                form = self.order if parameter.dim() == 4 else torch.contiguous_format
                # PyTorch computes no gradients with tensors that were made in inference mode.
                copy = parameter.is_inference()
                weights[name] = parameter.detach().to(to, memory_format=form, copy=copy)
        for name, buffer in self._buffers().items():
            if buffer.is_floating_point() and buffer.dtype != kind:
                weights[name] = buffer.detach().to(kind)
        return weights
