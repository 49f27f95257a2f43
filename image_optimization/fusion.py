"""Compute a convolution, its bias, the following ReLU and max pooling together, which saves passes over memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from sysconfig import get_path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.nn.functional import conv2d, max_pool2d, pad, relu

from dreamgram.image_optimization.memory import is_out_of_memory
from dreamgram.image_optimization.recording import is_own

_logger = logging.getLogger(__name__)

Group = tuple[nn.Conv2d, nn.ReLU, nn.MaxPool2d | None]
"""A convolution, a ReLU and max pooling that are computed together. The pooling is None if no pooling follows the ReLU,
or if it cannot be fused."""

CHANNELS = 16
"""Number of channels to which float16 or bfloat16 images with fewer channels are padded with zeros on a GPU. With the 3
channels of a color image, cuDNN computes the gradient of the image without the tensor cores, which takes twice as
long."""

POOLED_AT_ONCE = 1 << 20
"""Number of elements that are pooled at once on a CPU. Intermediate results of this size remain in the CPU's cache."""

_ON_CPU = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")

_BFLOAT16_ON_CPU = (
    _ON_CPU and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)

_ON_GPU = torch.version.cuda is not None and torch.backends.cudnn.is_available()


def hooks_of(module: nn.Module) -> list[Any]:
    """Return the hooks of ``module``, which are functions that it calls in every forward or backward pass."""
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return [hook for kind in kinds for hook in getattr(module, kind, {}).values()]


def groups_in(model: nn.Module, used: Collection[nn.Module]) -> dict[nn.Sequential, list[Group]]:
    """Find the modules in each ``nn.Sequential`` in ``model`` that can be computed together.

    The result maps each sequence to its groups. Each group consists of a convolution, the ReLU that follows it, and the
    2 x 2 max pooling that follows the ReLU. If no pooling is fused, the group contains None instead of the pooling.
    ``used`` holds the modules whose own outputs are needed. A convolution in ``used`` is not fused, and pooling is not
    fused with a ReLU in ``used``. A module is not fused either if it appears several times in the model, has hooks that
    the user has added, or has a ``forward`` that was replaced.
    """
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    found: dict[nn.Sequential, list[Group]] = {}
    for parent in model.modules():
        # A subclass may call the modules in another way.
        if not isinstance(parent, nn.Sequential) or not (type(parent) is nn.Sequential or is_own(type(parent))):
            continue
        inside = [*parent, None, None]
        for first, second, third in zip(inside, inside[1:], inside[2:], strict=False):
            if type(first) is nn.Conv2d and type(second) is nn.ReLU and places[first] == places[second] == 1:
                simple = first.padding_mode == "zeros" and isinstance(first.padding, tuple) and first.bias is not None
                plain = not hooks_of(first) and is_own(*hooks_of(second))
                changed = any("forward" in vars(module) for module in (parent, first, second))
                if simple and plain and not changed and first not in used:
                    pooled = _is_halving(third) and places[third] == 1 and second not in used and not hooks_of(second)
                    found.setdefault(parent, []).append((first, second, third if pooled else None))
    return found


def _is_halving(module: nn.Module | None) -> bool:
    """Return True if ``module`` is plain max pooling of squares of 2 x 2 positions that do not overlap."""
    if type(module) is not nn.MaxPool2d or "forward" in vars(module) or not is_own(*hooks_of(module)):
        return False
    sides = [module.kernel_size, module.stride, module.padding, module.dilation]
    same = [side in (wanted, (wanted, wanted)) for side, wanted in zip(sides, (2, 2, 0, 1), strict=True)]
    return all(same) and not (module.ceil_mode or module.return_indices)


@contextmanager
def fused(groups: dict[nn.Sequential, list[Group]]) -> Iterator[None]:
    """Fuse ``groups``, the result of :func:`groups_in`, while the body of the ``with`` statement runs.

    The forward pass of each sequence then does the work of all modules of a group in the first module, and no work in
    the others.
    """
    for parent, inside in groups.items():
        parent.forward = partial(_forward, parent, inside)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for parent in groups:
            del parent.forward


