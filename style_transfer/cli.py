"""The command line ``stylize``: a thin skin over :func:`style_transfer.stylize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from image_optimization import console
from image_optimization.precision import Precision
from style_transfer.presets import PRESETS
from style_transfer.transfer import stylize

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(add_completion=False, epilog="--debug shows the traceback of an error.")


def _default(name: str) -> Any:
    return console.default(stylize, name)


SEED: int = _default("seed")
PRECISION: Precision = _default("precision")


def _list_styles(wanted: bool) -> None:
    if wanted:
        from style_transfer.painters import PAINTERS

        for name, draw in PAINTERS.items():
            typer.echo(f"{name:15}{(draw.__doc__ or '').strip().splitlines()[0]}")
        raise typer.Exit


@app.command()
def main_command(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(help="The photo to paint.", show_default=False)],
    style: Annotated[
        list[str], typer.Option(help="A painting, or a drawn style (--list-styles). May be given several times.")
    ],
    output: console.Output = None,
    size: Annotated[
        int, typer.Option(callback=console.positive, help="Longer side of the result in pixels.")
    ] = _default("size"),
    blend: Annotated[
        str | None, typer.Option(help="Weights of several styles, such as 2,1; by default all the same.")
    ] = None,
    preset: Annotated[str, typer.Option(help=f"How the losses are weighed: {', '.join(PRESETS)}.")] = _default(
        "preset"
    ),
    content_weight: Annotated[float | None, typer.Option(help="In place of the preset's.")] = _default(
        "content_weight"
    ),
    style_weight: Annotated[
        float | None, typer.Option(help="In place of the preset's, of each style layer.")
    ] = _default("style_weight"),
    tv_weight: Annotated[
        float | None, typer.Option(help="In place of the preset's; total variation, for smoothness.")
    ] = _default("tv_weight"),
    init: Annotated[str, typer.Option(help="What to start from: content, noise or an image file.")] = _default("init"),
    optimizer: Annotated[Literal["lbfgs", "adam"], typer.Option(help="L-BFGS, or Adam for less memory.")] = _default(
        "optimizer"
    ),
    steps: Annotated[int, typer.Option(callback=console.positive, help="At each scale of the pyramid.")] = _default(
        "steps"
    ),
    model: Annotated[str, typer.Option(help="vgg16, vgg19, or another network with VGG's layer names.")] = "vgg16",
    weights: console.Weights = None,
    seed: console.Seed = SEED,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    overwrite: console.Overwrite = False,
    list_styles: Annotated[
        bool,
        typer.Option("--list-styles", callback=_list_styles, is_eager=True, help="List the drawn styles and exit."),
    ] = False,
) -> None:
    """A photo in the manner of a painting.

    An image is optimized against the activations of the one and the Gram matrices of the other.
    """
    place = console.find_device(device)
    path = console.output_path(output, "stylized.png", overwrite)
    precision = console.find_precision(precision, place, context)
    from image_optimization import images
    from models import load

    content = images.load(photo)
    paintings = [_style(name, size) for name in style]
    start: Any = init if init in ("content", "noise") else images.load(init)
    network = load(model, weights).to(place)
    with console.progress("stylize", place, precision) as listener:
        result = stylize(
            content,
            paintings,
            model=network,
            size=size,
            blend=_numbers(blend),
            preset=preset,
            content_weight=content_weight,
            style_weight=style_weight,
            tv_weight=tv_weight,
            init=start,
            optimizer=optimizer,
            steps=steps,
            seed=seed,
            precision=precision,
            listeners=[listener],
        )
    console.save(result.image, path, context, overwrite, result.stopped)


def _style(name: str, size: int) -> Tensor:
    """A drawn style, or the picture in a file."""
    import difflib

    from image_optimization import images
    from style_transfer.painters import PAINTERS, paint

    if name in PAINTERS and not Path(name).exists():
        return paint(name, size)
    if not Path(name).exists():
        near = difflib.get_close_matches(name, PAINTERS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(f"no image file or drawn style {name!r}; {hint}drawn styles are {', '.join(PAINTERS)}")
    return images.load(name)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"blend weights are numbers such as 2,1, not {text!r}") from None


def main() -> None:
    """The entry point of ``stylize``."""
    console.run(app, "stylize")


if __name__ == "__main__":
    main()
