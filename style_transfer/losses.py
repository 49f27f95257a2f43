"""Losses of style transfer. A loss object stores its target when it is created, and returns the loss when called.

To add a style loss, write a class here that derives from :class:`StyleLoss`, and decorate it with
:func:`style_loss`. The method ``statistic`` reduces the activations of a layer to a statistic, such as a Gram matrix.
The method ``__call__`` returns the distance between the image's statistic and the target. If the run uses a
:class:`dreamgram.style_transfer.presets.Preset` whose ``relative`` is True, the distance is divided by the property
``scale``. By default, ``scale`` is the mean square of the target. Override the property if the mean square does not fit
your loss. The following example is a complete style loss that uses the default ``scale``::

    @style_loss("mean")
    class MeanLoss(StyleLoss):
        \"\"\"A style loss: the squared distance between mean activations.\"\"\"

        @staticmethod
        def statistic(activation, weight, window=EVERYWHERE):
            return (exact(activation) * within(weight, window)).sum((2, 3))

        def __call__(self, measured):
            return (measured - self.target).square().mean()

In the example, ``exact`` converts the activations to float32, and ``within`` selects the weights in the ``window``.

A large picture is processed in tiles, one after another. ``statistic`` therefore returns a weighted sum over the
positions in the ``window``, the rows and columns of the layer that one tile covers. The sums of all tiles are added by
the method ``join``, which can be overridden. ``weight`` holds the weights of all positions of the layer, which add up
to 1. It is a tensor of the layer's height and width, or a scalar tensor if all weights are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamgram.style_transfer.default_layers import CONTENT_LAYERS, FIVE, FOUR
from dreamgram.style_transfer.gram import distribution, gram_matrix, moments
from dreamgram.style_transfer.matrix_roots import regularized_root, trace_of_root
from dreamgram.style_transfer.nearest import distance_of_nearest, lattice

Window = tuple[slice, slice]
"""A rectangle of positions in a layer's activations: a slice of rows and a slice of columns."""

EVERYWHERE: Window = (slice(None), slice(None))

Shares = Sequence[tuple[float, Any]]
"""One pair (share, statistic) for each painting. A painting's share is its weight among all paintings. All shares add
up to 1."""


class Loss(Protocol):
    """The interface of a loss that is computed from the activations of one layer.

    ``measure`` returns sums over the positions of one tile, which is a part of the picture. The sums of all tiles are
    added, and ``__call__`` computes the loss from the totals.
    """

    local: bool
    """True if the loss itself is a sum over positions. ``__call__`` then returns its argument, and the losses of the
    tiles add up to the loss of the picture."""

    @property
    def scale(self) -> float:
        """Magnitude of the target, in the units of the loss. The loss divided by this number is a relative error."""

    def measure(self, activation: Tensor, window: Window = ...) -> Tensor: ...

    def __call__(self, measured: Tensor) -> Tensor: ...


