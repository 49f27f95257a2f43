"""Gradient ascent on the input image of a network."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dreamgram.activation_maximization import arguments
from dreamgram.activation_maximization.defaults import NEARNESS, STEPS
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.objectives import (
    IMAGE,
    NUMBER,
    PHOTO,
    PROGRESS,
    SCALE,
    Objective,
    channel,
    match,
)
from dreamgram.image_optimization.capture import Activations, ActivationsOf, Reader, capture, is_recordable
from dreamgram.image_optimization.checks import as_model, as_whole
from dreamgram.image_optimization.images import ImageLike
from dreamgram.image_optimization.layers import OneByOneError, describe, device_of
from dreamgram.image_optimization.memory import check_memory, is_out_of_memory
from dreamgram.image_optimization.names import shorten
from dreamgram.image_optimization.optimize import (
    Ending,
    Listener,
    OptimizerFactory,
    as_listeners,
    counted,
    in_turn,
    optimize,
    seeded,
)
from dreamgram.image_optimization.parameterizations import Parameterization
from dreamgram.image_optimization.precision import Precision, choose_dtype
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.image_optimization.transforms import Transform, drawn_ahead, is_own_transform
from dreamgram.workbench.version import __version__

_logger = logging.getLogger(__name__)

T = TypeVar("T")

LEVEL = 1 / 255
"""Smallest difference between two values of a pixel in a picture with 8 bits per channel."""

BATCH, PIXELS = 64, 64 * 128 * 128
"""Largest number of images in a batch, and largest number of pixels in all images of a batch together.

The two limits bound the memory that a batch needs.
"""

LARGE_GPU, TIMES = 32 * 10**9, 4
"""Smallest memory, in bytes, of a GPU that gets larger batches, and factor by which its batch limits are multiplied.

The limits are :data:`BATCH` and :data:`PIXELS`. Larger batches save time: starting a batch takes a tenth of a second,
which is a fifth of the time that a batch of 64 small images takes.
"""

STARTS = (1, 1, 1, 1, 1.5, 1.5, 1.5, 2, 2, 3, 4, 6, 8, 16)
"""Strengths of the initial noise, relative to the default, to try in turn for an image that receives no gradient.

