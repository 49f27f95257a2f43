"""Run a network once, as cheaply as possible, and record the shapes of the outputs of all its modules."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from dreamgram.image_optimization.memory import check_memory
from dreamgram.image_optimization.operators import Mode
from dreamgram.image_optimization.receptive_fields import Field, ReceptiveFields
from dreamgram.image_optimization.settings import FINDINGS, default_type
from dreamgram.image_optimization.state import Snapshot

SMALL_IMAGE = 3 * 256 * 256
"""Largest number of elements (C x H x W) in an image that counts as small. On a small image, a trial that computes only
shapes leaves out the arithmetic of the most frequent functions, and runs all other functions normally. On a larger
image, such a trial uses PyTorch's meta device, on which all functions compute only shapes. For most networks, PyTorch
must first load Python code for the meta device, which takes 0.4 s and 160 MB of memory. On a small image, running the
functions whose arithmetic is not left out takes less time than loading this code."""

Way = Literal["shapes", "values"]
"""Mode of a trial, which is a forward pass that records the outputs of all modules. In the mode "shapes", only the
shapes of outputs are correct, because the arithmetic of convolutions and fully connected layers, for example, is left
out. In the mode "values", all values are computed."""


@dataclass(frozen=True)
class Seen:
    """One tensor in the output of one call of a module."""

    name: str
    """Name of the module."""
    call: int
    """Zero-based index of the call among the calls to the same module in one forward pass."""
    key: str
    """Index or key of the tensor in the output, such as "[0]" or "[mask]"; empty if the output is a single tensor."""
    module: nn.Module
    shape: torch.Size
    overwritten: bool
    """Whether an in-place operation has overwritten the tensor later in the forward pass."""
    field: Field | None
    """Receptive fields of the positions; None if they were not computed or if the tensor does not depend on the
    image."""

    @property
    def place(self) -> tuple[str, int, str]:
        """Return the name, the call and the key, which together identify this tensor in a forward pass."""
        return self.name, self.call, self.key


@dataclass(frozen=True)
class Start:
    """The first convolution or fully connected layer that a network computes, in a module or by calling a function."""

    function: str
    """Name of the PyTorch function that computes the layer, such as "conv2d" or "linear"."""
    input_count: int
    """Number of channels or features that the layer takes, according to its weights."""
    row_count: int
    """Number of rows of features in the input, if the layer is fully connected."""


@dataclass
class Trial:
    """The result of :func:`try_out`."""

    seen: list[Seen] = field(default_factory=list)
    """All tensors in the outputs of modules, in the order in which they were computed."""
    failure: Exception | None = None
    """Error that stopped the forward pass, or None."""
    start: Start | None = None
    """The first layer with weights, even if its input did not fit its weights; None if no such layer was reached."""


def try_out(
    model: nn.Module,
    image: Tensor,
    way: Way,
    follow_fields: bool = False,
) -> Trial:
    """Run ``model`` on ``image`` (N, C, H, W), and return records of its modules' outputs and the error, if any.

    The forward pass runs in evaluation mode, with copies of the network's parameters. Afterwards, the network is
    restored to its previous state. A trial in the mode "shapes" fails if the network reads values of tensors, for
    example to convert a tensor to a number.

    Args:
        model: the network.
        image: the images, (N, C, H, W).
        way: "shapes" if only the shapes of the outputs are needed, so that arithmetic can be left out, or "values" to
            compute the values of all outputs.
        follow_fields: whether to compute the receptive fields of all output positions.

    Raises:
        ValueError: the images need more CPU memory than is free.
    """
    kind = working_dtype(model)
    meta = way == "shapes" and image[0].numel() > SMALL_IMAGE
    state = dict(_copies(model, way, "meta" if meta else None, kind))
    device = "meta" if meta else next((tensor.device for tensor in state.values()), image.device)
    if not meta:
        check_memory(1, len(image), image.shape[1:], torch.device(device))
    image = torch.empty_like(image, device=device, dtype=kind) if meta else image.to(device, kind).contiguous()
    trial, calls = Trial(), Counter[str]()
    found: list[tuple[tuple[str, int, str, nn.Module, torch.Size], Field | None, Tensor, int]] = []
    fields = ReceptiveFields(image, (state[name] for name, _ in model.named_parameters())) if follow_fields else None

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            for key, tensor in tensors_in(output):
                if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # it exists only inside torch.vmap
                    continue
                what = name, calls[name], key, module, tensor.shape
                found.append((what, fields.of(tensor) if fields else None, tensor, _version(tensor)))
            calls[name] += 1

        return record

    with Snapshot(model):
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # such modules accept no hooks
                module.register_forward_hook(hook(name))
        for module in model.modules():
            module.training = False
            if module._compiled_call_impl:  # a module that the caller has compiled runs uncompiled
                module._compiled_call_impl = None
        skipping = _NoArithmetic() if way == "shapes" and not meta else None
        reading = _Reading(way, fields)
        try:
            with torch.no_grad(), default_type(kind), reading, skipping or nullcontext(), fields or nullcontext():
                functional_call(model, state, (image,))
        except SystemExit as error:
            trial.failure = RuntimeError(f"it ends the program with sys.exit({error.code})")
        except Exception as error:  # the user's network may raise anything
            trial.failure = error.with_traceback(None)  # the traceback would keep all activations in memory
        finally:
            for mode in (reading, skipping, fields):
                if mode is not None:
                    mode.active = False  # Ctrl-C at the wrong moment leaves a mode on, which must then do nothing
    trial.start = reading.start
    trial.seen = [Seen(*what, _version(tensor) != version, field) for what, field, tensor, version in found]
    return trial


def try_two(model: nn.Module, image: Tensor) -> Trial:
    """Return the trial of two copies of ``image`` (1, C, H, W) in the way "shapes".

    The search for the shape of images and the following search for the layers need the same trial. Therefore, a trial
    is kept until a public function ends, or until it has been used again.
    """
    key = id(model), image.shape
    kept = FINDINGS.pop(key, None)
    if kept is not None:
        return cast("Trial", kept)
    trial = FINDINGS[key] = try_out(model, image.expand(2, *image.shape[1:]), "shapes")
    return trial


def try_shapes(model: nn.Module, image: Tensor, follow_fields: bool = False) -> Trial:
    """Do the same as :func:`try_out`, in the way "shapes" unless the shapes depend on the values of tensors."""
    trial = try_out(model, image, "shapes", follow_fields)
    if trial.failure is not None and not is_about_sizes(trial.failure):
        trial = try_out(model, image, "values", follow_fields)
    return trial


def _version(tensor: Tensor) -> int:
    """Return a number that increases when an in-place operation overwrites ``tensor``."""
    return 0 if tensor.is_inference() else tensor._version


def blank_image(shape: Sequence[int]) -> Tensor:
    """Return a black image (1, C, H, W) of ``shape`` (C, H, W) that takes no more memory than one number."""
    return torch.zeros(()).expand(1, *shape)


def is_about_sizes(failure: Exception) -> bool:
    """Return whether ``failure``, an error that a network raised, seems to be about the size of the image."""
    if isinstance(failure, IndexError):  # perhaps an index that was computed from arbitrary values
        return False
    words = r"size|shape|dimension|\bdims?\b|height|width|channel|too small|length"
    return bool(re.search(words, str(failure), re.IGNORECASE))


def working_dtype(model: nn.Module) -> torch.dtype:
    """Return the number format of the images for ``model``: float64 if its parameters are float64, otherwise float32.

    Networks whose parameters have a smaller format, such as float16, also get float32 images, because gradients with
    respect to images are too small for such a format.
    """
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return torch.float64 if next(kinds, None) == torch.float64 else torch.float32


def tensors_in(output: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor in the output of a module, with its index or key, such as "[0]" or "[mask]".

    The output can be a tensor, or a tuple, list, dictionary or dataclass that contains tensors or further containers.
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

    Floating-point copies have the type ``kind``. If ``way`` is "shapes", copies of floating-point parameters hold
    arbitrary values.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        to = kind if tensor.is_floating_point() else tensor.dtype
        if device or (way == "shapes" and isinstance(tensor, nn.Parameter) and tensor.is_floating_point()):
            yield name, torch.empty_like(tensor, device=device, dtype=to)
        else:
            yield name, tensor.detach().to(to, copy=True)


class NeedsValues(RuntimeError):
    """The error that is raised if the network reads values of tensors in a trial that computes only shapes."""


READERS = {
    *("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "__complex__"),
    *("nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "is_nonzero", "equal", "allclose"),
    *("multinomial", "bincount", "nms", "one_hot", "repeat_interleave"),
}
"""Names of functions that convert the values of tensors to Python objects, or that need these values for another
reason, for example because the shape of the result depends on them."""


REPLACING = Tensor.data.__set__  # type: ignore[attr-defined]
"""Function that gives a tensor the elements of another tensor, as in ``x.data = y``."""


class _Reading(TorchFunctionMode):
    """A PyTorch function mode that detects when the network reads the values of tensors."""

    def __init__(self, way: Way, fields: ReceptiveFields | None) -> None:
        super().__init__()
        self.way, self.fields, self.active = way, fields, True
        self.start: Start | None = None
        """The first layer with weights that was called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in NOTABLE:
            return func(*args, **kwargs)
        if self.start is None and name in WEIGHTED:
            self.start = _start(name, *args, **kwargs)
        if not self.active:
            return func(*args, **kwargs)
        if func == REPLACING and self.fields is not None and self.fields.of(args[1]) is not None:
            self.fields.lose()  # this assignment calls no operator, so its effect on the fields is unknown
        if name in READERS or (name == "where" and len(args) + len(kwargs) == 1) or _picks_by_mask(name, args):
            if self.way == "shapes":
                raise NeedsValues(f"the network calls {name}, whose result depends on values")
            if self.fields is not None and isinstance(args[0], Tensor) and self.fields.of(args[0]) is not None:
                self.fields.lose()
        return func(*args, **kwargs)


