"""Measure the effect of each improvement separately (ablations): ``python -m benchmarks.ablations``.

The log in docs/benchmarks.md discusses the results. In printed lines that begin with "step", a step is a forward and
backward pass through VGG-16 up to relu5_1, with an image of 512 x 512 pixels. In other lines, it is an optimization
step. A schedule is the list of image sizes, or scales, at which a style transfer optimizes in turn. Unless stated
otherwise, every scale has the same number of steps. The printed loss is that of the finished picture.
"""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.process import PAINTING, PHOTO, PICTURES
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.objectives import match
from dreamgram.activation_maximization.regularizers import total_variation
from dreamgram.image_optimization import images
from dreamgram.image_optimization.adam import SETTLING, Adam
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.memory import keep_freed_memory
from dreamgram.image_optimization.optimize import Optimizer, OptimizerFactory
from dreamgram.models import load
from dreamgram.style_transfer.drawn_styles import draw_style
from dreamgram.style_transfer.gram import gram_matrix
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.stylizer import ADAM_RATE, Stylized, stylize
from dreamgram.style_transfer.tiling import whole
from dreamgram.style_transfer.total_loss import Style, total_loss

SIZE = 512
"""Longer side of the pictures in pixels."""

CONSTANT = 1e-9
"""Fraction of the steps over which Adam's learning rate falls to zero. It is so small that the rate stays constant."""


def seconds(function: Callable[[], Any], times: int = 5) -> float:
    """Return the median time of ``times`` calls of ``function``, in seconds, after one call that is not measured."""
    function()
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def network_step(dtype: torch.dtype) -> float:
    """Return the time, in seconds, of a forward and backward pass through VGG-16 in ``dtype``, with our speed-ups."""
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    with capture(load("vgg16"), ["relu5_1"], dtype) as activations_of:
        return seconds(lambda: activations_of(image)["relu5_1"].float().sum().backward())


def plain_step() -> float:
    """Return the time, in seconds, of a forward and backward pass through VGG-16 as loaded, without our speed-ups."""
    network = load("vgg16").requires_grad_(False)
    layers = list(network.children())[: [name for name, _ in network.named_children()].index("relu5_1") + 1]
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    return seconds(lambda: torch.nn.Sequential(*layers)(image).sum().backward())


class Alone(torch.nn.Sequential):
    """A sequence whose modules Dreamgram does not fuse, because this class is not part of its packages."""


def fusion() -> float:
    """Return the fraction by which fusing convolution, ReLU and pooling shortens a pass in bfloat16.

    The pass goes forward and backward through VGG-16 up to relu5_1. Passes with and without fusion are timed in turn,
    and the shortest times are compared, because other work on the machine can only make a pass longer.
    """
    network, plain = load("vgg16"), Alone(OrderedDict(load("vgg16").named_children()))
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    with (
        capture(network, ["relu5_1"], torch.bfloat16) as fused,
        capture(plain, ["relu5_1"], torch.bfloat16) as alone,
    ):
        times = [
            [seconds(lambda read=read: read(image)["relu5_1"].sum().backward(), 1) for read in (fused, alone)]
            for _ in range(30)
        ]
    return 1 - min(ours for ours, _ in times) / min(theirs for _, theirs in times)


