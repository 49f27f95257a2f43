"""Style transfer: an image is optimized to match a photo's content and the paintings' style."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Unpack

from dreamgram.image_optimization.capture import Reader, capture, is_recordable
from dreamgram.image_optimization.checks import as_model, as_wholes
from dreamgram.image_optimization.images import (
    ImageLike,
    as_image,
    as_images,
    fit,
    fitted_size,
    refine,
    resize,
    to_pillow,
)
from dreamgram.image_optimization.layers import device_of, smallest_size
from dreamgram.image_optimization.memory import is_out_of_memory, release_kept_memory
from dreamgram.image_optimization.names import described, shorten, unknown
from dreamgram.image_optimization.optimize import (
    OPTIMIZERS,
    Ending,
    Listener,
    OptimizerFactory,
    Run,
    State,
    Step,
    as_listeners,
    choose_optimizer,
    counted,
    in_turn,
    optimize,
    seeded,
)
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.image_optimization.precision import choose_dtype, products_in_full_precision
from dreamgram.image_optimization.recording import is_own
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.models import load
from dreamgram.style_transfer.budget import Budget, Planner, read_budgets, smallest_tile
from dreamgram.style_transfer.colors import finish, is_gray, luminance, prepare
from dreamgram.style_transfer.kept import Kept, PaintedImage, joined, read_mask
from dreamgram.style_transfer.keywords import StyleKeywords, StylizerKeywords
from dreamgram.style_transfer.losses import STYLE_LOSSES, Previous, StyleLoss
from dreamgram.style_transfer.options import INIT, NAMED_STARTS, StyleOptions
from dreamgram.style_transfer.regions import check_proportions, divide, without_margin
from dreamgram.style_transfer.salience import (
    SALIENCE_LAYER,
    SALIENCE_SHORTEST,
    SALIENCE_SIDE,
    emphasized,
    salience,
)
from dreamgram.style_transfer.seamless import circular, enlarge, without_edges
from dreamgram.style_transfer.targets import Targets, fingerprint
from dreamgram.style_transfer.total_loss import Style, TotalLoss, total_loss
from dreamgram.workbench.options import OptionError

_logger = logging.getLogger(__name__)

COARSEST = 72
"""Minimum length of the image's shorter side, in pixels, at each scale except the last, which has the full size."""

CONSTANT_WORK = 200**2
"""The part of a step's work that does not depend on the size of the image, such as matrix products in the style losses.
The work is expressed as the number of pixels whose processing takes the same time. This number is used to estimate the
progress and the time left."""

ADAM_RATE = 0.02
"""Adam's learning rate, which changes a pixel by about 5 of 255 levels per step."""

IMAGE_BEFORE, LOSSES_OF_SCALE, BUDGETS = "image_before", "losses_of_scale_", "budgets"
"""Names of the tensors that are saved with the optimizer's state, so that a run can be resumed. The tensors hold
the result of the last finished scale, the losses of each finished scale, and the memory budgets of all scales. The
name of the tensor with the losses of a scale is the value of ``LOSSES_OF_SCALE`` followed by the index of the scale."""


@dataclass(frozen=True)
class Stylized:
    """The result of a style transfer."""

    image: Tensor
    """The picture, (1, 3, H, W) in [0, 1], on the CPU."""
    history: list[Tensor]
    """One tensor (steps,) for each scale (a size at which the image was optimized): the loss before each step."""
    stopped: Ending
    """Reason why the run ended: ``finished``, or ``interrupted`` if it was stopped early, for example by Ctrl-C."""
    plan: Sequence[Budget] = ()
    """One memory budget for each scale: the number of curvature pairs of L-BFGS and the size of a tile."""

    def __repr__(self) -> str:
        """Return a one-line summary."""
        height, width = self.image.shape[2:]
        losses = ", ".join(f"{each[-1].item():.4g}" for each in self.history)
        return f"Stylized({width}x{height} pixels, {self.stopped}, loss {losses} at the end of each scale)"

    def _repr_png_(self) -> bytes | None:
        """Return the picture as the bytes of a PNG file, which a notebook displays."""
        png: bytes | None = to_pillow(self.image)._repr_png_()
        return png