WEIGHTED = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
}
"""Names of functions that compute a convolution or a fully connected layer."""

PICKING = {"__getitem__", "index"}
"""Names of functions that select elements with an index, which might be a boolean mask."""

NOTABLE = READERS | WEIGHTED | PICKING | {"where", REPLACING.__name__}
"""Names of all functions that :class:`_Reading` looks at."""


def _start(name: str, input: Tensor, weight: Tensor, *others: Any, **options: Any) -> Start:
    """Describe the layer that is computed by a call of a function named in :data:`WEIGHTED`."""
    groups = options.get("groups", others[4] if len(others) > 4 else 1)
    return Start(name, weight.shape[-1] if name == "linear" else weight.shape[1] * groups, math.prod(input.shape[:-1]))


def _picks_by_mask(name: str, args: Any) -> bool:
    """Return whether a call selects elements with a boolean mask, so that the shape of the result depends on values."""
    index = args[1] if name in PICKING and len(args) > 1 else ()
    parts = index if isinstance(index, tuple | list) else [index]
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


class _NoArithmetic(Mode):
    """A PyTorch dispatch mode that leaves out the arithmetic of the most frequent operators.

    The outputs of these operators hold arbitrary values. The memory of the outputs is not written to, because writing
    would take as long as the arithmetic.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arbitrary: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        """Tensors of integers that have been computed from arbitrary values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if func in INDEXING and any(each in self.arbitrary for _, each in tensors_in([*args, *kwargs.values()])):
            raise NeedsValues(f"the network calls {func} with an index that depends on values")
        shape_of = SHAPES.get(func)
        output = None if shape_of is None else shape_of(*args, **kwargs)
        if output is None:  # invalid arguments must raise the error of the operator
            if func.namespace not in OWN:
                raise NeedsValues(f"the network calls {func}, which might fail for arbitrary values")
            output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output.is_floating_point():
            return output
        integers = [each for _, each in tensors_in(output) if not each.is_floating_point()]
        given = (each for _, each in tensors_in([*args, *kwargs.values()]))
        if integers and any(each.is_floating_point() or each in self.arbitrary for each in given):
            self.arbitrary.update(dict.fromkeys(integers))
        return output


