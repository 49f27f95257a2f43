"""Follow the receptive fields of all positions through a forward pass.

See Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019. Rows and columns are
followed separately. For each position along one of them, the first and the last pixel that influence it are known. What
an operation does to them is known for the operations in this module. After any other operation, they are unknown.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

IMAGINED = 4096
"""Number of imagined pixels on each side of the image. Without them, most receptive fields in a deep layer would end at
the borders of the image, so that their size could not be seen."""

Taps = Callable[[NDArray[np.int64]], Sequence[NDArray[np.int64]]]
"""Function from output positions to the input positions that influence them, one array for each influence."""


class Regular(NamedTuple):
    """Receptive fields that all have the same size and lie at equal distances."""

    side: int
    """Number of pixels."""
    stride: float
    """Number of pixels from one field to the next."""
    start: float
    """First pixel of the field of the first position."""


@dataclass(frozen=True)
class Line:
    """The receptive fields of all positions along one axis."""

    offset: int
    """Index of the first position in the arrays. It is negative if there are imagined positions before the first."""
    first: NDArray[np.int64]
    """For each position, the first pixel that influences it."""
    last: NDArray[np.int64]
    """For each position, the last pixel that influences it."""
    count: int
    """Number of positions, without imagined ones."""

    @classmethod
    def of_image(cls, pixels: int) -> Line:
        """Return the receptive fields of the pixels of an image themselves."""
        places = np.arange(-IMAGINED, pixels + IMAGINED)
        return cls(-IMAGINED, places, places, pixels)

    @property
    def imagines(self) -> bool:
        """Return whether there are imagined positions."""
        return self.offset < 0 or len(self.first) > self.count

    def through(self, taps: Taps, count: int, within: tuple[int, int] | None = None) -> Line:
        """Return the receptive fields of ``count`` output positions, given the input positions that influence each.

        ``within`` is the range (start, end) of output positions that all have their inputs among the positions in the
        arrays, including imagined ones. Without it, the result has no imagined positions, and inputs that do not exist
        are ignored.
        """
        start, end = (0, count) if within is None else (min(within[0], 0), max(within[1], count))
        length = len(self.first)
        firsts, lasts = [], []
        for places in taps(np.arange(start, end)):
            at = places - self.offset
            there = (at >= 0) & (at < length)
            if within is None:
                there &= (places >= 0) & (places < self.count)
            at = at.clip(0, length - 1)
            firsts.append(np.where(there, self.first[at], np.iinfo(np.int64).max))
            lasts.append(np.where(there, self.last[at], np.iinfo(np.int64).min))
        return Line(start, np.minimum.reduce(firsts), np.maximum.reduce(lasts), count)

    def sliding(self, kernel: int, step: int, padding: int, dilation: int, count: int) -> Line:
        """Return the receptive fields after a window of ``kernel`` positions slides along this axis."""
        offsets = [tap * dilation - padding for tap in range(kernel)]
        begin, end = self.offset, self.offset + len(self.first)
        within = -(-(begin - offsets[0]) // step), (end - 1 - offsets[-1]) // step + 1
        return self.through(lambda at: [at * step + offset for offset in offsets], count, self._if_imagined(within))

    def picked(self, places: Iterable[int]) -> Line:
        """Return the receptive fields of the positions ``places``, in their order."""
        chosen = np.fromiter(places, np.int64)
        return self.through(lambda at: [chosen[at]], len(chosen))

    def enlarged(self, times: int, taps: int) -> Line:
        """Return the receptive fields after each position becomes ``times`` positions.

        ``taps`` is 1 if the new positions are copies, and 2 or 4 if they are interpolated linearly or cubically.
        """

        def sources(at: NDArray[np.int64]) -> list[NDArray[np.int64]]:
            if taps == 1:
                return [at // times]
            # The place of a new position among the old ones, times 2 * times, is a whole number.
            place = 2 * at + 1 - times
            left, exact = place // (2 * times), place % (2 * times) == 0
            return [np.where(exact, left, left + shift) for shift in range(1 - taps // 2, 1 + taps // 2)]

        begin, end = self.offset + taps, self.offset + len(self.first) - taps
        return self.through(sources, self.count * times, self._if_imagined((begin * times, end * times)))

    def joined(self, other: Line) -> Line | None:
        """Return the receptive fields of positions that are influenced by the positions of both lines."""
        if self.count != other.count:
            return None
        start = max(self.offset, other.offset)
        end = min(self.offset + len(self.first), other.offset + len(other.first))
        one, two = (slice(start - line.offset, end - line.offset) for line in (self, other))
        first = np.minimum(self.first[one], other.first[two])
        return Line(start, first, np.maximum(self.last[one], other.last[two]), self.count)

    def regular(self) -> Regular | None:
        """Return the size, distance and start of the receptive fields, or None if they are not regular."""
        sides, places = self.last - self.first + 1, np.arange(len(self.first)) + self.offset
        if len(places) < 2 or sides[0] < 1 or (sides != sides[0]).any():
            return None
        steps = np.diff(self.first)
        start = float(self.first[0] - steps[0] * places[0])
        return None if (steps != steps[0]).any() or steps[0] < 1 else Regular(int(sides[0]), float(steps[0]), start)

    def _if_imagined(self, within: tuple[int, int]) -> tuple[int, int] | None:
        return within if self.imagines and within[0] <= 0 else None


@dataclass(frozen=True)
class Field:
    """The receptive fields of all positions in a tensor."""

    axes: tuple[int, int] | None
    """Axes of the rows and of the columns in the tensor. They are the same if each position is one token. None if the
    tensor has no such axes, or if they are unknown."""
    lines: tuple[Line, Line] | None
    """Receptive fields along the rows and along the columns; None if they are unknown."""
    complete: bool = True
    """Whether the tensor holds all positions of the image, in any order and on any axes."""
    whole: bool = False
    """Whether each element depends on the whole image."""

    def square(self) -> Regular | None:
        """Return the receptive fields if they are regular squares at the same distances along both axes."""
        if self.lines is None or self.whole:
            return None
        rows, columns = (line.regular() for line in self.lines)
        return rows if rows == columns else None


ALL_PIXELS, UNKNOWN = Field(None, None, True, True), Field(None, None, False)

POINTWISE = {
    *("dropout", "dropout2d", "dropout1d", "dropout3d", "feature_dropout", "alpha_dropout", "contiguous", "clone"),
    *("detach", "to", "type_as", "float", "half", "double", "bfloat16", "requires_grad", "data", "alias"),
    *("relu6", "hardtanh", "leaky_relu", "prelu", "softplus", "hardswish", "hardsigmoid", "glu", "masked_fill"),
    *("softsign", "tanhshrink", "logsigmoid", "quick_gelu", "local_response_norm", "positive", "type"),
}
"""Names of functions that compute each element from the elements at the same position, in addition to those that
PyTorch says to be so."""

REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "prod", "logsumexp", "argmax", "softmax"),
    *("log_softmax", "normalize", "linalg_vector_norm", "vector_norm", "median", "all", "any", "cosine_similarity"),
    *("std_mean", "var_mean", "softmin"),
}
"""Names of functions that mix the elements along the axes that the argument ``dim`` gives."""

SAME_SHAPE = {"softmax", "log_softmax", "normalize", "softmin"}
"""Names in :data:`REDUCTIONS` of functions whose results have the shape of their arguments."""


class ReceptiveFields(TorchFunctionMode):
    """A mode that follows the receptive fields through every function that a forward pass calls."""

    def __init__(self, image: Tensor) -> None:
        """Prepare to follow a forward pass of ``image`` (N, C, H, W)."""
        super().__init__()
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.known[image] = Field((2, 3), (Line.of_image(image.shape[2]), Line.of_image(image.shape[3])))

    def of(self, tensor: Tensor) -> Field | None:
        """Return the receptive fields in ``tensor``, or None if it does not depend on the image."""
        field: Field | None = self.known.get(tensor)
        return field

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # The fields are read before the function runs, because it may overwrite its argument.
        given = [(each, field) for each in _tensors([*args, *kwargs.values()]) if (field := self.of(each)) is not None]
        shape = given[0][0].shape if given else torch.Size()
        result = func(*args, **kwargs)
        if not given:
            return result
        name = _name(func)
        if name == "setitem":
            self.known[args[0]] = UNKNOWN
        for number, output in enumerate(_tensors([result])):
            try:
                call = Call(name, args, kwargs, [field for _, field in given], shape, output, number)
                field = call.field()
            except (KeyError, IndexError, TypeError, ValueError, AttributeError):  # an unusual way to call the function
                field = UNKNOWN
            self.known[output] = field
        return result


def _name(func: Any) -> str:
    """Return the name of a function of PyTorch, without what says that it works in place or with swapped arguments."""
    name: str = getattr(func, "__name__", "")
    if name == "__get__":  # an attribute such as ``tensor.mT``
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    inner = re.fullmatch(r"__(?:[ir](?=add|sub|mul|truediv|div|matmul|pow))?(\w+?)__", name)
    name = inner[1] if inner else name.rstrip("_")
    return {"truediv": "div", "floordiv": "floor_divide", "concat": "cat", "concatenate": "cat"}.get(name, name)


def _tensors(things: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among ``things`` and in the lists and tuples among them."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, list | tuple):
            yield from _tensors(thing)


def _is_pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None) if name not in POINTWISE else None
    overloads = [getattr(packet, each) for each in packet.overloads()] if packet is not None else []
    return name in POINTWISE or any(torch.Tag.pointwise in overload.tags for overload in overloads)


@dataclass(frozen=True)
class Call:
    """A call of a function of PyTorch with a tensor that depends on the image."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    fields: Sequence[Field]
    """Receptive fields of the arguments that depend on the image."""
    shape: torch.Size
    """Shape of the first of these arguments before the call."""
    output: Tensor
    """One of the results."""
    number: int
    """Index of this result among the results."""

    @property
    def input(self) -> Field:
        """Return the receptive fields of the first argument that depends on the image."""
        return self.fields[0]

    def field(self) -> Field:
        """Return the receptive fields in the result."""
        if self.name in ("cat", "stack"):
            return self._cat()
        if self.name == "matmul" and len(self.fields) == 1:
            return self._product()
        wholes = [field.whole for field in self.fields]
        if _is_pointwise(self.name):
            return ALL_PIXELS if any(wholes) else self._union()
        if all(wholes):
            return ALL_PIXELS
        if self.name in REDUCTIONS:
            return self._reduction()
        handler = HANDLERS.get(self.name)
        if handler is not None:
            return handler(self)
        if self.name in VIEWS:
            return self._view()
        return UNKNOWN

    def value(self, name: str, place: int, default: Any = None) -> Any:
        """Return the argument called ``name``, which may be given as the argument with the index ``place``."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def pair(self, name: str, place: int, default: Any) -> tuple[int, int]:
        """Return an argument that is given once or for rows and columns."""
        value = self.value(name, place, default)
        values = [value, value] if isinstance(value, int) else [*value] * (2 if len(value) == 1 else 1)
        return int(values[0]), int(values[1])

    def along(self, function: Callable[[Line, int], Line | None]) -> Field:
        """Return the receptive fields after ``function``, called with the line and 0 for rows, 1 for columns.

        The rows and columns must be the last two axes of four, before and after.
        """
        lines, axes = self.input.lines, self.input.axes
        if lines is None or axes != (2, 3) or self.output.ndim != 4:
            return replace(UNKNOWN, complete=self.input.complete)
        rows, columns = (function(line, number) for number, line in enumerate(lines))
        return UNKNOWN if rows is None or columns is None else replace(self.input, lines=(rows, columns))

    def _count(self, axis: int) -> int:
        return self.output.shape[2 + axis]

    def _union(self) -> Field:
        """Return the receptive fields of elements that depend on the same positions of all arguments."""
        joined = self.fields[0]
        if self.output.ndim != len(self.shape) and len(self.fields) == 1 and joined.axes is not None:
            more = self.output.ndim - len(self.shape)  # the other argument has more axes
            return replace(joined, axes=(joined.axes[0] + more, joined.axes[1] + more))
        for field in self.fields[1:]:
            if joined.lines is None or field.lines is None or joined.axes != field.axes or joined.axes is None:
                return replace(UNKNOWN, complete=joined.complete and field.complete)
            rows, columns = (one.joined(two) for one, two in zip(joined.lines, field.lines, strict=True))
            if rows is None or columns is None:
                return UNKNOWN
            joined = replace(joined, lines=(rows, columns), complete=joined.complete and field.complete)
        return joined

    def _cat(self) -> Field:
        """Return the receptive fields in tensors that are put side by side."""
        if all(field.whole for field in self.fields):
            return ALL_PIXELS
        axis = self.value("dim", 1, 0) % self.output.ndim
        if any(field.whole for field in self.fields):
            return UNKNOWN
        axes = self.input.axes
        if axes is None:
            return replace(UNKNOWN, complete=all(field.complete for field in self.fields))
        if self.name == "stack":
            together = replace(self, name="add", output=self.output.select(axis, 0))._union()
            return replace(together, axes=(axes[0] + (axis <= axes[0]), axes[1] + (axis <= axes[1])))
        if axis not in axes:
            return self._union()
        return Field(axes, None, all(field.complete for field in self.fields))

    def _product(self) -> Field:
        """Return the receptive fields in the product with a matrix that does not depend on the image."""
        if self.input.whole:
            return ALL_PIXELS
        second = not (isinstance(self.args[0], Tensor) and self.args[0].shape == self.shape)
        return self._mix([len(self.shape) - (2 if second else 1)])

    def _reduction(self) -> Field:
        """Return the receptive fields after a function that mixes all elements along some axes."""
        places = {"softmax": 1, "log_softmax": 1, "norm": 2, "normalize": 2, "vector_norm": 2, "linalg_vector_norm": 2}
        dim = self.value("dim", places.get(self.name, 1))
        if dim is None and self.name in ("normalize", "cosine_similarity"):
            dim = 1
        if dim is None:
            return ALL_PIXELS if self.input.complete else UNKNOWN
        dims = sorted({each % len(self.shape) for each in ([dim] if isinstance(dim, int) else dim)})
        mixed = self._mix(dims)
        if self.name in SAME_SHAPE or self.output.ndim == len(self.shape) or mixed.axes is None:
            return mixed
        if set(dims) & set(mixed.axes):
            return UNKNOWN
        axes = [axis - sum(dim < axis for dim in dims) for axis in mixed.axes]
        return replace(mixed, axes=(axes[0], axes[1]))

    def _mix(self, dims: Sequence[int]) -> Field:
        """Return the receptive fields after all elements along ``dims`` have been mixed."""
        field = self.input
        if field.axes is not None:
            mixed = set(field.axes) & set(dims)
            if not mixed:
                return field
            return ALL_PIXELS if mixed == set(field.axes) and field.complete else UNKNOWN
        # Whatever the order of the positions is, these axes are all that there are beside images and units.
        everything = len(dims) >= len(self.shape) - 2 and len(self.shape) > 2
        return ALL_PIXELS if field.complete and everything else replace(UNKNOWN, complete=field.complete)

    def _attention(self) -> Field:
        """Return the receptive fields after attention, in which each token sees all tokens."""
        axes = self.input.axes
        return ALL_PIXELS if self.input.complete and axes is not None and axes[0] == axes[1] else UNKNOWN

    def _normalization(self) -> Field:
        """Return the receptive fields after a normalization with statistics of the last axes."""
        shape = self.value("normalized_shape", 1)
        return self._mix([len(self.shape) - 1 - place for place in range(len(shape))])

    def _batch_norm(self) -> Field:
        return UNKNOWN if self.value("training", 5, False) else self.input

    def _statistics(self) -> Field:
        """Return the receptive fields after a normalization with statistics of all positions."""
        return ALL_PIXELS if self.input.complete else UNKNOWN

    def _conv(self) -> Field:
        weight = self.value("weight", 1)
        step, dilation = self.pair("stride", 3, 1), self.pair("dilation", 5, 1)
        padding = self.value("padding", 4, 0)
        kernel = tuple(weight.shape[2:])
        reaches = [dilation[axis] * (kernel[axis] - 1) for axis in range(2)]
        if isinstance(padding, str):
            before = tuple(reach // 2 if padding == "same" else 0 for reach in reaches)
        else:
            before = self.pair("padding", 4, 0)
        return self.along(
            lambda line, axis: line.sliding(kernel[axis], step[axis], before[axis], dilation[axis], self._count(axis))
        )

    def _conv_transpose(self) -> Field:
        weight, step = self.value("weight", 1), self.pair("stride", 3, 1)
        padding, dilation = self.pair("padding", 4, 0), self.pair("dilation", 7, 1)

        def enlarge(line: Line, axis: int) -> Line:
            taps = [tap * dilation[axis] for tap in range(weight.shape[2 + axis])]

            def sources(at: NDArray[np.int64]) -> list[NDArray[np.int64]]:
                found = []
                for tap in taps:
                    place = at + padding[axis] - tap
                    found.append(np.where(place % step[axis] == 0, place // step[axis], np.iinfo(np.int32).min))
                return found

            reach = taps[-1] + step[axis]
            begin, end = line.offset, line.offset + len(line.first)
            within = begin * step[axis] + reach, end * step[axis] - reach
            return line.through(sources, self._count(axis), line._if_imagined(within))

        return self.along(enlarge)

    def _pool(self) -> Field:
        kernel = self.pair("kernel_size", 1, None)
        step = self.pair("stride", 2, None) if self.value("stride", 2) else kernel
        padding = self.pair("padding", 3, 0)
        dilation = self.pair("dilation", 4, 1) if self.name.startswith("max_pool2d") else (1, 1)
        return self.along(
            lambda line, axis: line.sliding(kernel[axis], step[axis], padding[axis], dilation[axis], self._count(axis))
        )

    def _adaptive_pool(self) -> Field:
        if self.output.ndim == 4 and set(self.output.shape[2:]) == {1} and self.input.complete:
            return ALL_PIXELS

        def shrink(line: Line, axis: int) -> Line:
            count = self._count(axis)
            if line.count % count == 0:
                side = line.count // count
                return line.sliding(side, side, 0, 1, count)
            begins = [number * line.count // count for number in range(count)]
            ends = [-(-(number + 1) * line.count // count) for number in range(count)]
            begin, end = np.array(begins), np.array(ends)
            most = max(np.subtract(end, begin))
            return line.through(lambda at: [np.minimum(begin[at] + tap, end[at] - 1) for tap in range(most)], count)

        return self.along(shrink)

    def _interpolate(self) -> Field:
        mode, align = self.value("mode", 3, "nearest"), self.value("align_corners", 4)
        taps = {"nearest": 1, "nearest-exact": 1, "bilinear": 2, "bicubic": 4}.get(mode)
        if taps is None or self.kwargs.get("antialias") or (taps > 1 and align):
            return replace(UNKNOWN, complete=self.input.complete)

        def enlarge(line: Line, axis: int) -> Line | None:
            times, rest = divmod(self._count(axis), line.count)
            if rest or not times:
                return None
            return line.enlarged(times, taps)

        return self.along(enlarge)

    def _pad(self) -> Field:
        amounts, mode = self.value("pad", 1), self.value("mode", 2, "constant")
        if mode == "circular" or (len(amounts) > 4 and any(amounts[4:])):
            return replace(UNKNOWN, complete=self.input.complete)
        before = [amounts[2] if len(amounts) > 2 else 0, amounts[0]]

        def shift(line: Line, axis: int) -> Line:
            # A reflection sees nearby pixels. It is described as if it saw the imagined pixels outside the image.
            begin, end = line.offset, line.offset + len(line.first)
            within = begin + before[axis], end + before[axis]
            taps: Taps = lambda at: [at - before[axis]]  # noqa: E731
            return line.through(taps, self._count(axis), line._if_imagined(within))

        if min(amounts) < 0:  # a crop
            return self.along(lambda line, axis: line.sliding(1, 1, before[axis], 1, self._count(axis)))
        return self.along(shift)

    def _linear(self) -> Field:
        return self._mix([len(self.shape) - 1])

    def _pixel_unshuffle(self) -> Field:
        factor = self.value("downscale_factor", 1)
        return self.along(lambda line, axis: line.sliding(factor, factor, 0, 1, self._count(axis)))

    def _pixel_shuffle(self) -> Field:
        factor = self.value("upscale_factor", 1)
        return self.along(lambda line, axis: line.enlarged(factor, 1))

    def _rearrange(self) -> Field:
        """Return the receptive fields after positions have been moved, in a way that is not followed."""
        dims = self.value("dims", 2 if self.name == "roll" else 1)
        dims = [dims] if isinstance(dims, int) else dims
        axes = self.input.axes
        if dims is not None and axes is not None and not {dim % len(self.shape) for dim in dims} & set(axes):
            return self.input
        return Field(axes, None, self.input.complete)

    def _permutation(self) -> Field:
        """Return the receptive fields after the axes have been put in another order."""
        order = list(range(len(self.shape)))
        if self.name == "permute":
            dims = self.args[1:] if len(self.args) > 1 else self.kwargs["dims"]
            dims = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
            order = [dim % len(order) for dim in dims]
        elif self.name == "movedim":
            source, target = (self.value(name, place) for place, name in enumerate(("source", "destination"), 1))
            order = _moved(len(order), source, target)
        elif self.name in ("transpose", "swapaxes", "swapdims", "mT", "T", "t", "mH"):
            one, two = self.args[1:3] if len(self.args) > 2 else (-1, -2) if self.name != "T" else (0, 1)
            order[one], order[two] = order[two], order[one]
        axes = self.input.axes
        return self.input if axes is None else replace(self.input, axes=(order.index(axes[0]), order.index(axes[1])))

    def _slice(self) -> Field:
        """Return the receptive fields in a part of a tensor."""
        index = self.args[1] if isinstance(self.args[1], tuple) else (self.args[1],)
        if any(isinstance(part, Tensor | list) for part in index) or any(isinstance(part, bool) for part in index):
            return UNKNOWN
        spelled = [part for part in index if part is not None and part is not Ellipsis]
        free = [slice(None)] * (len(self.shape) - len(spelled))
        place = index.index(Ellipsis) if Ellipsis in index else len(index)
        index = (*index[:place], *free, *index[place + 1 :])
        parts: list[tuple[int | None, Any]] = []
        axis = 0
        for part in index:
            parts.append((None, part) if part is None else (axis, part))
            axis += part is not None
        return self._cut(parts)

    def _cut(self, parts: Sequence[tuple[int | None, Any]]) -> Field:
        """Return the receptive fields after indexing. ``parts`` holds the axes of the argument with their indices."""
        field, moved = self.input, dict[int, int]()
        chosen: dict[int, Any] = {}
        place = 0
        for axis, part in parts:
            if axis is not None and isinstance(part, slice):
                moved[axis] = place
                if part.indices(self.shape[axis]) != (0, self.shape[axis], 1):
                    chosen[axis] = range(*part.indices(self.shape[axis]))
            elif axis is not None:
                chosen[axis] = operator.index(part)
            place += not isinstance(part, int)
        if field.axes is None:
            return field if not chosen else replace(UNKNOWN, complete=False)
        cut = [axis for axis in chosen if axis in field.axes]
        if not cut:
            return replace(field, axes=(moved[field.axes[0]], moved[field.axes[1]]))
        if field.lines is None or field.axes[0] == field.axes[1] or any(isinstance(chosen[axis], int) for axis in cut):
            return UNKNOWN
        lines = list(field.lines)
        for number, axis in enumerate(field.axes):
            if axis in chosen:
                kept = chosen[axis]
                lines[number] = lines[number].sliding(1, kept.step, -kept.start, 1, len(kept))
        return Field((moved[field.axes[0]], moved[field.axes[1]]), (lines[0], lines[1]), complete=False)

    def _pieces(self) -> Field:
        """Return the receptive fields in one of several parts, which together are the argument."""
        axis = self.value("dim", 2, 0) % len(self.shape)
        axes = self.input.axes
        if axes is None or axis in axes:
            return UNKNOWN
        if self.name == "unbind":
            axis = self.value("dim", 1, 0) % len(self.shape)
            if axis in axes:
                return UNKNOWN
            return replace(self.input, axes=(axes[0] - (axis < axes[0]), axes[1] - (axis < axes[1])))
        return self.input

    def _view(self) -> Field:
        """Return the receptive fields after the elements have got another shape, in the same order."""
        field, after = self.input, tuple(self.output.shape)
        if self.output.numel() != math.prod(self.shape):
            return UNKNOWN
        if field.axes is None or field.lines is None:
            return replace(field, axes=self._same_axes(after))
        before = tuple(self.shape)
        if field.axes[0] == field.axes[1]:
            [found] = _find_axes(before, after, [(field.axes[0],)])
            rows = field.lines[0].count
            if found is None:  # perhaps tokens have become rows and columns again
                outer = math.prod(before[: field.axes[0]])
                for axis in range(len(after) - 1):
                    if after[axis : axis + 2] == (rows, field.lines[1].count) and math.prod(after[:axis]) == outer:
                        return replace(field, axes=(axis, axis + 1))
        else:
            both = _find_axes(before, after, [(field.axes[0],), (field.axes[1],)])
            if both[0] is not None and both[1] is not None:
                return replace(field, axes=(both[0], both[1]))
            [found] = _find_axes(before, after, [field.axes])
        if found is not None:
            return replace(field, axes=(found, found))
        if len(after) == 2 and field.complete and before[0] == after[0]:
            return ALL_PIXELS  # the positions of each image are parts of one vector
        return replace(UNKNOWN, complete=field.complete)

    def _same_axes(self, after: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the axes of the rows and columns if a view leaves them as they are."""
        if self.input.axes is None:
            return None
        found = _find_axes(tuple(self.shape), after, [(axis,) for axis in self.input.axes])
        return None if found[0] is None or found[1] is None else (found[0], found[1])


