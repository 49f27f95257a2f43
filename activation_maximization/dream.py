"""Gradient ascent on the input image of a network."""

# Torch is imported where it is needed, so that the command line can read the defaults below without it.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from activation_maximization.objectives import IMAGE, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from image_optimization.optimize import Listener
    from image_optimization.parameterizations import Parameterization
    from image_optimization.precision import Precision
    from image_optimization.transforms import Transform


@dataclass(frozen=True)
class Dreams:
    """What :func:`maximize` made."""

    images: Tensor
    """(N, C, H, W) in [0, 1], on the CPU."""
    activations: Tensor
    """The objective's value for each finished image, without transforms, (N,)."""
    history: Tensor
    """The objective's value before each step, under that step's transforms, (steps, N)."""
    stopped: str
    """``finished``, ``converged`` or ``interrupted`` (Ctrl-C)."""


def maximize(
    model: nn.Module,
    objective: Objective,
    *,
    size: int | None = None,
    steps: int = 128,
    learning_rate: float = 0.05,
    parameterization: type[Parameterization] | None = None,
    transform: Transform | None = None,
    init: Tensor | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    listeners: Sequence[Listener] = (),
) -> Dreams:
    """The images that maximize ``objective``, by gradient ascent with Adam on the input of ``model``.

    See Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; the parameterization and the
    transforms are those of Olah et al., "Feature Visualization", Distill 2017.

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1], on the device to work on. Comes back unchanged.
        objective: what to maximize; says how many images to make.
        size: side of the square images in pixels; by default the network's own input size.
        steps: gradient steps.
        learning_rate: Adam's, in units of the parameterization's leaf.
        parameterization: :class:`FourierImage` by default for colour, :class:`PixelImage` else.
        transform: applied to the images before the network sees them, at random anew in every step; by default
            :func:`image_optimization.transforms.robust`. The identity is ``lambda image: image``.
        init: (N or 1, C, H, W) in [0, 1] to start from; by default noise. Takes the place of ``size``.
        seed: of the noise and the transforms; every image of a batch has the same, so that it does not depend on
            which others are made with it.
        precision: of the network's arithmetic, see :func:`image_optimization.precision.choose_dtype`.
        listeners: told of every step.

    Raises:
        ValueError: unknown layer or unit, or a size that the network cannot take.
        NonFiniteLoss: the objective became infinite or NaN.
    """
    from image_optimization.capture import capture
    from image_optimization.layers import default_shape, device_of
    from image_optimization.optimize import optimize, seeded
    from image_optimization.parameterizations import FourierImage, PixelImage
    from image_optimization.precision import choose_dtype
    from image_optimization.transforms import robust

    shape = default_shape(model, size) if init is None else (init.shape[1], init.shape[2], init.shape[3])
    transform = transform or robust()
    parameterization = parameterization or (FourierImage if shape[0] == 3 else PixelImage)
    device = device_of(model)
    dtype = choose_dtype(precision, device)
    with seeded(seed), capture(model, objective.layers - {IMAGE}, dtype) as activations_of:
        if init is None:
            image = parameterization.from_noise((objective.images, *shape), device=device)
        else:
            image = parameterization.from_image(init.to(device).expand(max(objective.images, len(init)), *shape))

        def loss(rendered: Tensor) -> Tensor:
            # The one place where the sign flips: an objective is maximized, a loss minimized.
            activations = {name: activation.float() for name, activation in activations_of(transform(rendered)).items()}
            return -objective({**activations, IMAGE: rendered})

        run = optimize(image, loss, steps=steps, learning_rate=learning_rate, listeners=listeners)
        images = image.render().detach()
    return Dreams(images.cpu(), evaluate(model, objective, images), -run.losses, run.stopped)


def evaluate(model: nn.Module, objective: Objective, images: Tensor) -> Tensor:
    """The value of ``objective`` for each of ``images`` (N, C, H, W) in [0, 1] as they are: (N,), on the CPU."""
    import torch

    from image_optimization.capture import capture
    from image_optimization.layers import device_of

    images = images.to(device_of(model))
    with torch.no_grad(), capture(model, objective.layers - {IMAGE}) as activations_of:
        return objective({**activations_of(images), IMAGE: images}).cpu()
