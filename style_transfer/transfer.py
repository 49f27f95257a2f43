"""A photo in a painter's hand: an image optimized against the photo's content and the paintings' style."""

# Torch is imported where it is needed, so that the command line can read the defaults below without it.
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from style_transfer.losses import (
    ContentLoss,
    GramLoss,
    Loss,
    StyleLoss,
    total_variation,
    total_variation_sum,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from image_optimization.optimize import Listener
    from image_optimization.precision import Precision

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

COARSEST = 96
"""The pyramid begins where the shorter side would fall below this many pixels."""


ADAM_RATE = 0.02
"""Adam moves a pixel by about 5 of 255 levels a step."""


@dataclass(frozen=True)
class Preset:
    """How an image is judged: which losses, and how they are weighed."""

    content_weight: float
    style_weight: float
    """Of every style layer."""
    tv_weight: float
    relative: bool
    """Content and style errors as a share of their target's mean square, so that a weight means the same for every
    layer, network and picture; else in the network's own units."""
    style_loss: type[StyleLoss]
    total_variation: Callable[[Tensor], Tensor]


PRESETS = {
    "default": Preset(1.0, 1.0, 0.5, relative=True, style_loss=GramLoss, total_variation=total_variation),
    # neural-style's objective and weights (github.com/jcjohnson/neural-style), after Gatys et al., arXiv:1508.06576.
    "gatys": Preset(5.0, 100.0, 1e-3, relative=False, style_loss=GramLoss, total_variation=total_variation_sum),
}


@dataclass(frozen=True)
class Stylized:
    """What :func:`stylize` made."""

    image: Tensor
    """(1, 3, H, W) in [0, 1], on the CPU."""
    history: list[Tensor]
    """The loss before each step, (steps,), for each scale."""
    stopped: str
    """``finished`` or ``interrupted`` (Ctrl-C)."""

    def _repr_png_(self) -> bytes | None:
        """How a notebook shows it."""
        from image_optimization.images import to_pillow

        png: bytes | None = to_pillow(self.image)._repr_png_()
        return png


def stylize(
    content: Tensor,
    styles: Sequence[Tensor],
    *,
    model: nn.Module | None = None,
    size: int = 512,
    blend: Sequence[float] | None = None,
    preset: str = "default",
    content_weight: float | None = None,
    style_weight: float | None = None,
    tv_weight: float | None = None,
    init: Literal["content", "noise"] | Tensor = "content",
    optimizer: Literal["adam", "lbfgs"] = "lbfgs",
    steps: int = 100,
    seed: int = 0,
    precision: Precision = "auto",
    listeners: Sequence[Listener] = (),
) -> Stylized:
    """``content`` in the manner of ``styles``: Gatys et al., "A Neural Algorithm of Artistic Style", arXiv:1508.06576.

    The image is optimized coarse to fine, each scale twice as large as the one before: large forms are settled
    where they are cheap. What a scale was too coarse to hold of the photo, or of ``init``, the next one is given.

    Args:
        content: the photo, (1, 3, H, W), RGB in [0, 1].
        styles: the paintings, likewise; each is resized so that its longer side is the image's, or so that its
            shorter one is not below the network's smallest input.
        model: a network with VGG's layer names, on the device to work on; by default ``models.load("vgg16")``.
        size: the longer side of the result in pixels.
        blend: a weight for each style; by default all the same.
        preset: how the losses are weighed, a key of :data:`PRESETS`.
        content_weight, style_weight, tv_weight: instead of the preset's.
        init: what to start from: the photo, noise, or an image (1, 3, H, W) in [0, 1].
        optimizer: ``lbfgs`` or ``adam``.
        steps: at each scale.
        seed: of the noise to start from.
        precision: of the network's arithmetic, see :func:`image_optimization.precision.choose_dtype`.
        listeners: told of every step; the step numbers begin again at every scale.

    Raises:
        ValueError: an argument out of range, or a picture smaller than the network's smallest input.
        NonFiniteLoss: the loss became infinite or NaN.
    """
    from image_optimization.capture import capture
    from image_optimization.images import fit, refine, resize
    from image_optimization.layers import device_of, smallest_size
    from image_optimization.optimize import optimize, seeded
    from image_optimization.parameterizations import PixelImage
    from image_optimization.precision import choose_dtype

    if isinstance(init, str) and init not in ("content", "noise"):
        raise ValueError(f"init must be 'content', 'noise' or an image, not {init!r}")
    weights = _choose_preset(preset, content_weight, style_weight, tv_weight)
    shares = _shares(blend, len(styles))
    if model is None:
        from models import load

        model = load("vgg16")
    device = device_of(model)
    scales = pyramid(content, size)
    smallest = smallest_size(model, (*CONTENT_LAYERS, *STYLE_LAYERS))
    pictures = {f"style {number}": style for number, style in enumerate(styles, 1)}
    for name, picture in {"photo": content, "photo at its final size": fit(content, size), **pictures}.items():
        height, width = picture.shape[2:]
        if min(height, width) < smallest:
            raise ValueError(
                f"the {name} has {width}x{height} pixels; {type(model).__name__} needs {smallest} each way"
            )
    start = None if init == "noise" else (content if isinstance(init, str) else init).to(device)
    image: Tensor | None = None
    history: list[Tensor] = []
    stopped = ""
    dtype = choose_dtype(precision, device)
    with seeded(seed), capture(model, (*CONTENT_LAYERS, *STYLE_LAYERS), dtype) as activations_of:
        for scale in scales:
            try:
                photo = fit(content, scale).to(device)
                paintings = [fit(style, _style_size(style, scale, smallest)).to(device) for style in styles]
                loss = style_transfer_loss(activations_of, photo, paintings, shares, weights)
                shape = (photo.shape[2], photo.shape[3])
                if image is not None:
                    pixels = PixelImage.from_image(refine(image, start, shape))
                elif start is not None:
                    pixels = PixelImage.from_image(resize(start, shape))
                else:
                    pixels = PixelImage.from_noise((1, 3, *shape), device=device)
                run = optimize(
                    pixels, loss, steps=steps, learning_rate=ADAM_RATE, optimizer=optimizer, listeners=listeners
                )
            except KeyboardInterrupt:  # before this scale's first step: the image of the scale before is there
                if not history:
                    raise
                stopped = "interrupted"
                break
            image = pixels.render().detach()
            history.append(run.losses)
            stopped = run.stopped
            if stopped == "interrupted":
                break
    height, width = fit(content, size).shape[2:]
    assert image is not None  # of the first scale, at least
    return Stylized(resize(image.cpu(), (height, width)), history, stopped)


def style_transfer_loss(
    activations_of: Callable[[Tensor], dict[str, Tensor]],
    content: Tensor,
    styles: Sequence[Tensor],
    blend: Sequence[float],
    weights: Preset,
) -> Callable[[Tensor], Tensor]:
    """The loss of an image (1, 3, H, W) in [0, 1]; its targets are computed here, once.

    Args:
        activations_of: a :func:`image_optimization.capture.capture` of the content and style layers.
        content: the photo, of the image's size.
        styles: the paintings, of any size.
        blend: the share of each, in sum 1.
        weights: how the losses are weighed.
    """
    import torch

    statistic = weights.style_loss.statistic
    with torch.no_grad():
        photo = activations_of(content)
        paintings = [
            {layer: share * statistic(activations[layer]) for layer in STYLE_LAYERS}
            for share, activations in zip(blend, map(activations_of, styles), strict=True)
        ]
    terms: list[tuple[str, float, Loss]] = [
        *((layer, weights.content_weight, ContentLoss(photo[layer].float())) for layer in CONTENT_LAYERS),
        *(
            (layer, weights.style_weight, weights.style_loss(torch.stack([each[layer] for each in paintings]).sum(0)))
            for layer in STYLE_LAYERS
        ),
    ]
    if weights.relative:
        terms = [(layer, weight / term.target.square().mean().item(), term) for layer, weight, term in terms]

    def loss(image: Tensor) -> Tensor:
        activations = activations_of(image)
        total = weights.tv_weight * weights.total_variation(image)
        for layer, weight, term in terms:
            total = total + weight * term(activations[layer])
        return total

    return loss


def pyramid(content: Tensor, size: int) -> list[int]:
    """The longer sides at which to optimize, coarse to fine.

    These are ``size`` and its halves, as long as the shorter side keeps :data:`COARSEST` pixels.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    height, width = content.shape[2:]
    sizes = [size]
    while min(height, width) / max(height, width) * sizes[0] / 2 >= COARSEST:
        sizes.insert(0, round(sizes[0] / 2))
    return sizes


def _style_size(style: Tensor, scale: int, smallest: int) -> int:
    """The longer side of ``style`` for an image of ``scale``: more where its shorter side would get too small."""
    short, long = sorted(style.shape[2:])
    return max(scale, math.ceil(smallest * long / short))


def _choose_preset(
    name: str, content_weight: float | None, style_weight: float | None, tv_weight: float | None
) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    given = {"content_weight": content_weight, "style_weight": style_weight, "tv_weight": tv_weight}
    for key, value in given.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{key} must be 0 or more, not {value}")
    overrides: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(PRESETS[name], **overrides)


def _shares(blend: Sequence[float] | None, styles: int) -> list[float]:
    if styles == 0:
        raise ValueError("no style given")
    if blend is None:
        return [1 / styles] * styles
    if len(blend) != styles:
        raise ValueError(
            f"{styles} style{'s' * (styles != 1)} but {len(blend)} blend weight{'s' * (len(blend) != 1)}; "
            "give one for each"
        )
    if min(blend) < 0 or not sum(blend) > 0:
        raise ValueError(f"blend weights must be 0 or more and not all 0, not {', '.join(map(str, blend))}")
    return [weight / sum(blend) for weight in blend]
