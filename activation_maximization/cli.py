"""The command line ``dream``: a thin skin over :func:`activation_maximization.maximize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from activation_maximization.dream import Dreams, evaluate, maximize
from activation_maximization.objectives import Objective, channel, logit, neuron
from activation_maximization.regularizers import pixel_sum
from image_optimization import console

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

app = typer.Typer(
    help="What does this filter, this neuron, this class look for? Gradient ascent on the input image of a network.",
    epilog="--debug shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
)

BATCH = 64
"""Pictures made at a time, so that the memory for ``--units all`` of a large network is bounded."""

Model = Annotated[
    str, typer.Option(help="digits, digits-mlp, vgg16, vgg19, torchvision:NAME, timm:NAME or path/to/file.py:function.")
]
Weights = Annotated[Path | None, typer.Option(help="A local weights file in place of the network's own.")]
Units = Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-11 or 3,7.")]
Size = Annotated[
    int | None,
    typer.Option(
        callback=console.positive, help="Side of each picture in pixels; by default the network's input size."
    ),
]
Steps = Annotated[int, typer.Option(callback=console.positive, help="Gradient steps.")]
Seed = Annotated[int, typer.Option(help="Of the first noise and of the random transforms.")]
Columns = Annotated[int | None, typer.Option(callback=console.positive, help="Pictures a row.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Picture to write; by default a new file in outputs/.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]

STEPS: int = console.default(maximize, "steps")
SEED: int = console.default(maximize, "seed")
PIXEL_SUM: float = console.default(pixel_sum, "weight")


@app.command()
def layers(model: Model = "digits", weights: Weights = None, size: Size = None) -> None:
    """List the layers of a network: what --layer takes."""
    from image_optimization.layers import default_shape, list_layers
    from models import load

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
    weights: Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: Seed = SEED,
    columns: Columns = None,
    device: Device = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Filters of a convolution: for each, the texture that it looks for."""
    path = console.output_path(output, "filters.png", overwrite)
    network = _load(model, weights, device)
    chosen = _parse_units(units, network, layer, size)
    dreams = _ascend(network, partial(channel, layer), chosen, f"{model} {layer}", size=size, steps=steps, seed=seed)
    _save(context, path, _captioned(dreams, chosen, columns, f"{model}  {layer}  filters"), overwrite, dreams)


@app.command()
def neurons(
    context: typer.Context,
    model: Model = "digits",
    layer: Annotated[
        str, typer.Option(help="A fully connected layer; of a convolution, the neurons in its middle.")
    ] = "hidden",
    units: Units = "0-8",
    weights: Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: Seed = SEED,
    columns: Columns = None,
    device: Device = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Neurons of a fully connected layer: for each, the whole image that it looks for."""
    path = console.output_path(output, "neurons.png", overwrite)
    network = _load(model, weights, device)
    chosen = _parse_units(units, network, layer, size)
    dreams = _ascend(network, partial(neuron, layer), chosen, f"{model} {layer}", size=size, steps=steps, seed=seed)
    _save(context, path, _captioned(dreams, chosen, columns, f"{model}  {layer}  neurons"), overwrite, dreams)


@app.command()
def digits(
    context: typer.Context,
    model: Model = "digits",
    classes: Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-9 or 3,7.")] = "0-9",
    ink: Annotated[
        float, typer.Option("--pixel-sum", help="Weight of the sum of all pixels in the second row.")
    ] = PIXEL_SUM,
    weights: Weights = None,
    steps: Steps = STEPS,
    seed: Seed = SEED,
    device: Device = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """The output neurons, twice: as they are, and with as little ink as possible."""
    path = console.output_path(output, "digits.png", overwrite)
    network = _load(model, weights, device)
    chosen = _parse_units(classes, network, "logits", None)
    plain = _ascend(network, logit, chosen, "without regularizer", steps=steps, seed=seed)
    rows = ["maximal activation"]
    if plain.stopped != "interrupted":
        sparing = _ascend(
            network, lambda some: logit(some) - pixel_sum(ink), chosen, "with pixel sum", steps=steps, seed=seed
        )
        rows.append(f"maximal activation - {ink:g} x sum of pixels")
        plain = _joined([plain, replace(sparing, activations=evaluate(network, logit(chosen), sparing.images))])
    picture = _captioned(plain, chosen * len(rows), len(chosen), f"{model}  logits", rows)
    _save(context, path, picture, overwrite, plain)


def _load(model: str, weights: Path | None, device: str) -> nn.Module:
    from models import load

    place = console.find_device(device)
    return load(model, weights).to(place)


def _parse_units(text: str, network: nn.Module, layer: str, size: int | None) -> list[int]:
    """``all``, ``0-11`` or ``3,7`` as numbers of units that ``layer`` has."""
    import torch

    from image_optimization.layers import default_shape, dry_run, find_layer

    layers, _ = dry_run(network, torch.zeros(1, *default_shape(network, size)))
    count = find_layer(layer, layers).channels
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


def _ascend(
    network: nn.Module, objective: Callable[[list[int]], Objective], units: list[int], what: str, **settings: Any
) -> Dreams:
    parts: list[Dreams] = []
    for start in range(0, len(units), BATCH):
        with console.progress(what) as listener:
            parts.append(maximize(network, objective(units[start : start + BATCH]), listeners=[listener], **settings))
        if parts[-1].stopped == "interrupted":
            break
    return _joined(parts)


def _joined(parts: list[Dreams]) -> Dreams:
    import torch

    return Dreams(
        torch.cat([part.images for part in parts]),
        torch.cat([part.activations for part in parts]),
        torch.cat([part.history[: min(len(p.history) for p in parts)] for part in parts], dim=1),
        parts[-1].stopped,
    )


def _captioned(
    dreams: Dreams, units: list[int], columns: int | None, title: str, rows: Sequence[str] = ()
) -> Image.Image:
    from activation_maximization.grids import contact_sheet

    captions = [f"{unit}\t{value:.4g}" for unit, value in zip(units, dreams.activations.tolist(), strict=False)]
    return contact_sheet(dreams.images, captions, columns=columns, title=title, rows=rows)


def _save(context: typer.Context, path: Path, picture: Image.Image, overwrite: bool, dreams: Dreams) -> None:
    from image_optimization.images import save

    save(picture, path, console.settings(context), overwrite)
    console.report(path, dreams.stopped)


def main() -> None:
    """The entry point of ``dream``."""
    console.run(app)


if __name__ == "__main__":
    main()
