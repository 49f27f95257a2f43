"""Random transforms of the image, drawn anew at every step of the optimization.

A transform is any function from images (N, C, H, W) to images, such as a transform of ``torchvision.transforms.v2``.
Pass ``fill=None`` to the geometric transforms of torchvision: with any other ``fill``, they modify tensors in place, so
that no gradient can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from dreamgram.image_optimization.checks import as_number
from dreamgram.image_optimization.names import shorten
from dreamgram.image_optimization.recording import is_own

Transform = Callable[[Tensor], Tensor]


def robust(
    degrees: float = 15, translate: float = 0.1, scale: tuple[float, float] = (0.85, 1.15), shear: float = 10
) -> RandomView:
    """Return a transform that rotates, shifts, scales and shears images at random, in one bilinear resampling.

    All images of a batch are transformed in the same way and keep their size. During the optimization, a pattern
    survives only if it activates the network under all these transforms. This suppresses adversarial patterns. See Olah
    et al., "Feature Visualization", Distill 2017, section "Transformation robustness". An image is continued beyond its
    border by reflection, so that there is no edge to which a filter could respond.

    Args:
        degrees: largest rotation in either direction, in degrees.
        translate: largest horizontal shift as a fraction of the width, and largest vertical shift as a fraction of the
            height, in either direction.
        scale: smallest and largest factor by which the content of the image is enlarged; a factor below 1 makes it
            smaller.
        shear: largest shear in either direction, in degrees.
    """
    if not isinstance(scale, Sequence) or isinstance(scale, str) or len(scale) != 2:
        raise TypeError(f"scale must be two factors such as (0.85, 1.15), not {shorten(scale)}")
    smallest, largest = (as_number(factor, "scale") for factor in scale)
    if min(smallest, largest) <= 0:
        raise ValueError(f"scale must be above 0, not {shorten(scale)}")
    degrees, translate, shear = (
        as_number(value, name) for name, value in {"degrees": degrees, "translate": translate, "shear": shear}.items()
    )
    return RandomView(degrees, translate, (smallest, largest), shear)


@dataclass(frozen=True)
class RandomView:
    """The transform that :func:`robust` returns.

    A view is the result of one random transformation of an image. :meth:`draw` can draw the matrices of several views
    before :meth:`apply` computes the views.
    """

    degrees: float
    translate: float
    scale: tuple[float, float]
    shear: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``images`` (N, C, H, W) after a random transformation, which is the same for all images."""
        return self.apply(images, self.draw(1, images.shape[2:]).to(images.device)[0])

    def draw(self, count: int, size: Sequence[int]) -> Tensor:
        """Draw matrices of ``count`` random views of images of ``size`` (H, W) with PyTorch's default CPU generator.

        Returns:
            (count, 2, 3), on the CPU: for each view, the matrix that maps positions in the view to positions in the
            image. The coordinates of a position range from -1 to 1 along each side of an image.
        """
        height, width = size
        matrices = []
        for _ in range(count):
            turned, sheared, right, down = (2 * torch.rand(4) - 1).tolist()
            angle, slope = math.radians(self.degrees * turned), math.tan(math.radians(self.shear * sheared))
            zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(()).item()
            cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
            across = [cos, (cos * slope - sin) * height / width, 2 * self.translate * right]
            matrices.append([across, [sin * width / height, sin * slope + cos, 2 * self.translate * down]])
        return torch.tensor(matrices)

    @staticmethod
    def apply(images: Tensor, matrix: Tensor) -> Tensor:
        """Return ``images`` (N, C, H, W) transformed by ``matrix`` (2, 3), one of the matrices from :meth:`draw`.

        ``matrix`` must be on the same device as ``images``.
        """
        n, c, height, width = images.shape
        grid = affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        # Several images become one with more channels, so that their interpolation weights are computed only once.
        count = n // math.gcd(n, 4)
        together = images.reshape(count, -1, height, width)
        grids = grid.to(images.dtype).expand(count, -1, -1, -1)
        seen = grid_sample(together, grids, padding_mode="reflection", align_corners=False)
        return seen.view(n, c, height, width)


