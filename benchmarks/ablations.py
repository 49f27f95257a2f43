"""What each means of speed is worth: ``python -m benchmarks.ablations``; the log in docs/benchmarks.md is about these.

A step is forward and backward through VGG-16 to relu5_1, 512 x 512 pixels. A schedule is the list of scales of style
transfer; all have the same steps at each scale, and the loss is that of the finished picture, in float32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import interpolate

from activation_maximization import match, maximize, total_variation
from benchmarks.process import PAINTING, PHOTO, PICTURES
from image_optimization import images, optimize
from image_optimization.adam import Adam
from image_optimization.capture import capture
from image_optimization.memory import keep_freed_memory
from models import load
from style_transfer import PRESETS, stylize, transfer
from style_transfer.gram import gram_matrix
from style_transfer.painters import paint
from style_transfer.tiling import whole
from style_transfer.total import Style, total_loss

SIZE = 512


def seconds(function: Callable[[], Any], times: int = 5) -> float:
    function()
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def network_step(dtype: torch.dtype) -> float:
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    with capture(load("vgg16"), ["relu5_1"], dtype) as activations_of:
        return seconds(lambda: activations_of(image)["relu5_1"].float().sum().backward())


def plain_step() -> float:
    """As any program does it: the network as it was loaded."""
    network = load("vgg16").requires_grad_(False)
    layers = list(network.children())[: [name for name, _ in network.named_children()].index("relu5_1") + 1]
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    return seconds(lambda: torch.nn.Sequential(*layers)(image).sum().backward())


def gram_matrices(ours: bool) -> float:
    """Of all five style layers, there and back, from bfloat16."""
    shapes = [(64, SIZE), (128, SIZE // 2), (256, SIZE // 4), (512, SIZE // 8), (512, SIZE // 16)]
    activations = [torch.rand(1, c, side, side).bfloat16() for c, side in shapes]
    activations = [a.contiguous(memory_format=torch.channels_last).requires_grad_() for a in activations]

    def plain(activation: torch.Tensor) -> torch.Tensor:
        features = activation.float().flatten(2)
        return features @ features.transpose(1, 2) / features[0].numel()

    function = gram_matrix if ours else plain
    return seconds(lambda: sum(function(a).square().sum() for a in activations).backward())


def schedule(scales: list[int], steps: int, precision: str = "auto", detail: bool = True) -> str:
    photo, painting = images.load(PHOTO), images.load(PAINTING)
    kept = transfer.pyramid, images.refine
    transfer.pyramid = lambda content, size: scales
    if not detail:
        images.refine = lambda image, start, size: images.resize(image, size)
    try:
        start = time.perf_counter()
        picture = stylize(photo, [painting], preset="gatys", size=SIZE, steps=steps, precision=precision).image
        took = time.perf_counter() - start
    finally:
        transfer.pyramid, images.refine = kept
    content, style = images.fit(photo, SIZE), images.fit(painting, SIZE)
    preset = PRESETS["gatys"]
    with torch.no_grad(), capture(load("vgg16"), preset.layers) as activations_of:
        loss = total_loss(
            activations_of, content, [Style(style, SIZE, [1.0])], preset, lambda image: [whole(preset.layers)]
        )
        return f"{took:5.1f} s to {loss(picture).item():.4g}"


class CarriedAdam(Adam):
    """As others do it: moments are carried from one scale to the next, the result is an average of the iterates."""

    carried, average = False, 0.0
    before: CarriedAdam | None = None

    def __init__(self, leaf: torch.Tensor, *settings: Any) -> None:
        super().__init__(leaf, *settings)
        self.sum, before = torch.zeros_like(leaf), CarriedAdam.before
        if self.carried and before is not None:
            size = (leaf.shape[2], leaf.shape[3])
            share = before.leaf.shape[2] * before.leaf.shape[3] / (size[0] * size[1])  # of a pixel in the loss, a mean
            self.mean = interpolate(before.mean, size, mode="bicubic") * share
            self.square = interpolate(before.square, size, mode="bilinear") * share**2
            self.steps = before.steps
        CarriedAdam.before, self.first = self, self.steps

    def step(self, loss: torch.Tensor, gradient: torch.Tensor) -> None:
        super().step(loss, gradient)
        self.sum.lerp_(self.leaf.detach(), 1 - self.average)

    def finish(self) -> None:
        if self.average:
            with torch.no_grad():
                self.leaf.copy_(self.sum / (1 - self.average ** (self.steps - self.first)))


def adam(settling: float, carried: bool = False, average: float = 0.0) -> str:
    """The default loss after 200 steps at each of two scales, of a photo in two styles."""
    photo, losses = images.fit(images.load(PICTURES / "chelsea.jpg"), 300), []
    kept, optimize.SETTLING, optimize.Adam = optimize.SETTLING, settling, CarriedAdam
    CarriedAdam.carried, CarriedAdam.average = carried, average
    try:
        for painting in (images.load(PAINTING), paint("brushwork", 512)):
            CarriedAdam.before = None
            made = stylize(photo, [painting], size=300, steps=200, optimizer="adam", precision="float32")
            preset = PRESETS["default"]
            with torch.no_grad(), capture(load("vgg16"), preset.layers) as read:
                tiles = [whole(preset.layers)]
                loss = total_loss(read, photo, [Style(painting, 300, [1.0])], preset, lambda image: tiles)  # noqa: B023
                losses.append(f"{loss(made.image).item():.3f}")
    finally:
        optimize.SETTLING, optimize.Adam = kept, Adam
    return ", ".join(losses)


def settling(share: float) -> str:
    photo = images.fit(images.load(PICTURES / "chelsea.jpg"), 224)
    kept, optimize.SETTLING = optimize.SETTLING, share
    try:
        dreams = maximize(load("vgg16"), match("relu4_1", photo) - total_variation(0.5))
    finally:
        optimize.SETTLING = kept
    return f"{-dreams.activations.item():.3f}"


def main() -> None:
    print(f"step, float32, freed memory given back  {network_step(torch.float32):.3f} s")
    print(f"step, bfloat16, freed memory given back {network_step(torch.bfloat16):.3f} s")
    keep_freed_memory()
    print(f"step, float32, as loaded                {plain_step():.3f} s")
    print(f"step, float32, channels last            {network_step(torch.float32):.3f} s")
    print(f"step, bfloat16                          {network_step(torch.bfloat16):.3f} s")
    print(f"Gram matrices by autograd, in float32   {gram_matrices(False):.3f} s")
    print(f"Gram matrices by style_transfer.gram    {gram_matrices(True):.3f} s")
    print("photo inverted, error with a constant rate ", settling(1e-9))
    print("the same with the rate falling in the end  ", settling(optimize.SETTLING))
    print("128, 256, 512, 50 steps, float32       ", schedule([128, 256, 512], 50, "float32"))
    print("128, 256, 512, 50 steps, bfloat16      ", schedule([128, 256, 512], 50, "bfloat16"))
    print("the same without the photo's detail    ", schedule([128, 256, 512], 50, detail=False))
    print("128, 181, 256, 362, 512, 33 steps      ", schedule([128, 181, 256, 362, 512], 33))
    print("512 alone, 65 steps                    ", schedule([512], 65))
    print("Adam, a constant rate                      ", adam(1e-9))
    print("Adam, the rate falling in the end          ", adam(optimize.SETTLING))
    print("the same, moments carried between scales   ", adam(optimize.SETTLING, carried=True))
    print("constant, carried, iterates averaged (0.99)", adam(1e-9, carried=True, average=0.99))


if __name__ == "__main__":
    main()