def _forward(parent: nn.Sequential, groups: list[Group], image: Tensor) -> Any:
    """Run the sequence ``parent`` with fused ``groups``."""
    for convolution, *following in groups:
        pooled = following[-1] is not None
        convolution.forward = partial(conv_relu, convolution, pooled=pooled)  # type: ignore[method-assign]
        for module in filter(None, following):
            module.forward = _same
    try:
        return type(parent).forward(parent, image)
    finally:
        for group in groups:
            for module in filter(None, group):
                del module.forward


def _same(image: Tensor) -> Tensor:
    return image


def conv_relu(convolution: nn.Conv2d, image: Tensor, *, pooled: bool = False) -> Tensor:
    """Return the ReLU of the output of ``convolution`` for ``image`` (N, C, H, W), as one operation if possible.

    The image is converted to the type of the weights. If the weights require gradients, the operations are computed one
    after another. If ``pooled`` is True, the result is the largest value in each square of 2 x 2 positions, as in
    ``max_pool2d``.
    """
    weight, bias = convolution.weight, convolution.bias
    image, padding = image.to(weight.dtype), convolution.padding
    if convolution.padding_mode == "circular":
        across, down = convolution._reversed_padding_repeated_twice[1::2]
        image, padding = pad(image, (across, across, down, down), mode="circular"), (0, 0)
    how: Any = convolution.stride, padding, convolution.dilation, convolution.groups
    if image.is_cuda:
        known = _ON_GPU and torch.backends.cudnn.enabled
    elif image.device.type == "cpu":
        types = {torch.float32: _ON_CPU, torch.bfloat16: _BFLOAT16_ON_CPU}
        known = types.get(weight.dtype, False) and torch._C._get_mkldnn_enabled()
    else:
        known = False
    if not known or weight.requires_grad or image.ndim != 4:
        whole = relu(conv2d(image, weight, bias, *how))
        return max_pool2d(whole, 2) if pooled else whole
    missing = CHANNELS - image.shape[1]
    if image.is_cuda and weight.dtype in (torch.bfloat16, torch.float16) and missing > 0 and convolution.groups == 1:
        image, weight = (pad(each, (0, 0, 0, 0, 0, missing)) for each in (image, weight))
    together = pooled and (image.device.type == "cpu" or _pooling_kernels(image, weight) is not None)
    result: Tensor = _ConvReLU.apply(image, weight, bias, together, *how)
    return max_pool2d(result, 2) if pooled and not together else result


def _pooling_kernels(image: Tensor, weight: Tensor) -> ModuleType | None:
    """Return the module with our own pooling kernels, or None if these cannot pool the output of a convolution.

    ``image`` is the input of the convolution, and ``weight`` holds its weights.
    """
    kernels = _kernels(image.device) if image.is_cuda else None
    count = len(image) * len(weight) * image.shape[2] * image.shape[3]
    return kernels if kernels and weight.dtype in kernels.TYPES and count < kernels.MOST_ELEMENTS else None


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """Return the module with our own pooling kernels, or None if they do not run on ``device``, a GPU."""
    try:
        if not Path(get_path("include"), "Python.h").exists():  # Triton would let the compiler print an error
            raise FileNotFoundError("the headers of Python are not installed")
        kernels = import_module("dreamgram.image_optimization.pooling_kernels")  # it needs Triton
        pooled, places = kernels.pool(torch.zeros(1, 16, 2, 2, device=device))
        kernels.spread(pooled, places, 2, 2)
    except Exception as error:  # its type depends on what is missing, such as a C compiler
        if is_out_of_memory(error):
            raise
        _logger.debug("max pooling runs as usual, because the kernels for it do not run: %s", error)
        return None
    return kernels


