"""GPU kernels, written in Triton, for 2 x 2 max pooling of the output of a ReLU, and for the gradient of both.

For each 2 x 2 square, PyTorch stores the index of the largest value in 8 bytes. Its backward pass makes three passes
over memory: it fills the gradient with zeros, adds the gradient of each pooled value at the stored index, and
multiplies the result by the derivative of the ReLU. The kernels in this module store the place of the largest value in
its square in one byte, which also tells whether the ReLU passes the gradient. Their backward pass writes each element
of the gradient once, and does not read the output of the ReLU.

Importing this module raises an error if Triton, which comes with PyTorch for NVIDIA GPUs on Linux, is not installed.
Tensors must have fewer than :data:`MOST_ELEMENTS` elements and one of the :data:`TYPES`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, library

MOST_ELEMENTS = 2**32
"""Number of elements from which a tensor cannot be pooled, because the kernels count pooled values with 32 bits."""

TYPES = torch.float32, torch.bfloat16, torch.float16
"""Number formats of tensors that the kernels take."""

VALUES_PER_PROGRAM = 1024
"""Number of pooled values that one program of a kernel computes."""

CLOSED = tl.constexpr(4)
"""Place that is stored if no value in a square is positive, so that the ReLU stops the gradient. The other places are
0 to 3, in reading order."""


# A kernel is compiled for each number format, and again if the number of channels is not a multiple of 16, but not for
# each image size.
_compile = triton.jit(do_not_specialize=["count", "height", "width"])


@triton.jit
def _first_of_square(number, channels, height, width):  # type: ignore[no-untyped-def]
    """Return the index of the upper left value in the square that belongs to the pooled value ``number``."""
    channel, pixel = number % channels, number // channels
    column, row = pixel % (width // 2), pixel // (width // 2)
    image, row = row // (height // 2), row % (height // 2)
    above = (image * height + 2 * row).to(tl.int64)  # the index itself can need more than 32 bits
    return (above * width + 2 * column) * channels + channel


@_compile  # type: ignore[untyped-decorator]
def _pool(values, pooled, places, count, channels, height, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    number = tl.program_id(0) * block + tl.arange(0, block)
    inside = number < count
    first = _first_of_square(number, channels, height, width)
    largest = tl.load(values + first, inside, other=0).to(tl.float32)
    place = tl.zeros_like(number)
    for k in tl.static_range(1, 4):
        value = tl.load(values + first + (k // 2 * width + k % 2) * channels, inside, other=0).to(tl.float32)
        larger = (value > largest) | (value != value)  # like PyTorch's pooling, pass on NaN
        largest = tl.where(larger, value, largest)
        place = tl.where(larger, k, place)
    tl.store(pooled + number, largest, inside)
    tl.store(places + number, tl.where(largest <= 0, CLOSED, place).to(tl.uint8), inside)


@_compile  # type: ignore[untyped-decorator]
def _spread(gradient, places, result, count, channels, height, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    number = tl.program_id(0) * block + tl.arange(0, block)
    inside = number < count
    first = _first_of_square(number, channels, height, width)
    value = tl.load(gradient + number, inside, other=0).to(tl.float32)
    place = tl.load(places + number, inside, other=CLOSED).to(tl.int32)
    for k in tl.static_range(4):
        tl.store(result + first + (k // 2 * width + k % 2) * channels, tl.where(place == k, value, 0.0), inside)


@library.custom_op("dreamgram::pool", mutates_args=(), schema="(Tensor values) -> (Tensor, Tensor)")
def pool(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value in each 2 x 2 square of ``values``, the output (N, C, H, W) of a ReLU, and its place.

    Both results are (N, C, H // 2, W // 2). Each place is one byte: the index of the largest value in its
    square, or :data:`CLOSED`.
    """
    values = values.contiguous(memory_format=torch.channels_last)
    pooled, places = _results(values)
    count = pooled.numel()
    with torch.cuda.device_of(values):
        _pool[_programs(count)](values, pooled, places, count, *values.shape[1:], block=VALUES_PER_PROGRAM)
    return pooled, places


@pool.register_fake
def _results(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return two empty tensors for the results of :func:`pool`."""
    n, channels, height, width = values.shape
    pooled = _empty((n, channels, height // 2, width // 2), values)
    return pooled, torch.empty_like(pooled, dtype=torch.uint8)


@library.custom_op(
    "dreamgram::spread", mutates_args=(), schema="(Tensor gradient, Tensor places, int height, int width) -> Tensor"
)
def spread(gradient: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Return the gradient with respect to the values before the ReLU, (N, C, H, W), given that of the pooled values.

    ``places`` is the second result of :func:`pool`, and ``height`` and ``width`` are the size of its ``values``.
    """
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    result = _empty((*gradient.shape[:2], height, width), gradient)
    count = gradient.numel()
    if height % 2:
        result[:, :, -1] = 0
    if width % 2:
        result[:, :, :, -1] = 0
    size = gradient.shape[1], height, width
    with torch.cuda.device_of(gradient):
        _spread[_programs(count)](gradient, places, result, count, *size, block=VALUES_PER_PROGRAM)
    return result


@spread.register_fake
def _result_of_spread(gradient: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Return an empty tensor for the result of :func:`spread`."""
    return _empty((*gradient.shape[:2], height, width), gradient)


def _programs(count: int) -> tuple[int]:
    """Return the grid of programs that compute ``count`` pooled values."""
    return (-(-count // VALUES_PER_PROGRAM),)


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an empty tensor of ``shape`` with the number format and on the device of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
