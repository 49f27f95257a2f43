"""A photo in a painter's hand: an image optimized against the photo's content and the paintings' style."""

# Torch is imported where it is needed, so that the command line can read the defaults below without it.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from style_transfer.colors import Colors, finish, prepare
from style_transfer.presets import Preset, choose_preset

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from image_optimization.optimize import Listener, State, Step
    from image_optimization.parameterizations import PixelImage
    from image_optimization.precision import Precision
    from style_transfer.budget import Budget
    from style_transfer.flow import Previous
    from style_transfer.total import Known, Read, TotalLoss

COARSEST = 96
"""The pyramid begins where the shorter side would fall below this many pixels."""

ADAM_RATE = 0.02
"""Adam moves a pixel by about 5 of 255 levels a step."""

BEFORE, HISTORY, BUDGETS = "image of the scale before", "losses of scale ", "pairs and sides of tiles"
"""In the state of a step."""


@dataclass
class Cache:
    """What photos that are painted one after the other have in common: same paintings, network, losses, memory."""

    known: Known = field(default_factory=dict)
    """The paintings' statistics."""
    budgets: dict[tuple[int, int], Budget] = field(default_factory=dict)
    """How each size (H, W) is divided."""
    measured: tuple[int, int, float] | None = None
    """Bytes that there may be, that were in use before the first photo, and that a pass needs for a pixel: what one
    photo took and keeps is there for the next."""


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
    style_scale: float = 1.0,
    content_mask: Tensor | None = None,
    style_masks: Sequence[Tensor] = (),
    colors: Colors = "style",
    preset: str = "default",
    style_loss: str | None = None,
    content_weight: float | None = None,
    style_weight: float | None = None,
    tv_weight: float | None = None,
    temporal_weight: float | None = None,
    content_layers: Mapping[str, float] | None = None,
    style_layers: Mapping[str, float] | None = None,
    init: Literal["content", "noise"] | Tensor = "content",
    previous: Previous | None = None,
    optimizer: Literal["adam", "lbfgs"] = "lbfgs",
    steps: int = 100,
    seed: int = 0,
    precision: Precision = "auto",
    max_memory: int | None = None,
    cache: Cache | None = None,
    state: State | None = None,
    listeners: Sequence[Listener] = (),
) -> Stylized:
    """``content`` in the manner of ``styles``: Gatys et al., "A Neural Algorithm of Artistic Style", arXiv:1508.06576.

    The image is optimized coarse to fine, each scale twice as large as the one before: large forms are settled
    where they are cheap. What a scale was too coarse to hold of the photo, or of ``init``, the next one is given.

    Args:
        content: the photo, (1, 3, H, W), RGB in [0, 1].
        styles: the paintings, likewise; each is resized so that its longer side is the image's times ``style_scale``,
            or so that its shorter one is not below the network's smallest input.
        model: a network with VGG's layer names, on the device to work on; by default ``models.load("vgg16")``.
        size: the longer side of the result in pixels.
        blend: a weight for each style; by default all the same.
        style_scale: size of the brushstrokes, of 1 for those of a painting as large as the image.
        content_mask: (1, 3, H, W), of any size: parts of the photo, each of one colour or gray, see
            :func:`style_transfer.regions.find_regions`. Each takes a style of its own.
        style_masks: one for each style: its parts, in the same colours, are the styles of the photo's. Without them
            the darkest part of the photo takes the first style, the lightest the last.
        colors: ``style``: the paintings'; ``content``: the photo's, under the result's lightness; ``luminance``: the
            photo's, and the style is of lightness alone; ``match``: the paintings', moved to the photo's first.
        preset: how the losses are weighed, a key of :data:`style_transfer.PRESETS`.
        style_loss: a key of :data:`style_transfer.losses.STYLE_LOSSES`.
        content_weight, style_weight, tv_weight, temporal_weight: of the sums of the losses.
        content_layers, style_layers: the layers that count, with their weights. These and the four before are instead
            of the preset's.
        init: what to start from: the photo, noise, or an image (1, 3, H, W) in [0, 1].
        previous: of a film, the frame before (:func:`style_transfer.flow.follow`), of the size of the result: what to
            start from and to stay near, at this one scale.
        optimizer: ``lbfgs`` or ``adam``.
        steps: at each scale.
        seed: of the noise to start from.
        precision: of the network's arithmetic, see :func:`image_optimization.precision.choose_dtype`.
        max_memory: bytes to plan with, by default most of what is free. What does not fit is processed in tiles, to
            the same loss and gradient, and L-BFGS keeps less of its past.
        cache: given again from one call to the next, with another photo but all else the same: what is to be known of
            the paintings is then computed once.
        state: of a step (:attr:`image_optimization.optimize.Step.state`) of a run with the same arguments that was
            stopped: on the CPU the result is, bit for bit, that of an unbroken one.
        listeners: told of every step; steps are counted through all scales.

    Raises:
        ValueError: an argument out of range, a picture smaller than the network's smallest input, or too little memory.
        NonFiniteLoss: the loss became infinite or NaN.
    """
    from image_optimization.capture import capture
    from image_optimization.images import fitted_size, resize
    from image_optimization.layers import device_of, smallest_size
    from image_optimization.memory import release_kept_memory
    from image_optimization.optimize import counted, optimize, seeded
    from image_optimization.precision import choose_dtype
    from style_transfer.budget import plan_all
    from style_transfer.regions import divide

    if isinstance(init, str) and init not in ("content", "noise"):
        raise ValueError(f"init must be 'content', 'noise' or an image, not {init!r}")
    if not 0 < style_scale < math.inf:
        raise ValueError(f"style_scale must be above 0, not {style_scale}")
    weights = {
        "content_weight": content_weight,
        "style_weight": style_weight,
        "tv_weight": tv_weight,
        "temporal_weight": temporal_weight,
    }
    how = choose_preset(preset, style_loss, content_layers, style_layers, **weights)
    regions, masks, shares = divide(content_mask, style_masks, blend_shares(blend, len(styles)))
    if blend is not None and content_mask is not None and not style_masks:
        raise ValueError("each region of the content mask has a style of its own: there is nothing to blend")
    _check_proportions(content, styles, content_mask, style_masks, init)
    if model is None:
        from models import load

        model = load("vgg16")
    device = device_of(model)
    smallest = smallest_size(model, how.layers)
    scales = pyramid(content, size) if previous is None else [size]
    final = fitted_size(content, size)
    _check_sizes(content, final, styles, smallest, type(model).__name__)
    if previous is not None:
        previous = _checked(previous, final, device)
        init = previous.image
    photo, paintings = prepare(colors, content, styles)
    cache = Cache() if cache is None else cache
    known = {} if colors in ("match", "luminance") else cache.known  # paintings that depend on the photo are new
    subject = _Subject(model, how, photo, paintings, style_scale, smallest, regions, masks, shares, previous)
    start = None if init == "noise" else (photo if isinstance(init, str) else init).to(device)
    stopped = ""
    with seeded(seed), capture(model, how.layers, choose_dtype(precision, device)) as read:
        sizes = [fitted_size(photo, scale) for scale in scales]
        if state is None:
            largest = [max(map(math.prod, subject.painting_sizes(scale))) for scale in scales]
            count = len(regions)
            past = _Past(plan_all(model, read, how.layers, sizes, largest, count, max_memory, optimizer, cache))
        else:
            past = _Past.of(state)
            cache.budgets.update(zip(sizes, past.budgets, strict=False))
        for number, scale in list(enumerate(scales))[len(past.history) :]:
            release_kept_memory()  # nothing of what the scale before freed is large enough for this one
            try:
                pixels = _begin(past.image, start, fitted_size(photo, scale), device)
                loss = subject.loss_at(scale, read, past.budgets[number], known)
                run = optimize(
                    pixels,
                    loss,
                    steps=steps,
                    learning_rate=ADAM_RATE,
                    optimizer=optimizer,
                    history=past.budgets[number].pairs,
                    state=state,
                    listeners=counted(past.told(listeners, loss.latest), number, [each**2 for each in scales]),
                )
                state = None
            except KeyboardInterrupt:  # before this scale's first step: the image of the scale before is there
                if past.image is None:
                    raise
                stopped = "interrupted"
                break
            past = past.after(pixels.render().detach(), run.losses)
            stopped = run.stopped
            if stopped == "interrupted":
                break
    assert past.image is not None  # of the first scale, at least
    return Stylized(finish(colors, resize(past.image.cpu(), final), content), past.history, stopped)