class StyleLoss:
    """Base class of the style losses, which compare a statistic of the image's activations with a target.

    The paintings can have any size. By default, the target is the mean of the paintings' statistics, such as Gram
    matrices, weighted by the paintings' shares (see :data:`Shares`). If the loss is the squared distance between two
    statistics, its gradient is then the weighted mean of the gradients that separate losses for the paintings would
    have.
    """

    local = False
    LAYERS: Mapping[str, float] = FIVE
    """Names of the default style layers, each with the factor by which the style weight is multiplied in that layer."""
    CONTENT_LAYERS: Mapping[str, float] = CONTENT_LAYERS
    """Names of the default content layers, each with the factor by which the content weight is multiplied in that
    layer."""
    FOCUS: float = 0.0
    """Default of the option ``focus``, the emphasis of the content loss on salient parts of the photo, in [0, 1]."""
    BLOCK: int = 1_000_000
    """Side, in pixels, of square blocks of the image. L-BFGS learns the curvature of the loss in each block separately.

    The default is so large that the whole image is one block. With some losses, smaller blocks reduce the number of
    steps that L-BFGS needs. With the Gram loss, whose curvature couples distant pixels, smaller blocks can make L-BFGS
    fail.
    """

    def __init__(self, targets: Shares, weight: Tensor) -> None:
        """Compute the target from ``targets``, which holds one pair (share, statistic) for each painting.

        A painting's share is its weight among all paintings. ``weight`` (H, W) holds the weight of each position of the
        image's activations, or is a scalar tensor if all weights are equal.
        """
        self.weight = weight
        self.target = add([share * statistic for share, statistic in targets])

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Any:
        """Return the statistic of the activations (1, C, H, W), float32 or bfloat16, in a ``window`` of the layer.

        ``window`` is the part of the layer that ``activation`` covers, by default the whole layer. ``weight`` holds the
        weight of each position of the whole layer, not only of the window. It is a scalar tensor if all weights are
        equal.
        """
        raise NotImplementedError

    @staticmethod
    def join(statistics: Sequence[Any]) -> Any:
        """Combine the statistics of a picture's tiles into the statistic of the whole picture."""
        return add(statistics)

    @property
    def scale(self) -> float:
        """Divisor that turns the loss into a relative error: by default the mean of the target's squared elements."""
        mean: float = self.target.square().mean().item()
        return mean

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the statistic of the image's activations (1, C, H, W) in a ``window`` of the layer."""
        measured: Tensor = self.statistic(activation, self.weight, window)
        return measured

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the loss as a scalar tensor, given ``measured``, the statistic of the whole image."""
        raise NotImplementedError


STYLE_LOSSES: dict[str, type[StyleLoss]] = {}
"""The classes of the style losses, by name."""

Kind = TypeVar("Kind", bound=type[StyleLoss])


def style_loss(name: str) -> Callable[[Kind], Kind]:
    """Return a decorator that registers a class as the style loss called ``name``."""

    def register(kind: Kind) -> Kind:
        STYLE_LOSSES[name] = kind
        return kind

    return register


class ContentLoss:
    """The content loss: the mean squared difference between the activations of the image and of the photo.

    In equation 1 of Gatys et al., arXiv:1508.06576, the loss is half the sum of the squared differences. The mean is
    used here so that a weight of the loss has the same meaning for pictures of every size. The mean can be weighted, so
    that some parts of the photo count more than others (:mod:`dreamgram.style_transfer.salience`).
    """

    local = True

    def __init__(self, target: Tensor, weight: Tensor | None = None) -> None:
        """Store ``target``, the photo's activations (1, C, H, W), and the ``weight`` of each position (H, W).

        The weights add up to 1. By default, all weights are equal. ``weight`` can also be a scalar tensor, the weight
        of every position.
        """
        self.target = target.detach()
        positions = target.shape[2] * target.shape[3]
        self.weight = torch.tensor(1 / positions, device=target.device) if weight is None else weight

    @property
    def scale(self) -> float:
        """Mean of the photo's squared activations."""
        return self.target.float().square().mean().item()

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the contribution of the activations (1, C, H, W) in a ``window`` to the loss, as a scalar tensor."""
        rows, columns = window
        weight = within(self.weight, window)
        distance: Tensor = _SquaredDistance.apply(activation, self.target[:, :, rows, columns], weight)
        return distance / self.target.shape[1]

    def __call__(self, measured: Tensor) -> Tensor:
        """Return ``measured`` unchanged, because the sum of the contributions of all tiles is the loss."""
        return measured


class _SquaredDistance(torch.autograd.Function):
    """Autograd function that computes the weighted sum of the squared differences between two tensors (1, C, H, W).

    The sum is computed in float32 or float64. ``weight`` (H, W) holds the weight of each position, or is a scalar
    tensor. Only the first tensor gets a gradient. The differences are computed in the type of the tensors, which takes
    fewer passes over memory than to convert the tensors first.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(activation, target, weight)
        return (exact(activation - target).square().sum((0, 1)) * weight).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        activation, target, weight = ctx.saved_tensors
        slope = 2 * gradient * weight
        # A scalar tensor of another type does not change the type of the product. A tensor (H, W) would change it.
        slope = slope.to(activation.dtype) if slope.ndim else slope
        return (activation - target) * slope, None, None


@style_loss("gram")
class GramLoss(StyleLoss):
    """Mean squared difference between the Gram matrix of the image and the mean Gram matrix of the paintings.

    This is the style loss of Gatys et al., arXiv:1508.06576, equations 3 to 5, except for constant factors.
    """

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the weighted Gram matrix, (1, C, C), of the activations (1, C, H, W) in a ``window``."""
        return gram_matrix(activation, within(weight, window))

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the mean squared difference between the Gram matrix ``measured`` (1, C, C) and the target."""
        return (measured - self.target).square().mean()


