"""Memory budgets: the size of the tiles of a picture, and the number of curvature pairs that L-BFGS keeps.

A curvature pair is the change of the image in an optimization step, together with the change of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn

from dreamgram.image_optimization.capture import ActivationsOf, capture, runs_own_code
from dreamgram.image_optimization.layers import Layer, device_of, dry_run, list_layers
from dreamgram.image_optimization.lbfgs import HISTORY
from dreamgram.image_optimization.memory import release_kept_memory
from dreamgram.image_optimization.names import shorten
from dreamgram.image_optimization.trial import blank_image
from dreamgram.style_transfer.tiling import Tile, refusal, smallest_side, split, whole

SHARE = 0.9
"""Fraction of the free memory that a run is allowed to use if the user sets no memory limit."""

VECTORS, MORE_VECTORS = 11, 3
"""Peak memory of an optimization step, as a multiple of the memory of the image. The image, its gradient and the
photo's activations are included; the curvature pairs and the pass through the network are not. ``VECTORS`` is the
multiple for an optimizer that stores no curvature pairs. For an optimizer that stores curvature pairs, the multiple
is ``VECTORS + MORE_VECTORS``. The command ``python -m benchmarks.budget`` measures both multiples. The measured numbers
are larger than the multiples given here, because they include the optimizer's temporary tensors. These tensors need no
additional memory, because they are freed before the pass through the network, which then uses their memory."""

FOR_TILING = 250_000_000
"""Number of bytes that PyTorch needs to compute the receptive fields of the layers. Receptive fields are computed only
if a picture is tiled. The command ``python -m benchmarks.budget`` measures this memory."""

LOADED = 200_000_000
"""Number of bytes that a run needs for the libraries that it loads, plus the bytes that it loses to fragmentation."""

COPIES = 3
"""Number of copies of the photo, and also of the largest painting, that are in memory while the pictures are resized
and passed through the network."""

FEWEST_PAIRS = 3
"""Minimum number of curvature pairs that L-BFGS keeps. With fewer pairs, L-BFGS is hardly useful."""

TRANSIENT = 2.6
"""Peak memory of a forward and backward pass, as a multiple of the memory of the tensors that the forward pass saves
for the backward pass. The rest of the peak memory is used for gradients, type conversions and matrix products. The
command ``python -m benchmarks.budget`` measures this ratio."""

TILE_OVERHEAD = 1.3
"""Peak memory per pixel of a pass over one tile, divided by the peak memory per pixel of a pass over an untiled
picture. A tile is a part of the picture together with the surrounding pixels on which the part's activations depend.
The ratio is above 1, because a pass over a tile also copies the part's activations out of the tile's activations. The
command ``python -m benchmarks.budget`` measures the ratio."""

REGION, MATRICES = 130, 22_000_000
"""Additional memory for each region of the photo after the first. Each region can have a different style. ``REGION`` is
the memory for gradients, in bytes per pixel of the picture or tile that passes through the network. ``MATRICES`` is the
memory for the statistics of the styles, in bytes. This memory does not depend on the number of pixels. The command
``python -m benchmarks.budget`` measures ``MATRICES``."""

SAMPLES = 64, 128
"""Sides, in pixels, of two square images whose passes through the network are compared to find the memory per pixel.
Each of the two measurements includes the network's weights, which cancel in the difference."""

DEVIATION = 0.001
"""Largest difference between the activations for a tile and those for a whole picture, as a fraction of the largest
activation, that can be due to rounding."""

SMALLEST_TILE = 256
"""Minimum side of a tile, in pixels. A tile is a part of a picture together with the surrounding pixels on which the
part's activations depend. A smaller tile would consist almost entirely of surrounding pixels."""


MOST_SCALES, MOST_PAIRS, MOST_SIDE = 100, 1000, 10**9
"""Maximum values that are accepted when memory budgets are read from a file: the number of budgets, the number of
curvature pairs in a budget, and the side of a tile in pixels. Files that this program writes stay far below these
limits."""


_checked: WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = WeakKeyDictionary()
"""For each network, the tuples of layers that have passed :func:`check_tiles`."""