Weak noise is tried several times before strong noise, because strong noise stays visible in those parts of the result
that do not influence the objective.
"""


@usual_settings
def maximize(
    model: nn.Module,
    objective: Objective | str,
    *,
    size: int | Sequence[int] | None = None,
    steps: int = STEPS,
    learning_rate: float = 0.1,
    optimizer: str | OptimizerFactory | None = None,
    parameterization: type[Parameterization] | str | None = None,
    transform: Transform | Sequence[Transform] | str | None = None,
    init: ImageLike | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    compile: bool = False,
    batch: int | None = None,
    listeners: Sequence[Listener] | Listener = (),
) -> Dreams:
    """Make images that maximize ``objective``, by gradient ascent on the input of ``model``.

    See Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009. The Fourier
    parameterization and the random transforms follow Olah et al., "Feature Visualization", Distill 2017.

    Example:
        >>> dreams = maximize(load("digits"), channel("conv2", [3, 7]) - total_variation(10), steps=64)
        >>> dreams.images.shape
        torch.Size([2, 1, 28, 28])

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1]. The images are made on the network's device. The
            network is in evaluation mode during the run, and its previous modes are restored afterwards.
        objective: the objective to maximize, or the text of an expression, see
            :func:`dreamgram.activation_maximization.expressions.parse_objective`. The objective determines how many
            images are made. If the objective is for 1 image, one image is made for each image in ``init``.
        size: side in pixels for square images, or (height, width). If the objective compares images with a photo, the
            default is the size of the photo. Otherwise, the default is the network's input size, which the network
            declares with the attribute ``input_shape = (C, H, W)``. For a network without this attribute,
            :func:`dreamgram.image_optimization.input_shapes.find_shape` finds the size, and a warning is logged if the
            size is a guess.
        steps: number of gradient steps.
        learning_rate: step size of Adam, in the unit of the optimized values, such as pixel values or Fourier
            coefficients.
        optimizer: name of an optimizer, such as ``"adam"``, or a function that makes an optimizer, as for
            :func:`dreamgram.image_optimization.optimize.optimize`. The default is ``"adam"`` or, for a parameterization
            with the attribute ``OPTIMIZER``, such as :class:`PyramidImage`, the optimizer with that name.
        parameterization: class that computes the images from the tensor that is optimized, or the name of such a class
            in :data:`dreamgram.image_optimization.parameterizations.PARAMETERIZATIONS`, such as ``fourier``. The
            default is :class:`FourierImage` for images with 3 channels, and :class:`PixelImage` for all other images.
        transform: function that changes the images at random in every step before the network sees them; a list of
            such functions; or a string such as ``none``, ``jitter(0.1)`` or ``jitter(0.1) + robust(5)``. Several
            functions are applied from left to right. The default is
            :func:`dreamgram.image_optimization.transforms.robust`.
        init: images to start from instead of noise, (N, C, H, W) in [0, 1], or (1, C, H, W) to start all images from
            the same image. Other forms, such as a Pillow image, are accepted, too, see
            :func:`dreamgram.image_optimization.images.as_images`. The result has the height and width of these images,
            and ``size`` is ignored.
        seed: seed of the initial noise and of the random transforms. All images use the same seed, so that an
            image does not depend on the other images of its batch.
        precision: number format that the network computes in, see
            :func:`dreamgram.image_optimization.precision.choose_dtype`.
        compile: whether to compile the network with ``torch.compile`` before the first step. Compilation takes about
            ten seconds for each batch size, and makes every step faster on an NVIDIA GPU. A network that cannot be
            compiled runs without compilation.
        batch: number of images that are optimized together. :func:`batch_size` computes the default. If the objective's
            value for an image depends on the other images, as with ``diversity``, ``batch`` has no effect, and all
            images form one batch.
        listeners: functions that are called with a :class:`Step` after every step. The steps of all batches are
            numbered consecutively. A listener is allowed to call functions of this package. It must not wait for a
            different thread that calls such functions, because only one thread at a time can run networks.

    Raises:
        ValueError: a layer or a unit does not exist; the network cannot take images of this size; a value in ``init``
            or in the objective's photo is outside [0, 1]; or the objective does not return one value for each image.
        TypeError: an argument has the wrong type.
        NonFiniteLoss: the objective became infinite or NaN.
    """
    init = None if init is None else arguments.as_batch(init, "init", as_model(model))
    model, objective = arguments.model_and_objective(model, objective, size if init is None else init.shape[2:])
    steps, seed = as_whole(steps, "steps", least=1), as_whole(seed, "seed")
    batch = None if batch is None else as_whole(batch, "batch", least=1)
    shape = _image_shape(model, objective, size, init)
    count = max(objective.images, 1 if init is None else len(init))
    _check_count(objective, 1 if init is None else len(init), count)
    image_class = arguments.as_parameterization(parameterization, shape[0])
    optimizer = getattr(image_class, "OPTIMIZER", "adam") if optimizer is None else optimizer
    view = arguments.as_transform(transform)
    told, device = as_listeners(listeners), device_of(model)
    together = count if objective.joint else min(count, batch or batch_size(shape[1] * shape[2], device))
    # Beside the image, there are its gradient and the two moments or the curvature pairs of our own optimizers.
    check_memory(4 if isinstance(optimizer, str) else 2, together, shape, device)
    record = objective.is_recordable and is_own_transform(view) and is_recordable(model)
    dtype = choose_dtype(precision, device, model)
    with capture(model, objective.layers, dtype) as activations_of:
        in_steps = activations_of.compiled() if compile else activations_of
        scales: list[Tensor] = []

        def make_all(together: int) -> tuple[list[Dreams], Ending]:
            parts = torch.arange(count).split(together)
            lengths = [len(part) for part in parts]
            scales.clear()
            return in_turn(enumerate(parts), lambda part: make(*part, lengths))

        def make(position: int, numbers: Tensor, lengths: Sequence[int]) -> Dreams:
            some = _Part(activations_of, objective, numbers, device, view)
            own = None if init is None else init.expand(count, *shape)[numbers]
            with seeded(seed):
                start = some.begin(image_class, shape, seed) if own is None else image_class.from_image(own.to(device))
                listening = counted(told, position, [steps] * len(lengths), lengths)
                made = some.run(start, in_steps, steps, learning_rate, optimizer, listening, record)
                if some.scale is not None:
                    scales.append(some.scale)
                return made

        done, stopped = _in_batches(make_all, together, activations_of, objective)
        how: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "optimizer": optimizer, "seed": seed}
        how |= {"parameterization": image_class, "transform": view, "precision": activations_of.dtype}
        how["starts from"] = "noise" if init is None else "images"
        activations_of.compute_in(torch.float32)
        return _joined(activations_of, objective, done, stopped, scales, how)


@usual_settings
def activations(
    model: nn.Module, images: ImageLike, layers: str | nn.Module | Iterable[str | nn.Module]
) -> dict[str, Tensor]:
    """Return a dictionary from the name of each layer to its activations for ``images`` (N, C, H, W) in [0, 1].

    The images can be given in any form that :func:`maximize` accepts for ``init``. The activations are float32 tensors
    that require no gradient. ``layers`` is a single layer or an iterable of layers. Each layer is given by its name or
    as a module of the network.
    """
    names = arguments.as_layers(as_model(model), layers)
    batch = arguments.as_batch(images, "images", model)
    with torch.no_grad(), capture(model, names) as activations_of:
        return activations_of(batch.to(device_of(model)))


@usual_settings
def evaluate(model: nn.Module, objective: Objective | str, images: ImageLike) -> Tensor:
    """Return the value of ``objective`` for each of ``images`` (N, C, H, W) in [0, 1], without a random transform.

    The images can be given in any form that :func:`maximize` accepts for ``init``. The values have the shape (N,) and
    are on the CPU. If the objective changes over the steps, as with ``ramp``, the result is for the last step.

    Raises:
        ValueError: the objective is for a different number of images, or the network cannot compute the objective's
            layers from images of this size.
    """
    if isinstance(images, Objective):
        images, objective = objective, images  # type: ignore[assignment]
    model, objective = arguments.in_order(model, objective)
    images = arguments.as_batch(images, "images", model)
    model, objective = arguments.model_and_objective(model, objective, tuple(images.shape[2:]))
    _check_count(objective, len(images), len(images))
    with capture(model, objective.layers) as activations_of:
        return _evaluate(activations_of, objective, images)


def accentuate(
    model: nn.Module, layer: str, unit: int | Iterable[int], photo: ImageLike, *, near: str, nearness: float = NEARNESS
) -> Objective:
    """Return an objective that emphasizes the parts of ``photo`` that activate a unit, and preserves the other parts.

    Maximize this objective starting from the photo (``init=photo``). The unit's activation is divided by the root mean
    square of the layer's activations for the photo, so that the same ``nearness`` suits every layer and network. See
    Hamblin et al., "Feature Accentuation", arXiv:2402.10039.

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1].
        layer: name of the unit's layer.
        unit: index of the unit. With several indices, one image is made for each.
        photo: photo to change, (1, C, H, W) in [0, 1], or in any other form that :func:`maximize` accepts for ``init``.
        near: name of an earlier layer whose activations should stay close to those for the photo.
        nearness: weight of the term that keeps the activations of the layer ``near`` close to those for the photo. A
            larger weight changes the photo less.

    Raises:
        ValueError: the network has no layer called ``layer``, or all activations of this layer are 0 for the photo.
    """
    usual = activations(model, photo, [layer])[layer].square().mean().sqrt().item()
    if not usual:
        raise ValueError(f"all activations of {layer} are 0 for this photo: there is nothing to bring out")
    return channel(layer, unit) * (1 / usual) + nearness * match(near, photo)


def _image_shape(model: nn.Module, objective: Objective, size: Any, init: Tensor | None) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images.

    The shape comes from the first of the following that is given: ``init``, ``size``, the objective's photo, the
    network.

    Raises:
        ValueError: the objective's photo does not have the shape that ``init`` or ``size`` determines.
    """
    photo = objective.photo
    given = photo if init is None and size is None else init
    shape = arguments.image_shape(model, size) if given is None else (given.shape[1], given.shape[2], given.shape[3])
    if photo is not None and photo.shape[1:] != shape:
        raise ValueError(f"the photo of {objective} is {describe(photo.shape[1:])}, not {describe(shape)}")
    return shape


