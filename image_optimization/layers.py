"""Find the layers of a network by name, with one dry run: a forward pass that records the layers.

For large images, the dry run computes only shapes, if the network supports PyTorch's meta device.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from dreamgram.image_optimization.checks import as_model
from dreamgram.image_optimization.names import shorten, unknown

aten = torch.ops.aten

PADDING = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)

SMALL_IMAGE = 3 * 256 * 256
"""Largest number of elements (C x H x W) in an image that counts as small. For a small image, the dry run, a trial
forward pass, computes actual values. With any network, such a dry run takes less time than PyTorch needs to load its
Python code for convolutions on the meta device (0.4 s). This code also takes 160 MB of memory. For a larger image, the
dry run computes only shapes, on the meta device, if the network supports the meta device."""


@dataclass(frozen=True)
class Layer:
    """One call of one module during a forward pass."""

    name: str
    """Name of the module, or ``name:0``, ``name:1``, ... if one forward pass calls the module several times."""
    module: str
    """Name of the module without the index of the call, as in ``torch.nn.Module.named_modules``."""
    call: int
    """Zero-based index of this call among the calls to the same module in one forward pass."""
    kind: str
    """Name of the module's class, such as "Conv2d"."""
    shape: tuple[int, ...]
    """Shape of the output for one image, without the batch axis."""
    receptive_field: int | None
    """Side, in pixels, of the square receptive field of one output position; None if this field is the whole image.

    If receptive fields were not computed, ``receptive_field``, ``stride`` and ``start`` are None. Only
    two functions compute receptive fields: :func:`list_layers`, and :func:`dry_run` if ``receptive_fields`` is True."""
    stride: float | None
    """Distance, in pixels, between the receptive fields of neighboring output positions; None if not computed."""
    start: float | None
    """Coordinate, in pixels, at which the receptive field of the first output position begins; negative if there is
    padding, None if not computed."""
    overwritten: bool
    """Whether a later in-place operation, such as an in-place ReLU, overwrites the output."""
    channels_last: bool = False
    """Whether the shape of the output is (H, W, C), not (C, H, W), as in some transformers with windowed attention."""

    @property
    def channels(self) -> int:
        """Return the number of units in the output.

        The number is C if the shape of the output is (C, H, W) or (H, W, C). It is F if the shape is (F,), or if the
        shape is (T, F) for T tokens.
        """
        return self.shape[-1] if len(self.shape) == 2 or self.channels_last else self.shape[0]


