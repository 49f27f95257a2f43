"""Losses of style transfer: each computes its target once and is then a function to minimize.

A style loss is a class with

- ``statistic(activation, weight, window)``: what it needs to know of a painting, from activations (1, C, H, W) in
  float32 or bfloat16 that are those of a ``window``, and the weights of all positions; and ``join(statistics)``: that
  of the whole from those of its tiles,
- ``__init__(targets, weight)``: with the statistics of the paintings, each with its share, and the weight of every
  position of the image,
- ``measure(activation, window)``: a sum over the positions of the image in a ``window``: those of all tiles are added,
- ``__call__(measured)``: the loss, from that sum,
- ``scale``: by which the loss is divided to be a share of what it compares with,
- ``local``: whether the loss is that sum itself, so that no tile need know of another,
- ``LAYERS``: which are compared by default, each with its weight.

Weights of positions are () or (H, W), and their sum over the picture is 1: they are those of a region, or the same
everywhere. To add a loss, write such a class here and name it in :data:`STYLE_LOSSES`.
"""

# Torch is imported where it is needed: the command line reads the presets without it.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from style_transfer.flow import Previous

Window = tuple[slice, slice]
"""Rows and columns of a layer's positions."""

Targets = Sequence[tuple[float, Any]]
"""The share and the statistic of each painting, whatever that is for the loss; the shares are 1 in sum."""

FIVE = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)

EVERYWHERE: Window = (slice(None), slice(None))

NOISE = 0.003
"""Variance added to both distributions, as a share of the painting's largest: where there is none, the square root of
the covariance is infinitely steep, and what rounding makes of nothing would drive the image."""


class Loss(Protocol):
    """What the sum of losses needs of each."""

    local: bool

    @property
    def scale(self) -> float: ...

    def measure(self, activation: Tensor, window: Window = ...) -> Tensor: ...

    def __call__(self, measured: Tensor) -> Tensor: ...


class StyleLoss(Loss, Protocol):
    """A loss that compares the image with paintings of any size."""

    LAYERS: Mapping[str, float]

    def __init__(self, targets: Targets, weight: Tensor) -> None: ...

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = ...) -> Any: ...

    @staticmethod
    def join(statistics: Sequence[Any]) -> Any: ...


def _add(statistics: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(statistics)).sum(0)


class ContentLoss:
    """Mean squared error of the activations, Gatys et al., arXiv:1508.06576, equation 1.

    A mean in place of their half sum, so that its weight means the same at every size.
    """

    local = True

    def __init__(self, target: Tensor) -> None:
        """``target``: the photo's activations (1, C, H, W)."""
        self.target = target.detach()

    @property
    def scale(self) -> float:
        return self.target.float().square().mean().item()

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        rows, columns = window
        error = _exact(activation) - self.target[:, :, rows, columns]
        return error.square().sum() / self.target.numel()

    def __call__(self, measured: Tensor) -> Tensor:
        return measured


class GramLoss:
    """Mean squared error of the Gram matrices, Gatys et al., arXiv:1508.06576, equations 3 to 5.

    Several paintings are blended in the matrix: the gradient is that of the blend of their losses.
    """

    local = False
    LAYERS: Mapping[str, float] = FIVE

    def __init__(self, targets: Targets, weight: Tensor) -> None:
        self.target = _blend(targets)
        self.weight = weight

    @property
    def scale(self) -> float:
        return self.target.square().mean().item()

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Which channels fire together: (1, C, H, W) -> (1, C, C)."""
        from style_transfer.gram import gram_matrix

        return gram_matrix(activation, within(weight, window))

    @staticmethod
    def join(statistics: Sequence[Tensor]) -> Tensor:
        return _add(statistics)

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        return self.statistic(activation, self.weight, window)

    def __call__(self, measured: Tensor) -> Tensor:
        return (measured - self.target).square().mean()


class WassersteinLoss:
    """Squared Wasserstein-2 distance of the activations, taken for normally distributed: their mean and covariance.

    Olkin and Pukelsheim, "The Distance between Two Random Vectors with Given Dispersion Matrices", 1982. Unlike the
    Gram matrix it tells a mean from a deviation, and grows with the squares of activations, not their fourth powers.
    Of several paintings, the moments are blended.
    """

    local = False
    LAYERS: Mapping[str, float] = FIVE

    def __init__(self, targets: Targets, weight: Tensor) -> None:
        import torch

        self.weight = weight
        self.mean, covariance = _distribution(_blend(targets))
        values, vectors = torch.linalg.eigh(covariance.double())
        self.noise = NOISE * values[-1].float() * torch.eye(len(covariance), device=covariance.device)
        self.covariance = covariance + self.noise
        self.root = (vectors * (values.clamp(min=0) + NOISE * values[-1]).sqrt() @ vectors.T).to(covariance)

    @property
    def scale(self) -> float:
        return float(self.mean.square().sum() + self.covariance.trace())

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Second and first moments: (1, C, H, W) -> (1, C + 1, C)."""
        from style_transfer.gram import moments

        return moments(activation, within(weight, window))

    @staticmethod
    def join(statistics: Sequence[Tensor]) -> Tensor:
        return _add(statistics)

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        return self.statistic(activation, self.weight, window)

    def __call__(self, measured: Tensor) -> Tensor:
        mean, covariance = _distribution(measured)
        covariance = covariance + self.noise
        between = _trace_of_root(self.root @ covariance @ self.root)
        apart = (mean - self.mean).square().sum() + covariance.trace() + self.covariance.trace()
        distance: Tensor = apart - 2 * between
        return distance