def _joined(
    activations_of: Reader,
    objective: Objective,
    parts: Sequence[Dreams],
    stopped: Ending,
    scales: Sequence[Tensor],
    how: Mapping[str, Any],
) -> Dreams:
    """Join ``parts``, the results of all batches, and compute the objective's value for each image.

    ``stopped`` is the reason why the whole run ended, and ``how`` holds the settings of the run. If the objective reads
    :data:`SCALE`, ``scales`` holds one tensor for each batch, with the scale of the objective's gradient for each image
    of the batch, (images in the batch,). Otherwise, ``scales`` is empty.
    """
    images = torch.cat([part.images for part in parts])
    longest = max(len(part.history) for part in parts)
    histories = [pad(part.history, (0, 0, 0, longest - len(part.history)), value=math.nan) for part in parts]
    silent = tuple(number for part in parts for number in part.silent)
    _warn_of_uniform(images, objective, silent)
    values = _evaluate(activations_of, objective, images, torch.cat(list(scales)) if scales else None)
    history, units = torch.cat(histories, dim=1), objective.units
    network = type(activations_of.model).__name__
    settings = {"objective": objective.name, "network": network, **how, "version": __version__}
    texts = {name: value if isinstance(value, str | int | float) else _name(value) for name, value in settings.items()}
    return Dreams(images, values, history, stopped, silent, units[: len(images)], texts)