def _alike(one: Tensor, *others: Any, memory_format: Any = None, approximate: str = "") -> Tensor | None:
    """Return a tensor like ``one`` with arbitrary values, or None if ``one`` holds integers, whose values matter."""
    return torch.empty_like(one, memory_format=memory_format) if one.is_floating_point() else None


def _overwritten(one: Tensor, *others: Any) -> Tensor | None:
    """Return ``one``, or None if ``one`` holds integers, whose new values matter."""
    return one if one.is_floating_point() else None


def _arithmetic(one: Any, other: Any, alpha: Any = 1) -> Tensor | None:
    """Return a tensor that has the shape of a sum or product, or None if the operator itself has to run."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or not one.is_floating_point():
        return None
    if not one.ndim or not other.ndim or other.dtype != one.dtype or other.device != one.device:
        return None
    if not _fit(one.shape, other.shape):
        return None
    long, short = sorted((one.shape, other.shape), key=len, reverse=True)
    head = len(long) - len(short)  # torch.broadcast_shapes takes a second, because it loads PyTorch's compiler
    return one.new_empty(*long[:head], *(b if a == 1 else a for a, b in zip(long[head:], short, strict=True)))


def _arithmetic_in_place(one: Any, other: Any, alpha: Any = 1) -> Tensor | None:
    """Return ``one``, or None if the operator itself has to run."""
    result = _arithmetic(one, other)
    return None if result is None or result.shape != one.shape else cast("Tensor", one)


def _fit(one: torch.Size, other: torch.Size) -> bool:
    """Return whether tensors of the shapes ``one`` and ``other`` can be broadcast together."""
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def _normalized(one: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return tensors like the results of a batch normalization, or None if the operator itself has to run."""
    if others[4] or any(each is not None and each.shape != one.shape[1:2] for each in others[:4]):
        return None
    return torch.empty_like(one), one.new_empty(0), one.new_empty(0)