def _find_axes(before: tuple[int, ...], after: tuple[int, ...], wanted: Sequence[tuple[int, ...]]) -> list[int | None]:
    """Find where axes are after a view from the shape ``before`` to the shape ``after``.

    Each of ``wanted`` is an axis, or two axes that may have become one.
    """
    found: list[int | None] = []
    for axes in wanted:
        adjacent = all(b == a + 1 for a, b in itertools.pairwise(axes))
        length, outer = math.prod(before[axis] for axis in axes), math.prod(before[: axes[0]])
        places = [axis for axis, other in enumerate(after) if other == length and math.prod(after[:axis]) == outer]
        found.append(places[0] if places and adjacent else None)
    return found


def _moved(count: int, source: Any, target: Any) -> list[int]:
    """Return the order of ``count`` axes after ``torch.movedim``."""
    sources, targets = ([each] if isinstance(each, int) else list(each) for each in (source, target))
    rest = [axis for axis in range(count) if axis not in [each % count for each in sources]]
    for place, axis in sorted(zip([each % count for each in targets], [each % count for each in sources], strict=True)):
        rest.insert(place, axis)
    return rest


VIEWS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
"""Names of functions that give the elements of a tensor another shape, in the same order."""

HANDLERS: dict[str, Callable[[Call], Field]] = {
    "conv2d": Call._conv,
    "conv_transpose2d": Call._conv_transpose,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "max_pool2d_with_indices"), Call._pool),
    **dict.fromkeys(
        ("adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"), Call._adaptive_pool
    ),
    **dict.fromkeys(("interpolate", "upsample"), Call._interpolate),
    "pad": Call._pad,
    "linear": Call._linear,
    "pixel_unshuffle": Call._pixel_unshuffle,
    "pixel_shuffle": Call._pixel_shuffle,
    **dict.fromkeys(("roll", "flip", "fliplr", "flipud", "rot90"), Call._rearrange),
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "mT", "T", "t", "mH"), Call._permutation
    ),
    "getitem": Call._slice,
    **dict.fromkeys(("chunk", "split", "unbind", "tensor_split"), Call._pieces),
    **dict.fromkeys(("scaled_dot_product_attention", "multi_head_attention_forward"), Call._attention),
    **dict.fromkeys(("layer_norm", "rms_norm"), Call._normalization),
    **dict.fromkeys(("group_norm", "instance_norm"), Call._statistics),
    "batch_norm": Call._batch_norm,
}
"""What functions do to receptive fields, by the functions' names."""