class NearestLoss:
    """Cosine distance from the nearest of the painting's activations, and the distance of mean and covariance.

    As in Kolkin et al., "Neural Neighbor Style Transfer", arXiv:2203.13215, activations are compared after the mean of
    the painting's is taken off. There each is replaced by its neighbour, found in features of all layers at once and
    rarely; here each layer finds its own, anew in every step, among :data:`CANDIDATES` of the painting's positions.
    Alone that is content with a few of them, and with colours that the painting does not have; so moments are matched
    as well, as in Kolkin et al., "Style Transfer by Relaxed Optimal Transport and Self-Similarity", arXiv:1904.12785.
    """

    local = False
    LAYERS: Mapping[str, float] = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0)

    CANDIDATES = 1024

    SHARE = 0.7
    """Of the distance from the nearest, where that of the moments has 1 and is a share of what it compares with."""

    scale = 1.0

    def __init__(self, targets: Targets, weight: Tensor) -> None:
        from torch.nn.functional import normalize

        self.moments = WassersteinLoss([(share, moments) for share, (moments, _) in targets], weight)
        self.weight = weight
        self.paintings = []
        for share, (_, features) in targets:
            mean = _exact(features).mean(0)
            self.paintings.append((share, mean, normalize(_exact(features) - mean, dim=1)))

    @staticmethod
    def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> tuple[Tensor, Tensor]:
        """Moments, and some of the activations where there is weight: (1, C, H, W) -> (1, C + 1, C), (P, C)."""
        import torch

        inside = (weight > weight.max() / 2) if weight.ndim else weight > 0
        total = int(inside.sum()) if weight.ndim else round(1 / weight.item())
        every = -(-total // NearestLoss.CANDIDATES)
        # A lattice over the whole picture, whatever part of it this is.
        rows, columns = (
            torch.arange(length, device=activation.device) + (part.start or 0)
            for length, part in zip(activation.shape[2:], window, strict=True)
        )
        chosen = (rows[:, None] * round(0.618 * every) + columns) % every == 0
        features: Tensor = activation[0, :, chosen & within(inside, window)].T
        return WassersteinLoss.statistic(activation, weight, window), features

    @staticmethod
    def join(statistics: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        import torch

        moments, features = zip(*statistics, strict=True)
        return WassersteinLoss.join(moments), torch.cat(features)

    def measure(self, activation: Tensor, window: Window = EVERYWHERE) -> Tensor:
        """Moments and distance, one after the other."""
        import torch

        from style_transfer.nearest import distance_of_nearest

        weight = within(self.weight, window)
        distances = [
            share * distance_of_nearest(activation, weight, mean, candidates)
            for share, mean, candidates in self.paintings
        ]
        return torch.cat([self.moments.measure(activation, window).flatten(), torch.stack(distances).sum()[None]])

    def __call__(self, measured: Tensor) -> Tensor:
        channels = len(self.moments.mean)
        moments = self.moments(measured[:-1].view(1, channels + 1, channels)) / self.moments.scale
        return moments + self.SHARE * measured[-1]


STYLE_LOSSES: dict[str, type[StyleLoss]] = {"gram": GramLoss, "wasserstein": WassersteinLoss, "nearest": NearestLoss}


def total_variation(image: Tensor, rows: slice = slice(None)) -> Tensor:
    """The sum of the absolute differences of neighbouring pixels of (N, C, H, W), down and across.

    ``rows``: those of the whole image that ``image`` is, with the one below them; by default it is all of it.
    """
    count = None if rows.stop is None else rows.stop - rows.start
    down, across = image[:, :, 1:] - image[:, :, :-1], image[:, :, :count, 1:] - image[:, :, :count, :-1]
    return down.abs().sum() + across.abs().sum()


class TemporalLoss:
    """The sum of the squared differences from the frame before, moved along, where the flow is reliable.

    Ruder et al., "Artistic Style Transfer for Videos", arXiv:1604.08610, equation 7, without its mean.
    """

    def __init__(self, previous: Previous) -> None:
        self.previous = previous

    def __call__(self, image: Tensor, rows: slice = slice(None)) -> Tensor:
        """``image`` and ``rows`` as for :func:`total_variation`."""
        before = self.previous.image[:, :, rows]
        error: Tensor = (image[:, :, : before.shape[2]] - before).square() * self.previous.reliable[:, :, rows]
        return error.sum()


def _blend(targets: Targets) -> Tensor:
    return _add([share * statistic for share, statistic in targets])


def _exact(tensor: Tensor) -> Tensor:
    """In float32, if it was in less."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def within(weight: Tensor, window: Window) -> Tensor:
    """The weights of the positions in a window."""
    return weight[window[0], window[1]] if weight.ndim else weight


def _distribution(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C), from the moments (1, C + 1, C)."""
    mean = moments[0, -1]
    return mean, moments[0, :-1] - mean.outer(mean)


def _trace_of_root(matrix: Tensor) -> Tensor:
    """The trace of the square root of a symmetric ``matrix`` without negative eigenvalues, (), differentiable in it."""
    import torch

    fixed = (matrix + matrix.T).detach() / 2
    values, vectors = torch.linalg.eigh(fixed)
    roots = values.clamp(min=1e-30).sqrt()
    slope = vectors / (2 * roots) @ vectors.T
    trace: Tensor = roots.sum() + (slope * (matrix - matrix.detach())).sum()
    return trace
