"""Which layers a network has: one dry run, without arithmetic where the network allows it."""

from __future__ import annotations

import bisect
import difflib
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

aten = torch.ops.aten

PADDING = (aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)

SMALL = 3 * 256 * 256
"""Numbers in an image that is run for real: less work, for networks of any size, than it is for PyTorch to load what
the meta device needs for a convolution (0.4 s and 160 MB)."""


@dataclass(frozen=True)
class Layer:
    """One call of one module during a forward pass."""

    name: str
    """The module's name; ``name:0``, ``name:1``, ... where one forward pass calls the module several times."""
    module: str
    """The module's name alone, as in ``named_modules``."""
    call: int
    """Which call of the module this is, from 0."""
    kind: str
    """The module's class."""
    shape: tuple[int, ...]
    """Shape of its output for one image."""
    receptive_field: int | None
    """Side in pixels of the square of the image that one output position depends on; None for the whole image.

    Found out by :func:`list_layers` alone, else None; so are the next two.
    """
    stride: float
    """How many pixels that square moves from one position to the next."""
    start: float
    """Where in the image the square of the first position begins; below 0 where there is padding."""
    overwritten: bool
    """Whether a later in-place operation writes over its output."""
    channels_last: bool = False
    """Whether the output is (H, W, C), as that of some transformers with windows."""

    @property
    def channels(self) -> int:
        """How many units it has: channels of (C, H, W), features of (F,), embedding dimensions of tokens (T, F)."""
        return self.shape[-1] if len(self.shape) == 2 or self.channels_last else self.shape[0]


def list_layers(network: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """The layers of ``network`` in the order in which they run on one image of ``shape`` (C, H, W).

    Raises:
        ValueError: such an image does not pass through the network.
    """
    layers, failure = dry_run(network, torch.zeros(1, *shape), receptive_fields=True)
    if failure is not None:
        raise ValueError(f"{describe(shape)} does not pass through {type(network).__name__}: {_first_line(failure)}")
    return layers


def find_layer(name: str, layers: Sequence[Layer]) -> Layer:
    """The layer called ``name``.

    Raises:
        ValueError: there is none; the message lists what there is and the nearest name.
    """
    names = [layer.name for layer in layers]
    if name in names:
        return layers[names.index(name)]
    calls = [layer.name for layer in layers if layer.module == name]
    if calls:
        raise ValueError(f"layer {name!r} runs {len(calls)} times in one forward pass; choose one: {', '.join(calls)}")
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no layer {name!r}; {hint}there are {', '.join(names)}")


def reach_layers(network: nn.Module, image: Tensor, names: Sequence[str]) -> list[Layer]:
    """The layers called ``names``, if images like ``image`` (N, C, H, W) get that far.

    Raises:
        ValueError: a layer is unknown, or the forward pass fails before it.
    """
    layers, failure = dry_run(network, image)
    try:
        return [find_layer(name, layers) for name in names]
    except ValueError:
        if failure is None:
            raise
        last = layers[-1].name if layers else "its input"
        raise ValueError(
            f"{describe(image.shape[1:])} does not pass through {type(network).__name__} beyond {last}, "
            f"so {', '.join(names)} cannot be reached: {_first_line(failure)}"
        ) from failure


def smallest_size(network: nn.Module, layers: Sequence[str]) -> int:
    """The side in pixels of the smallest square image with which ``network`` reaches all of ``layers``.

    Raises:
        ValueError: a layer is unknown, or not even images of the network's default size reach it.
    """
    shape = default_shape(network)
    reach_layers(network, torch.zeros(1, *shape), layers)

    def reaches(size: int) -> bool:
        seen, _ = dry_run(network, torch.zeros(1, shape[0], size, size))
        return set(layers) <= {layer.name for layer in seen}

    return bisect.bisect_left(range(min(shape[1:])), True, lo=1, key=reaches)


def dry_run(network: nn.Module, image: Tensor, receptive_fields: bool = False) -> tuple[list[Layer], Exception | None]:
    """Run ``network`` once on the first of ``image`` (N, C, H, W) and note every layer that answers with a tensor.

    The run is made with shapes alone (PyTorch's meta device), hooks of yours included; networks that cannot do that
    are run for real, and all are with a small image.
    Returns the layers seen, in order, and what stopped the run, if anything did: the layers before it are still
    of use, since a forward pass may end at any of them.
    """
    image = image[:1].detach()
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if image.numel() > SMALL:
        weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
        layers, failure = _observe(network, weights, torch.empty_like(image, device="meta"), receptive_fields)
        if failure is None:
            return layers, None
    real = next((tensor for tensor in state.values()), image)
    return _observe(network, {}, image.to(real.device), receptive_fields)


def describe(shape: Sequence[int]) -> str:
    """An image shape (C, H, W) in words: "an image of 640x480 pixels and 3 channels"."""
    channels, height, width = shape
    return f"an image of {width}x{height} pixels and {channels} channel{'s' * (channels != 1)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _observe(
    network: nn.Module, weights: dict[str, Tensor], image: Tensor, receptive_fields: bool
) -> tuple[list[Layer], Exception | None]:
    """Run once with ``weights`` in place of the network's own."""
    seen: list[tuple[str, nn.Module, Tensor, int, Field]] = []
    fields = _ReceptiveFields(image)
    training = [module for module in network.modules() if module.training]
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: (
                seen.append((name, module, output, output._version, fields.of(output)))
                if isinstance(output, Tensor)
                else None
            )
        )
        for name, module in network.named_modules()
        if name
    ]
    failure: Exception | None = None
    try:
        network.eval()
        # The mode that follows the fields costs a second: PyTorch loads its compiler for it.
        with torch.no_grad(), fields if receptive_fields else nullcontext():
            functional_call(network, weights, (image,))
    except Exception as error:  # whatever a stranger's network raises
        failure = error
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
                stride=field.stride,
                start=field.start,
                overwritten=output._version != version,
                channels_last=output.ndim == 4 and _channels_last(output.shape[1:], image.shape[2:]),
            )
        )
    return layers, failure


