"""Run a network once and record the outputs of all its modules, as cheaply as possible."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from dreamgram.image_optimization.receptive_fields import Field, ReceptiveFields
from dreamgram.image_optimization.settings import default_type
from dreamgram.image_optimization.state import Snapshot

SMALL_IMAGE = 3 * 256 * 256
"""Largest number of elements (C x H x W) in an image that counts as small. A trial for shapes leaves out the arithmetic
of the most frequent functions, and runs all others. For a larger image, it runs on PyTorch's meta device, on which all
functions only compute shapes. For most networks, PyTorch must first load Python code for this, which takes 0.4 s and
160 MB of memory. For a small image, running these functions takes less time."""

Way = Literal["shapes", "values"]
"""How a trial runs: without the arithmetic of convolutions and fully connected layers ("shapes"), or as the network
always runs ("values")."""


@dataclass(frozen=True)
class Seen:
    """One tensor in the output of one call of a module."""

    name: str
    """Name of the module."""
    call: int
    """Zero-based index of the call among the calls to the same module in one forward pass."""
    key: str
    """Place of the tensor in the output, such as "[0]" or "[mask]"; empty if the output is a tensor."""
    module: nn.Module
    shape: torch.Size
    overwritten: Callable[[], bool]
    """Function that returns whether an in-place operation has overwritten the tensor by now."""
    field: Field | None
    """Receptive fields of the positions; None if they were not followed or the tensor does not depend on the image."""

    @property
    def place(self) -> tuple[str, int, str]:
        """Return what tells this tensor apart from all others in a forward pass."""
        return self.name, self.call, self.key


@dataclass(frozen=True)
class Start:
    """The first convolution or fully connected layer that a network computes, whether or not a module does it."""

    function: str
    """Name of PyTorch's function, such as "conv2d" or "linear"."""
    inputs: int
    """Number of channels or features that the layer takes, according to its weights."""
    rows: int
    """Number of rows of features that a fully connected layer got."""


@dataclass
class Trial:
    """The result of :func:`try_out`."""

    seen: list[Seen] = field(default_factory=list)
    """All tensors in the outputs of modules, in the order in which they were computed."""
    failure: Exception | None = None
    """Error that stopped the run, or None."""
    start: Start | None = None
    """The first layer with weights, also if its inputs did not fit it; None if the run did not reach any."""


def try_out(
    model: nn.Module,
    image: Tensor,
    way: Way,
    follow_fields: bool = False,
) -> Trial:
    """Run ``model`` on ``image`` (N, C, H, W), and return what was computed.

    The network is in evaluation mode and gets copies of its parameters. Afterwards, it is as it was. A trial for shapes
    fails if the network depends on the values of tensors, for example if it converts a tensor to a number.

    Args:
        model: the network.
        image: the images, (N, C, H, W).
        way: how the network runs.
        follow_fields: whether to follow the receptive fields.
    """
    kind = working_dtype(model)
    meta = way == "shapes" and image[0].numel() > SMALL_IMAGE
    state = dict(_copies(model, way, "meta" if meta else None, kind))
    device = "meta" if meta else next((tensor.device for tensor in state.values()), image.device)
    image = torch.empty_like(image, device=device, dtype=kind) if meta else image.to(device, kind).contiguous()
    trial, calls = Trial(), Counter[str]()
    fields = ReceptiveFields(image) if follow_fields else None

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            for key, tensor in tensors_in(output):
                version, same = tensor._version, tensor
                trial.seen.append(
                    Seen(
                        name,
                        calls[name],
                        key,
                        module,
                        tensor.shape,
                        lambda same=same, version=version: same._version != version,  # type: ignore[misc]
                        fields.of(tensor) if fields else None,
                    )
                )
            calls[name] += 1

        return record

    with Snapshot(model):
        for name, module in model.named_modules():
            if name:
                module.register_forward_hook(hook(name))
        for module in model.modules():
            module.training = False
            if module._compiled_call_impl:  # a module that its owner has compiled runs as usual
                module._compiled_call_impl = None
        skipping = _ShapesOnly()
        try:
            skipping.active = way == "shapes"
            with torch.no_grad(), default_type(kind), skipping, fields or nullcontext():
                functional_call(model, state, (image,))
        except Exception as error:  # the user's network may raise anything
            trial.failure = error.with_traceback(None)  # the traceback would keep all activations in memory
        finally:
            skipping.active = False  # Ctrl-C at the wrong moment leaves the mode turned on
    trial.start = skipping.start
    return trial