@dataclass(frozen=True)
class _Subject:
    """What is painted and how it is judged, at every scale."""

    model: nn.Module
    how: Preset
    photo: Tensor
    paintings: Sequence[Tensor]
    style_scale: float
    smallest: int
    regions: Sequence[Tensor | None]
    masks: Sequence[Sequence[Tensor | None]]
    shares: Sequence[Sequence[float]]
    previous: Previous | None

    def style_sizes(self, scale: int) -> list[int]:
        """The longer side of each painting."""
        return [_style_size(painting, self.style_scale * scale, self.smallest) for painting in self.paintings]

    def painting_sizes(self, scale: int) -> list[tuple[int, int]]:
        """(H, W) of each."""
        from image_optimization.images import fitted_size

        return [fitted_size(*each) for each in zip(self.paintings, self.style_sizes(scale), strict=True)]

    def loss_at(self, scale: int, read: Read, budget: Budget, known: Known) -> TotalLoss:
        from image_optimization.images import fit
        from image_optimization.layers import device_of
        from style_transfer.total import Style, total_loss

        given = zip(self.paintings, self.style_sizes(scale), self.shares, self.masks, strict=True)
        styles = [Style(*each) for each in given]
        tiles_of = partial(budget.tiles, self.model, self.how.layers)
        photo = fit(self.photo, scale).to(device_of(self.model))
        return total_loss(read, photo, styles, self.how, tiles_of, self.regions, self.previous, known)