@dataclass(frozen=True)
class Budget:
    """The memory budget of an optimization: the number of curvature pairs to keep and the size of a tile of the image.

    Raises (on construction):
        ValueError: ``pairs`` or ``side`` is less than 1.
    """

    pairs: int
    """Number of curvature pairs that L-BFGS keeps."""
    side: int
    """Side of a tile, in pixels. A picture is divided into tiles if it has more pixels than a square of this side."""

    def __post_init__(self) -> None:
        if min(self.pairs, self.side) < 1:
            raise ValueError(f"pairs and side must be at least 1, not {self.pairs} and {self.side}")

    def tiles(self, model: nn.Module, layers: Sequence[str], image: Tensor) -> list[Tile]:
        """Return the tiles of ``image`` (1, C, H, W), which pass through ``model`` one at a time.

        If the image has at most as many pixels as a square whose side is :attr:`side`, the only tile is the whole
        image. ``layers`` are the names of the layers whose activations the losses use.
        """
        height, width = image.shape[2:]
        if height * width <= self.side**2:
            return [whole(layers)]
        tiles = split(_listed(model, layers, (height, width)), (height, width), self.side)
        checked = _checked.setdefault(model, set())
        if len(tiles) > 1 and tuple(layers) not in checked and any(map(runs_own_code, model.modules())):
            check_tiles(model, layers)
            checked.add(tuple(layers))
        return tiles


WHOLE = Budget(HISTORY, 10**6)
"""The budget of a picture that, together with the default number of curvature pairs, fits into memory as one tile."""


def read_budgets(numbers: object) -> list[Budget]:
    """Return the budgets in ``numbers``, a list that was read from a file.

    For each scale (a size at which the image is optimized), ``numbers`` contains a list of two whole numbers:
    :attr:`Budget.pairs` and :attr:`Budget.side`.

    Raises:
        ValueError: ``numbers`` does not have this form, or a number is out of range.
    """
    if not isinstance(numbers, list | tuple) or len(numbers) > MOST_SCALES:
        raise ValueError(f"budgets must be a list of at most {MOST_SCALES}, not {shorten(numbers)}")
    for each in numbers:
        if not isinstance(each, list | tuple) or [type(number) for number in each] != [int, int]:
            raise ValueError(f"a budget must be two whole numbers, not {shorten(each)}")
        if each[0] > MOST_PAIRS or each[1] > MOST_SIDE:
            most = f"{MOST_PAIRS} pairs and tiles of {MOST_SIDE} pixels a side"
            raise ValueError(f"a budget must have at most {most}, not {shorten(each)}")
    return [Budget(*each) for each in numbers]


