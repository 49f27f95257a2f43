"""Losses of style transfer. Each loss computes its target once and is then a function to minimize.

To add a style loss, write a class here that derives from :class:`StyleLoss`, and decorate it with
:func:`style_loss`. The class defines up to three things: the statistic of a picture, the distance between a statistic
and the target, and, if the default does not fit, the scale of that distance::

    @style_loss("mean")
    class MeanLoss(StyleLoss):
        \"\"\"A style loss: the squared distance between mean activations.\"\"\"

        @staticmethod
        def statistic(activation, weight, window=EVERYWHERE):
            return (exact(activation) * within(weight, window)).sum((2, 3))

        def __call__(self, measured):
            return (measured - self.target).square().mean()

A picture may be processed in tiles. A statistic is therefore a weighted sum over the positions in a ``window`` of the
layer, so that the sums of all tiles can be added. The weights of all positions of the picture add up to 1. They are
(H, W) for the weights of a region, or () for a weight that is the same at all positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamgram.style_transfer.gram import distribution, gram_matrix, moments, regularized_root, trace_of_root
from dreamgram.style_transfer.nearest import distance_of_nearest, lattice

Window = tuple[slice, slice]
"""A window of a layer's positions: a slice of rows and a slice of columns."""

EVERYWHERE: Window = (slice(None), slice(None))

Shares = Sequence[tuple[float, Any]]
"""The share and the statistic of each painting. The shares add up to 1."""

FIVE = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)
"""The style layers of Gatys et al. with equal weights."""


class Loss(Protocol):
    """The interface of a loss of one layer.

    ``measure`` computes sums over the positions of one tile, and ``__call__`` computes the loss from the sums of all
    tiles.
    """

    local: bool
    """True if the loss is the measured sum itself, so that each tile can be processed independently."""

    @property
    def scale(self) -> float:
        """Divisor that makes the loss relative to its target."""

    def measure(self, activation: Tensor, window: Window = ...) -> Tensor: ...

    def __call__(self, measured: Tensor) -> Tensor: ...