@dataclass(frozen=True)
class _Past:
    """What the scales that are done left behind, which is in the state of every step after them."""

    budgets: list[Budget]
    """Of all scales: a run that goes on has the tiles that it had, since others round otherwise."""
    image: Tensor | None = None
    history: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, state: State) -> _Past:
        from style_transfer.budget import Budget

        history = [state[name] for name in sorted(state) if name.startswith(HISTORY)]
        return cls([Budget(*budget) for budget in state[BUDGETS].tolist()], state.get(BEFORE), history)

    def state(self) -> State:
        import torch

        budgets = {BUDGETS: torch.tensor([astuple(each) for each in self.budgets])}
        before = {} if self.image is None else {BEFORE: self.image}
        return {**budgets, **before, **{f"{HISTORY}{number}": losses for number, losses in enumerate(self.history)}}

    def after(self, image: Tensor, losses: Tensor) -> _Past:
        return replace(self, image=image, history=[*self.history, losses])

    def told(self, listeners: Sequence[Listener], parts: Mapping[str, Tensor]) -> list[Listener]:
        """``listeners``, told in the state of a step of this, too, and what the loss is made of."""

        def tell(listener: Listener, step: Step) -> None:
            listener(replace(step, parts=dict(parts), state=lambda: {**step.state(), **self.state()}))

        return [partial(tell, listener) for listener in listeners]


def _begin(image: Tensor | None, start: Tensor | None, size: tuple[int, int], device: torch.device) -> PixelImage:
    """What a scale of ``size`` (H, W) begins with: the ``image`` of the one before, or ``start``, or noise."""
    from image_optimization.images import refine, resize
    from image_optimization.parameterizations import PixelImage

    if image is not None:
        return PixelImage.from_image(refine(image.to(device), start, size))
    if start is not None:
        return PixelImage.from_image(resize(start, size))
    return PixelImage.from_noise((1, 3, *size), device=device)


def _checked(previous: Previous, final: tuple[int, int], device: torch.device) -> Previous:
    """On the ``device``."""
    size = (previous.image.shape[2], previous.image.shape[3])
    if size != final:
        raise ValueError(f"the frame before has {size[1]}x{size[0]} pixels, this one is to have {final[1]}x{final[0]}")
    return replace(previous, image=previous.image.to(device), reliable=previous.reliable.to(device))


def _check_proportions(
    content: Tensor,
    styles: Sequence[Tensor],
    content_mask: Tensor | None,
    style_masks: Sequence[Tensor],
    init: str | Tensor,
) -> None:
    from style_transfer.regions import check_proportions

    for name, picture in {"content mask": content_mask, "image to start from": init}.items():
        if picture is not None and not isinstance(picture, str):
            check_proportions(name, picture, content)
    for mask, style in zip(style_masks, styles, strict=False):
        check_proportions("style mask", mask, style)


def _check_sizes(
    content: Tensor, final: tuple[int, int], styles: Sequence[Tensor], smallest: int, network: str
) -> None:
    sizes = {f"style {number}": style.shape[2:] for number, style in enumerate(styles, 1)}
    for name, (height, width) in {"photo": content.shape[2:], "photo at its final size": final, **sizes}.items():
        if min(height, width) < smallest:
            raise ValueError(f"the {name} has {width}x{height} pixels; {network} needs {smallest} each way")


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


def _style_size(style: Tensor, size: float, smallest: int) -> int:
    """The longer side of ``style``, ``size``, or more where its shorter side would get too small."""
    short, long = sorted(style.shape[2:])
    return max(round(size), math.ceil(smallest * long / short))


def blend_shares(blend: Sequence[float] | None, styles: int) -> list[float]:
    """The share of each of so many ``styles``, 1 in sum, from the weights that are given, or the same for all.

    Raises:
        ValueError: there are not as many weights as styles, or they are no weights.
    """
    if styles == 0:
        raise ValueError("no style given")
    if blend is None:
        return [1 / styles] * styles
    if len(blend) != styles:
        raise ValueError(
            f"{styles} style{'s' * (styles != 1)} but {len(blend)} blend weight{'s' * (len(blend) != 1)}; "
            "give one for each"
        )
    if min(blend) < 0 or not 0 < sum(blend) < math.inf:
        raise ValueError(f"blend weights must be 0 or more and not all 0, not {', '.join(map(str, blend))}")
    return [weight / sum(blend) for weight in blend]
