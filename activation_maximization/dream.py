"""Gradient ascent on the input image of a network."""

# Torch is imported where it is needed, so that the command line can read the defaults below without it.
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from activation_maximization.objectives import IMAGE, NUMBER, PHOTO, PROGRESS, Objective

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from image_optimization.optimize import Listener
    from image_optimization.parameterizations import Parameterization
    from image_optimization.precision import Precision
    from image_optimization.transforms import Transform

BATCH, PIXELS = 64, 64 * 128 * 128
"""Images, and their pixels, that are made at a time at most: what bounds the memory."""

STARTS = (1, 1, 1, 1, 1.5, 1.5, 1.5, 2, 2, 3, 4, 6, 8, 16)
"""Times the usual strength, of the noises tried in turn for an image that the network passes no gradient to.

Many weak ones first: what a strong one leaves where the unit does not look stays to be seen.
"""


@dataclass(frozen=True)
class Dreams:
    """What :func:`maximize` made."""

    images: Tensor
    """(N, C, H, W) in [0, 1], on the CPU."""
    activations: Tensor
    """The objective's value for each finished image, without transforms, (N,)."""
    history: Tensor
    """The objective's value before each step, under that step's transforms, (steps, N); NaN for steps not made."""
    stopped: str
    """``finished``, ``converged`` or ``interrupted`` (Ctrl-C); then there are only the images that were begun."""
    silent: tuple[int, ...] = ()
    """Numbers of images that mean nothing: one of the objective's layers passes no gradient back to them."""

    def _repr_png_(self) -> bytes | None:
        """How a notebook shows it: the images, each with its activation."""
        from activation_maximization.grids import contact_sheet, short

        if self.images.shape[1] not in (1, 3):
            return None
        captions = [f"{number}\t{short(activation)}" for number, activation in enumerate(self.activations.tolist())]
        png: bytes | None = contact_sheet(self.images, captions)._repr_png_()
        return png


def maximize(
    model: nn.Module,
    objective: Objective,
    *,
    size: int | tuple[int, int] | None = None,
    steps: int = 128,
    learning_rate: float = 0.1,
    parameterization: type[Parameterization] | None = None,
    transform: Transform | None = None,
    init: Tensor | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    batch: int | None = None,
    listeners: Sequence[Listener] = (),
) -> Dreams:
    """The images that maximize ``objective``, by gradient ascent with Adam on the input of ``model``.

    See Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; the parameterization and the
    transforms are those of Olah et al., "Feature Visualization", Distill 2017.

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1], on the device to work on. Comes back unchanged.
        objective: what to maximize; says how many images to make.
        size: side of the square images in pixels, or their (height, width); by default that of the objective's photo,
            if it has one, or the network's own input size.
        steps: gradient steps.
        learning_rate: Adam's, in units of the parameterization's leaf.
        parameterization: :class:`FourierImage` by default for colour, :class:`PixelImage` else.
        transform: applied to the images before the network sees them, at random anew in every step; by default
            :func:`image_optimization.transforms.robust`. The identity is ``lambda image: image``.
        init: (N or 1, C, H, W) in [0, 1] to start from; by default noise. Takes the place of ``size``.
        seed: of the noise and the transforms; every image has the same, so that it does not depend on which others
            are made with it.
        precision: of the network's arithmetic, see :func:`image_optimization.precision.choose_dtype`.
        batch: images made at a time; by default as many as :data:`BATCH` and :data:`PIXELS` allow. Those of a joint
            objective are always made together.
        listeners: told of every step; steps are counted through all batches.

    Raises:
        ValueError: unknown layer or unit, or a size that the network cannot take.
        NonFiniteLoss: the objective became infinite or NaN.
    """
    import torch
    from torch.nn.functional import pad

    from image_optimization.capture import capture
    from image_optimization.layers import default_shape, describe, device_of
    from image_optimization.optimize import counted, seeded
    from image_optimization.parameterizations import FourierImage, PixelImage
    from image_optimization.precision import choose_dtype
    from image_optimization.transforms import robust

    given = objective.photo if init is None and size is None else init
    channels, height, width = default_shape(model, size) if given is None else given.shape[1:]
    count = max(objective.images, 1 if init is None else len(init))
    _check_count(objective, 1 if init is None else len(init), count)
    parameterization = parameterization or (FourierImage if channels == 3 else PixelImage)
    device = device_of(model)
    if objective.photo is not None and objective.photo.shape[1:] != (channels, height, width):
        wanted = describe((channels, height, width))
        raise ValueError(f"the photo of {objective} is {describe(objective.photo.shape[1:])}, not {wanted}")
    parts = _split(count, height * width, count if objective.joint else batch)
    done: list[Dreams] = []
    with capture(model, objective.layers, choose_dtype(precision, device)) as activations_of:
        for numbers in parts:
            part = _Part(activations_of, objective, numbers, device, transform or robust())
            told = counted(listeners, len(done), list(map(len, parts)))
            try:
                with seeded(seed):
                    if init is None:
                        shape = (len(numbers), channels, height, width)
                        image = parameterization.from_noise(shape, device=device)
                        with seeded(seed):  # apart, so that no image's views depend on what another one needs
                            part.vary_noise(image)
                    else:
                        own = init.expand(count, *init.shape[1:])[numbers]
                        image = parameterization.from_image(own.to(device))
                    done.append(part.run(image, steps, learning_rate, told))
            except KeyboardInterrupt:  # before the first step of these
                if not done:
                    raise
                done[-1] = replace(done[-1], stopped="interrupted")
            if done[-1].stopped == "interrupted":
                break
    images = torch.cat([made.images for made in done])
    histories = [made.history for made in done]
    longest = max(map(len, histories))
    return Dreams(
        images,
        _evaluate(model, objective, images),
        torch.cat([pad(history, (0, 0, 0, longest - len(history)), value=math.nan) for history in histories], dim=1),
        done[-1].stopped,
        tuple(number for made in done for number in made.silent),
    )