def stylize(
    photo: ImageLike | None,
    paintings: Sequence[ImageLike | None] | ImageLike,
    options: StyleOptions | None = None,
    *,
    state: State | None = None,
    listeners: Sequence[Listener] | Listener = (),
    **given: Unpack[StylizerKeywords],
) -> Stylized:
    """Paint ``photo`` in the style of ``paintings``, with a method based on Gatys et al., arXiv:1508.06576.

    For example, ``stylize(photo, [painting], size=512, style_weight=3)`` makes a :class:`Stylizer` and runs it once.

    Args:
        photo: the photo, (1, 3, H, W), RGB in [0, 1], or in a different form, such as a Pillow image or the path of a
            file; see :func:`dreamgram.image_optimization.images.as_images`. If it is None, the result is a square
            texture.
        paintings: the paintings, in any of the forms that are allowed for the photo, and of any size. A single painting
            need not be in a list.
        options: the settings; by default those of ``StyleOptions()``.
        state: the state of an earlier run to resume; see :meth:`Stylizer.run`.
        listeners: functions that are called after every step; see :meth:`Stylizer.run`.
        **given: further arguments of :class:`Stylizer`, including fields of :class:`StyleOptions`, which override the
            fields of ``options``.

    Raises:
        ValueError: an argument is unknown or out of range, a picture is too small for the network, or there is too
            little memory.
        NonFiniteLoss: the loss became infinite or NaN.
    """
    return Stylizer(photo, paintings, options, **given).run(state=state, listeners=listeners)