def _name(thing: Any) -> str:
    """Return the name of ``thing`` if it is a function or a class, and otherwise its string representation.

    For example, the result for ``torch.float32`` is ``float32``.
    """
    return getattr(thing, "__name__", "") or shorten(thing).removeprefix("torch.")


def _warn_of_uniform(images: Tensor, objective: Objective, silent: Collection[int]) -> None:
    """Log a warning if there are images whose pixels all have the same value. The warning lists these images.

    ``images`` are (N, C, H, W). Images with an index in ``silent`` are left out, because they received no gradient.
    """
    low, high = images.flatten(1).aminmax(dim=1)
    uniform = [number for number in (high - low < LEVEL).nonzero()[:, 0].tolist() if number not in silent]
    if uniform:
        units = objective.units or tuple(range(len(images)))
        named = ", ".join(f"{units[number]}" for number in uniform[:10]) + (" ..." if len(uniform) > 10 else "")
        kind = "of unit" if objective.units else "number"
        _logger.warning(
            "the picture %s %s has the same value everywhere: try a smaller weight for the regularizers", kind, named
        )


def _check_count(objective: Objective, given: int, count: int) -> None:
    """Raise a ValueError unless ``given`` and ``objective.images`` are each 1 or ``count``.

    All three are numbers of images.
    """
    if given not in (1, count) or objective.images not in (1, count):
        raise ValueError(f"{objective} is for {objective.images} images, not {given}")


