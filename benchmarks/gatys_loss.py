"""Print neural-style's loss of an image: ``python benchmarks/gatys_loss.py CONTENT STYLE IMAGE --size 512``.

The loss of anyone's output, whatever program made it: content 5 * MSE(F), style 100 * MSE(F F^T / (C H W)) for each of
five layers, total variation 1e-3 * sum |difference| in units of 0-255, on VGG-16 in float32. The image is taken as it
is; the photo is resized to the image's pixels and the style so that its longer side is SIZE.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from image_optimization import console, images
from image_optimization.capture import capture
from models import load
from style_transfer import PRESETS
from style_transfer.tiling import whole
from style_transfer.total import Style, total_loss


def gatys_loss(content: Path, style: Path, image: Path, size: int) -> float:
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
    size: Annotated[int, typer.Option(callback=console.positive, help="Longer side of the style in pixels.")] = 512,
) -> None:
    typer.echo(f"{gatys_loss(content, style, image, size):.6g}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    console.run(app, "gatys_loss")
