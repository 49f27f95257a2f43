"""Print neural-style's loss of an image: ``python -m benchmarks.gatys_loss CONTENT STYLE IMAGE --size 512``.

The image can come from any program. The loss is a sum of three terms, in which F stands for the activations of a layer
of VGG-16 in float32:

- content: 5 * MSE(F) between the image and the photo, in relu4_2;
- style: 100 * MSE(F F^T / (C H W)) between the image and the style, for each of five layers;
- total variation: 1e-3 * sum of |difference| between neighboring pixels, for pixels from 0 to 255.

IMAGE is not resized. CONTENT, the photo, is resized to the size of IMAGE. STYLE, the painting, is resized so that its
longer side has as many pixels as ``--size`` says.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.models import load
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.tiling import whole
from dreamgram.style_transfer.total_loss import Style, total_loss


def gatys_loss(content: Path, style: Path, image: Path, size: int) -> float:
    """Return neural-style's loss of ``image``, with ``style`` resized so that its longer side has ``size`` pixels."""
    picture = images.load(image)
    photo = images.resize(images.load(content), (picture.shape[2], picture.shape[3]))
    painting = images.load(style)
    preset = PRESETS["gatys"]
    with torch.no_grad(), capture(load("vgg16"), preset.layers) as activations_of:
        loss = total_loss(
            activations_of, photo, [Style(painting, size, [1.0])], preset, lambda image: [whole(preset.layers)]
        )
        return loss(picture).item()


def main(
    content: Path,
    style: Path,
    image: Path,
    size: Annotated[int, typer.Option(min=1, help="Longer side, in pixels, to which the style is resized.")] = 512,
) -> None:
    """Print neural-style's loss of an image made by any program."""
    typer.echo(f"{gatys_loss(content, style, image, size):.6g}")


if __name__ == "__main__":
    typer.run(main)