def _evaluate(activations_of: Reader, objective: Objective, images: Tensor, scales: Tensor | None = None) -> Tensor:
    """Return the objective's values (N,) for ``images`` (N, C, H, W).

    After Ctrl-C, the last images that the objective is for can be missing. ``scales`` (N,) holds the scale of the
    objective's gradient for each image, see :data:`SCALE`. If the objective reads the scales and ``scales`` is None,
    the scales are computed for ``images``.
    """
    device = device_of(activations_of.model)

    def evaluate_all(together: int) -> Tensor:
        values = []
        for numbers in torch.arange(len(images)).split(together):
            some = images[numbers].to(device)
            part = _Part(activations_of, objective, numbers, device)
            if scales is None:
                part.measure_scale(some)
            else:
                part.scale = scales[numbers.to(scales.device)]
            values.append(part.value(some, some, torch.ones((), device=device)).cpu())
        return torch.cat(values)

    with torch.no_grad():
        together = len(images) if objective.joint else batch_size(images[0, 0].numel(), device)
        return _in_batches(evaluate_all, together, activations_of, objective)


def _in_batches(work: Callable[[int], T], together: int, activations_of: Reader, objective: Objective) -> T:
    """Call ``work`` with ``together``, the number of images in a batch, and return the result of ``work``.

    If the first forward pass of a batch shows that the network processes only one image at a time, ``work`` is called
    again with 1, so that only the work before that pass is done twice. If the objective is joint
    (:attr:`Objective.joint`), the images stay in one batch, and pass through the network one at a time.
    """
    activations_of.refuses_batches = not objective.joint
    try:
        return work(together)
    except OneByOneError:
        return work(1)
    finally:
        activations_of.refuses_batches = False