@style_loss("wasserstein")
class WassersteinLoss(StyleLoss):
    """Squared Wasserstein-2 distance between normal distributions fitted to the image's and the paintings' activations.

    Each distribution has the mean and covariance of the activations to which it is fitted. The formula is that of Olkin
    and Pukelsheim, "The Distance between Two Random Vectors with Given Dispersion Matrices", 1982. Unlike the Gram
    loss, this loss measures differences in the mean separately from differences in the covariance. If all activations
    are doubled, this loss becomes 4 times as large, and the Gram loss 16 times.
    """

    LAYERS: Mapping[str, float] = FOUR
    CONTENT_LAYERS: Mapping[str, float] = {"relu3_1": 0.12, "relu4_2": 0.36}

    FOCUS = 1.0

    BLOCK = 48

    NOISE = 0.003
    """Variance added in all directions to the distributions of the image and of the paintings, as a fraction of the
    largest eigenvalue of the paintings' covariance. Without the added variance, the derivative of the square root of
    the covariance would be infinite in directions without variance, and rounding errors would dominate the gradient."""

    ROUNDING = 1e-5
    """Variance added in all directions, in addition to the variance that :attr:`NOISE` adds, as a fraction of the mean
    squared norm of the paintings' activations. This variance exceeds the rounding errors of the covariance even if all
    paintings have the same single color, so that the covariance is almost 0."""

    def __init__(self, targets: Shares, weight: Tensor) -> None:
        """Compute the target distribution from ``targets``, which holds one pair (share, moments) for each painting.

        A painting's share is its weight among all paintings. The moments are those that :meth:`statistic` returns.
        ``weight`` has the same meaning as in :class:`StyleLoss`.
        """
        super().__init__(targets, weight)
        self.mean, covariance = distribution(self.target)
        least = self.ROUNDING * (self.mean.square().sum() + covariance.trace())
        self.noise, self.root = regularized_root(covariance, self.NOISE, least)
        self.covariance = covariance + self.noise

    @property
    def scale(self) -> float:
        """Mean squared norm of the paintings' activations, plus the variance that ``NOISE`` and ``ROUNDING`` add."""
        return float(self.mean.square().sum() + self.covariance.trace())

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return the weighted moments, (1, C + 1, C), of the activations (1, C, H, W) in a ``window``.

        The first C rows are the matrix of second moments. The last row is the vector of first moments.
        """
        return moments(activation, within(weight, window))

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the squared distance between the target distribution and the image's distribution.

        The image's distribution has the moments ``measured`` (1, C + 1, C). The first C rows of ``measured`` are the
        second moments, and the last row is the mean.
        """
        mean, covariance = distribution(measured)
        covariance = covariance + self.noise
        between = trace_of_root(self.root @ covariance @ self.root)
        # The backward pass of Tensor.trace would wait for the device.
        variance = covariance.diagonal().sum() + self.covariance.diagonal().sum()
        apart = (mean - self.mean).square().sum() + variance
        distance: Tensor = apart - 2 * between
        return distance