class StyleLoss:
    """Base class of the losses that compare statistics of the image with statistics of paintings of any size.

    The target is the mean of the paintings' statistics, weighted by their shares. For a squared distance of
    statistics, this gives the same gradient as the weighted mean of the paintings' losses.
    """

    local = False
    LAYERS: Mapping[str, float] = FIVE
    """Default style layers, each with the factor that multiplies the style weight."""

    def __init__(self, targets: Shares, weight: Tensor) -> None:
        """Compute the target from ``targets``, the statistics of the paintings.

        ``weight``, () or (H, W), is the weight of each position of the image.
        """
        self.weight = weight
        self.target = add([share * statistic for share, statistic in targets])

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Any:
        """Return the statistic of the activations (1, C, H, W), float32 or bfloat16, of a ``window`` of the layer.

        ``weight``, () or (H, W), is the weight of each position of the whole layer.
        """
        raise NotImplementedError

    @staticmethod
    def join(statistics: Sequence[Any]) -> Any:
        """Combine the statistics of a picture's tiles into the statistic of the whole picture."""
        return add(statistics)

    @property
    def scale(self) -> float:
        """Divisor that makes the loss relative to its target; by default the mean square of the target."""
        mean: float = self.target.square().mean().item()
        return mean

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the statistic of the image's activations (1, C, H, W) in a ``window`` of the layer."""
        measured: Tensor = self.statistic(activation, self.weight, window)
        return measured

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the loss, (), given the statistic ``measured`` of the whole image."""
        raise NotImplementedError


STYLE_LOSSES: dict[str, type[StyleLoss]] = {}
"""The style losses by name."""

Kind = TypeVar("Kind", bound=type[StyleLoss])


def style_loss(name: str) -> Callable[[Kind], Kind]:
    """Register the decorated class as the style loss ``name``."""

    def register(kind: Kind) -> Kind:
        STYLE_LOSSES[name] = kind
        return kind

    return register


class ContentLoss:
    """Mean squared error of the activations, Gatys et al., arXiv:1508.06576, equation 1.

    The paper uses half the sum of the squared errors. The mean is used here so that the weight has the same meaning at
    every size.
    """

    local = True

    def __init__(self, target: Tensor) -> None:
        """Store ``target``, the photo's activations (1, C, H, W)."""
        self.target = target.detach()

    @property
    def scale(self) -> float:
        """Mean square of the target."""
        return self.target.float().square().mean().item()

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the part of the error, (), that the activations (1, C, H, W) in a ``window`` contribute."""
        rows, columns = window
        error = exact(activation) - self.target[:, :, rows, columns]
        return error.square().sum() / self.target.numel()

    def __call__(self, measured: Tensor) -> Tensor:
        """Return ``measured`` unchanged: the sum over all tiles is the error."""
        return measured


@style_loss("gram")
class GramLoss(StyleLoss):
    """Mean squared error of the Gram matrices, Gatys et al., arXiv:1508.06576, equations 3 to 5."""

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the Gram matrix of the activations: (1, C, H, W) -> (1, C, C)."""
        return gram_matrix(activation, within(weight, window))

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the mean squared error of the Gram matrix ``measured`` (1, C, C)."""
        return (measured - self.target).square().mean()


@style_loss("wasserstein")
class WassersteinLoss(StyleLoss):
    """Squared Wasserstein-2 distance between normal distributions with the activations' means and covariances.

    Olkin and Pukelsheim, "The Distance between Two Random Vectors with Given Dispersion Matrices", 1982. Unlike the
    Gram loss, this loss distinguishes the mean from deviations from the mean, and it grows with the square of the
    activations, not with their fourth power.
    """

    NOISE = 0.003
    """Variance added to both distributions in all directions, relative to the painting's largest variance. Without it,
    the square root of the covariance would be infinitely steep in directions without variance, and rounding errors
    would dominate the gradient."""

    def __init__(self, targets: Shares, weight: Tensor) -> None:

        super().__init__(targets, weight)
        self.mean, covariance = distribution(self.target)
        self.noise, self.root = regularized_root(covariance, self.NOISE)
        self.covariance = covariance + self.noise

    @property
    def scale(self) -> float:
        """Mean squared norm of the painting's activations."""
        return float(self.mean.square().sum() + self.covariance.trace())

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the second moments and, in the last row, the first: (1, C, H, W) -> (1, C + 1, C)."""
        return moments(activation, within(weight, window))

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the squared distance between the target and the moments ``measured`` (1, C + 1, C)."""
        mean, covariance = distribution(measured)
        covariance = covariance + self.noise
        between = trace_of_root(self.root @ covariance @ self.root)
        apart = (mean - self.mean).square().sum() + covariance.trace() + self.covariance.trace()
        distance: Tensor = apart - 2 * between
        return distance