def _channels_last(shape: Sequence[int], image: Sequence[int]) -> bool:
    """Whether it is the first two sides of ``shape`` that have the proportions of the image's, not the last two."""
    wanted = math.log(image[0] / image[1])
    off_first, off_last = (abs(math.log(h / w) - wanted) for h, w in (shape[1:], shape[:2]))
    return off_last < 0.1 < off_first


class Field(NamedTuple):
    """What a position of an output sees, in pixels of the image."""

    side: float
    stride: float
    start: float


NOTHING = Field(0.0, 1.0, 0.0)


class _ReceptiveFields(TorchDispatchMode):
    """Follows the receptive field through every operation of a forward pass.

    A convolution or pooling of kernel k adds (k - 1) strides to the field; a matrix product over positions, or a
    mean over them, sees the whole image; everything else passes on the largest field among its arguments. See
    Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = len(image)
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.known[image] = Field(1.0, 1.0, 0.0)

    def of(self, tensor: Tensor) -> Field:
        field: Field = self.known.get(tensor, NOTHING)
        return field

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Read before the operation runs: an in-place one answers with its own argument.
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
    """Whether a reduction (tensor, dimensions, ...) runs over positions: height and width, or tokens."""
    tensor, dimensions = args[0], {d % args[0].ndim for d in args[1]}
    return bool(dimensions >= {2, 3}) if tensor.ndim == 4 else dimensions == {1}


def device_of(network: nn.Module) -> torch.device:
    """The device of the network's weights; the CPU if it has none."""
    return next((weights.device for weights in network.parameters()), torch.device("cpu"))


def default_shape(network: nn.Module, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
    """The (C, H, W) of images for ``network``: its ``input_shape``, or with ``size`` pixels a side, or (H, W) of them.

    A network of yours that has no ``input_shape`` is taken for a convolutional one: the channels of its first
    convolution, 224 pixels square.

    Raises:
        ValueError: it has no convolution either, or ``size`` is not positive.
    """
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and min(sides) < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    declared = getattr(network, "input_shape", None)
    if declared is None:
        convolution = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        if convolution is None:
            raise ValueError(
                f"{type(network).__name__} does not say what images it takes: set its input_shape = (C, H, W)"
            )
        declared = (convolution.in_channels, 224, 224)
    channels, height, width = declared
    return (channels, *(sides or (height, width)))
