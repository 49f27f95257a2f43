"""The command line ``dream``: a thin skin over :func:`activation_maximization.maximize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from activation_maximization.dream import Dreams, evaluate, maximize
from activation_maximization.objectives import Objective, channel, logit, neuron
from activation_maximization.regularizers import pixel_sum
from image_optimization import console
from image_optimization.precision import Precision
from models import load

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

app = typer.Typer(
    help="What does this filter, this neuron, this class look for? Gradient ascent on the input image of a network.",
    epilog="--debug shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
)

PIXELS = 64 * 128 * 128
"""Made at a time, so that the memory for ``--units all`` of a large network, or for a large ``--size``, is bounded."""

Model = Annotated[
    str, typer.Option(help="digits, digits-mlp, vgg16, vgg19, torchvision:NAME, timm:NAME or path/to/file.py:function.")
]
Units = Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-11 or 3,7.")]
Size = Annotated[
    int | None,
    typer.Option(
        callback=console.positive, help="Side of each picture in pixels; by default the network's input size."
    ),
]
Steps = Annotated[int, typer.Option(callback=console.positive, help="Gradient steps.")]
Columns = Annotated[int | None, typer.Option(callback=console.positive, help="Pictures a row.")]
STEPS: int = console.default(maximize, "steps")
SEED: int = console.default(maximize, "seed")
PRECISION: Precision = console.default(maximize, "precision")
PIXEL_SUM: float = console.default(pixel_sum, "weight")


@app.command()
def layers(model: Model = "digits", weights: console.Weights = None, size: Size = None) -> None:
    """List the layers of a network: what --layer takes."""
    from image_optimization.layers import default_shape, list_layers

    network = load(model, weights)
    shape = default_shape(network, size)
    rows = [("layer", "kind", "channels", "output", "receptive field")]
    for layer in list_layers(network, shape):
        field = f"{layer.receptive_field} px" if layer.receptive_field else "whole image"
        rows.append((layer.name, layer.kind, str(layer.channels), " x ".join(map(str, layer.shape)), field))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    typer.echo(f"{model}, for images of {' x '.join(map(str, shape))} (channels x height x width)\n")
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def filters(
    context: typer.Context,
    model: Model = "digits",
    layer: Annotated[str, typer.Option(help="A convolution or pooling; dream layers lists them.")] = "pool2",
    units: Units = "0-11",
    weights: console.Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    columns: Columns = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Filters of a convolution: for each, the texture that it looks for."""
    place = console.find_device(device)
    path = console.output_path(output, "filters.png", overwrite)
    precision = console.find_precision(precision, place, context)
    network = load(model, weights).to(place)
    chosen = _parse_units(units, network, layer, size)
    objectives = [channel(layer, some) for some in _batches(chosen, network, size)]
    dreams = _ascend(network, objectives, size=size, steps=steps, seed=seed, precision=precision)
    _save(
        context,
        path,
        _captioned(dreams, chosen, columns, f"{model}  {layer}  filters, mean activation"),
        overwrite,
        dreams,
    )