@style_loss("nearest")
class NearestLoss(StyleLoss):
    """Cosine distance from each activation to the painting's nearest one, plus the Wasserstein distance of the moments.

    As in Kolkin et al., "Neural Neighbor Style Transfer", arXiv:2203.13215, the painting's mean is subtracted from the
    activations before they are compared. In the paper, neighbors are updated only rarely and are found in the features
    of all layers together. Here each layer finds its own neighbors in every step, among about :data:`CANDIDATES` of the
    painting's positions.

    The cosine distance alone can be small even if the image uses only a few of the painting's activations, or colors
    that the painting does not have. The moments are therefore matched as well, as in Kolkin et al., "Style Transfer by
    Relaxed Optimal Transport and Self-Similarity", arXiv:1904.12785.
    """

    LAYERS: Mapping[str, float] = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0)

    CANDIDATES = 1024
    """Approximate maximum number of positions of a painting, or of its region, among which neighbors are searched."""

    SHARE = 0.7
    """Weight of the cosine distance. The distance of the moments, relative to its target, has weight 1."""

    def __init__(self, targets: Shares, weight: Tensor) -> None:

        self.moments = WassersteinLoss([(share, sums) for share, (sums, _) in targets], weight)
        self.weight = weight
        self.paintings = []
        for share, (_, features) in targets:
            mean = exact(features).mean(0)
            self.paintings.append((share, mean, normalize(exact(features) - mean, dim=1)))

    @property
    def scale(self) -> float:
        """1, because the loss is already relative."""
        return 1.0

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> tuple[Tensor, Tensor]:
        """Return the moments and a sample of the activations: (1, C, H, W) -> (1, C + 1, C), (P, C).

        The sample is evenly spread over the positions with more than half of the largest weight.
        """
        inside = (weight > weight.max() / 2) if weight.ndim else weight > 0
        total = int(inside.sum()) if weight.ndim else round(1 / weight.item())
        chosen = lattice(activation, window, -(-total // NearestLoss.CANDIDATES))
        features: Tensor = activation[0, :, chosen & within(inside, window)].T
        return WassersteinLoss.statistic(activation, weight, window), features

    @staticmethod
    def join(statistics: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Add the moments of the tiles and concatenate their samples."""
        sums, features = zip(*statistics, strict=True)
        return WassersteinLoss.join(sums), torch.cat(features)

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return a vector of the flattened moments followed by the cosine distance: ((C + 1) C + 1,)."""
        weight = within(self.weight, window)
        distances = [
            share * distance_of_nearest(activation, weight, mean, candidates)
            for share, mean, candidates in self.paintings
        ]
        return torch.cat([self.moments.measure(activation, window).flatten(), torch.stack(distances).sum()[None]])

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the weighted sum of both distances, (), given the vector ``measured``."""
        channels = len(self.moments.mean)
        judged = self.moments(measured[:-1].view(1, channels + 1, channels)) / self.moments.scale
        return judged + self.SHARE * measured[-1]


def total_variation(image: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return the sum of the absolute differences between neighboring pixels of ``image`` (N, C, H, W), down and across.

    ``image`` may be a strip of a larger image. In this case, ``rows`` is the range of the strip's rows in the larger
    image, and ``image`` also includes the row below the strip, if any.
    """
    count = None if rows.stop is None else rows.stop - rows.start
    down, across = image[:, :, 1:] - image[:, :, :-1], image[:, :, :count, 1:] - image[:, :, :count, :-1]
    return down.abs().sum() + across.abs().sum()


@dataclass(frozen=True)
class Previous:
    """The previous painted frame, warped so that it lines up with the current frame."""

    image: Tensor
    """The warped frame, (1, 3, H, W) in [0, 1]."""
    reliable: Tensor
    """Mask of the pixels where the flow is reliable, (1, 1, H, W): 1 if reliable, else 0. The flow is not reliable, for
    example, where something has come into view."""


class TemporalLoss:
    """The sum of the squared differences from the warped previous frame, over the pixels where the flow is reliable.

    Ruder et al., "Artistic Style Transfer for Videos", arXiv:1604.08610, equation 7, as a sum instead of a mean.
    """

    def __init__(self, previous: Previous) -> None:
        self.previous = previous

    def __call__(self, image: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the loss of a strip as a scalar; ``image`` and ``rows`` are as in :func:`total_variation`."""
        before = self.previous.image[:, :, rows]
        error: Tensor = (image[:, :, : before.shape[2]] - before).square() * self.previous.reliable[:, :, rows]
        return error.sum()


def add(statistics: Sequence[Tensor]) -> Tensor:
    """Add tensors of the same shape."""
    return torch.stack(list(statistics)).sum(0)


def exact(tensor: Tensor) -> Tensor:
    """Convert ``tensor`` to float32 if its type is less precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def within(weight: Tensor, window: Window) -> Tensor:
    """Return the weights of the positions in a ``window``, given those of all positions, () or (H, W)."""
    return weight[window[0], window[1]] if weight.ndim else weight