def activations(model: nn.Module, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """The activations of ``layers`` for ``images`` (N, C, H, W) in [0, 1] by name, in float32, without gradients."""
    import torch

    from image_optimization.capture import capture
    from image_optimization.layers import device_of

    with torch.no_grad(), capture(model, layers) as activations_of:
        return activations_of(images.to(device_of(model)))


def evaluate(model: nn.Module, objective: Objective, images: Tensor) -> Tensor:
    """The value of ``objective`` for each of ``images`` (N, C, H, W) in [0, 1] as they are: (N,), on the CPU.

    As at the end of the optimization, if it changes with the steps.

    Raises:
        ValueError: the objective is for another number of images, or cannot be reached with these.
    """
    _check_count(objective, len(images), len(images))
    return _evaluate(model, objective, images)


def _check_count(objective: Objective, given: int, count: int) -> None:
    if given not in (1, count) or objective.images not in (1, count):
        raise ValueError(f"{objective} is for {objective.images} images, not {given}")


def _evaluate(model: nn.Module, objective: Objective, images: Tensor) -> Tensor:
    """For all images of an objective, or the first of them."""
    import torch

    from image_optimization.capture import capture
    from image_optimization.layers import device_of

    device = device_of(model)
    values = []
    with torch.no_grad(), capture(model, objective.layers) as activations_of:
        for numbers in _split(len(images), images[0, 0].numel(), len(images) if objective.joint else None):
            some = images[numbers].to(device)
            values.append(_Part(activations_of, objective, numbers, device).value(some, some, 1.0).cpu())
    return torch.cat(values)


class _Part:
    """Some images of an objective, those with ``numbers``."""

    def __init__(
        self,
        activations_of: Callable[[Tensor], dict[str, Tensor]],
        objective: Objective,
        numbers: Tensor,
        device: torch.device,
        transform: Transform = lambda images: images,
    ) -> None:
        self.activations_of = activations_of
        self.objective = objective
        self.numbers = numbers
        self.transform = transform
        photo = objective.photo
        if photo is not None:
            photo = (photo if len(photo) == 1 else photo[numbers]).to(device)
        self.photo = photo
        self.silent = list(range(len(numbers)))
        """The images to which some layer has passed no gradient back so far."""

    def value(self, rendered: Tensor, image: Tensor, progress: float, moving: str | None = None) -> Tensor:
        """The objective: the network sees a view of ``rendered``, the regularizers see ``image``.

        With ``moving``, no gradient passes but through the layer of that name.
        """
        import torch

        # One view of both. The photo's is not differentiated.
        views = self.transform(rendered if self.photo is None else torch.cat([rendered, self.photo]))
        seen = {name: answer.float() for name, answer in self.activations_of(views[: len(rendered)]).items()}
        if moving is not None:
            seen = {name: answer if name == moving else answer.detach() for name, answer in seen.items()}
        if self.photo is not None:
            with torch.no_grad():
                of_photo = self.activations_of(views[len(rendered) :])
            seen.update({PHOTO + name: answer.float() for name, answer in of_photo.items()})
        return self.objective({**seen, IMAGE: image, NUMBER: self.numbers, PROGRESS: torch.tensor(progress)})

    def find_silent(self, image: Parameterization, nudge: float = 0.0) -> None:
        """Take the images off the silent ones to which each layer passes a gradient back, in a random view.

        ``nudge`` is the deviation of noise on the image: at the very best image, too, there is no gradient.
        """
        import torch

        answers = torch.ones(len(self.numbers), dtype=torch.bool)
        for layer in self.objective.layers:
            rendered = image.render()
            # From the CPU's generator, as everything random; the same for all, lest it depend on how many they are.
            noise = torch.randn(rendered.shape[1:]).to(rendered)
            # In the middle, where no weight that grows from nothing or falls to it is 0.
            value = self.value(rendered + nudge * noise, rendered.detach(), 0.5, layer)
            if not value.requires_grad:
                raise ValueError(f"no gradient passes back from {layer}: some operation before it has none")
            [gradient] = torch.autograd.grad(value.sum(), image.leaf)
            answers &= (gradient != 0).flatten(1).any(1).cpu()
        self.silent = [number for number in self.silent if not answers[number]]

    def vary_noise(self, image: Parameterization) -> None:
        """Give silent images other, stronger noise until the network answers; those of a joint objective all differ.

        The noise of one try is else the same for all images, so that a picture does not depend on its neighbours.
        """
        if self.objective.joint:
            self._begin_anew(image, STARTS[0])
        self.find_silent(image)
        for strength in (*STARTS, STARTS[0]):
            if self.silent:
                self._begin_anew(image, strength)
                self.find_silent(image)

    def _begin_anew(self, image: Parameterization, strength: float) -> None:
        import torch

        rendered = image.render()
        shape = (1, *rendered.shape[1:])
        with torch.no_grad():
            for some in [[number] for number in self.silent] if self.objective.joint else [self.silent]:
                image.leaf[some] = type(image).from_noise(shape, strength, rendered.device).leaf.detach()

    def run(self, image: Parameterization, steps: int, learning_rate: float, listeners: Sequence[Listener]) -> Dreams:
        import torch

        from image_optimization.optimize import optimize

        made = 0

        def loss(rendered: Tensor) -> Tensor:
            # The one place where the sign flips: an objective is maximized, a loss minimized.
            nonlocal made
            made += 1
            return -self.value(rendered, rendered, (made - 1) / max(steps - 1, 1))

        run = optimize(image, loss, steps=steps, learning_rate=learning_rate, listeners=listeners)
        if self.silent:
            self.find_silent(image, nudge=0.01)
        silent = tuple(self.numbers[self.silent].tolist())
        return Dreams(image.render().detach().cpu(), torch.empty(0), -run.losses, run.stopped, silent)


def batch_size(pixels: int) -> int:
    """How many images of so many ``pixels`` are made at a time."""
    return max(1, min(BATCH, PIXELS // pixels))


def _split(count: int, pixels: int, batch: int | None) -> Sequence[Tensor]:
    """The numbers of ``count`` images of so many ``pixels``, ``batch`` at a time or as many as the memory allows."""
    import torch

    parts: Sequence[Tensor] = torch.arange(count).split(batch or batch_size(pixels))
    return parts