def gram_matrices(ours: bool) -> float:
    """Return the time, in seconds, of a forward and backward pass through the Gram matrices of five style layers.

    The activations are bfloat16. If ``ours`` is True, :func:`gram_matrix` is measured, which computes its gradient
    itself. Otherwise, the activations are converted to float32, and autograd computes the gradient.
    """
    shapes = [(64, SIZE), (128, SIZE // 2), (256, SIZE // 4), (512, SIZE // 8), (512, SIZE // 16)]
    activations = [torch.rand(1, c, side, side).bfloat16() for c, side in shapes]
    activations = [a.contiguous(memory_format=torch.channels_last).requires_grad_() for a in activations]

    def plain(activation: torch.Tensor) -> torch.Tensor:
        features = activation.float().flatten(2)
        return features @ features.transpose(1, 2) / features[0].numel()

    function = gram_matrix if ours else plain
    return seconds(lambda: sum(function(a).square().sum() for a in activations).backward())


def painted(
    photo: Tensor, painting: Tensor, scales: Mapping[int, int], detail: bool = True, **options: Any
) -> Stylized:
    """Paint ``photo`` in the style of ``painting``, both (1, 3, H, W), and return the result of the last scale.

    ``scales`` maps the longer side of the image at each scale, in pixels, to the number of steps at this scale. Each
    scale after the first starts from the enlarged result of the previous scale. If ``detail`` is True, those details of
    the photo that the previous scale was too coarse to show are added to the enlarged result.
    """
    picture = photo
    for scale, steps in scales.items():  # each scale is a separate run, so that it can have any number of steps
        if detail and picture is not photo:
            picture = images.refine(picture, photo, images.fitted_size(photo, scale)).clamp(0, 1)
        made = stylize(photo, [painting], size=scale, scales=[scale], steps=steps, init=picture, **options)
        picture = made.image
    return made


def schedule(scales: list[int], steps: int, precision: str = "auto", detail: bool = True) -> str:
    """Run a style transfer at ``scales``, the longer sides in pixels, and return its time and final loss as text.

    There are ``steps`` steps at each scale. ``detail`` is an argument of :func:`painted`. The loss is computed in
    float32.
    """
    photo, painting = images.load(PHOTO), images.load(PAINTING)
    start = time.perf_counter()
    how = {"preset": "gatys", "precision": precision}
    picture = painted(photo, painting, dict.fromkeys(scales, steps), detail, **how).image
    took = time.perf_counter() - start
    content, style = images.fit(photo, SIZE), images.fit(painting, SIZE)
    preset = PRESETS["gatys"]
    with torch.no_grad(), capture(load("vgg16"), preset.layers) as activations_of:
        loss = total_loss(
            activations_of, content, [Style(style, SIZE, [1.0])], preset, lambda image: [whole(preset.layers)]
        )
        return f"{took:5.1f} s to {loss(picture).item():.4g}"


class CarriedAdam(Adam):
    """Adam with two additions that other programs use.

    It can continue with the moments of the previous scale's optimizer, and its result can be an average of the
    iterates.
    """

    def __init__(
        self,
        leaf: torch.Tensor,
        bounds: tuple[float, float],
        before: CarriedAdam | None = None,
        *,
        average: float = 0.0,
        **settings: Any,
    ) -> None:
        """Prepare to optimize ``leaf``.

        Args:
            leaf: pixels (1, C, H, W).
            bounds: smallest and largest allowed value of a pixel.
            before: optimizer of the previous scale, whose moments this optimizer takes over; None to start with zero
                moments.
            average: decay rate of a moving average of the iterates. This average is the result. If the rate is 0, the
                result is the last iterate.
            settings: other arguments of :class:`Adam`.
        """
        super().__init__(leaf, bounds, **settings)
        self.average = average
        self.sum = torch.zeros_like(leaf)
        if before is not None:
            size = (leaf.shape[2], leaf.shape[3])
            share = before.leaf.shape[2] * before.leaf.shape[3] / (size[0] * size[1])  # The loss is a mean over pixels.
            self.mean = interpolate(before.mean, size, mode="bicubic") * share
            self.square = interpolate(before.square, size, mode="bilinear") * share**2
            self.steps = before.steps.clone()
        self.first = self.steps.clone()

    def step(self, loss: torch.Tensor, gradient: torch.Tensor, remaining: torch.Tensor) -> None:
        """Make a step of Adam, and add the new image to the average."""
        super().step(loss, gradient, remaining)
        self.sum.lerp_(self.leaf.detach(), 1 - self.average)

    def finish(self) -> None:
        """Replace the image by the average of the iterates, unless ``average`` is 0."""
        if self.average:
            with torch.no_grad():
                self.leaf.copy_(self.sum / (1 - self.average ** (self.steps - self.first)))


def adam_factory(settling: float, carried: bool, average: float) -> OptimizerFactory:
    """Return a function that makes the optimizer of each scale in turn.

    If ``carried`` is True, each optimizer continues with the moments of the previous one. ``settling`` is the fraction
    of the steps over which the learning rate falls to zero. ``average`` is an argument of :class:`CarriedAdam`.
    """
    before: CarriedAdam | None = None

    def make(leaf: torch.Tensor, bounds: tuple[float, float]) -> Optimizer:
        nonlocal before
        kept = before if carried else None
        before = CarriedAdam(leaf, bounds, kept, average=average, learning_rate=ADAM_RATE, settling=settling)
        return before

    return make


def coarse_steps(steps: int) -> str:
    """Paint a photo with 60 steps at 512 pixels and ``steps`` steps at 128 and 256 pixels; return the loss as text."""
    photo, painting = images.load(PICTURES / "astronaut.jpg"), images.load(PICTURES / "the_scream.png")
    return f"{painted(photo, painting, {128: steps, 256: steps, 512: 60}).history[-1].min().item():.4f}"


def adam(settling: float, carried: bool = False, average: float = 0.0) -> str:
    """Paint a photo in two styles with Adam, and return the two final losses as text.

    The runs use the default preset, 100 steps at the first scale and 200 at the second. The arguments are those of
    :func:`adam_factory`.
    """
    photo, losses = images.fit(images.load(PICTURES / "chelsea.jpg"), 300), []
    for painting in (images.load(PAINTING), draw_style("brushwork", 512)):
        optimizer = adam_factory(settling, carried, average)
        made = stylize(photo, [painting], size=300, steps=200, optimizer=optimizer, precision="float32")
        preset = PRESETS["default"]
        with torch.no_grad(), capture(load("vgg16"), preset.layers) as activations_of:
            tiles = [whole(preset.layers)]
            loss = total_loss(activations_of, photo, [Style(painting, 300, [1.0])], preset, lambda image: tiles)  # noqa: B023
            losses.append(f"{loss(made.image).item():.3f}")
    return ", ".join(losses)


def inversion(settling: float) -> str:
    """Reconstruct a photo from its activations with Adam, and return the final loss as text.

    The loss is the error of the activations plus a regularizer, the total variation. ``settling`` is the fraction of
    the steps over which the learning rate falls to zero.
    """
    photo = images.fit(images.load(PICTURES / "chelsea.jpg"), 224)
    optimizer = partial(Adam, learning_rate=0.1, settling=settling)
    dreams = maximize(load("vgg16"), match("relu4_1", photo) - total_variation(0.5), optimizer=optimizer)
    return f"{-dreams.activations.item():.3f}"


def main() -> None:
    """Print the times and losses for the log in docs/benchmarks.md."""
    print(f"step, float32, freed memory given back  {network_step(torch.float32):.3f} s")
    print(f"step, bfloat16, freed memory given back {network_step(torch.bfloat16):.3f} s")
    keep_freed_memory()
    print(f"step, float32, as loaded                {plain_step():.3f} s")
    print(f"step, float32, channels last            {network_step(torch.float32):.3f} s")
    print(f"step, bfloat16                          {network_step(torch.bfloat16):.3f} s")
    print(f"time that fusion saves of a pass        {fusion():.0%}")
    print(f"Gram matrices by autograd, in float32   {gram_matrices(False):.3f} s")
    print(f"Gram matrices by style_transfer.gram    {gram_matrices(True):.3f} s")
    print("photo inverted, error with a constant rate ", inversion(CONSTANT))
    print("the same with the rate falling in the end  ", inversion(SETTLING))
    print("128, 256, 512, 50 steps, float32       ", schedule([128, 256, 512], 50, "float32"))
    print("128, 256, 512, 50 steps, bfloat16      ", schedule([128, 256, 512], 50, "bfloat16"))
    print("the same without the photo's detail    ", schedule([128, 256, 512], 50, detail=False))
    print("128, 181, 256, 362, 512, 33 steps      ", schedule([128, 181, 256, 362, 512], 33))
    print("512 alone, 65 steps                    ", schedule([512], 65))
    for count in (15, 30, 60):
        print(f"default loss with {count} steps at coarse scales", coarse_steps(count))
    print("Adam, a constant rate                      ", adam(CONSTANT))
    print("Adam, the rate falling in the end          ", adam(SETTLING))
    print("the same, moments carried between scales   ", adam(SETTLING, carried=True))
    print("constant, carried, iterates averaged (0.99)", adam(CONSTANT, carried=True, average=0.99))


if __name__ == "__main__":
    main()