def _product(one: Tensor, two: Tensor) -> Tensor | None:
    """Return a tensor that has the shape of a matrix product, or None if the operator itself has to run."""
    if (
        not one.is_floating_point()
        or one.dtype != two.dtype
        or one.shape[-1] != two.shape[-2]
        or one.shape[:-2] != two.shape[:-2]
    ):
        return None
    return one.new_empty(*one.shape[:-1], two.shape[-1])


def _concatenation(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    """Return a tensor that has the shape of concatenated tensors, or None if the operator itself has to run."""
    first, *others = tensors
    dim %= max(first.ndim, 1)
    outside = first.shape[:dim], first.shape[dim + 1 :]
    alike = (each.dtype == first.dtype and (each.shape[:dim], each.shape[dim + 1 :]) == outside for each in others)
    if not first.is_floating_point() or first.ndim < 2 or not all(alike):
        return None
    if not all(each.is_contiguous() for each in tensors):  # the order in memory might differ
        return None
    return first.new_empty(*outside[0], sum(each.shape[dim] for each in tensors), *outside[1])


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor | None:
    """Return a tensor that has the shape of the result of a convolution, or None if the operator itself has to run."""
    if transposed or input.shape[1] != weight.shape[1] * groups or input.dtype != weight.dtype:
        return None
    sides = _sides(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    return input.new_empty(len(input), len(weight), *sides) if min(sides) > 0 else None


def _max_pool(
    input: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil_mode: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Return tensors that have the shapes of the results of max pooling, or None if the operator itself has to run."""
    if ceil_mode or input.ndim != 4 or any(2 * pad > side for pad, side in itertools.product(padding, kernel)):
        return None
    sides = _sides(input.shape[2:], kernel, stride or kernel, padding, dilation)
    if min(sides) <= 0:
        return None
    output = input.new_empty(*input.shape[:2], *sides)
    return output, torch.empty_like(output, dtype=torch.int64)


def _average_pool(
    input: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False, *others: Any
) -> Tensor | None:
    """Return a tensor that has the shape of the result of average pooling, or None if the operator has to run."""
    pooled = _max_pool(input, kernel, stride, padding, (1,), ceil_mode) if input.is_floating_point() else None
    return pooled and pooled[0]


def _adaptive_pool(input: Tensor, size: list[int]) -> Tensor | None:
    """Return a tensor that has the shape of the result of adaptive average pooling, or None for integers."""
    return input.new_empty(*input.shape[:-2], *size) if input.is_floating_point() and min(input.shape) > 0 else None


def _mean(input: Tensor, dims: list[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """Return a tensor that has the shape of means along ``dims``, or None if the operator itself has to run."""
    if (
        not dims
        or dtype is not None
        or not input.is_floating_point()
        or not all(-input.ndim <= d < input.ndim for d in dims)
    ):
        return None
    gone = {dim % input.ndim for dim in dims}
    if len(gone) < len(dims):
        return None
    sides = [1 if dim in gone else side for dim, side in enumerate(input.shape) if keepdim or dim not in gone]
    return input.new_empty(sides)


def _sides(lengths: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[int]:
    """Return the number of positions of a sliding window along each axis."""
    each = ([*values] * (len(lengths) if len(values) == 1 else 1) for values in (kernel, stride, padding, dilation))
    return [
        (length + 2 * pad - gap * (side - 1) - 1) // step + 1
        for length, side, step, pad, gap in zip(lengths, *each, strict=True)
    ]


def _layer_norm(input: Tensor, shape: list[int], *others: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return tensors like the results of a layer normalization, or None if the operator itself has to run."""
    fits = list(input.shape[-len(shape) :]) == list(shape) and input.is_floating_point()
    return (torch.empty_like(input), input.new_empty(0), input.new_empty(0)) if fits else None


def _attention(query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor] | None:
    """Return tensors like the results of attention on a CPU, or None if the operator itself has to run."""
    images, heads, tokens, features = query.shape
    if key.shape != value.shape or key.shape[:2] != query.shape[:2] or key.shape[3] != features:
        return None
    return query.new_empty(images, tokens, heads, features).transpose(1, 2), query.new_empty(query.shape[:3])


ATEN = torch.ops.aten

OWN = ("aten", "prim", "prims")
"""Namespaces of the operators of PyTorch itself. Operators of other packages might read memory that is not theirs if
their arguments hold arbitrary values, such as NaN for a coordinate."""

INDEXING = {
    *(ATEN.embedding.default, ATEN.gather.default, ATEN.index.Tensor, ATEN.index_select.default, ATEN.take.default),
    *(ATEN.index_put.default, ATEN.index_put_.default, ATEN.scatter.src, ATEN.scatter_.src, ATEN.scatter_add.default),
    *(ATEN.scatter.value, ATEN.scatter_.value, ATEN.scatter_add_.default, ATEN.index_add_.default),
    *(ATEN.index_copy_.default, ATEN.max_unpool2d.default, ATEN.one_hot.default, ATEN._unsafe_index.Tensor),
}
"""Operators that might fail if an integer tensor among their arguments holds arbitrary values, such as invalid
indices."""

SHAPES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            *(ATEN.relu.default, ATEN.gelu.default, ATEN.silu.default, ATEN.sigmoid.default, ATEN.tanh.default),
            *(ATEN.hardtanh.default, ATEN.hardswish.default, ATEN.hardsigmoid.default, ATEN.elu.default),
            *(ATEN.leaky_relu.default, ATEN.mish.default, ATEN.clone.default),
        ),
        _alike,
    ),
    **dict.fromkeys(
        (
            *(ATEN.relu_.default, ATEN.silu_.default, ATEN.hardtanh_.default, ATEN.hardswish_.default),
            *(ATEN.leaky_relu_.default, ATEN.elu_.default),
        ),
        _overwritten,
    ),
    **dict.fromkeys((ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor), _arithmetic),
    **dict.fromkeys((ATEN.add_.Tensor, ATEN.sub_.Tensor, ATEN.mul_.Tensor, ATEN.div_.Tensor), _arithmetic_in_place),
    ATEN._adaptive_avg_pool2d.default: _adaptive_pool,
    ATEN.avg_pool2d.default: _average_pool,
    ATEN.mean.dim: _mean,
    ATEN.cat.default: _concatenation,
    ATEN.convolution.default: _convolution,
    ATEN.native_batch_norm.default: _normalized,
    **dict.fromkeys((ATEN.mm.default, ATEN.bmm.default), _product),
    ATEN.addmm.default: lambda bias, one, two: _product(one, two),
    ATEN.max_pool2d_with_indices.default: _max_pool,
    ATEN.native_layer_norm.default: _layer_norm,
    ATEN._softmax.default: _alike,
    ATEN._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}
"""Functions that replace operators, by operator. Each function returns tensors that have the same shapes as the results
of the operator, but arbitrary values. It returns None if the operator itself has to run."""