class Stylizer:
    """A style transfer that can be run several times. It holds a photo, paintings whose style to use, and all settings.

    The image is optimized at several sizes, called scales, from coarse to fine. By default, each scale is twice as
    large as the previous scale, so that large forms are painted at coarse scales, where steps take little time. The
    option ``steps`` is the number of steps at the last scale, and every earlier scale gets a third as many. Each scale
    starts from the enlarged result of the previous scale. Detail that was too fine for the previous scale is added from
    the image that the first scale started from, by default the photo. If the first scale started from noise, no detail
    is added. The statistics of the paintings are computed in the first run and reused in later runs.

    Example:
        >>> stylizer = Stylizer(photo, [painting], size=512)
        >>> picture = stylizer.run().image
        >>> stronger = stylizer.change(style_weight=3).run().image
    """

    _result: Stylized | None = None
    """Result of the last run, before :meth:`finish`, if this run was not stopped early."""
    _portions: Sequence[float]
    """Length of the longer side of the part of each painting that is used, as a fraction of that of the painting."""
    _painted: Stylized | None = None
    """Result, before :meth:`finish`, of a stylizer that differs from this one only in the strength."""

    @usual_settings
    def __init__(
        self,
        photo: ImageLike | None,
        paintings: Sequence[ImageLike | None] | ImageLike,
        options: StyleOptions | None = None,
        *,
        model: nn.Module | None = None,
        content_mask: ImageLike | None = None,
        style_masks: Sequence[ImageLike] | ImageLike | None = None,
        keep: ImageLike | None = None,
        init: Literal["content", "noise"] | ImageLike = INIT,
        previous: Previous | None = None,
        scales: Sequence[int] | None = None,
        plan: Sequence[Budget] | None = None,
        optimizer: str | OptimizerFactory | None = None,
        **fields: Unpack[StyleKeywords],
    ) -> None:
        """Check the arguments and prepare the pictures. The activations of the pictures are computed in the first run.

        Instead of a tensor, each picture can be given in a different form, such as a Pillow image or the path of a
        file; see :func:`dreamgram.image_optimization.images.as_images`.

        Args:
            photo: the photo, (1, 3, H, W), RGB in [0, 1]. If it is None, the result is a square texture that has the
                style of the paintings and no content. It starts from noise by default.
            paintings: the paintings, (1, 3, H, W) each, RGB in [0, 1], or a single painting. At each scale, a painting
                is resized so that its longer side is ``style_scale`` times that of the image, or larger if its shorter
                side would otherwise be below the network's minimum input size. If there is a content mask and no style
                mask, None in place of a painting means that the region keeps the pixels of the photo.
            options: the settings; by default those of ``StyleOptions()``.
            model: a network with VGG's layer names, on the device on which to compute; by default ``load("vgg16")``.
            content_mask: a mask with the proportions of the photo, (1, 3, H, W) in [0, 1], in which each region has one
                color; see :func:`find_regions`. Each region can take a different style.
            style_masks: one mask (1, 3, H, W) in [0, 1] for each painting, or a single mask if there is one painting.
                Each mask has the proportions of its painting. In the mask, the part of the painting to use for a region
                has the color that the region has in the content mask. Without style masks, the region with the darkest
                color takes the first painting, and so on to the lightest.
            keep: a mask with the proportions of the photo, (1, 3, H, W) in [0, 1]. Where the mask is white, the result
                has the pixels of the photo, which also do not count in the statistics that are compared with those of
                the paintings. Soft edges of the mask mix the photo with the painted picture.
            init: the image to start from: ``content`` (the photo), ``noise``, or an image (1, 3, H, W) in [0, 1].
            previous: in a video, the previous painted frame, warped by :func:`follow`. It must have the size of the
                result. The image starts from this frame and stays close to it. If a previous frame is given, there is
                only one scale by default.
            scales: the longer side of the image, in pixels, at each scale, from coarse to fine; by default the result
                of :func:`pyramid`.
            plan: one memory budget for each scale, as in :attr:`Stylized.plan`. By default, the budgets are computed
                from the option ``max_memory`` or the free memory.
            optimizer: the name of an optimizer, or a function that makes an optimizer, given the tensor to optimize and
                a pair of the smallest and the largest allowed value. By default, ``options`` determine the optimizer.
            **fields: fields of :class:`StyleOptions`, which override the fields of ``options``.

        Raises:
            ValueError: an argument is unknown or out of range, or a picture is too small for the network.
        """
        model = load("vgg16") if model is None else as_model(model)
        scales = None if scales is None else as_wholes(scales, "scales", least=1)
        self._given: dict[str, Any] = {
            "photo": None if photo is None else _picture(photo, "photo"),
            "paintings": _pictures(paintings, "painting", may_lack=True),
            "model": model,
            "content_mask": None if content_mask is None else _picture(content_mask, "content mask"),
            "style_masks": [] if style_masks is None else _pictures(style_masks, "style mask"),
            "keep": None if keep is None else _picture(keep, "mask of the parts to keep"),
            "init": _start_picture(init),
            "previous": previous,
            "scales": scales,
            "plan": plan,
        }
        named = {"optimizer": optimizer} if isinstance(optimizer, str) else {}
        combined = self._combine(StyleOptions() if options is None else options, {**fields, **named})
        if combined.draft and (scales or plan):
            raise ValueError("a draft has scales and a plan of its own: leave out draft, or scales and plan")
        self.options = combined.drafted()
        self._factory = None if isinstance(optimizer, str | None) else choose_optimizer(optimizer)
        self.model, self.plan = model, plan
        self.losses, self.device = self.options.losses, device_of(self.model)
        if photo is None:
            self._check_texture()
            self.losses = replace(self.losses, content_layers={})
        elif self.options.seamless:
            raise OptionError("seamless", "must be left out if a photo is painted: only textures can be seamless")
        self.photo: Tensor = _blank(self.options.size) if photo is None else self._given["photo"]
        self.size = fitted_size(self.photo, self.options.size)
        usual = pyramid(self.photo, self.options.size) if previous is None else [self.options.size]
        self.scales = list(scales or usual)
        # More steps at the earlier scales hardly lower the final loss, and a face then fades into the style.
        earlier = max(1, self.options.steps // 3)
        self.steps = [earlier] * (len(self.scales) - 1) + [self.options.steps]
        self._smallest = smallest_size(self.model, self.losses.layers)
        self._check()
        self._divide()
        self.previous = None if previous is None else _checked(previous, self.size, self.device)
        self._start = self._image_to_start_from(self._given["init"])
        pairs = zip(self._paintings, self._masks, strict=True)
        self._painting_hashes = [fingerprint(painting, *masks) for painting, masks in pairs]
        self._photo_hash = fingerprint(self._photo)
        self._cache, self._planner = Targets(), Planner(self.options.max_memory)

    def _divide(self) -> None:
        """Divide the photo among the paintings and the parts that are kept, and prepare the colors of all pictures."""
        given = self._given
        shares = blend_shares(self.options.blend, len(given["paintings"]))
        self.regions, masks, parts = divide(given["content_mask"], given["style_masks"], shares)
        mask = None if given["keep"] is None else read_mask(given["keep"])
        painted = [number for number, painting in enumerate(given["paintings"]) if painting is not None]
        if len(painted) < len(shares):
            if given["content_mask"] is None or given["style_masks"]:
                raise ValueError("a region can have no style only with a content mask, and without style masks")
            # Without style masks, each painting belongs to the region with the same number.
            mask = joined(mask, [region for number, region in enumerate(self.regions) if number not in painted])
            self.regions = [self.regions[number] for number in painted]
            masks = [[row[region] for region in painted] for row in masks]
            parts = [[row[region] for region in painted] for row in parts]
        wholes = [given["paintings"][number] for number in painted]
        # A style mask says which part of its painting to use.
        margin = 0.0 if given["style_masks"] else self.losses.style_margin
        paintings = [without_margin(whole, margin) for whole in wholes]
        pairs = zip(paintings, wholes, strict=True)
        self._portions = [max(part.shape[2:]) / max(whole.shape[2:]) for part, whole in pairs]
        self._masks, self._shares = ([masks[number] for number in painted], [parts[number] for number in painted])
        measured = self.photo if mask is None else Kept(self.photo, mask).painted_pixels()
        self._photo, self._paintings = prepare(self.options.colors, self.photo, paintings, measured)
        self._kept = None
        if mask is not None:
            self._kept = Kept(self._photo, mask)
            self.regions = [self._kept.outside(region) for region in self.regions]
            measured = self._kept.painted_pixels()
        elif given["photo"] is not None:
            measured = self._photo
        pictures = self._paintings if given["photo"] is None else [measured, *self._paintings]
        self._is_gray = all(map(is_gray, pictures))
        if self.options.seamless:
            self._masks = [[without_edges(painting)] for painting in self._paintings]

    def __repr__(self) -> str:
        """Return a one-line summary."""
        height, width = self.size
        paintings = f"{len(self._paintings)} painting{'s' * (len(self._paintings) != 1)}"
        return f"Stylizer({width}x{height} pixels, {paintings}, {sum(self.steps)} steps, {self.device})"

    def _combine(self, options: StyleOptions, fields: Mapping[str, Any]) -> StyleOptions:
        """Check that all ``fields`` exist, and return a copy of ``options`` in which they have the given values."""
        if not isinstance(options, StyleOptions):
            raise TypeError(
                f"options must be StyleOptions, not {described(options)}; give single options by name, such as size=512"
            )
        known = [*self._given, *vars(options)]
        for name in fields:
            if name not in known:
                raise ValueError(unknown("argument", name, known))
        return options.change(**fields)

    def _check(self) -> None:
        """Check that the arguments fit together and that the pictures are large enough for the network."""
        given, paintings = self._given, self._given["paintings"]
        content_mask, style_masks, keep, init, plan = (
            given[name] for name in ("content_mask", "style_masks", "keep", "init", "plan")
        )
        if isinstance(init, str) and init not in NAMED_STARTS:
            raise ValueError(f"init must be 'content', 'noise' or an image, not {init!r}")
        if self.options.blend is not None and content_mask is not None and not style_masks:
            raise ValueError("each region of the content mask has a style of its own: there is nothing to blend")
        if given["previous"] is not None and not isinstance(given["previous"], Previous):
            raise TypeError(f"previous must be a Previous, as follow returns it, not {described(given['previous'])}")
        if plan is not None and not (isinstance(plan, Sequence) and all(isinstance(each, Budget) for each in plan)):
            raise TypeError(f"plan must be a list of budgets, as in Stylized.plan, not {shorten(plan)}")
        if plan is not None and len(plan) != len(self.scales):
            raise ValueError(f"the plan has {len(plan)} budgets for {len(self.scales)} scales")
        shaped = {"content mask": content_mask, "mask of the parts to keep": keep, "image to start from": init}
        for name, picture in shaped.items():
            if isinstance(picture, Tensor):
                check_proportions(name, picture, self.photo)
        numbered = {number: painting for number, painting in enumerate(paintings, 1) if painting is not None}
        if not numbered:
            raise ValueError(
                "no style given" if not paintings else "no region has a style, so nothing would be painted"
            )
        if content_mask is not None and len(style_masks) == len(paintings):  # otherwise, _divide raises an error
            for number, painting in numbered.items():
                check_proportions("style mask", style_masks[number - 1], painting)
        sizes = {f"style {number}": painting.shape[2:] for number, painting in numbered.items()}
        sizes = {"photo": self.photo.shape[2:], "photo at its final size": self.size, **sizes}
        for name, (height, width) in sizes.items():
            if min(height, width) < self._smallest:
                needed = f"{type(self.model).__name__} needs {self._smallest} each way"
                raise ValueError(f"the {name} has {width}x{height} pixels; {needed}")

    def _check_texture(self) -> None:
        """Check that the arguments suit a texture, a picture without a photo."""
        for name in ("content_mask", "style_masks", "keep", "previous"):
            given = self._given[name]
            if given is not None and not (isinstance(given, list) and not given):
                raise ValueError(f"a texture has no photo, and {name} refers to a photo")
        for name, needed in {"colors": "style", "strength": 1}.items():
            if getattr(self.options, name) != needed:
                raise OptionError(name, f"must be {needed} for a texture, which has no photo")

    def change(self, **changes: Any) -> Stylizer:
        """Return a copy of this stylizer with some arguments of :class:`Stylizer` or some options changed.

        If the model stays the same, the copy reuses the activations and statistics that this stylizer has computed.
        Only those that are still missing, such as the statistics of a new painting, are computed. If only the strength
        changes, the picture of the last run is not painted again, and listeners are not called.

        Raises:
            ValueError: an argument is unknown or out of range.
        """
        given = {**self._given, **{name: value for name, value in changes.items() if name in self._given}}
        others = {name: value for name, value in changes.items() if name not in self._given}
        factory = others.pop("optimizer", self._factory)
        changed = Stylizer(options=self.options, optimizer=factory, **given, **others)
        if changed.model is self.model:
            changed._cache = self._cache
            settings = [(each.options.max_memory, each.options.precision) for each in (self, changed)]
            if settings[0] == settings[1]:
                changed._planner = self._planner
            if self._paints_like(changed):
                again = changed.options.strength == self.options.strength
                changed._painted = self._painted if again else self._painted or self._result
        return changed

    def _paints_like(self, other: Stylizer) -> bool:
        """Return whether ``other``, a changed copy, optimizes the same image. The final strength may differ."""
        names = ("content_mask", "style_masks", "keep", "init", "previous", "scales", "plan")
        return (
            self.options.change(strength=1.0) == other.options.change(strength=1.0)
            and self._painting_hashes == other._painting_hashes
            and self._factory is other._factory
            and torch.equal(self.photo, other.photo)
            and all(_is_same(self._given[name], other._given[name]) for name in names)
        )

    @usual_settings
    def run(self, *, state: State | None = None, listeners: Sequence[Listener] | Listener = ()) -> Stylized:
        """Paint the picture.

        If memory runs out, the current scale is started again with tiles whose sides are half as long. The listeners
        are then called again for the steps of this scale.

        Args:
            state: the tensors that the function :attr:`Step.state` returned after a step of an earlier run, to resume
                that run after that step. On the CPU, the result is identical to that of an uninterrupted run.
            listeners: functions that are called with a :class:`Step` after every step of the optimization. The steps of
                all scales are numbered consecutively. A listener must not wait for another thread that calls functions
                of this package, because only one thread at a time can run networks.

        Raises:
            ValueError: there is too little memory, or the state belongs to a different run.
            NonFiniteLoss: the loss became infinite or NaN.
            TypeError: a listener is not a function.
        """
        told = as_listeners(listeners)
        if self._painted is not None and state is None:
            return replace(self._painted, image=self.finish(self._painted.image))
        if not isinstance(state, Mapping | None):
            raise TypeError(f"state must be a dictionary of tensors, as Step.state returns it, not {described(state)}")
        dtype = choose_dtype(self.options.precision, self.device, self.model)
        self._cache.begin(self._photo_hash, self._painting_hashes)
        with (
            capture(self.model, self.losses.layers, dtype) as activations_of,
            seeded(self.options.seed),
            products_in_full_precision(self.device),
        ):
            if state is None:
                past = _Past(self._budgets(activations_of))
            else:
                past = _Past.of(state, self._sizes)
                state = {name: tensor for name, tensor in state.items() if name not in past.state()}
            # The memory in use has been measured before. It must not include the memory that this pass needs.
            emphasis = self._emphasis(dtype)

            def paint(number: int) -> Run:
                nonlocal past, state
                random_state = torch.get_rng_state()
                while True:
                    resumed, state = state, None
                    try:
                        past, run = self._paint_scale(number, past, activations_of, dtype, resumed, told, emphasis)
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        smaller = self._smaller(past.budgets[number], number)
                        if smaller is None:
                            raise
                        past = past.with_budget(number, smaller)
                        torch.set_rng_state(random_state)  # so that the picture depends only on the plan
                        continue
                    return run

            _, stopped = in_turn(range(len(past.history), len(self.scales)), paint)
        assert past.image is not None  # at least the first scale has run
        result = Stylized(resize(past.image.cpu(), self.size), past.history, stopped, past.budgets)
        self._result = result if stopped == "finished" else None
        return replace(result, image=self.finish(result.image))

    def finish(self, image: Tensor) -> Tensor:
        """Return an optimized ``image`` (1, 3, H, W) in [0, 1] with its final colors, strength and kept parts.

        The image can have any size with the proportions of the result.
        """
        image = finish(self.options.colors, self.options.strength, image, self.photo)
        if self._kept is None:
            return image
        return replace(self._kept, photo=self.photo).resized((image.shape[2], image.shape[3])).over(image)

    def _paint_scale(
        self,
        number: int,
        past: _Past,
        activations_of: Reader,
        dtype: torch.dtype,
        state: State | None,
        listeners: Sequence[Listener],
        emphasis: Tensor | None,
    ) -> tuple[_Past, Run]:
        """Optimize the image at the scale with the index ``number``.

        ``past`` holds the results of the scales that are already finished. Return a copy of ``past`` to which the
        result of this scale is added, and the :class:`Run` of the optimization.
        """
        if self.device.type == "cpu":
            release_kept_memory()  # memory blocks that the previous scale freed are too small for this scale
        budget = past.budgets[number]
        parameterization = self._begin(past.image, self._sizes[number])
        loss = self._loss(self.scales[number], activations_of, budget, dtype, emphasis)
        if self.options.compile:
            loss = replace(loss, activations_of=activations_of.compiled())
        costs = [scale**2 + CONSTANT_WORK for scale in self.scales]
        # The paintings have been measured with their usual edges: they are not seamless.
        with circular(self.model) if self.options.seamless else nullcontext():
            run = optimize(
                parameterization,
                loss,
                steps=self.steps[number],
                learning_rate=ADAM_RATE,
                optimizer=self._factory or self.options.optimizer,
                history=budget.pairs,
                # The edges of blocks would not fit together at opposite edges of a seamless texture.
                block=StyleLoss.BLOCK if self.options.seamless else STYLE_LOSSES[self.losses.style_loss].BLOCK,
                state=state,
                listeners=counted(past.tell(listeners, loss.latest), number, self.steps, costs),
                record=is_own(STYLE_LOSSES[self.losses.style_loss]) and is_recordable(self.model),
            )
        return past.after(parameterization.render().detach(), run.losses), run

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        """Return the size (H, W) of the image at each scale, in pixels."""
        return [fitted_size(self._photo, scale) for scale in self.scales]

    def _budgets(self, activations_of: Reader) -> list[Budget]:
        """Return the memory budget of each scale."""
        if self.plan is not None:
            return list(self.plan)
        painting_pixel_counts = [max(map(math.prod, self._painting_sizes(scale))) for scale in self.scales]
        return self._planner.plan(
            self.model,
            activations_of,
            self.losses.layers,
            self._sizes,
            painting_pixel_counts,
            len(self.regions),
            getattr(self._factory or OPTIMIZERS[self.options.optimizer], "VECTORS_PER_PAIR", 0),
        )

    def _smaller(self, budget: Budget, number: int) -> Budget | None:
        """Return a copy of ``budget`` with the sides of the tiles halved.

        ``number`` is the index of the scale. If the argument ``plan`` of :class:`Stylizer` was given, or if the tiles
        would be too small, return None.
        """
        scale = self.scales[number]
        largest = max(map(math.prod, [self._sizes[number], *self._painting_sizes(scale)]))
        side = min(budget.side, math.isqrt(largest)) // 2
        if self.plan is not None or side < smallest_tile(self.model, self.losses.layers):
            return None
        _logger.debug("out of memory: the picture of %d pixels is now painted in tiles of %d pixels", scale, side)
        return replace(budget, side=side)

    def _style_sizes(self, scale: int) -> list[int]:
        """Return the longer side, in pixels, to which to resize each painting at a scale.

        ``scale`` is the longer side of the image, in pixels.
        """
        side = self.options.style_scale * scale
        pairs = zip(self._paintings, self._portions, strict=True)
        return [_longer_side(painting, portion * side, self._smallest) for painting, portion in pairs]

    def _painting_sizes(self, scale: int) -> list[tuple[int, int]]:
        """Return the size (H, W), in pixels, to which to resize each painting at a scale.

        ``scale`` is the longer side of the image, in pixels.
        """
        return [fitted_size(*each) for each in zip(self._paintings, self._style_sizes(scale), strict=True)]

    def _emphasis(self, dtype: torch.dtype) -> Tensor | None:
        """Return how much each part of the photo counts in the content loss, or None if all parts count equally.

        ``dtype`` is the precision of the network. All parts also count equally if the network cannot show which parts
        stand out.
        """
        focus, side = self.losses.emphasis, min(SALIENCE_SIDE, self.options.size)
        small = min(fitted_size(self._photo, side)) < SALIENCE_SHORTEST
        if small or not focus or not any(self.losses.content.values()):
            return None
        painted = None if self._kept is None else 1 - self._kept.mask.to(self.device)

        def measure() -> Tensor | None:
            return salience(self.model, fit(self._photo.to(self.device), side), dtype, painted)

        found = self._cache.of_photo((SALIENCE_LAYER, side, dtype, fingerprint(painted)), measure)
        return None if found is None else emphasized(found, focus, painted)

    def _loss(
        self, scale: int, activations_of: Reader, budget: Budget, dtype: torch.dtype, emphasis: Tensor | None
    ) -> TotalLoss:
        """Return the total loss function for an image whose longer side has ``scale`` pixels."""
        given = zip(
            self._paintings, self._style_sizes(scale), self._shares, self._masks, self._painting_hashes, strict=True
        )
        if self.options.seamless and scale > budget.side:
            raise ValueError("a seamless texture cannot be painted in tiles: allow more memory or a smaller size")
        return total_loss(
            activations_of,
            fit(self._photo.to(self.device), scale),
            [Style(*each) for each in given],
            self.losses,
            partial(budget.tiles, self.model, self.losses.layers),
            self.regions,
            self.previous,
            self._cache,
            (dtype, budget, self.options.seamless),  # pictures in different tiles are rounded differently
            self.options.seamless,
            emphasis,
        )

    def _image_to_start_from(self, init: str | Tensor) -> Tensor | None:
        """Return the image to start from, on the device, or None for noise."""
        if self.previous is not None:
            return self.previous.image
        if isinstance(init, Tensor):
            return init.to(self.device)
        return self._photo.to(self.device) if init == "content" and self._given["photo"] is not None else None

    def _begin(self, image: Tensor | None, size: tuple[int, int]) -> PaintedImage:
        """Return the image from which the optimization at a scale starts. Its size (H, W), in pixels, is ``size``.

        The returned image is made from ``image``, the result of the previous scale. At the first scale, ``image`` is
        None, and the optimization starts from the image that the arguments ``init`` and ``previous`` select.
        """
        kept = None if self._kept is None else self._kept.resized(size, self.device)
        if image is not None:
            given = image.to(self.device)
            start = enlarge(given, size) if self.options.seamless else refine(given, self._start, size)
        elif self._start is not None:
            start = resize(self._start, size)
        else:
            shape = (1, 1 if self._is_gray else 3, *size)
            return PaintedImage(PixelImage.from_noise(shape, device=self.device).leaf, kept)
        start = start.clamp(0, 1)
        return PaintedImage(luminance(start)[:, :1] if self._is_gray else start, kept)


@dataclass(frozen=True)
class _Past:
    """The results of the finished scales of a run. A scale is a size at which the image is optimized.

    The results are part of the state from which the run can be resumed.
    """

    budgets: list[Budget]
    """Memory budgets of all scales, finished or not. A resumed run uses the same budgets, and so the same tiles, as
    the interrupted run, because different tiles would lead to different rounding errors."""
    image: Tensor | None = None
    """The image of the last finished scale, (1, 3, H, W) in [0, 1]; None if no scale is finished."""
    history: list[Tensor] = field(default_factory=list)
    """One tensor (steps,) for each finished scale: the loss before each step."""

    @classmethod
    def of(cls, state: State, sizes: Sequence[tuple[int, int]]) -> _Past:
        """Return the results of the finished scales that are stored in ``state``, the saved state of an earlier run.

        ``sizes`` are the sizes (H, W) of the image at all scales. The state is checked, because it may come from a file
        that is damaged or that a different program wrote.

        Raises:
            ValueError: the state is damaged, or belongs to a run with different scales.
        """
        names = [name for name in (f"{LOSSES_OF_SCALE}{number}" for number in range(len(sizes))) if name in state]
        history, image = [state[name] for name in names], state.get(IMAGE_BEFORE)
        try:
            known = cls(read_budgets(state[BUDGETS].tolist()), image, history)
        except (KeyError, ValueError) as error:
            raise ValueError(f"cannot resume: the memory budgets are damaged: {error}") from None
        losses = [*history, *([state["losses"]] if "losses" in state else [])]
        tensors = [*losses, *([] if image is None else [image])]
        if not (
            len(known.budgets) == len(sizes) > len(history)
            and all(name in state for name in known.state())  # the losses of the first scales, without a gap
            and (None if image is None else image.shape) == ((1, 3, *sizes[len(history) - 1]) if history else None)
            and all(each.ndim == 1 and len(each) for each in losses)
            and all(each.is_floating_point() and each.isfinite().all() for each in tensors)
        ):
            raise ValueError("cannot resume: the finished scales are damaged, or belong to a different run")
        return known

    def state(self) -> State:
        """Return the tensors to save, by name.

        The tensors hold the budgets of all scales, the image of the last finished scale, and the losses of each
        finished scale.
        """
        budgets = {BUDGETS: torch.tensor([astuple(each) for each in self.budgets])}
        before = {} if self.image is None else {IMAGE_BEFORE: self.image}
        return {
            **budgets,
            **before,
            **{f"{LOSSES_OF_SCALE}{number}": losses for number, losses in enumerate(self.history)},
        }

    def after(self, image: Tensor, losses: Tensor) -> _Past:
        """Return a copy to which one more finished scale is added, with its final ``image`` and its ``losses``."""
        return replace(self, image=image, history=[*self.history, losses])

    def with_budget(self, number: int, budget: Budget) -> _Past:
        """Return a copy in which ``budget`` is the budget of the scale with the index ``number``."""
        return replace(self, budgets=[*self.budgets[:number], budget, *self.budgets[number + 1 :]])

    def tell(self, listeners: Sequence[Listener], parts: Mapping[str, Tensor]) -> list[Listener]:
        """Wrap ``listeners``, functions that are called after every step, so that they receive more information.

        The step that a listener receives then includes the ``parts`` of the loss, and the step's state includes the
        results of the finished scales.
        """

        def tell(listener: Listener, step: Step) -> None:
            listener(replace(step, parts=dict(parts), state=lambda: {**step.state(), **self.state()}))

        return [partial(tell, listener) for listener in listeners]


def _picture(given: Any, name: str) -> Tensor:
    """Convert ``given``, a picture in any form, to a tensor (1, 3, H, W) in [0, 1] on the CPU.

    ``name`` describes the picture in error messages.
    """
    return as_image(given, name, channels=3).cpu()


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two arguments of :class:`Stylizer` are the same object, or tensors with equal values."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or (isinstance(one, str) and one == other)


def _blank(size: int) -> Tensor:
    """Return a gray picture (1, 3, H, W) whose height and width are ``size``, in place of the photo of a texture."""
    return torch.full((1, 1, 1, 1), 0.5).expand(1, 3, size, size)


def _start_picture(init: Any) -> Any:
    """Convert ``init`` to a tensor (1, 3, H, W) in [0, 1] if it is a picture or the path of a file."""
    if isinstance(init, str) and (init in NAMED_STARTS or not Path(init).exists()):
        return init
    return _picture(init, "init")


def _pictures(given: Sequence[ImageLike | None] | ImageLike, name: str, may_lack: bool = False) -> list[Tensor | None]:
    """Convert ``given``, one or several pictures in any form, to a list of tensors (1, 3, H, W) in [0, 1] on the CPU.

    ``name`` describes a picture in error messages. If there are several pictures, the number of the picture follows the
    name. If ``may_lack`` is True, None in a list stays None.
    """
    if isinstance(given, Iterable) and not isinstance(given, Tensor | np.ndarray | Image.Image | str | Mapping):
        given = list(given)
        several = len(given) > 1
        names = [f"{name} {number}" if several else name for number in range(1, len(given) + 1)]
        pairs = zip(given, names, strict=True)
        return [None if each is None and may_lack else _picture(each, label) for each, label in pairs]
    return [image[None].cpu() for image in as_images(given, name, channels=3)]


def _checked(previous: Previous, final: tuple[int, int], device: torch.device) -> Previous:
    """Return a copy of ``previous``, a video frame, on ``device``, after checking that the frame has the result's size.

    ``final`` is the size of the result, (H, W), in pixels.
    """
    size = (previous.image.shape[2], previous.image.shape[3])
    if size != final:
        raise ValueError(
            f"the previous frame has {size[1]}x{size[0]} pixels; it must have the size of the result, "
            f"{final[1]}x{final[0]}"
        )
    return replace(previous, image=previous.image.to(device), reliable=previous.reliable.to(device))


def pyramid(photo: Tensor, size: int) -> list[int]:
    """Return the longer side of the image, in pixels, at each scale of the optimization, from coarse to fine.

    The last side is ``size``, and each earlier side is half of the next. Earlier sides at which the image's shorter
    side would have fewer than :data:`COARSEST` pixels are omitted. The image has the proportions of ``photo``.
    """
    height, width = photo.shape[2:]
    scales = [size]
    while min(height, width) / max(height, width) * scales[0] / 2 >= COARSEST:
        scales.insert(0, round(scales[0] / 2))
    return scales


def _longer_side(painting: Tensor, side: float, smallest: int) -> int:
    """Return the longer side, in pixels, to which to resize ``painting``.

    The longer side is ``side``, or larger if needed to keep the shorter side at ``smallest`` or above.
    """
    short, long = sorted(painting.shape[2:])
    return max(round(side), math.ceil(smallest * long / short))


def blend_shares(blend: Sequence[float] | None, style_count: int) -> list[float]:
    """Return the share of each style in the blend of all styles.

    The shares are proportional to the weights ``blend`` and add up to 1. If ``blend`` is None, all shares are equal.

    Raises:
        ValueError: there are no styles, the number of weights is not ``style_count``, a weight is negative, or all
            weights are 0.
    """
    if style_count == 0:
        raise ValueError("no style given")
    if blend is None:
        return [1 / style_count] * style_count
    if len(blend) != style_count:
        raise ValueError(
            f"{style_count} style{'s' * (style_count != 1)} but {len(blend)} blend weight{'s' * (len(blend) != 1)}; "
            "give one for each"
        )
    if min(blend) < 0 or not 0 < sum(blend) < math.inf:
        raise ValueError(f"blend weights must be 0 or more and not all 0, not {', '.join(map(str, blend))}")
    return [weight / sum(blend) for weight in blend]