@app.command()
def neurons(
    context: typer.Context,
    model: Model = "digits",
    layer: Annotated[
        str, typer.Option(help="A fully connected layer; of a convolution, the neurons in its middle.")
    ] = "hidden",
    units: Units = "0-8",
    weights: console.Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    columns: Columns = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Neurons of a fully connected layer: for each, the whole image that it looks for."""
    place = console.find_device(device)
    path = console.output_path(output, "neurons.png", overwrite)
    precision = console.find_precision(precision, place, context)
    network = load(model, weights).to(place)
    chosen = _parse_units(units, network, layer, size)
    objectives = [neuron(layer, some) for some in _batches(chosen, network, size)]
    dreams = _ascend(network, objectives, size=size, steps=steps, seed=seed, precision=precision)
    _save(
        context, path, _captioned(dreams, chosen, columns, f"{model}  {layer}  neurons, activation"), overwrite, dreams
    )


@app.command()
def digits(
    context: typer.Context,
    model: Model = "digits",
    classes: Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-9 or 3,7.")] = "0-9",
    ink: Annotated[
        float, typer.Option("--pixel-sum", help="Weight of the sum of all pixels in the second row.")
    ] = PIXEL_SUM,
    weights: console.Weights = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """The output neurons, twice: as they are, and with as little ink as possible."""
    place = console.find_device(device)
    path = console.output_path(output, "digits.png", overwrite)
    precision = console.find_precision(precision, place, context)
    network = load(model, weights).to(place)
    chosen = _parse_units(classes, network, "logits", None)
    dreams = _ascend(
        network, [logit(chosen), logit(chosen) - pixel_sum(ink)], steps=steps, seed=seed, precision=precision
    )
    # Both rows are captioned with the activation alone.
    dreams = [replace(row, activations=evaluate(network, logit(chosen), row.images)) for row in dreams]
    rows = ["activation", f"activation - {ink:g} x sum of pixels"]
    picture = _captioned(dreams, chosen * len(dreams), len(chosen), f"{model}  logits", rows)
    _save(context, path, picture, overwrite, dreams)


def _parse_units(text: str, network: nn.Module, layer: str, size: int | None) -> list[int]:
    """``all``, ``0-11`` or ``3,7`` as numbers of units that ``layer`` has."""
    import torch

    from image_optimization.layers import default_shape, reach_layers

    [reached] = reach_layers(network, torch.zeros(1, *default_shape(network, size)), [layer])
    count = reached.channels
    if text.strip() == "all":
        return list(range(count))
    units: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(f"units are 'all', or numbers and ranges such as 0-11 or 3,7, not {text!r}")
        units += range(int(first), int(last or first) + 1)
    wrong = [unit for unit in units if unit >= count]
    if wrong or not units:
        raise ValueError(
            f"no unit {wrong[0] if wrong else text!r} in layer {layer!r}: its {count} units are 0-{count - 1}"
        )
    return units


def _batches(units: list[int], network: nn.Module, size: int | None) -> list[list[int]]:
    from image_optimization.layers import default_shape

    _, height, width = default_shape(network, size)
    count = max(1, min(64, PIXELS // (height * width)))
    return [units[start : start + count] for start in range(0, len(units), count)]


def _ascend(network: nn.Module, objectives: Sequence[Objective], precision: Precision, **settings: Any) -> list[Dreams]:
    """The dreams of each objective; after Ctrl-C, of those so far."""
    from image_optimization.layers import device_of

    done: list[Dreams] = []
    for number, objective in enumerate(objectives, 1):
        try:
            with console.progress(f"{number}/{len(objectives)}", device_of(network), precision) as listener:
                done.append(maximize(network, objective, precision=precision, listeners=[listener], **settings))
        except KeyboardInterrupt:  # before its first step
            if not done:
                raise
            done[-1] = replace(done[-1], stopped="interrupted")
        if done[-1].stopped == "interrupted":
            break
    return done


def _captioned(
    dreams: Sequence[Dreams], units: list[int], columns: int | None, title: str, rows: Sequence[str] = ()
) -> Image.Image:
    import torch

    from activation_maximization.grids import contact_sheet

    images = torch.cat([part.images for part in dreams])
    activations = torch.cat([part.activations for part in dreams]).tolist()
    captions = [f"{unit}\t{_short(activation)}" for unit, activation in zip(units, activations, strict=False)]
    return contact_sheet(images, captions, columns=columns, title=title, rows=rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _save(context: typer.Context, path: Path, picture: Image.Image, overwrite: bool, dreams: Sequence[Dreams]) -> None:
    console.save(picture, path, context, overwrite, dreams[-1].stopped)


def main() -> None:
    """The entry point of ``dream``."""
    console.run(app, "dream")


if __name__ == "__main__":
    main()