@dataclass
class Planner:
    """A planner that computes the memory budgets of pictures painted one after another with the same network.

    The available memory is measured only once, before the first picture, because memory that the process has allocated
    for one picture can be used again for the next picture.
    """

    limit: int | None = None
    """Maximum number of bytes that the process is allowed to use. By default, it is allowed to use most of the free
    memory in addition to the memory that it already uses."""
    budgets: dict[tuple[object, ...], Budget] = field(default_factory=dict)
    """Budgets planned so far. The key of a budget is the tuple of all values on which the budget depends, such as the
    size of the image."""
    pixel_costs: dict[tuple[str, ...], float] = field(default_factory=dict)
    """Bytes per pixel that a forward and backward pass through the network needs. The key is the tuple of the names of
    all layers whose activations the losses use."""
    measured: tuple[int, int] | None = None
    """The number of bytes that the process is allowed to use, and the number that it uses before the first picture is
    painted. None if they have not been measured yet."""

    def plan(
        self,
        model: nn.Module,
        activations_of: ActivationsOf,
        layers: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        painting_pixel_counts: Sequence[int],
        region_count: int,
        vectors_per_pair: int,
    ) -> list[Budget]:
        """Return a memory budget for each of ``sizes``, the sizes of an image that is painted from coarse to fine.

        Args:
            model: the network that ``activations_of`` runs. Each forward pass ends after the deepest of ``layers``.
            activations_of: the function that :func:`capture` yields for ``layers``. It returns the activations of an
                image, by layer name.
            layers: the names of the layers whose activations the losses use.
            sizes: the sizes (H, W) of the image in pixels, from coarse to fine.
            painting_pixel_counts: for each of ``sizes``, the number of pixels of the largest painting after it is
                resized for this size.
            region_count: the number of regions of the photo, each of which can have a different style.
            vectors_per_pair: the number of tensors of the image's size that the optimizer keeps for each curvature
                pair; 0 if it keeps no pairs.

        Raises:
            ValueError: there is too little memory.
        """
        smallest = partial(smallest_tile, model, layers)
        captured = tuple(layers)
        if captured not in self.pixel_costs:
            self.pixel_costs[captured] = bytes_of_a_pixel(activations_of, device_of(model))
        # The memory per pixel is measured before the memory in use, because the first pass through the network loads
        # libraries that stay in memory.
        if self.measured is None:
            self.measured = memory(device_of(model), self.limit)
        most, taken = self.measured
        taken += LOADED + MATRICES * (region_count - 1)
        needed = self.pixel_costs[captured] + REGION * (region_count - 1)
        found = {}
        # The largest size is planned first, so that an error message names it.
        for size, painting_pixels in sorted(zip(sizes, painting_pixel_counts, strict=True), reverse=True):
            key = (size, painting_pixels, captured, region_count, vectors_per_pair)
            if key not in self.budgets:
                self.budgets[key] = plan(
                    most, taken, math.prod(size), needed, vectors_per_pair, painting_pixels, smallest
                )
            found[size] = self.budgets[key]
        return [found[size] for size in sizes]


def smallest_tile(model: nn.Module, layers: Sequence[str]) -> int:
    """Return the minimum side of a tile, in pixels, if the losses use the activations of ``layers``."""
    return max(smallest_side(_listed(model, layers, (SAMPLES[1], SAMPLES[1]))), SMALLEST_TILE)


def _listed(model: nn.Module, layers: Sequence[str], size: tuple[int, int]) -> list[Layer]:
    """Return the layers called ``layers`` as listed for an image of ``size`` (H, W).

    The image may be too small for deeper layers.
    """
    reached, _ = dry_run(model, blank_image((3, *size)), receptive_fields=True)
    found = [layer for layer in reached if layer.name in layers]
    if len(found) == len({*layers}):
        return found
    return [layer for layer in list_layers(model, (3, *size)) if layer.name in layers]