def is_about_sizes(failure: Exception) -> bool:
    """Return whether the error of a network seems to concern the size of the image."""
    if isinstance(failure, IndexError):  # perhaps an index that was computed from arbitrary values
        return False
    return bool(re.search(r"size|shape|dimension|height|width|channel|too small|length", str(failure), re.IGNORECASE))


def working_dtype(model: nn.Module) -> torch.dtype:
    """Return the number format in which ``model`` gets its images: float64 if its parameters are, otherwise float32.

    Networks with smaller parameters get float32, too, because gradients with respect to images are too small for them.
    """
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return torch.float64 if next(kinds, None) == torch.float64 else torch.float32


def tensors_in(output: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in the output of a module, each with its place in the output, such as "[0]" or "[mask]".

    The output may be a tensor, or a tuple, list, dictionary or dataclass that contains tensors.
    """
    if isinstance(output, Tensor):
        yield key, output
    elif isinstance(output, Mapping):
        for name, part in output.items():
            yield from tensors_in(part, f"{key}[{name}]")
    elif isinstance(output, list | tuple):
        for number, part in enumerate(output):
            yield from tensors_in(part, f"{key}[{number}]")
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for each in dataclasses.fields(output):
            yield from tensors_in(getattr(output, each.name), f"{key}[{each.name}]")


def _copies(model: nn.Module, way: Way, device: str | None, kind: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and a copy of each parameter and buffer, on ``device`` if given.

    Floating-point copies have the type ``kind``. If only shapes are wanted, copies of floating-point parameters hold
    arbitrary values.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        to = kind if tensor.is_floating_point() else tensor.dtype
        if device or (way == "shapes" and isinstance(tensor, nn.Parameter) and tensor.is_floating_point()):
            yield name, torch.empty_like(tensor, device=device, dtype=to)
        else:
            yield name, tensor.detach().to(to, copy=True)


class NeedsValues(RuntimeError):
    """The error that a trial for shapes raises if the network depends on the values of tensors."""


READERS = {
    *("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "__complex__"),
    *("nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "is_nonzero", "equal", "allclose"),
    *("multinomial", "bincount", "nms"),
}
"""Names of functions whose results, or the shapes of whose results, depend on values."""


class _ShapesOnly(TorchFunctionMode):
    """Leave out the arithmetic of the most frequent functions: their outputs hold arbitrary values.

    Touching the memory of the outputs would take as long as the arithmetic.
    """

    active = False
    """Whether arithmetic is left out. Otherwise, all functions run as usual."""
    start: Start | None = None
    """The first layer with weights that was called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.start is None and name in WEIGHTED:
            self.start = _start(name, *args, **kwargs)
        if not self.active:
            return func(*args, **kwargs)
        if name in READERS or (name == "where" and len(args) + len(kwargs) == 1) or _picks_by_mask(name, args):
            raise NeedsValues(f"the network calls {name}, whose result depends on values")
        output = None
        if name in LIKE_INPUT:
            output = _like_input(name, *args, **kwargs)
        elif name in ARITHMETIC and not kwargs and len(args) == 2:
            output = _arithmetic(name, *args)
        elif name in SHAPES:
            output = SHAPES[name](*args, **kwargs)
        # Arguments that do not fit must raise the error that the function raises.
        return func(*args, **kwargs) if output is None else output


WEIGHTED = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
}
"""Names of functions that compute a convolution or a fully connected layer."""


def _start(name: str, input: Tensor, weight: Tensor, *others: Any, **options: Any) -> Start:
    """Describe a call of one of the functions :data:`WEIGHTED`."""
    groups = options.get("groups", others[4] if len(others) > 4 else 1)
    return Start(name, weight.shape[-1] if name == "linear" else weight.shape[1] * groups, math.prod(input.shape[:-1]))