class _Part:
    """A batch of images that are optimized together.

    ``numbers`` holds the indices of the images among all images of the objective.
    """

    def __init__(
        self,
        activations_of: ActivationsOf,
        objective: Objective,
        numbers: Tensor,
        device: torch.device,
        transform: Transform = lambda images: images,
    ) -> None:
        self.activations_of = activations_of
        self.objective = objective
        self.numbers = numbers
        self.indices = numbers.to(device)
        self.device = device
        self.transform = transform
        photo = objective.photo
        if photo is not None:
            photo = (photo if len(photo) == 1 else photo[numbers]).to(device)
        self.photo = photo
        self.silent = list(range(len(numbers)))
        """Indices, within the batch, of the images that no test so far has found to receive a gradient through every
        layer."""
        self.scale: Tensor | None = None
        """Scale of the objective's gradient for each image, (N,), see :data:`SCALE`; None if it is not computed."""

    def value(self, rendered: Tensor, image: Tensor, progress: Tensor, moving: str | None = None) -> Tensor:
        """Return the objective's value for each image.

        Args:
            rendered: images (N, C, H, W) to transform and show to the network.
            image: images (N, C, H, W) for the regularizers, which are computed without the transform.
            progress: fraction of the steps that are done, a scalar tensor on the device.
            moving: name of the only layer whose activations pass a gradient back to the images. By default, the
                activations of all layers do.

        Raises:
            ValueError: the objective does not return one value for each image, or reads a layer that is not among its
                ``layers``; or the transform does not return one image for each image, or lets no gradient pass back.
        """
        return self._value_of(self._see(rendered, image, progress), moving)

    def _see(self, rendered: Tensor, image: Tensor, progress: Tensor) -> Activations:
        """Return everything that the objective can read. The arguments are those of :meth:`value`."""
        # The images and the photo are transformed in the same way. The photo's activations are not differentiated.
        views = self._transformed(rendered if self.photo is None else torch.cat([rendered, self.photo]))
        answers = self.activations_of(views[: len(rendered)])
        seen = {name: answer.float() for name, answer in answers.items()}
        if self.photo is not None:
            with torch.no_grad():
                of_photo = self.activations_of(views[len(rendered) :])
            seen.update({PHOTO + name: answer.float() for name, answer in of_photo.items()})
        seen |= {IMAGE: image, NUMBER: self.indices, PROGRESS: progress}
        if self.scale is not None:
            seen[SCALE] = self.scale
        return Activations(seen, answers.unit_axes)

    def _value_of(self, seen: Activations, moving: str | None = None) -> Tensor:
        """Return the objective's value for each image, given the result of :meth:`_see`."""
        if moving is not None:
            seen = Activations(
                {name: each if name in (moving, IMAGE) else each.detach() for name, each in seen.items()},
                seen.unit_axes,
            )
        try:
            values = self.objective(seen)
        except KeyError as error:
            if error.args and error.args[0] in seen:
                raise
            named = ", ".join(sorted(self.objective.layers))
            raise ValueError(f"{self.objective} reads {error}, which is not among its layers, {named}") from error
        count = len(seen[IMAGE])
        if not isinstance(values, torch.Tensor) or values.shape != (count,):
            given = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(
                f"{self.objective} must give one value for each image, shape ({count},), not {given}; "
                "take the mean of each image, such as activation.flatten(1).mean(1)"
            )
        return values

    def measure_scale(self, images: Tensor) -> None:
        """Compute ``self.scale`` for ``images`` (N, C, H, W), but only if the objective reads :data:`SCALE`."""
        if not self.objective.scaled:
            return
        if not self.objective.layers:
            raise ValueError(f"{self.objective} has a share, but no term that depends on the network")
        part = _Part(self.activations_of, self.objective, self.numbers, self.device)
        part.scale = torch.zeros(len(images), device=self.device)
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            value = part.value(leaf, leaf, torch.ones((), device=self.device))
            [gradient] = torch.autograd.grad(value.sum(), leaf)
        self.scale = gradient.square().flatten(1).mean(1).sqrt()

    def _transformed(self, images: Tensor) -> Tensor:
        """Apply the transform to ``images`` (N, C, H, W), and return the result after checking it."""
        views: object = self.transform(images)
        if not isinstance(views, Tensor) or views.ndim != 4 or views.shape[:2] != images.shape[:2]:
            given = f"shape {tuple(views.shape)}" if isinstance(views, Tensor) else type(views).__name__
            expected = f"({len(images)}, {images.shape[1]}, height, width)"
            raise ValueError(f"the transform must return one image for each image, shape {expected}, not {given}")
        if images.requires_grad and torch.is_grad_enabled() and not views.requires_grad:
            raise ValueError("no gradient passes back through the transform: it must not detach the images")
        return views

    def begin(self, image_class: type[Parameterization], shape: tuple[int, int, int], seed: int) -> Parameterization:
        """Return a parameterization whose images, each of ``shape`` (C, H, W), are the noise to start from.

        A parameterization is an object that computes the images from the tensor that is optimized. An image that
        receives no gradient is restarted from different noise, until it receives a gradient or all strengths in
        :data:`STARTS` have been tried. ``seed`` is the seed of the noise for these restarts and of the random
        transforms that are applied to test them.
        """
        parameterization = image_class.from_noise((len(self.numbers), *shape), device=self.device)
        with seeded(seed):
            if self.objective.joint:
                self._start_jointly(parameterization, shape)
            else:
                self._start_separately(parameterization, shape)
        return parameterization

    def find_silent(self, parameterization: Parameterization, nudge: float = 0.0) -> None:
        """Remove from ``self.silent`` the images that receive a gradient through every layer of the objective.

        The images are transformed at random before the network sees them.

        ``nudge`` is the standard deviation of noise that is added to the images. At the end of a run, this noise is
        needed, because the gradient is also zero for an image that is already optimal.

        Raises:
            ValueError: the tensor that is optimized requires no gradient, or the autograd graph has no path from the
                objective through a layer to this tensor.
        """
        if not parameterization.leaf.requires_grad:
            raise ValueError(
                f"the leaf of {type(parameterization).__name__} requires no gradient; call requires_grad_() on it"
            )
        # Images that have already received a gradient are left out, unless the objective is joint.
        tested = list(range(len(self.numbers))) if self.objective.joint else self.silent
        part = _Part(self.activations_of, self.objective, self.numbers[tested], self.device, self.transform)
        answers = torch.ones(len(tested), dtype=torch.bool)
        rendered = parameterization.render()[tested]
        # All images get the same noise, so that the noise does not depend on their number. It is drawn on the CPU.
        noise = torch.randn(rendered.shape[1:]).to(rendered)
        # A progress of 0.5 is used, because a weight that rises from 0 or falls to 0 is not 0 there.
        halfway = torch.tensor(0.5, device=self.device)
        seen = part._see(rendered + nudge * noise, rendered.detach(), halfway)
        for layer in self.objective.layers:
            value = part._value_of(seen, layer)
            if not value.requires_grad:
                if nudge:  # the run is over, and its result may still be of use
                    return
                raise ValueError(
                    f"no gradient passes back from {layer}: an operation before it has no gradient, or "
                    f"{self.objective} does not depend on it"
                )
            gradient = _gradient(value.sum(), parameterization.leaf, layer)
            answers &= (gradient[tested] != 0).flatten(1).any(1).cpu()
        answered = {number for number, answer in zip(tested, answers.tolist(), strict=True) if answer}
        self.silent = [number for number in self.silent if number not in answered]

    def _start_jointly(self, parameterization: Parameterization, shape: tuple[int, int, int]) -> None:
        """Start every image from different noise, and restart the images that receive no gradient.

        The value of the objective for an image depends on the other images, so all images are always tested together.
        """
        self._restart(parameterization, shape, STARTS[0])
        self.find_silent(parameterization)
        for strength in (*STARTS, STARTS[0]):
            if self.silent:
                self._restart(parameterization, shape, strength)
                self.find_silent(parameterization)

    def _restart(self, parameterization: Parameterization, shape: tuple[int, int, int], strength: float) -> None:
        """Replace each image in ``self.silent`` by new noise of ``strength``, relative to the default strength."""
        for number in self.silent:
            noise = type(parameterization).from_noise((1, *shape), strength, self.device).leaf
            with torch.no_grad():
                parameterization.leaf[number] = noise[0]

    def _start_separately(self, parameterization: Parameterization, shape: tuple[int, int, int]) -> None:
        """Try several noise images in turn as the start of each image that receives no gradient.

        An image starts from the first noise image that gives it a gradient or, if there is none, from the last noise
        image. All noise is drawn in advance, so that the start of an image does not depend on the other images of its
        batch. As many starts are tested together as fit into a batch, because a GPU takes nearly as long for a small
        batch as for a large batch.
        """
        self.find_silent(parameterization)
        if not self.silent:
            return
        strengths = (*STARTS, STARTS[0])
        noise = [
            type(parameterization).from_noise((1, *shape), strength, self.device).leaf.detach()
            for strength in strengths
        ]
        starts = list(zip(noise, torch.randint(2**62, (len(noise),)).tolist(), strict=True))
        while self.silent and starts:
            count = 1 if self.photo is not None else max(1, len(self.numbers) // len(self.silent))
            some, starts = starts[:count], starts[count:]
            answers = self._test_starts(type(parameterization), shape, some)
            # Each image gets the first start that answers, or else the last.
            chosen = torch.where(answers.any(0), answers.int().argmax(0), len(some) - 1)
            with torch.no_grad():
                for place, number in zip(self.silent, chosen.tolist(), strict=True):
                    parameterization.leaf[place] = some[number][0][0]
            self.silent = [place for place, answer in zip(self.silent, answers.any(0), strict=True) if not answer]

    def _test_starts(
        self, kind: type[Parameterization], shape: tuple[int, int, int], starts: Sequence[tuple[Tensor, int]]
    ) -> Tensor:
        """Return, for each of ``starts`` and each image in ``self.silent``, whether the image receives a gradient.

        The result is a boolean tensor (starts, images in ``self.silent``).

        A start is a pair: the noise from which an image starts, and the seed of the random transform that is applied to
        the image for the test. ``kind`` is the class of the parameterization, the object that computes the images.
        """
        numbers = self.numbers[self.silent]
        parameterization = kind.from_noise((len(starts) * len(numbers), *shape), device=self.device)
        with torch.no_grad():
            parameterization.leaf.copy_(torch.cat([noise for noise, _ in starts]).repeat_interleave(len(numbers), 0))

        def views(images: Tensor) -> Tensor:
            # With a photo, there is only one start, so that all images and the photo are transformed together.
            seen = []
            for some, (_, seed) in zip(images.split(len(images) // len(starts)), starts, strict=True):
                with seeded(seed):
                    seen.append(self.transform(some))
            return torch.cat(seen)

        part = _Part(self.activations_of, self.objective, numbers.repeat(len(starts)), self.device, views)
        part.find_silent(parameterization)
        answers = torch.ones(len(starts), len(numbers), dtype=torch.bool)
        answers.view(-1)[part.silent] = False
        return answers

    def run(
        self,
        parameterization: Parameterization,
        activations_of: ActivationsOf,
        steps: int,
        learning_rate: float,
        optimizer: str | OptimizerFactory,
        listeners: Sequence[Listener],
        record: bool,
    ) -> Dreams:
        """Optimize ``parameterization`` and return the result. ``activations_of`` runs the network in every step.

        The other arguments have the same meaning as for :func:`optimize`. The result's ``activations`` are empty,
        because the caller computes them.
        """
        # Everything that depends on the step is copied to the device in advance, so that no step waits for a copy.
        progress = (torch.arange(steps) / max(steps - 1, 1)).to(self.device)
        number = torch.zeros(1, dtype=torch.long, device=self.device)
        part = _Part(activations_of, self.objective, self.numbers, self.device, drawn_ahead(self.transform, steps))
        self.measure_scale(parameterization.render())
        part.scale = self.scale

        def loss(rendered: Tensor) -> Tensor:
            [done] = progress.index_select(0, number)
            number.add_(1)
            # An objective is maximized and a loss is minimized. This is the only place where the sign is flipped.
            return -part.value(rendered, rendered, done)

        run = optimize(
            parameterization,
            loss,
            steps=steps,
            learning_rate=learning_rate,
            optimizer=optimizer,
            listeners=listeners,
            record=record,
        )
        if self.silent:
            self.find_silent(parameterization, nudge=0.01)
        silent = tuple(self.numbers[self.silent].tolist())
        return Dreams(parameterization.render().detach().cpu(), torch.empty(0), -run.losses, run.stopped, silent)


def _gradient(value: Tensor, leaf: Tensor, layer: str) -> Tensor:
    """Return the gradient of ``value``, which depends on ``layer``, with respect to ``leaf``, the optimized tensor.

    Raises:
        ValueError: no gradient passes back from ``layer`` to ``leaf``.
    """
    try:
        [gradient] = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"no gradient passes back from {layer}: {str(error).strip().splitlines()[0]}") from error
    if gradient is None:
        raise ValueError(f"no gradient passes back from {layer}: an operation before it has no gradient")
    return gradient


def batch_size(pixels: int, device: torch.device | None = None) -> int:
    """Return the default number of images in a batch on ``device``, given the number of ``pixels`` of one image.

    The number is as large as the limits :data:`BATCH` and :data:`PIXELS` allow. On an NVIDIA GPU with at least
    :data:`LARGE_GPU` bytes of memory, both limits are multiplied by :data:`TIMES`.
    """
    cuda = device is not None and device.type == "cuda"
    # The total memory decides, not the free memory, which changes from run to run: the batches determine the rounding.
    large = cuda and torch.cuda.get_device_properties(device).total_memory >= LARGE_GPU
    times = TIMES if large else 1
    return max(1, min(times * BATCH, times * PIXELS // pixels))