def check_tiles(model: nn.Module, layers: Sequence[str]) -> None:
    """Check that the activations of ``layers`` for a tile are the same as those for a whole picture.

    Receptive fields do not show whether a network computes with the size of the image. Therefore, random noise and one
    of its tiles pass through the network.

    Raises:
        ValueError: the activations differ.
    """
    around = smallest_side(_listed(model, layers, (SAMPLES[1], SAMPLES[1]))) // 3
    side = max(4 * around, SAMPLES[0])
    [tile, *_] = split(_listed(model, layers, (side, side)), (side, side), max(3 * around, SAMPLES[0] // 2))
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device_of(model))
    with torch.no_grad(), capture(model, layers) as activations_of:
        part, picture = tile.own(activations_of(tile.show(noise))), activations_of(noise)
    for name in layers:
        wanted = picture[name][:, :, tile.windows[name][0], tile.windows[name][1]]
        if not (part[name] - wanted).abs().max() <= DEVIATION * wanted.abs().max():
            raise ValueError(
                refusal(f"{name} is not the same for a part of a picture, for example because of its size")
            )


def plan(
    limit: int,
    taken: int,
    pixels: int,
    per_pixel: float,
    vectors_per_pair: int,
    painting_pixels: int = 0,
    smallest: Callable[[], int] = lambda: SMALLEST_TILE,
) -> Budget:
    """Plan the memory budget for optimizing one image.

    If the whole image and the default number of curvature pairs do not fit into memory together, the image is divided
    into tiles. In this case, the memory of the tensors that every step needs, such as the image and its gradient, is
    subtracted from the available memory. The curvature pairs get at most half of the remainder, and less if the
    smallest tile would not fit otherwise. The memory that is then left is used to process one tile at a time. The
    paintings pass through the network before the first curvature pair is stored. Their passes can therefore use the
    memory that is set aside for the pairs.

    Args:
        limit: the number of bytes that the process is allowed to use.
        taken: the number of bytes that the process already uses.
        pixels: the number of pixels of the image.
        per_pixel: the number of bytes per pixel that a forward and backward pass through the network needs.
        vectors_per_pair: the number of tensors of the image's size that the optimizer keeps for each curvature pair; 0
            if it keeps no pairs.
        painting_pixels: the number of pixels of the largest painting after it is resized for this image.
        smallest: a function that returns the minimum side of a tile, in pixels.

    Raises:
        ValueError: there is too little memory.
    """
    image = 12 * pixels  # three channels in float32
    pair = vectors_per_pair * image
    held, before = (VECTORS + (MORE_VECTORS if pair else 0)) * image, COPIES * (image + 12 * painting_pixels)
    spare = limit - taken - max(held + HISTORY * pair, before)
    if spare >= max(pixels, painting_pixels) * per_pixel:
        return WHOLE
    per_pixel *= TILE_OVERHEAD
    least = smallest() ** 2 * per_pixel
    spare = limit - taken - FOR_TILING - held
    pairs = min(HISTORY, int(min(spare / 2, spare - least) / pair)) if pair else HISTORY
    spare = min(spare - pairs * pair, limit - taken - FOR_TILING - before)
    if spare < least or pairs < FEWEST_PAIRS:
        tiled = FOR_TILING + max(held + max(2 * FEWEST_PAIRS * pair, FEWEST_PAIRS * pair + least), before + least)
        needed = taken + min(
            tiled, max(held + HISTORY * pair, before) + max(pixels, painting_pixels) * per_pixel / TILE_OVERHEAD
        )
        hint = "; the optimizer adam needs less" if pair and held + FEWEST_PAIRS * pair > before else ""
        larger = f" and a painting of {painting_pixels:,}" if painting_pixels > pixels else ""
        raise ValueError(
            f"{limit / 1e9:.3g} GB are too little for a picture of {pixels:,} pixels{larger}: "
            f"about {math.ceil(needed / 1e8) / 10} GB are needed{hint}"
        )
    return Budget(pairs, math.isqrt(int(spare / per_pixel)))


def memory(device: torch.device, limit: int | None) -> tuple[int, int]:
    """Return the number of bytes that this process is allowed to use on ``device``, and the number that it uses now.

    The first number is ``limit``. If ``limit`` is None, the first number is the second number plus most of the free
    memory.
    """
    if device.type == "cuda":
        taken, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - taken
    else:
        release_kept_memory()
        taken, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
    return limit or taken + int(SHARE * free), taken


def bytes_of_a_pixel(activations_of: ActivationsOf, device: torch.device) -> float:
    """Estimate the peak memory of a forward and backward pass, in bytes per pixel.

    The estimate is proportional to the size of the tensors that the forward pass saves for the backward pass.
    """
    small, large = (_saved(activations_of, side, device) for side in SAMPLES)
    return TRANSIENT * (large - small) / (SAMPLES[1] ** 2 - SAMPLES[0] ** 2)


def _saved(activations_of: ActivationsOf, side: int, device: torch.device) -> int:
    """Return the number of bytes that a forward pass on a square image saves for the backward pass.

    ``side`` is the image's side in pixels. The result includes the bytes of the network's weights.
    """
    storage_bytes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storage_bytes[storage.data_ptr()] = storage.nbytes()
        # If the tensor itself were returned, the graph could hold a reference to itself. Python's garbage collector
        # cannot find such a cycle, so the memory would never be freed.
        return tensor.detach()

    image = torch.zeros(1, 3, side, side, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        activations = activations_of(image)
    for activation in activations.values():
        keep(activation)
    return sum(storage_bytes.values())