def _picks_by_mask(name: str, args: Any) -> bool:
    """Return whether a call selects elements by a mask of booleans, so that the shape of the result is unknown."""
    index = args[1] if name in ("__getitem__", "index") and len(args) > 1 else ()
    parts = index if isinstance(index, tuple | list) else [index]
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


LIKE_INPUT = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh"),
    *("sigmoid", "tanh", "softmax", "dropout", "batch_norm", "flip"),
}
"""Names of functions whose first argument and whose result have the same shape and type."""

ARITHMETIC = "add", "add_", "sub", "mul", "mul_", "div"


def _like_input(name: str, input: Any, *others: Any, inplace: bool = False, **options: Any) -> Tensor | None:
    """Return the result of a function in :data:`LIKE_INPUT`, or None if the arguments are unusual."""
    if not isinstance(input, Tensor) or not input.is_floating_point() or "dtype" in options:
        return None
    if any(each is True for each in others):
        return None
    if any(isinstance(each, Tensor) and each.shape != input.shape[1:2] for each in [*others, *options.values()]):
        return None
    return _overwritten(input) if inplace or name.endswith("_") else input.new_empty(input.shape)


def _arithmetic(name: str, one: Any, other: Any) -> Tensor | None:
    """Return the result of a function in :data:`ARITHMETIC`, or None if the arguments are unusual."""
    if not isinstance(one, Tensor) or not one.is_floating_point() or not one.ndim:
        return None
    shape = one.shape
    if isinstance(other, Tensor):
        if other.dtype != one.dtype or other.device != one.device or not _fit(one.shape, other.shape):
            return None
        long, short = sorted((one.shape, other.shape), key=len, reverse=True)
        head = len(long) - len(short)  # torch.broadcast_shapes takes a second, because it loads PyTorch's compiler
        shape = long[:head] + torch.Size([b if a == 1 else a for a, b in zip(long[head:], short, strict=True)])
    if name.endswith("_"):
        return _overwritten(one) if shape == one.shape else None
    return one.new_empty(shape)


def _fit(one: torch.Size, other: torch.Size) -> bool:
    """Return whether tensors of two shapes can be added."""
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def _overwritten(tensor: Tensor) -> Tensor:
    """Return ``tensor``, after letting PyTorch count a change in place."""
    tensor[:0].zero_()
    return tensor


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Return a tensor of the shape that a fully connected layer returns, or None if the arguments do not fit."""
    if weight.ndim != 2 or not input.ndim or input.shape[-1] != weight.shape[1] or input.dtype != weight.dtype:
        return None
    return input.new_empty(*input.shape[:-1], len(weight))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return a tensor of the shape that a convolution returns, or None if the arguments do not fit."""
    axes = weight.ndim - 2
    if input.ndim != weight.ndim or input.shape[1] != weight.shape[1] * groups or input.dtype != weight.dtype:
        return None
    steps, gaps, sides = _each(stride, axes), _each(dilation, axes), []
    for axis, (length, kernel) in enumerate(zip(input.shape[2:], weight.shape[2:], strict=True)):
        reach = gaps[axis] * (kernel - 1)
        added = {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * _each(padding, axes)[axis]
        sides.append((length + added - reach - 1) // steps[axis] + 1)
    return input.new_empty(len(input), len(weight), *sides) if min(sides) > 0 else None


def _max_pool(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **options: Any
) -> Tensor | None:
    """Return a tensor of the shape that max pooling returns, or None if the arguments are unusual."""
    kernel = _each(kernel_size, 2)
    steps = _each(stride or kernel_size, 2)
    if any(options.values()) or _each(padding, 2) != [0, 0] or _each(dilation, 2) != [1, 1] or input.ndim != 4:
        return None
    sides = [(input.shape[2 + axis] - kernel[axis]) // steps[axis] + 1 for axis in range(2)]
    return input.new_empty(*input.shape[:2], *sides) if min(sides) > 0 else None


SHAPES: dict[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "linear": _linear,
    "max_pool2d": _max_pool,
}
"""Functions that return a tensor of the shape that a function of PyTorch returns, by the name of that function. They
return None if the function has to run."""


def _each(value: Any, axes: int) -> list[int]:
    """Return ``value``, which may be one number for all axes, as one number for each of ``axes`` axes."""
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values