def noise(deviation: float = 0.1, fall: float = 0.0) -> RandomNoise:
    """Return a transform that adds normally distributed noise with the given standard ``deviation`` to the images.

    The pixel values of the images are in [0, 1]; those of the result can lie outside this range. All images of a batch
    get the same noise. A pattern survives only if it is stronger than the noise. Fine, weak patterns to which only one
    network responds are suppressed, and large, strong forms remain.

    Args:
        deviation: standard deviation of the noise in the first step.
        fall: fraction by which the deviation has fallen in the last step, from 0 to 1. It falls linearly. Large forms
            then appear first, and finer detail later.
    """
    number, share = as_number(deviation, "the deviation"), as_number(fall, "fall")
    if number < 0:
        raise ValueError(f"the deviation must be at least 0, not {shorten(deviation)}")
    if not 0 <= share <= 1:
        raise ValueError(f"fall must be from 0 to 1, not {shorten(fall)}")
    return RandomNoise(number, share)


@dataclass(frozen=True)
class RandomNoise:
    """The transform that :func:`noise` returns. Only :meth:`ahead` knows the number of steps over which noise falls."""

    deviation: float
    fall: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``images`` (N, C, H, W) plus random noise, which is the same for all images."""
        return images + self.deviation * torch.randn(1, *images.shape[1:]).to(images)

    def ahead(self, steps: int) -> Transform:
        """Return a transform that adds one picture of noise, at a random offset in each of ``steps`` calls.

        At each offset, the picture continues at its opposite edges. The random numbers are drawn in the first call.
        """
        drawn: list[Tensor] = []

        def add(images: Tensor) -> Tensor:
            if not drawn:
                offsets, sizes = torch.randint(2**31, (steps, 2)), torch.linspace(1, 1 - self.fall, steps)
                picture = self.deviation * torch.randn(1, *images.shape[1:])
                tensors = picture, offsets, sizes, torch.zeros(1, dtype=torch.long)
                drawn[:] = (each.to(images.device, non_blocking=images.is_cuda) for each in tensors)
            picture, offsets, sizes, number = drawn
            [offset] = offsets.index_select(0, number)
            size = sizes.index_select(0, number)
            number.add_(1)
            rows, columns = (
                (torch.arange(side, device=images.device) + start) % side
                for side, start in zip(images.shape[2:], offset, strict=True)
            )
            return images + size * picture.index_select(2, rows).index_select(3, columns)

        return add


@dataclass(frozen=True)
class Chain:
    """Several transforms that are applied one after another."""

    transforms: tuple[Transform, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Apply all transforms to ``images`` (N, C, H, W)."""
        for transform in self.transforms:
            images = transform(images)
        return images


def is_own_transform(transform: Transform) -> bool:
    """Return whether ``transform``, or every transform in it if it is a :class:`Chain`, is defined in Dreamgram."""
    return all(map(is_own_transform, transform.transforms)) if isinstance(transform, Chain) else is_own(transform)


def drawn_ahead(transform: Transform, steps: int) -> Transform:
    """Return a transform that does the same as ``transform`` for ``steps`` calls, but draws its random numbers at once.

    In the first call, the transformation matrices of all steps are drawn and copied to the device together, so that no
    later step waits for a copy. The number of the current step is also on the device, so that one call can be recorded
    as a CUDA graph and replayed (:mod:`dreamgram.image_optimization.recording`). In a :class:`Chain`, each transform is
    replaced in this way. For a :class:`RandomNoise`, see :meth:`RandomNoise.ahead`. All other transforms are returned
    unchanged.
    """
    if isinstance(transform, Chain):
        return Chain(tuple(drawn_ahead(each, steps) for each in transform.transforms))
    if isinstance(transform, RandomNoise):
        return transform.ahead(steps)
    if not isinstance(transform, RandomView):
        return transform
    drawn: list[Tensor] = []

    def view(images: Tensor) -> Tensor:
        if not drawn:
            matrices = transform.draw(steps, images.shape[2:])
            number = torch.zeros(1, dtype=torch.long, device=images.device)
            drawn[:] = matrices.to(images.device, non_blocking=images.is_cuda), number
        views, number = drawn
        [matrix] = views.index_select(0, number)
        number.add_(1)
        return transform.apply(images, matrix)

    return view