def list_layers(model: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """Return the layers of ``model`` in the order in which they run on one image of ``shape`` (C, H, W).

    Raises:
        ValueError: the forward pass of the network fails on an image of this shape.
    """
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise TypeError(f"shape must be the shape (C, H, W) of an image, such as (3, 224, 224), not {shorten(shape)}")
    layers, failure = dry_run(as_model(model), torch.zeros(1, *shape), receptive_fields=True)
    if failure is not None:
        raise ValueError(f"{describe(shape)} does not pass through {type(model).__name__}: {_first_line(failure)}")
    return layers


def find_layer(name: str, layers: Sequence[Layer]) -> Layer:
    """Return the layer called ``name``.

    Raises:
        ValueError: there is no layer called ``name``, in which case the message lists the names and suggests a similar
            one; or ``name`` is a module that runs several times in one forward pass, in which case the message lists
            the names of its calls.
    """
    names = [layer.name for layer in layers]
    if name in names:
        return layers[names.index(name)]
    calls = [layer.name for layer in layers if layer.module == name]
    if calls:
        raise ValueError(f"layer {name!r} runs {len(calls)} times in one forward pass; choose one: {', '.join(calls)}")
    raise ValueError(unknown("layer", name, names))


def reach_layers(model: nn.Module, image: Tensor, names: Sequence[str]) -> list[Layer]:
    """Return the layers called ``names``, after checking that a forward pass of ``image`` (N, C, H, W) reaches them.

    Raises:
        ValueError: a layer is unknown, or the forward pass fails before it reaches the layer.
    """
    layers, failure = dry_run(model, image)
    try:
        return [find_layer(name, layers) for name in names]
    except ValueError:
        if failure is None:
            raise
        last = layers[-1].name if layers else "its input"
        raise ValueError(
            f"{describe(image.shape[1:])} does not pass through {type(model).__name__} beyond {last}, "
            f"so {', '.join(names)} cannot be reached: {_first_line(failure)}"
        ) from failure


def smallest_size(model: nn.Module, layers: Sequence[str]) -> int:
    """Return the side, in pixels, of the smallest square image whose forward pass reaches all of ``layers``.

    Raises:
        ValueError: a layer is unknown, or the forward pass of an image of the network's default size does not reach it.
    """
    shape = default_shape(model)
    reach_layers(model, torch.zeros(1, *shape), layers)

    def reaches(size: int) -> bool:
        seen, _ = dry_run(model, torch.zeros(1, shape[0], size, size))
        return set(layers) <= {layer.name for layer in seen}

    return bisect.bisect_left(range(min(shape[1:])), True, lo=1, key=reaches)


def dry_run(model: nn.Module, image: Tensor, receptive_fields: bool = False) -> tuple[list[Layer], Exception | None]:
    """Run ``model`` once on the first image of ``image`` (N, C, H, W) and record every layer whose output is a tensor.

    If the first image has more than :data:`SMALL_IMAGE` elements, the run computes only shapes, on PyTorch's meta
    device. It computes actual values if the image is small or the network does not support the meta device. The run
    also calls any hooks that you added to the network. If ``receptive_fields`` is true, the run also computes the
    receptive field of every layer.

    Returns:
        The layers in the order in which they ran, and the error that stopped the run, or None. The layers that ran
        before the error can still be used: a forward pass that computes their activations stops before it reaches the
        error.
    """
    image = image[:1].detach()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if image.numel() > SMALL_IMAGE:
        weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
        layers, failure = _observe(model, weights, torch.empty_like(image, device="meta"), receptive_fields)
        if failure is None:
            return layers, None
    real = next((tensor for tensor in state.values()), image)
    return _observe(model, {}, image.to(real.device), receptive_fields)


def describe(shape: Sequence[int]) -> str:
    """Describe an image shape (C, H, W) in words, such as "an image of 640x480 pixels and 3 channels"."""
    channels, height, width = shape
    return f"an image of {width}x{height} pixels and {channels} channel{'s' * (channels != 1)}"


def _first_line(error: Exception) -> str:
    """Return the first line of the message of ``error``, or the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _observe(
    model: nn.Module, weights: dict[str, Tensor], image: Tensor, receptive_fields: bool
) -> tuple[list[Layer], Exception | None]:
    """Run ``model`` once on ``image``; return the layers that ran, and the error that stopped the run, or None.

    ``weights`` holds parameters and buffers, by name, to use in place of those of ``model``. It may be empty.
    """
    seen: list[tuple[str, nn.Module, Tensor, int, Field]] = []
    fields = _ReceptiveFields(image)
    training = [module for module in model.modules() if module.training]
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: (
                seen.append((name, module, output, output._version, fields.of(output)))
                if isinstance(output, Tensor)
                else None
            )
        )
        for name, module in model.named_modules()
        if name
    ]
    failure: Exception | None = None
    try:
        model.eval()
        # Tracking the receptive fields takes a second, because PyTorch loads its compiler for a dispatch mode.
        with torch.no_grad(), fields if receptive_fields else nullcontext():
            functional_call(model, weights, (image,))
    except Exception as error:  # the user's network may raise anything
        # A traceback that is kept keeps all pictures of the functions that called this one, until Python looks for
        # cycles.
        failure = error.with_traceback(None)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    total = Counter(name for name, *_ in seen)
    calls: Counter[str] = Counter()
    layers = []
    for name, module, output, version, field in seen:
        call = calls[name]
        calls[name] += 1
        layers.append(
            Layer(
                name=f"{name}:{call}" if total[name] > 1 else name,
                module=name,
                call=call,
                kind=type(module).__name__,
                shape=tuple(output.shape[1:]),
                receptive_field=round(field.side) if receptive_fields and math.isfinite(field.side) else None,
                stride=field.stride if receptive_fields else None,
                start=field.start if receptive_fields else None,
                overwritten=output._version != version,
                channels_last=output.ndim == 4 and _channels_last(output.shape[1:], image.shape[2:]),
            )
        )
    return layers, failure


def _channels_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Return whether an output ``shape`` of three axes seems to be (H, W, C) rather than (C, H, W).

    The result is true if the first two axes have the aspect ratio of ``image`` (H, W), and the last two do not.
    """
    wanted = math.log(image[0] / image[1])
    off_first, off_last = (abs(math.log(h / w) - wanted) for h, w in (shape[1:], shape[:2]))
    return off_last < 0.1 < off_first


class Field(NamedTuple):
    """The receptive fields of all positions in a layer's output. The fields lie on a regular grid in the image."""

    side: float
    """Side of each receptive field, in pixels of the image; infinite if the field is the whole image."""
    stride: float
    """Distance between the receptive fields of neighboring positions, in pixels of the image."""
    start: float
    """Coordinate at which the receptive field of the first position begins, in pixels of the image."""


NOTHING = Field(0.0, 1.0, 0.0)
"""Empty receptive field, for a tensor that does not depend on the image."""


class _ReceptiveFields(TorchDispatchMode):
    """A PyTorch dispatch mode that tracks the receptive field through every operation of a forward pass.

    A convolution or pooling with kernel size k enlarges the receptive field by (k - 1) times the product of the strides
    of the earlier layers. If an operation mixes all positions, the receptive field of its output is the whole image.
    Examples are attention, a mean over all positions, and a fully connected layer on flattened activations. An
    operation that does not mix positions keeps the largest receptive field of its arguments. See Araujo et al.,
    "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = len(image)
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.known[image] = Field(1.0, 1.0, 0.0)

    def of(self, tensor: Tensor) -> Field:
        """Return the receptive field of the positions of ``tensor``, a tensor of the tracked forward pass."""
        field: Field = self.known.get(tensor, NOTHING)
        return field

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The fields are read before the operation runs, because an in-place operation returns its own argument.
        inputs = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg]) if isinstance(x, Tensor)]
        field = max(map(self.of, inputs), default=NOTHING)
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in (result if isinstance(result, list | tuple) else [result]) if isinstance(x, Tensor)]
        if field.side and outputs:
            field = self._after(func.overloadpacket, args, outputs[0], field)
            for output in outputs:
                self.known[output] = field
        return result

    def _after(self, op: Any, args: Any, output: Tensor, field: Field) -> Field:
        """Return the receptive field of ``output``, the result of the operation ``op`` with the arguments ``args``.

        ``field`` is the largest receptive field among the arguments.
        """
        side, stride, start = field
        if op is aten.convolution:
            kernel, step, padding, dilation = max(args[1].shape[2:]), max(args[3]), max(args[4]), max(args[5])
            if args[6]:  # transposed
                reach = math.ceil((kernel - 1) / step)
                return Field(side + reach * stride, stride / step, start - (reach - padding / step) * stride)
            return Field(side + (kernel - 1) * dilation * stride, stride * step, start - padding * stride)
        if op in (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d):
            kernel = max(args[1])
            step = max(args[2]) if len(args) > 2 and args[2] else kernel
            padding = max(args[3]) if len(args) > 3 else 0
            dilation = max(args[4]) if op is not aten.avg_pool2d and len(args) > 4 else 1
            return Field(side + (kernel - 1) * dilation * stride, stride * step, start - padding * stride)
        if op in (aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d):
            before, after = max(args[0].shape[2:]), max(output.shape[2:])
            step = max(before // after, 1)
            return Field(side + (before - (after - 1) * step - 1) * stride, stride * step, start)
        if op in PADDING:
            return Field(side, stride, start - max(args[1][0], 0) * stride)
        if "upsample" in str(op):
            times = output.shape[-1] / args[0].shape[-1]
            return Field(side + (0 if "nearest" in str(op) else stride), stride / times, start)
        rows = output.shape[0] if output.ndim == 2 else 0
        mixes_positions = (
            (op in (aten.mm, aten.addmm) and rows == self.batch)
            or op in (aten.bmm, aten.baddbmm)
            or "attention" in str(op)
            or (
                op in (aten.mean, aten.sum, aten.amax)
                and output.numel() < args[0].numel()
                and len(args) > 1
                and _spatial(args)
            )
        )
        return Field(math.inf, stride, start) if mixes_positions else field


def _spatial(args: Any) -> bool:
    """Return whether a reduction, such as a mean, covers all positions: height and width, or all tokens.

    ``args`` holds the arguments of the reduction: the tensor, the dimensions, and any others.
    """
    tensor, dimensions = args[0], {d % args[0].ndim for d in args[1]}
    return bool(dimensions >= {2, 3}) if tensor.ndim == 4 else dimensions == {1}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's weights, or the CPU if it has no weights."""
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))


def default_shape(model: nn.Module, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of images for ``model``.

    The shape is the network's attribute ``input_shape``. A network without this attribute is assumed to take images of
    224 x 224 pixels with as many channels as its first convolution takes. If ``size`` is given, it replaces the height
    and width. ``size`` is in pixels: one number for a square, or (H, W).

    Raises:
        ValueError: the network has neither an ``input_shape`` nor a 2D convolution, or ``size`` is not positive.
    """
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and min(sides) < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    declared = getattr(model, "input_shape", None)
    if declared is None:
        convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        if convolution is None:
            raise ValueError(
                f"{type(model).__name__} does not say what images it takes: set its input_shape = (C, H, W)"
            )
        declared = (convolution.in_channels, 224, 224)
    channels, height, width = declared
    return (channels, *(sides or (height, width)))
