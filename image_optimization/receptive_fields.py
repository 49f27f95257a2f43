"""Compute the receptive fields of all positions in the outputs of layers, during a forward pass.

See Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019. Rows and columns are
treated separately. For each row of positions, the first and the last row of pixels that influence it are computed; the
same is done for the columns.

The dispatch mode :class:`ReceptiveFields` intercepts the operators with which PyTorch carries out the forward pass. By
then, PyTorch has broken down functions such as ``einsum`` or ``instance_norm`` into simpler operators. The table
:data:`RULES` contains a rule for each supported operator, and one common rule covers all pointwise operators. A rule
computes the receptive fields in the operator's result from those in its arguments. After all other operators, the
receptive fields are unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from dreamgram.image_optimization.operators import Mode, memory_of, signature_of, tensors_among

IMAGINED = 4096
"""Number of imagined positions beyond each border of the image. Their receptive fields are computed, too. Otherwise,
most receptive fields in a deep layer would end at the borders of the image, so that their full size would be
unknown."""

NOWHERE = 2**40
"""Index that stands for no input position, for example in the zeros with which a convolution pads its input."""

Places = NDArray[np.int64]
Taps = Callable[[Places], Sequence[Places]]
"""Type of a function that maps an array of output positions to several arrays of input positions. Each of these arrays
holds, for every output position, one input position that influences it, such as the first position in its window."""


class Regular(NamedTuple):
    """Receptive fields along one axis that all have the same size and lie at equal distances."""

    side: int
    """Size of each field, in pixels."""
    stride: float
    """Distance, in pixels, from one field to the next."""
    start: float
    """Coordinate, in pixels, of the first pixel in the field of the first position."""


class Ranges(NamedTuple):
    """The first and the last pixel that influence each of several positions.

    If no pixel influences a position, its first pixel comes after its last pixel.
    """

    first: Places
    last: Places

    def through(self, places: Sequence[Places]) -> Ranges:
        """Return the ranges of output positions, given the input positions ``places`` that influence them.

        This object contains the ranges of the input positions. Each array in ``places`` holds, for each output
        position, the index of one input position that influences it. Indices of input positions that do not exist are
        ignored.
        """
        found = []
        for at in places:
            there, at = (at >= 0) & (at < len(self.first)), at.clip(0, len(self.first) - 1)
            found.append((np.where(there, self.first[at], NOWHERE), np.where(there, self.last[at], -NOWHERE)))
        return Ranges(np.minimum.reduce([first for first, _ in found]), np.maximum.reduce([last for _, last in found]))

    def joined(self, other: Ranges) -> Ranges:
        """Return, for each position, the smallest range that contains both this range and the ``other`` range."""
        return Ranges(np.minimum(self.first, other.first), np.maximum(self.last, other.last))

    def part(self, start: int, end: int) -> Ranges:
        """Return the ranges of the positions from ``start`` to ``end``, excluding ``end``."""
        return Ranges(self.first[start:end], self.last[start:end])


@dataclass(frozen=True)
class Line:
    """The receptive fields of all positions along one axis."""

    pixels: int
    """Number of pixels of the image along this axis."""
    real: Ranges
    """For each position, the first and the last pixel of the image that influence it."""
    imagined: Ranges | None
    """For each position, the first and the last pixel that would influence it in an image without borders. Imagined
    positions before the first and after the last real position are included. None if these pixels are unknown."""
    offset: int
    """Number of imagined positions before the first real position."""
    stride: Fraction = Fraction(1)
    """Mean distance, in pixels, from one position to the next."""
    period: int = 1
    """Smallest number of pixels by which the image can be shifted so that the outputs of all operators so far are
    shifted by whole positions."""
    local: bool = True
    """Whether a part of the image, if it passes through the network alone, gives the same results as it does within the
    whole image. Positions whose fields reach beyond the borders of the part are ignored. False, for example, after an
    operator that crops, after a computation that depends on the coordinates of each position, or after pooling whose
    window size depends on the image size."""

    @classmethod
    def of_image(cls, pixels: int) -> Line:
        """Return the receptive fields of the pixels along one axis of an image: each field is the pixel itself."""
        real, imagined = np.arange(pixels), np.arange(-IMAGINED, pixels + IMAGINED)
        return cls(pixels, Ranges(real, real), Ranges(imagined, imagined), IMAGINED)

    @property
    def count(self) -> int:
        """Return the number of positions."""
        return len(self.real.first)

    @property
    def complete(self) -> bool:
        """Return whether all pixels, except for a border narrower than one stride, influence some position.

        A convolution or pooling ignores such a border if its window would reach beyond the image at the next step.
        """
        return bool(self.real.first.min() < self.stride and self.real.last.max() >= self.pixels - self.stride)

    @property
    def cropped(self) -> bool:
        """Return whether positions at a border might be missing although they depend on no pixel beyond that border.

        If a part of the image passes through the network alone, such positions are missing at the borders of the part.
        If the whole image passes, the same positions exist.
        """
        if self.imagined is None:
            return False
        first, last = self.imagined.first[: self.offset][-1:], self.imagined.last[self.offset + self.count :][:1]
        return not len(first) or not len(last) or bool(first[0] >= 0 or last[0] < self.pixels)

    def through(self, taps: Taps, count: int, borders: Taps | None = None, step: Fraction = Fraction(1)) -> Line:
        """Return the receptive fields of ``count`` output positions, given the input positions that influence each.

        ``taps`` returns these input positions for an image without borders. ``borders`` returns the input positions for
        the real image, and can be omitted if it would return the same positions as ``taps``. ``step`` is the mean
        number of input positions from one output position to the next.
        """
        real = self.real.through((borders or taps)(np.arange(count)))
        stride = self.stride * step
        line = replace(self, real=real, stride=stride, period=math.lcm(self.period, stride.numerator))
        if self.imagined is None:
            return line
        places = [at + self.offset for at in taps(np.arange(-IMAGINED, count + IMAGINED))]
        # An output position is kept if its inputs, and those of all positions between it and the real ones, are known.
        lost = np.logical_or.reduce([((at < 0) | (at >= len(self.imagined.first))) & (at < NOWHERE) for at in places])
        missing = np.flatnonzero(lost) - IMAGINED
        before, after = missing[missing < 0], missing[missing >= count]
        if len(before) + len(after) < len(missing):
            return replace(line, imagined=None)
        start = int(before[-1]) + 1 if len(before) else -IMAGINED
        end = int(after[0]) if len(after) else count + IMAGINED
        imagined = self.imagined.through(places).part(start + IMAGINED, end + IMAGINED)
        line = replace(line, imagined=imagined, offset=-start)
        return replace(line, local=line.local and not line.cropped)

    def sliding(self, kernel: int, step: int, padding: int, dilation: int, count: int) -> Line:
        """Return the receptive fields after a window of ``kernel`` positions slides along this axis."""
        offsets = [tap * dilation - padding for tap in range(kernel)]
        return self.through(lambda at: [at * step + offset for offset in offsets], count, step=Fraction(step))

    def spreading(self, kernel: int, step: int, padding: int, dilation: int, count: int) -> Line:
        """Return the receptive fields after a transposed convolution with ``kernel`` weights along this axis."""

        def sources(at: Places) -> list[Places]:
            places = [at + padding - tap * dilation for tap in range(kernel)]
            return [np.where(place % step == 0, place // step, NOWHERE) for place in places]

        return self.through(sources, count, step=Fraction(1, step))

    def enlarged(self, times: int, taps: int) -> Line:
        """Return the receptive fields after each position has been replaced by ``times`` positions.

        ``taps`` is 1 if the new positions are copies, and 2 or 4 if they are interpolated linearly or cubically.
        """

        def sources(at: Places) -> list[Places]:
            if taps == 1:
                return [at // times]
            # The coordinate of a new position on the old grid, multiplied by 2 * times, is a whole number.
            place = 2 * at + 1 - times
            left, exact = place // (2 * times), place % (2 * times) == 0
            return [np.where(exact, left, left + shift) for shift in range(1 - taps // 2, 1 + taps // 2)]

        def clamped(at: Places) -> list[Places]:
            return [place.clip(0, self.count - 1) for place in sources(at)]

        return self.through(sources, self.count * times, clamped, Fraction(1, times))

    def joined(self, other: Line) -> Line | None:
        """Return the receptive fields of positions that depend on the positions with the same index in both lines.

        The result is None if the lines have different numbers of positions.
        """
        if self.count != other.count:
            return None
        period, local = math.lcm(self.period, other.period), self.local and other.local
        line = replace(self, real=self.real.joined(other.real), period=period, local=local)
        if self.imagined is None or other.imagined is None or self.stride != other.stride:
            return replace(line, imagined=None)
        before = min(self.offset, other.offset)
        after = min(len(line.imagined.first) - line.offset for line in (self, other) if line.imagined is not None)
        one = self.imagined.part(self.offset - before, self.offset + after)
        two = other.imagined.part(other.offset - before, other.offset + after)
        return replace(line, imagined=one.joined(two), offset=before)

    def regular(self) -> Regular | None:
        """Return the size, distance and start of the receptive fields, or None if the fields are not regular.

        The fields are regular if three conditions are met: they have the same size and distance everywhere; they
        contain all pixels that influence their positions in the real image; and all positions compute the same function
        of the pixels in their fields.
        """
        if self.imagined is None or len(self.imagined.first) < 2:
            return None
        first, last = self.imagined
        sides, steps = last - first + 1, np.diff(first)
        if sides[0] < 1 or (sides != sides[0]).any() or (steps != self.period).any():
            return None
        here = self.imagined.part(self.offset, self.offset + self.count)
        seen = self.real.first <= self.real.last
        if ((self.real.first < here.first) | (self.real.last > here.last))[seen].any():
            return None
        return Regular(int(sides[0]), float(steps[0]), float(here.first[0]))


@dataclass(frozen=True)
class Field:
    """The receptive fields of all positions in a tensor."""

    axes: tuple[int, ...] | None
    """Axes of the tensor along which the positions lie: first the axis of the rows, then the axis of the columns. Both
    are the same axis if each position is one token. If :attr:`lines` is None, only one fact is known: the elements
    along all these axes together depend on the whole image. An empty tuple means that each element that depends on the
    image depends on the whole image. None means that nothing is known."""
    lines: tuple[Line, Line] | None = None
    """Receptive fields of the rows of positions, and those of the columns; None if they are unknown."""
    dense: bool = True
    """Whether all elements certainly depend on all pixels in their receptive fields. After a product with a mask, for
    example, this is not certain."""

    @property
    def whole(self) -> bool:
        """Return whether each element depends on the whole image."""
        return self.axes == ()

    @property
    def local(self) -> bool:
        """Return whether a part of the image gives the same results as the whole image (:attr:`Line.local`)."""
        return self.lines is not None and all(line.local for line in self.lines)

    def placed(self) -> Field:
        """Return the field after a computation that depends on the coordinates of positions or on the image size."""
        if self.lines is None:
            return self
        rows, columns = (replace(line, local=False) for line in self.lines)
        return replace(self, lines=(rows, columns))

    def square(self) -> Regular | None:
        """Return the fields if they are squares at the same regular distances along both axes, or else None."""
        if self.lines is None or self.axes is None or self.axes[0] > self.axes[1]:
            return None  # the fields are unknown, or rows have become columns
        rows, columns = (line.regular() for line in self.lines)
        return rows if rows == columns else None

    def unordered(self) -> Field:
        """Return what is known about the receptive fields after the positions have been mixed along their axes."""
        if self.lines is None:
            return self
        complete = self.dense and all(line.complete for line in self.lines)
        return Field(tuple(sorted(set(self.axes or ())))) if complete else UNKNOWN

    def mixed(self, dims: Iterable[int], dense: bool = True) -> Field:
        """Return what is known about the receptive fields after all elements along the axes ``dims`` have been mixed.

        ``dense`` says whether each result depends on all these elements.
        """
        dims = set(dims)
        if self.axes is None or self.whole or not dims & set(self.axes):
            return self
        field = self.unordered()
        if field.axes is None or not dense:
            return UNKNOWN
        return replace(field, axes=tuple(axis for axis in field.axes if axis not in dims))

    def moved(self, where: Callable[[int], int]) -> Field:
        """Return the field after the axes have been renumbered: ``where`` returns the new index of an axis."""
        axes = None if self.axes is None else tuple(map(where, self.axes))
        return self if axes == self.axes else replace(self, axes=axes)

    def fits(self, shape: torch.Size) -> bool:
        """Return whether the numbers of positions in :attr:`lines` agree with the axes of a tensor of ``shape``."""
        if self.lines is None or self.axes is None:
            return True
        counts = [line.count for line in self.lines]
        lengths = [shape[axis] for axis in self.axes]
        return lengths[0] == math.prod(counts) if self.axes[0] == self.axes[1] else lengths == counts


ALL_PIXELS, UNKNOWN = Field(()), Field(None)


class ReceptiveFields(Mode):
    """A mode that computes the receptive fields in the result of every operator that a forward pass calls."""

    def __init__(self, image: Tensor, weights: Iterable[Tensor] = ()) -> None:
        """Prepare to compute the receptive fields in a forward pass of ``image`` (N, C, H, W).

        The tensors ``weights`` are assumed to contain no zeros, so that a product with such a tensor depends on all
        elements of the other factor.
        """
        super().__init__()
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        # Tensors may share memory. A field is valid until something else is written into the memory of its tensor.
        self.writes: dict[StorageWeakRef, int] = {}
        self.weight_memory = {memory for weight in weights if (memory := memory_of(weight))}
        self.filled: set[StorageWeakRef] = set()
        """Memory of tensors whose elements all have the same value, which does not depend on the image."""
        self.lost = False
        self._learn(image, Field((2, 3), (Line.of_image(image.shape[2]), Line.of_image(image.shape[3]))))

    def of(self, tensor: Tensor) -> Field | None:
        """Return the receptive fields in ``tensor``, or None if it does not depend on the image."""
        memory = memory_of(tensor)
        writes = self.writes.get(memory) if memory else None
        if writes is None:
            return None
        field, when = self.known.get(tensor, (UNKNOWN, writes))
        return UNKNOWN if self.lost or when != writes else field

    def lose(self) -> None:
        """Regard all receptive fields as unknown from now on.

        This is needed if values that depend on the image bypass the operators, for example if they become Python
        numbers.
        """
        self.lost = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        # The fields are read before the operator runs, because it may overwrite its argument.
        signature = signature_of(func)
        given = {**signature.defaults, **dict(zip(signature.defaults, args, strict=False)), **kwargs}
        fields = {id(each): field for each in tensors_among(given.values()) if (field := self.of(each)) is not None}
        result = func(*args, **kwargs)
        self.filled.difference_update(
            memory_of(each) for each in tensors_among(given[name] for name in signature.written)
        )
        if signature.name in FILLED and not signature.written and (memory := memory_of(result)):
            self.filled.add(memory)
        if not fields or signature.name in CONSTANT:
            return result
        self.lost |= signature.reads or any(
            id(each) in fields and each.dtype in (torch.bool, torch.uint8)
            for each in tensors_among([given.get("indices")])
        )
        written = [given[name] for name in signature.written if isinstance(given[name], Tensor)]
        for number, output in enumerate(tensors_among([result])):
            call = Call(func, signature.name, given, fields, output, number, self.weight_memory, self.filled)
            before = next((fields.get(id(each)) for each in written if each is output), None)
            field = UNKNOWN if self.lost else call.result()
            if any(each is output for each in written) and field is not before:
                self._overwrite(output, field)
            else:
                self._learn(output, field)
        for each in written:
            if all(each is not output for output in tensors_among([result])):
                self._overwrite(each, UNKNOWN)
        return result

    def _learn(self, tensor: Tensor, field: Field) -> None:
        memory = memory_of(tensor)
        if memory is None:
            self.lose()
        else:
            self.known[tensor] = field, self.writes.setdefault(memory, 0)

    def _overwrite(self, tensor: Tensor, field: Field) -> None:
        """Record that ``tensor`` has been overwritten; other tensors in the same memory might have changed, too."""
        alone = (
            tensor.layout is torch.strided
            and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        )
        memory = memory_of(tensor)
        if memory:
            self.writes[memory] = self.writes.get(memory, 0) + 1
        self._learn(tensor, field if alone else UNKNOWN)


@dataclass(frozen=True)
class Call:
    """A call of an operator with a tensor that depends on the image."""

    func: Any
    name: str
    given: Mapping[str, Any]
    """All arguments by name."""
    fields: Mapping[int, Field]
    """Receptive fields of the arguments that depend on the image, by the ``id`` of the argument."""
    output: Tensor
    """The tensor that the operator returned, or one of several returned tensors."""
    number: int
    """Index of :attr:`output` among the tensors that the operator returned."""
    weight_memory: set[StorageWeakRef]
    """Memory of the network's weights."""
    filled: set[StorageWeakRef]
    """Memory of tensors whose elements all have the same value, as in :attr:`ReceptiveFields.filled`."""

    def result(self) -> Field:
        """Return the receptive fields of the elements of :attr:`output`."""
        if signature_of(self.func).pointwise:
            return self.pointwise()
        rule = RULES.get(self.name)
        understood = rule is not None and self.output.numel() > 0 and (self.name in JOINING or self.only_first())
        field = rule(self) if rule is not None and understood else UNKNOWN
        if all(each.whole for each in self.fields.values()):  # whatever the operator does
            return field if field.whole else replace(ALL_PIXELS, dense=False)
        return field if field.fits(self.output.shape) else UNKNOWN

    def only_first(self) -> bool:
        """Return whether the first argument of the operator is the only one that depends on the image."""
        return self.fields.keys() == {id(next(iter(self.given.values())))}

    @property
    def input(self) -> Tensor:
        """Return the first argument."""
        tensor: Tensor = next(iter(self.given.values()))
        return tensor

    @property
    def field(self) -> Field:
        """Return the receptive fields of the first argument."""
        return self.fields[id(self.input)]

    def dims(self, dim: Any) -> list[int]:
        """Return ``dim``, which is one axis, several axes, or None for all axes, as a list of nonnegative indices."""
        count = self.input.ndim
        dims = range(count) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        return [each % max(count, 1) for each in dims]

    def without(self, field: Field, dims: Sequence[int]) -> Field:
        """Return ``field`` after the axes ``dims`` have been removed, if the operator removes them."""
        if self.output.ndim == self.input.ndim or field.axes is None:
            return field
        return UNKNOWN if set(dims) & set(field.axes) else field.moved(lambda axis: axis - sum(d < axis for d in dims))

    def is_weight(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` is a weight of the network, or a view of one."""
        return memory_of(tensor) in self.weight_memory

    def placed(self, field: Field, constants: Iterable[Tensor]) -> Field:
        """Return ``field`` after a computation with ``constants``, arguments that do not depend on the image."""
        varying = (self._varies(each, field) and memory_of(each) not in self.filled for each in constants)
        return field.placed() if field.lines and any(varying) else field

    # The rules, each of which returns the receptive fields of the output of some operators.

    def pointwise(self) -> Field:
        """Return the fields after a pointwise operator, which computes each element from those with the same index."""
        count = self.output.ndim
        tensors = list(tensors_among(self.given.values()))
        if self.name == "copy":
            tensors = tensors[1:]
        fields = [
            self.fields[id(each)].moved(lambda axis, more=count - each.ndim: axis + more)  # type: ignore[misc]
            for each in tensors
            if id(each) in self.fields
        ]
        constants = [each for each in tensors if id(each) not in self.fields]
        field = self.placed(_together(fields), constants)
        masks = (each for each in constants if not self.is_weight(each))
        if field.axes is not None and any(self._varies(each, field) for each in masks):
            field = replace(field, dense=False) if field.lines or field.whole else UNKNOWN
        return field if field.fits(self.output.shape) else _at_least(fields)

    def _varies(self, constant: Tensor, field: Field) -> bool:
        """Return whether the elements of ``constant`` might differ between positions in the output, as in a mask.

        ``constant`` is an argument of the operator that does not depend on the image, and ``field`` is the field of an
        argument that does.
        """
        start = self.output.ndim - constant.ndim
        axes = field.axes if field.lines and field.axes else range(self.output.ndim)
        strides = constant.stride() if constant.layout is torch.strided else constant.shape  # 0 if it is expanded
        return any(axis >= start and constant.shape[axis - start] > 1 and strides[axis - start] for axis in axes)

    def mixing(self) -> Field:
        """Return the fields after an operator that computes each element from all elements along the axes ``dim``."""
        dims = self.dims(self.given.get("dim"))
        return self.without(self.field.mixed(dims), dims)

    def along(self) -> Field:
        """Return the fields after an operator that computes each element from some elements along the axes ``dim``."""
        dims = self.dims(self.given.get("dim", self.given.get("dims")))
        return self.without(self.field.mixed(dims, dense=False), dims)

    def layer_norm(self) -> Field:
        """Return the fields after a normalization with the mean and variance of the last axes."""
        count = self.input.ndim
        dims = range(count - len(self.given["normalized_shape"]), count)
        return self.field.mixed(dims) if self.number == 0 else UNKNOWN

    def group_norm(self) -> Field:
        """Return the fields after a normalization with the mean and variance of groups of channels."""
        return self.field.mixed(range(2, self.input.ndim)) if self.number == 0 else UNKNOWN

    def batch_norm(self) -> Field:
        """Return the fields after a normalization with the mean and variance of each channel.

        If the mean and variance are stored in the network, each element depends only on the element with the same
        index.
        """
        if self.number:
            return UNKNOWN
        if self.given.get("training"):
            return self.field.mixed([0, *range(2, self.input.ndim)])
        return self.field.placed() if 1 in (self.field.axes or ()) else self.field

    def product(self) -> Field:
        """Return the fields after a product of matrices."""
        names = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2")}
        left, right = (self.given[name] for name in names.get(self.name, ("batch1", "batch2")))
        one, two = self.fields.get(id(left)), self.fields.get(id(right))
        if self.fields.keys() - {id(left), id(right)}:  # what is added to the product depends on the image, too
            return UNKNOWN
        # The matrices of a batch might differ between positions, and so might the tensor that is added.
        factor = right if two is None else left
        varying = [factor[:, :1, :1]] if factor.ndim == 3 else []
        varying += [self.given["self"]] if self.name in ("addmm", "baddbmm") else []
        if two is None and one is not None:
            return self.placed(one.mixed([left.ndim - 1], self.is_weight(right)), varying)
        if one is None and two is not None:
            return self.placed(two.mixed([right.ndim - 2], self.is_weight(left)), varying)
        if one is None or two is None or None in (one.axes, two.axes) or not (one.dense and two.dense):
            return UNKNOWN
        return _at_least([one.mixed([left.ndim - 1]), two.mixed([right.ndim - 2])])

    def attention(self) -> Field:
        """Return the fields after attention, in which each token depends on all tokens if there is no mask."""
        masks = [self.given.get(name) for name in ("is_causal", "attn_mask", "attn_bias")]
        value = self.fields.get(id(self.given["value"]))
        if self.number or value is None or any(mask is not None and mask is not False for mask in masks):
            return UNKNOWN
        return _at_least([value.mixed([self.given["value"].ndim - 2])])

    def windows(self, slide: Callable[[Line, int], Line | None], count: int, mixes_channels: bool) -> Field:
        """Return the fields after an operator that slides a window along each of the last ``count`` axes.

        ``slide`` is called with a line and with the index of its axis among the last ``count`` axes. It returns the
        line after the operator, or None if that line is unknown. ``mixes_channels`` says whether each result depends on
        several channels.
        """
        field, outer = self.field, self.input.ndim - count
        if field.whole:
            return field
        if field.lines is None or field.axes is None or field.axes[0] == field.axes[1]:
            return UNKNOWN
        if mixes_channels and outer - 1 in field.axes:
            return UNKNOWN
        lines = [
            slide(line, axis - outer) if axis >= outer else line
            for line, axis in zip(field.lines, field.axes, strict=True)
        ]
        return UNKNOWN if lines[0] is None or lines[1] is None else replace(field, lines=(lines[0], lines[1]))

    def convolution(self) -> Field:
        """Return the fields after a convolution or a transposed convolution."""
        kernel = self.given["weight"].shape[2:]
        step, padding, dilation = (_each(self.given[name], len(kernel)) for name in ("stride", "padding", "dilation"))
        if max(kernel) == max(step) == 1 and not any(padding):  # each output position depends on one input position
            return self.field.mixed([1], self.is_weight(self.given["weight"]))
        counts = self.output.shape[2:]

        def slide(line: Line, axis: int) -> Line:
            move = line.spreading if self.given["transposed"] else line.sliding
            return move(kernel[axis], step[axis], padding[axis], dilation[axis], counts[axis])

        return self.windows(slide, len(kernel), mixes_channels=True)

    def pooling(self) -> Field:
        """Return the fields after average or max pooling."""
        axes = int(self.name[self.name.index("pool") + 4])
        kernel, padding = (_each(self.given[name], axes) for name in ("kernel_size", "padding"))
        step = _each(self.given["stride"] or kernel, axes)
        dilation = _each(self.given.get("dilation", 1), axes)
        counts = self.output.shape[-axes:]
        return self.windows(
            lambda line, axis: line.sliding(kernel[axis], step[axis], padding[axis], dilation[axis], counts[axis]),
            axes,
            mixes_channels=False,
        )

    def adaptive_pooling(self) -> Field:
        """Return the fields after an adaptive pooling whose windows all have the same size."""
        counts = self.output.shape[-len(self.given["output_size"]) :]
        if set(counts) == {1}:
            return self.field.mixed(range(self.input.ndim - len(counts), self.input.ndim))

        def shrink(line: Line, axis: int) -> Line | None:
            side, rest = divmod(line.count, counts[axis])
            return None if rest else line.sliding(side, side, 0, 1, counts[axis])

        field = self.windows(shrink, len(counts), mixes_channels=False)
        return self.field.unordered() if field.axes is None else field.placed()  # larger images have larger windows

    def upsampling(self) -> Field:
        """Return the fields after upsampling, if its scale factors are whole numbers."""
        taps = 1 if "nearest" in self.name else 4 if "bicubic" in self.name else 2
        size = self.given["output_size"]
        scales = [self.given.get(name) for name in ("scales_d", "scales_h", "scales_w", "scales")]
        if self.given.get("align_corners") or any(scale and scale != int(scale) for scale in scales):
            return UNKNOWN

        def enlarge(line: Line, axis: int) -> Line | None:
            times, rest = divmod(size[axis], line.count)
            return None if rest or not times else line.enlarged(times, taps)

        return self.windows(enlarge, len(size), mixes_channels=False)

    def padding(self) -> Field:
        """Return the fields after padding with constant, reflected or replicated borders.

        A border of a negative width is a crop.
        """
        widths = self.given["pad" if self.name == "constant_pad_nd" else "padding"]
        count = len(widths) // 2

        def shift(line: Line, axis: int) -> Line:
            before, after = widths[2 * (count - 1 - axis) :][:2]
            last = line.count - 1

            def borders(at: Places) -> list[Places]:
                place = at - before
                if self.name.startswith("reflection"):
                    return [last - abs(last - abs(place))]
                if self.name.startswith("replication"):
                    return [place.clip(0, last)]
                return [np.where((place >= 0) & (place <= last), place, NOWHERE)]

            return line.through(lambda at: [at - before], line.count + before + after, borders)

        if not any(widths):
            return self.field
        # Constant borders do not depend on the image.
        others = [count - 1 - number // 2 + self.input.ndim - count for number, width in enumerate(widths) if width > 0]
        constant = self.name == "constant_pad_nd" and bool({*others} - {*(self.field.axes or ())})
        field = self.windows(shift, count, mixes_channels=False)
        return replace(field, dense=field.dense and not constant)

    def pixel_unshuffle(self) -> Field:
        """Return the fields after each block of positions has become one position, as in a pixel unshuffle."""
        side = self.given["downscale_factor"]
        counts = self.output.shape[-2:]
        return self.windows(lambda line, axis: line.sliding(side, side, 0, 1, counts[axis]), 2, mixes_channels=True)

    def pixel_shuffle(self) -> Field:
        """Return the fields after each position has become a block of positions, as in a pixel shuffle."""
        times = self.given["upscale_factor"]
        return self.windows(lambda line, axis: line.enlarged(times, 1), 2, mixes_channels=True)

    def permutation(self) -> Field:
        """Return the fields after the axes have been put into a different order."""
        order = list(range(self.input.ndim))
        if self.name == "permute":
            order = self.dims(self.given["dims"])
        elif self.input.ndim > 1:
            one, two = self.dims([self.given.get("dim0", 0), self.given.get("dim1", 1)])
            order[one], order[two] = two, one
        return self.field.moved(order.index)

    def slicing(self) -> Field:
        """Return the fields after a slice, which selects positions at equal distances along one axis."""
        field, dim = self.field, self.dims(self.given["dim"])[0]
        chosen = range(*slice(self.given["start"], self.given["end"]).indices(self.input.shape[dim]))[
            :: self.given["step"]
        ]
        if field.axes is None or dim not in field.axes or len(chosen) == self.input.shape[dim]:
            return field
        if field.lines is None or field.axes[0] == field.axes[1]:
            return UNKNOWN
        lines = [
            line.sliding(1, chosen.step, -chosen.start, 1, len(chosen)) if axis == dim else line
            for line, axis in zip(field.lines, field.axes, strict=True)
        ]
        return replace(field, lines=(lines[0], lines[1]))

    def indexing(self) -> Field:
        """Return the fields after some elements along one axis have been chosen."""
        [dim, index] = next((dim, each) for dim, each in enumerate(self.given["indices"]) if each is not None)
        if index.ndim != 1 or sum(each is not None for each in self.given["indices"]) > 1:
            return UNKNOWN
        return self.field.mixed([dim], dense=False)

    def concatenation(self) -> Field:
        """Return the fields after tensors have been concatenated (``torch.cat``) or stacked (``torch.stack``)."""
        tensors = self.given["tensors"]
        fields = [self.fields[id(each)] for each in tensors if id(each) in self.fields]
        dim = self.given["dim"] % self.output.ndim
        if self.name == "stack":
            fields = [field.moved(lambda axis: axis + (dim <= axis)) for field in fields]
        elif any(field.axes is not None and dim in field.axes for field in fields):
            fields = [field.unordered() for field in fields]
            return _at_least([field if field.axes and dim in field.axes else UNKNOWN for field in fields])
        constants = [each for each in tensors if id(each) not in self.fields]
        if all(field.lines for field in fields) or all(field.whole for field in fields):
            field = _together(fields)
            field = replace(field, dense=field.dense and not constants)
            return field if all(memory_of(each) in self.filled for each in constants) else field.placed()
        same = not constants and len({(field.axes, field.lines is None) for field in fields}) == 1
        return fields[0] if same else UNKNOWN

    def view(self) -> Field:
        """Return the fields after the elements have been arranged in a different shape, in the same order."""
        field, before, after = self.field, tuple(self.input.shape), tuple(self.output.shape)
        if field.axes is None or field.whole or math.prod(before) != math.prod(after):
            return UNKNOWN if field.axes is None or not field.whole else field
        blocks = [_block(axis, before, after) for axis in field.axes]
        if field.lines is not None:
            exact = self._exact_axes(field, field.lines, blocks, after)
            if exact is not None:
                return replace(field, axes=exact)
        field = field.unordered()
        return field if field.axes is None else Field(tuple(sorted({axis for _, outs in blocks for axis in outs})))

    def _exact_axes(
        self, field: Field, lines: tuple[Line, Line], blocks: list[tuple[list[int], list[int]]], after: tuple[int, ...]
    ) -> tuple[int, int] | None:
        """Return the axes of the rows and columns after a view, or None if the view mixes them with other axes."""
        assert field.axes is not None
        (rows, row_axes), (columns, column_axes) = blocks
        if field.axes[0] == field.axes[1]:
            if rows != [field.axes[0]]:
                return None
            if len(row_axes) == 2 and [after[axis] for axis in row_axes] == [line.count for line in lines]:
                return row_axes[0], row_axes[1]
            return (row_axes[0], row_axes[0]) if len(row_axes) == 1 else None
        if rows == columns == [*field.axes] and len(row_axes) == 1:
            return row_axes[0], row_axes[0]
        if rows == [field.axes[0]] and columns == [field.axes[1]] and len(row_axes) == len(column_axes) == 1:
            return row_axes[0], column_axes[0]
        return None

    def expansion(self) -> Field:
        """Return the fields after the elements have been repeated along axes of length 1, or along new axes."""
        return self.field.moved(lambda axis: axis + self.output.ndim - self.input.ndim)


def _together(fields: Sequence[Field]) -> Field:
    """Return the receptive fields of elements that depend on the elements with the same index in several tensors."""
    joined = fields[0] if fields else UNKNOWN
    for field in fields[1:]:
        if joined.lines is None or field.lines is None or joined.axes != field.axes:
            return _at_least(fields)
        rows, columns = (one.joined(two) for one, two in zip(joined.lines, field.lines, strict=True))
        if rows is None or columns is None:
            return _at_least(fields)
        joined = replace(joined, lines=(rows, columns), dense=joined.dense and field.dense)
    return joined


def _at_least(fields: Sequence[Field]) -> Field:
    """Return what is known about receptive fields that contain at least the union of several receptive fields.

    At each position, these are the receptive fields in all elements of ``fields``.
    """
    if all(field.whole for field in fields):
        return replace(ALL_PIXELS, dense=all(field.dense for field in fields))
    known = [field for each in fields if (field := each.unordered()).axes is not None and field.dense]
    return min(known, key=lambda field: len(field.axes or ()), default=UNKNOWN)


def _block(axis: int, before: Sequence[int], after: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the axes that a view from the shape ``before`` to the shape ``after`` mixes with ``axis``.

    The first list has the axes before the view, and the second list has the axes after it. Axes of length 1 are left
    out, unless the view maps ``axis`` alone to a single axis.
    """
    start, end = 0, 0  # the axes before these have been found
    while start < len(before) and end < len(after):
        one, two = start + 1, end + 1
        while (left := math.prod(before[start:one])) != (right := math.prod(after[end:two])):
            one, two = (one + 1, two) if left < right else (one, two + 1)
        if start <= axis < one:
            if (one - start, two - end) == (1, 1):
                return [axis], [end]
            return [i for i in range(start, one) if before[i] > 1], [i for i in range(end, two) if after[i] > 1]
        start, end = one, two
    return [axis], []  # an axis of length 1 that has been removed


def _each(value: Any, count: int) -> list[int]:
    """Return ``value``, which can be a single number for all axes, as a list with one number for each axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


CONSTANT = {
    *("empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"),
    *("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros"),
}
"""Names of operators whose results depend only on the shape and the type of their argument, not on its values."""

FILLED = {"full", "full_like", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "zeros", "zeros_like"}
"""Names of operators whose results have the same value in all elements."""

JOINING = {
    **dict.fromkeys(("cat", "stack"), Call.concatenation),
    **dict.fromkeys(("addmm", "baddbmm", "bmm", "mm"), Call.product),
    "_scaled_dot_product_cudnn_attention": Call.attention,
    "_scaled_dot_product_efficient_attention": Call.attention,
    "_scaled_dot_product_flash_attention": Call.attention,
    "_scaled_dot_product_flash_attention_for_cpu": Call.attention,
}
"""Rules for operators with several arguments that can depend on the image, by the name of the operator."""

OPERATORS: dict[Callable[[Call], Field], str] = {
    Call.mixing: "_log_softmax _safe_softmax _softmax all amax amin any argmax argmin linalg_vector_norm logsumexp max "
    "mean median min norm prod std std_mean sum var var_mean",
    Call.along: "cummax cummin cumprod cumsum flip glu index_select logcumsumexp roll select sort split "
    "split_with_sizes topk unbind",
    Call.layer_norm: "_fused_rms_norm native_layer_norm",
    Call.group_norm: "native_group_norm",
    Call.batch_norm: "_batch_norm_no_update _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm "
    "native_batch_norm",
    Call.convolution: "convolution",
    Call.pooling: "avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices",
    Call.adaptive_pooling: "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    Call.upsampling: "_upsample_nearest_exact1d _upsample_nearest_exact2d upsample_bicubic2d upsample_bilinear2d "
    "upsample_linear1d upsample_nearest1d upsample_nearest2d",
    Call.padding: "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
    "replication_pad2d replication_pad3d",
    Call.pixel_unshuffle: "pixel_unshuffle",
    Call.pixel_shuffle: "pixel_shuffle",
    Call.permutation: "permute t transpose",
    Call.slicing: "slice",
    Call.indexing: "index",
    Call.view: "_reshape_alias _unsafe_view squeeze unsqueeze view",
    Call.expansion: "expand repeat",
}
"""Names of the operators to which each rule applies. The rule applies only if no argument except the first depends on
the image."""

RULES = JOINING | {name: rule for rule, names in OPERATORS.items() for name in names.split()}
"""Rules by the name of the operator. After an operator that has no rule and is not pointwise, the receptive fields are
unknown."""