@library.custom_op(
    "dreamgram::conv_relu",
    mutates_args=(),
    schema="(Tensor image, Tensor weight, Tensor bias, "
    "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor",
)
def conv_relu_on_gpu(
    image: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Return the ReLU of a convolution, computed by cuDNN, as an operator that ``torch.compile`` knows."""
    output: Tensor = torch.cudnn_convolution_relu(image, weight, bias, stride, padding, dilation, groups)
    return output


conv_relu_on_gpu.register_fake(conv2d)  # its output has the same shape and memory format


class _ConvReLU(torch.autograd.Function):
    """Autograd function of a convolution followed by a ReLU and, if wanted, by 2 x 2 max pooling.

    Only the image gets a gradient. The gradient passes the ReLU only where the output is positive. On a CPU, the
    pooling does not store the positions of the largest values. Instead, the backward pass compares the values again,
    which takes less time on a CPU than storing the positions. On a GPU, our own kernels store the positions
    (:mod:`dreamgram.image_optimization.pooling_kernels`). The pooled output is not stored, because the next module may
    overwrite it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        weight: Tensor,
        bias: Tensor,
        pooled: bool,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor:
        ctx.how, ctx.pooled = (stride, padding, dilation, groups), pooled
        if image.is_cuda:
            # Calling cuDNN directly takes less time, but torch.compile needs an operator whose output shape it knows.
            run = torch.cudnn_convolution_relu if type(image) is Tensor else conv_relu_on_gpu
            output = run(image, weight, bias, stride, padding, dilation, groups)
        else:
            output = torch.ops.mkldnn._convolution_pointwise(
                image, weight, bias, padding, stride, dilation, groups, "relu", [], ""
            )
        ctx.kernels, ctx.size = _pooling_kernels(image, weight) if pooled else None, output.shape[2:]
        if not pooled:
            ctx.save_for_backward(image, weight, output)
            return output
        _check_poolable(output)
        if ctx.kernels is not None:
            halved, places = ctx.kernels.pool(output)
            ctx.save_for_backward(image, weight, places)
            last = output.is_contiguous(memory_format=torch.channels_last)
            result: Tensor = halved if last else halved.contiguous()
            return result
        ctx.save_for_backward(image, weight, output)
        return _pool(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, *kept = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        if ctx.kernels is not None:
            gradient = _to_places(gradient, kept[0], ctx.size, ctx.kernels)
        elif ctx.pooled:
            gradient = _to_largest(gradient, kept[0])
        else:
            gradient = torch.ops.aten.threshold_backward(gradient, kept[0], 0)
        of_image, _, _ = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return of_image, *[None] * 7


def _halves(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the ``values`` (N, C, H, W) at even and at odd positions along ``axis``, which is 2 or 3.

    If the number of positions is odd, the last position is left out.
    """
    pairs = values.narrow(axis, 0, values.shape[axis] // 2 * 2).unflatten(axis, (-1, 2))
    return pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)


def _check_poolable(values: Tensor) -> None:
    """Raise RuntimeError if ``values`` (N, C, H, W) are too small for 2 x 2 pooling."""
    if min(values.shape[2:]) < 2:
        raise RuntimeError(f"an image of {tuple(values.shape)} is too small for pooling")


def _to_places(gradient: Tensor, places: Tensor, size: tuple[int, int], kernels: ModuleType) -> Tensor:
    """Return the gradient with respect to the values (N, C, H, W) before the ReLU, given that of the pooled values.

    ``places`` holds the positions of the largest values in their 2 x 2 squares, as stored by ``kernels``, the module
    with our own kernels. ``size`` is (H, W).
    """
    height, width = size
    if not torch.is_grad_enabled():
        result: Tensor = kernels.spread(gradient, places, height, width)
        return result
    # Second derivatives are wanted, so the operations have to be differentiable.
    upper_left, upper_right, lower_left, lower_right = (gradient.where(places == place, 0) for place in range(4))
    upper = torch.stack([upper_left, upper_right], 4).flatten(3)
    lower = torch.stack([lower_left, lower_right], 4).flatten(3)
    both = torch.stack([upper, lower], 3).flatten(2, 3)
    return pad(both, (0, width % 2, 0, height % 2))


def _strips(values: Tensor) -> Iterator[tuple[slice, slice]]:
    """Divide the images and rows of ``values`` (N, C, H, W) into strips of about :data:`POOLED_AT_ONCE` elements.

    Yield the images and the rows of each strip. Every strip begins at an even row. If an image has several strips, no
    strip has rows of two images. While ``torch.compile`` traces the network, there is only one strip, because each
    strip would be compiled separately.
    """
    count, channels, height, width = values.shape
    if type(values) is not Tensor:
        yield slice(0, count), slice(0, height)
        return
    rows = max(2, POOLED_AT_ONCE // (channels * width) // 2 * 2)
    images = max(1, rows // height)
    for first in range(0, count, images):
        for top in range(0, height, rows):
            yield slice(first, first + images), slice(top, min(top + rows, height))


def _pool(output: Tensor) -> Tensor:
    """Return the largest value in each square of 2 x 2 positions of ``output`` (N, C, H, W), strip by strip."""
    count, channels, height, width = output.shape
    last = output.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    pooled = torch.empty(
        (count, channels, height // 2, width // 2), dtype=output.dtype, device=output.device, memory_format=order
    )
    for images, rows in _strips(output):
        columns = _larger(output[images, :, rows], 3)
        torch.maximum(*_halves(columns, 2), out=pooled[images, :, rows.start // 2 : rows.stop // 2])
    return pooled


def _to_largest(gradient: Tensor, output: Tensor) -> Tensor:
    """Return the gradient with respect to the values before the ReLU, given the ``gradient`` of the pooled values.

    ``output`` (N, C, H, W) is the result of the ReLU, before pooling.
    """
    if torch.is_grad_enabled():  # second derivatives are wanted, so the operations have to be differentiable
        columns = _larger(output, 3)
        largest = _larger(columns, 2)
        passed: Tensor = torch.ops.aten.threshold_backward(gradient, largest, 0)
        for values, larger, axis in ((columns, largest, 2), (output, columns, 3)):
            first = passed.where(_halves(values, axis)[0] == larger, 0)
            both = torch.stack([first, passed - first], axis + 1).flatten(axis, axis + 1)
            passed = pad(both, (0, 0) * (3 - axis) + (0, values.shape[axis] % 2))
        return passed
    odd = output.shape[2] % 2 or output.shape[3] % 2
    result = torch.zeros_like(output) if odd else torch.empty_like(output)
    for images, rows in _strips(output):
        strip, halved = output[images, :, rows], slice(rows.start // 2, rows.stop // 2)
        columns = _larger(strip, 3)
        largest = _larger(columns, 2)
        passed = torch.ops.aten.threshold_backward(gradient[images, :, halved], largest, 0)
        of_columns = torch.zeros_like(columns) if odd else torch.empty_like(columns)
        _split(passed, columns, largest, 2, of_columns)
        _split(of_columns, strip, columns, 3, result[images, :, rows])
    return result


def _larger(values: Tensor, axis: int) -> Tensor:
    """Return the larger of each pair of neighbors in ``values`` (N, C, H, W) along ``axis``, which is 2 or 3."""
    return torch.maximum(*_halves(values, axis))


def _split(gradient: Tensor, values: Tensor, larger: Tensor, axis: int, result: Tensor) -> None:
    """Write the gradient with respect to ``values`` to ``result``, given the ``gradient`` with respect to ``larger``.

    ``larger`` is the result of :func:`_larger`. If two neighbors are equal, the first one gets the gradient, as in
    ``max_pool2d``. If the number of neighbors is odd, the last one is not written.
    """
    first, second = _halves(result, axis)
    # Ones and zeros in the type of the values are faster than a boolean mask.
    torch.eq(_halves(values, axis)[0], larger, out=first).mul_(gradient)
    torch.sub(gradient, first, out=second)