@style_loss("nearest")
class NearestLoss(StyleLoss):
    """Cosine distance from each activation to the nearest activation of the painting, plus the Wasserstein loss.

    As in Kolkin et al., "Neural Neighbor Style Transfer", arXiv:2203.13215, the mean of the painting's activations is
    subtracted from all activations before they are compared. In the paper, the nearest neighbors are updated only
    rarely and are found in the features of all layers together. Here, they are updated in every step and are found in
    each layer separately. In each painting, only some positions are searched (:attr:`CANDIDATES`).

    The cosine distance alone can be small even if the image uses only a few of the painting's activations, or colors
    that the painting does not have. The moments (mean and covariance) are therefore matched as well, as in Kolkin et
    al., "Style Transfer by Relaxed Optimal Transport and Self-Similarity", arXiv:1904.12785.
    """

    LAYERS: Mapping[str, float] = FOUR

    FOCUS = 1.0

    BLOCK = 48

    CANDIDATES = 1024
    """Approximate maximum number of activations of a painting that are candidates for the nearest activation. If a mask
    selects a part of the painting, the candidates are taken from this part."""

    PER_CHANNEL = 4
    """Number of candidates for each channel of a layer, if they are at least 256 and at most :attr:`CANDIDATES`. The
    fewer channels a layer has, the fewer candidates cover all kinds of activations."""

    SHARE = 0.7
    """Weight of the cosine distance. The Wasserstein loss, divided by :attr:`WassersteinLoss.scale`, has the weight
    1."""

    def __init__(self, targets: Shares, weight: Tensor) -> None:
        """Prepare the features of the paintings. ``targets`` holds one pair (share, statistic) for each painting.

        A painting's share is its weight among all paintings. Its statistic is the pair (moments, sample) that
        :meth:`statistic` returns. ``weight`` has the same meaning as in :class:`StyleLoss`.
        """
        self.moments = WassersteinLoss([(share, sums) for share, (sums, _) in targets], weight)
        self.divisor = self.moments.scale  # reading it waits for the device
        self.weight = weight
        self.paintings = []
        for share, (_, features) in targets:
            mean = exact(features).mean(0)
            self.paintings.append((share, mean, normalize(exact(features) - mean, dim=1)))

    @property
    def scale(self) -> float:
        """The number 1, because the loss needs no divisor: its Wasserstein part is already divided by the Wasserstein
        loss's own scale, and a cosine distance does not depend on the magnitude of the activations."""
        return 1.0

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> tuple[Tensor, Tensor]:
        """Return the weighted moments, (1, C + 1, C), and a sample, (P, C), of the activations (1, C, H, W).

        ``activation`` covers a ``window`` of the layer. The moments are computed by :meth:`WassersteinLoss.statistic`.
        The sample consists of the activations at P positions, spread evenly over the positions whose weight is more
        than half of the largest weight.
        """
        inside = (weight > weight.max() / 2) if weight.ndim else weight > 0
        total = int(inside.sum()) if weight.ndim else round(1 / weight.item())
        count = min(NearestLoss.CANDIDATES, max(256, NearestLoss.PER_CHANNEL * activation.shape[1]))
        chosen = lattice(activation, window, -(-total // count))
        features: Tensor = activation[0, :, chosen & within(inside, window)].T
        return WassersteinLoss.statistic(activation, weight, window), features

    @staticmethod
    def join(statistics: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Add the moments of all tiles, and concatenate the samples of all tiles."""
        sums, features = zip(*statistics, strict=True)
        return WassersteinLoss.join(sums), torch.cat(features)

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Return a vector ((C + 1) C + 1,): the flattened moments, followed by the cosine distance.

        The moments and the cosine distance are weighted sums over the activations (1, C, H, W) in a ``window`` of the
        layer. If there are several paintings, the cosine distance is the mean of the distances to the individual
        paintings, weighted by the paintings' shares (see :data:`Shares`).
        """
        weight = within(self.weight, window)
        distances = [
            share * distance_of_nearest(activation, weight, mean, candidates)
            for share, mean, candidates in self.paintings
        ]
        return torch.cat([self.moments.measure(activation, window).flatten(), torch.stack(distances).sum()[None]])

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the loss as a scalar tensor: the Wasserstein loss plus :attr:`SHARE` times the cosine distance.

        The Wasserstein loss is first divided by :attr:`WassersteinLoss.scale`. ``measured`` is the sum of the vectors
        that :meth:`measure` returns for all tiles.
        """
        channels = len(self.moments.mean)
        judged = self.moments(measured[:-1].view(1, channels + 1, channels)) / self.divisor
        return judged + self.SHARE * measured[-1]


def total_variation(image: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return the total variation of ``image`` (N, C, H, W).

    The total variation is the sum of the absolute differences between horizontally and vertically adjacent pixels.

    If ``rows`` is not given, ``image`` is the whole image. To compute the contribution of a horizontal strip of a
    larger image, pass the strip together with the row below it as ``image``. The last row of the strip is compared with
    that row; the strip at the bottom of the larger image has no row below it. ``rows`` is the range of the strip's rows
    in the larger image, without the row below the strip.
    """
    count = None if rows.stop is None else rows.stop - rows.start
    down, across = image[:, :, 1:] - image[:, :, :-1], image[:, :, :count, 1:] - image[:, :, :count, :-1]
    return down.abs().sum() + across.abs().sum()


@dataclass(frozen=True)
class Previous:
    """The previous painted frame of a video, warped so that it lines up with the current frame."""

    image: Tensor
    """The warped frame, (1, 3, H, W) in [0, 1]."""
    reliable: Tensor
    """Mask (1, 1, H, W) that is 1 at pixels where the optical flow is reliable, and 0 at all other pixels, such as
    pixels that show an object which was hidden in the previous frame."""


class TemporalLoss:
    """The sum of the squared differences between the image and the warped previous frame.

    Only pixels where the optical flow is reliable are included. This is equation 7 of Ruder et al., "Artistic Style
    Transfer for Videos", arXiv:1604.08610, with a sum instead of a mean.
    """

    def __init__(self, previous: Previous) -> None:
        self.previous = previous

    def __call__(self, image: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the loss of an image (1, 3, H, W), or of a strip of it, as a scalar tensor.

        For a strip, ``rows`` is the range of the strip's rows in the whole image. ``image`` can also include rows below
        the strip, which are ignored.
        """
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
    """Return the weights of the positions in a ``window``, given the weights (H, W) of all positions of the layer.

    A scalar tensor ``weight`` applies to all positions and is returned unchanged.
    """
    return weight[window[0], window[1]] if weight.ndim else weight
