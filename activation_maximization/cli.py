"""The command line ``dream``: a thin skin over :func:`activation_maximization.maximize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from activation_maximization import objectives
from activation_maximization.dream import Dreams, activations, batch_size, evaluate, maximize
from activation_maximization.examples import Example, top_examples
from activation_maximization.folder import FOUND, batches, make_each
from activation_maximization.objectives import Objective, channel, deepdream, logit, match, neuron
from activation_maximization.octaves import amplify as deep_dream
from activation_maximization.regularizers import sparing, total_variation
from image_optimization import console
from image_optimization.precision import Precision
from image_optimization.timelapse import Timelapse, save_animation
from models import load

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

app = typer.Typer(
    help="What does this filter, this neuron, this class look for? Gradient ascent on the input image of a network.",
    epilog="--debug shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
)

Model = Annotated[
    str,
    typer.Option(
        help="digits, digits-robust, digits-mlp, vgg16, vgg19, torchvision:NAME, timm:NAME or path/to/file.py:function."
    ),
]
Units = Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-11 or 3,7.")]
Size = Annotated[
    int | None,
    typer.Option(
        callback=console.positive, help="Side of each picture in pixels; by default the network's input size."
    ),
]
Steps = Annotated[int, typer.Option(callback=console.positive, help="Gradient steps.")]
Html = Annotated[
    bool, typer.Option("--html", help="Beside the picture a page for the browser, with a search box, in one file.")
]
Columns = Annotated[int | None, typer.Option(callback=console.positive, help="Pictures a row.")]
Layer = Annotated[str, typer.Option(help="Which; dream layers lists them.")]
Photo = Annotated[Path, typer.Argument(help="A picture file.", show_default=False)]
PhotoSize = Annotated[
    int, typer.Option("--size", callback=console.positive, help="Longer side of the picture in pixels.")
]
NOT_OF_A_UNIT = ("units", "columns", "folder", "html", "timelapse", "output", "overwrite")
"""Options of dream units that change nothing in the picture of one."""

STEPS: int = console.default(maximize, "steps")
SEED: int = console.default(maximize, "seed")
PRECISION: Precision = console.default(maximize, "precision")
OCTAVES: int = console.default(deep_dream, "octaves")
OCTAVE_STEPS: int = console.default(deep_dream, "steps")
INK: float = console.default(sparing, "ink")
SMOOTHNESS: float = console.default(sparing, "smoothness")


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
def units(
    context: typer.Context,
    model: Model = "digits",
    layer: Layer = "pool2",
    units: Units = "0-11",
    position: Annotated[
        str | None, typer.Option(help="ROW,COLUMN (of tokens TOKEN): one neuron of each filter, not its mean.")
    ] = None,
    weights: console.Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    columns: Columns = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Each unit in a file of its own in here, too; a run that was stopped goes on where it was."),
    ] = None,
    html: Html = False,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Units of any layer: the texture that a filter looks for, the whole image that a neuron does."""
    job = _begin(context, "units.png", model, weights, device, precision, output, overwrite)
    chosen = _parse_units(units, job.network, layer, size)
    where = None if position is None else _parse_position(position)
    film = Timelapse(steps) if timelapse else None
    if film and folder:
        raise ValueError(
            "--timelapse shows all units on the way, of which --folder finds some made: choose one of them"
        )

    def make(some: list[int]) -> Dreams:
        objective = channel(layer, some) if where is None else neuron(layer, some, where)
        return job.ascend(objective, film=film, size=size, steps=steps, seed=seed)

    if folder is None:
        dreams = make(chosen)
    else:
        from image_optimization.layers import default_shape

        _, height, width = default_shape(job.network, size)
        asked = console.settings(context)
        how = {name: value for name, value in asked.items() if name not in NOT_OF_A_UNIT}
        batch = batch_size(height * width)
        chosen, dreams = make_each(folder, chosen, make, batch=batch, settings=how, overwrite=overwrite)
        context.params[FOUND] = {"batches": batches(folder, chosen)}
    title = f"{model}  {layer}  activation{f' at {position}' if position else ''}"
    sheet = _sheet(dreams.images, chosen, dreams.activations.tolist(), columns=columns, title=title)
    job.save(sheet, dreams, [f"unit {unit}" for unit in chosen])
    job.save_film(film, lambda images: _sheet(images, chosen, columns=columns, title=title))
    if html:
        job.save_page(title, chosen, dreams)
    console.finish(dreams.stopped)


@app.command()
def examples(
    context: typer.Context,
    model: Model = "digits",
    layer: Layer = "pool2",
    units: Units = "0-5",
    data: Annotated[
        Path | None, typer.Option(help="A folder of pictures; by default, for gray 28x28 ones, 1,000 test digits.")
    ] = None,
    count: Annotated[int, typer.Option("--top", callback=console.positive, help="Patches a unit.")] = 9,
    weights: console.Weights = None,
    size: Size = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    html: Html = False,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Units beside what excites them most among real pictures: each dream, then the patches that the unit saw."""
    job = _begin(context, "examples.png", model, weights, device, precision, output, overwrite)
    chosen = _parse_units(units, job.network, layer, size)
    from activation_maximization.grids import contact_sheet, short

    best = top_examples(job.network, layer, chosen, _pictures(data, job.network, size), count)
    dreams = job.ascend(channel(layer, chosen), size=size, steps=steps, seed=seed)
    title = f"{model}  {layer}  dreams with their mean activation, and what excited each unit most"
    tiles: list[Tensor] = []
    captions: list[str] = []
    for unit, dream, activation, found in zip(chosen, dreams.images, dreams.activations.tolist(), best, strict=False):
        tiles += [dream, *(example.patch for example in found)]
        captions += [f"{unit}\t{short(activation)}", *(f"{e.name}\t{short(e.activation)}" for e in found)]
    sheet = contact_sheet(tiles, captions, columns=1 + len(best[0]), title=title)
    job.save(sheet, dreams, [f"unit {unit}" for unit in chosen])
    if html:
        job.save_page(title, chosen, dreams, best)
    console.finish(dreams.stopped)


@app.command()
def digits(
    context: typer.Context,
    model: Model = "digits",
    classes: Annotated[str, typer.Option(help="Which: all, or numbers and ranges such as 0-9 or 3,7.")] = "0-9",
    ink: Annotated[
        float, typer.Option("--pixel-sum", help="Weight of the sum of all pixels in the second row, at the end.")
    ] = INK,
    smoothness: Annotated[
        float, typer.Option("--blur", help="Weight of what a blur would change, in the second row.")
    ] = SMOOTHNESS,
    compare: Annotated[
        bool, typer.Option("--compare", help="A third row: the second, by digits-robust, which is harder to fool.")
    ] = False,
    weights: console.Weights = None,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """The output neurons, twice: as they are, and with as little ink as possible."""
    import torch

    job = _begin(context, "digits.png", model, weights, device, precision, output, overwrite)
    chosen = _parse_units(classes, job.network, "logits", None)
    objective = logit(chosen) - sparing(ink, smoothness)
    minus = f"activation - {ink:g} x sum of pixels - {smoothness:g} x what a blur would change"
    rows = [(f"{model}: activation", job, logit(chosen)), (f"{model}: {minus}", job, objective)]
    if compare:
        robust = replace(job, network=load("digits-robust").to(job.device))
        rows.append((f"digits-robust: {minus}", robust, objective))
    film = Timelapse(steps) if timelapse else None
    dreams: list[Dreams] = []
    for _, painter, wanted in rows:
        try:
            made = painter.ascend(wanted, film=film, steps=steps, seed=seed)
        except KeyboardInterrupt:  # before the first step of this row
            if not dreams:
                raise
            dreams[-1] = replace(dreams[-1], stopped="interrupted")
            break
        # All rows are captioned with the activation alone.
        dreams.append(replace(made, activations=evaluate(painter.network, logit(chosen), made.images)))
        if made.stopped == "interrupted":
            break
    shown, units = torch.cat([made.images for made in dreams]), chosen * len(rows)
    values = torch.cat([made.activations for made in dreams]).tolist()
    look: dict[str, Any] = {"columns": len(chosen), "title": "logits", "rows": [title for title, _, _ in rows]}
    job.save(_sheet(shown, units, values, **look), dreams[-1], [f"class {unit}" for unit in chosen])
    job.save_film(film, lambda images: _sheet(images, units, **look))
    console.finish(dreams[-1].stopped)


@app.command()
def amplify(
    context: typer.Context,
    photo: Photo,
    model: Model = "vgg16",
    layer: Layer = "relu4_3",
    unit: Annotated[int | None, typer.Option(help="Amplify this one alone, not all that the layer sees.")] = None,
    octaves: Annotated[int, typer.Option(callback=console.positive, help="Sizes, from coarse to fine.")] = OCTAVES,
    weights: console.Weights = None,
    size: PhotoSize = 512,
    steps: Annotated[int, typer.Option(callback=console.positive, help="Gradient steps an octave.")] = OCTAVE_STEPS,
    seed: console.Seed = SEED,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """A deep dream: more and more of what a layer sees in a photo."""
    job = _begin(context, "amplified.png", model, weights, device, precision, output, overwrite)
    objective = deepdream(layer) if unit is None else channel(layer, unit)
    settings = {"photo": _open(photo, job.network, size, layer), "octaves": octaves, "steps": steps, "seed": seed}
    film = Timelapse(octaves * steps) if timelapse else None
    job.save_picture(job.ascend(objective, by=deep_dream, film=film, **settings), film)


@app.command()
def invert(
    context: typer.Context,
    photo: Photo,
    model: Model = "vgg16",
    layer: Layer = "relu4_1",
    smoothness: Annotated[float, typer.Option(help="Weight of the total variation.")] = 0.5,
    weights: console.Weights = None,
    size: PhotoSize = 224,
    steps: Steps = 256,
    seed: console.Seed = SEED,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """What a layer still knows of a photo: an image, begun from noise, to which it answers the same."""
    job = _begin(context, "inverted.png", model, weights, device, precision, output, overwrite)
    picture = _open(photo, job.network, size, layer)
    film = Timelapse(steps) if timelapse else None
    job.save_picture(
        job.ascend(match(layer, picture) - total_variation(smoothness), film=film, steps=steps, seed=seed), film
    )


@app.command()
def caricature(
    context: typer.Context,
    photo: Photo,
    model: Model = "vgg16",
    layer: Layer = "relu4_1",
    weights: console.Weights = None,
    size: PhotoSize = 224,
    steps: Steps = 256,
    seed: console.Seed = SEED,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """What a layer sees in a photo, exaggerated, begun from noise."""
    job = _begin(context, "caricature.png", model, weights, device, precision, output, overwrite)
    picture = _open(photo, job.network, size, layer)
    film = Timelapse(steps) if timelapse else None
    job.save_picture(job.ascend(objectives.caricature(layer, picture), film=film, steps=steps, seed=seed), film)


@app.command()
def accentuate(
    context: typer.Context,
    photo: Photo,
    unit: Annotated[int, typer.Option(help="Whose part in the photo to bring out.")],
    model: Model = "vgg16",
    layer: Layer = "relu4_1",
    near: Annotated[str, typer.Option(help="The earlier layer in which the photo must stay itself.")] = "relu2_1",
    nearness: Annotated[float, typer.Option(help="How much it must.")] = 30,
    weights: console.Weights = None,
    size: PhotoSize = 224,
    steps: Steps = STEPS,
    seed: console.Seed = SEED,
    timelapse: console.Film = None,
    device: console.Device = "auto",
    precision: console.Precision = PRECISION,
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Where a unit finds what it looks for in a photo: the photo, changed as far as that brings it out."""
    job = _begin(context, "accentuated.png", model, weights, device, precision, output, overwrite)
    picture = _open(photo, job.network, size, layer)
    # In units of the layer's usual strength, so that the same nearness holds for every layer and network.
    usual = activations(job.network, picture, [layer])[layer].square().mean().sqrt().item()
    if not usual:
        raise ValueError(f"{layer} answers this photo with nothing but 0: there is nothing to bring out")
    objective = channel(layer, unit) * (1 / usual) + nearness * match(near, picture)
    film = Timelapse(steps) if timelapse else None
    job.save_picture(job.ascend(objective, init=picture, film=film, steps=steps, seed=seed), film)


@app.command()
def replay(
    picture: Annotated[Path, typer.Argument(help="A PNG that dream made.", show_default=False)],
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Make a picture again, from the settings that it holds: on the same machine, bit for bit."""
    from PIL import Image

    from image_optimization import images
    from image_optimization.images import read_settings

    kept = read_settings(picture)
    tool, _, name = kept.get("command", "").partition(" ")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if tool != "dream" or name not in commands:
        raise ValueError(f"{picture} was not made by dream, or not by this version: it cannot be made again")
    if kept.get("stopped") == "interrupted":
        raise ValueError(f"{picture} was interrupted: it cannot be made again")
    console.check_files(kept)
    if FOUND not in kept:
        given = {**kept, "folder": None, "output": output, "overwrite": overwrite}
        app([name, *console.arguments(commands[name], given)], prog_name="dream", standalone_mode=False)
        return
    target = console.output_path(output, picture.name, overwrite)
    with TemporaryDirectory() as temporary:
        made = _make_again(kept, Path(temporary), commands[name])
        images.save(Image.open(made), target, read_settings(made), overwrite)
    typer.echo(target)


def _make_again(kept: Mapping[str, Any], place: Path, command: Any) -> Path:
    """One unit of a folder, or the sheet of them: each made in the batch that it was made in."""

    def run(units: Sequence[int], folder: Path) -> Path:
        sheet = place / "sheet.png"
        given = {**kept, "units": ",".join(map(str, units)), "folder": folder, "output": sheet, "overwrite": True}
        with redirect_stdout(None):
            app([command.name, *console.arguments(command, given)], prog_name="dream", standalone_mode=False)
        return sheet

    found, each = kept[FOUND], place / "each"
    if "unit" in found:
        run(found["batch"], each)
        return each / f"{found['unit']:04}.png"
    each.mkdir()
    for number, batch in enumerate({tuple(batch): None for batch in found["batches"].values()}):
        run(batch, place / str(number))
        for unit, own in found["batches"].items():
            if tuple(own) == batch:
                (place / str(number) / f"{int(unit):04}.png").rename(each / f"{int(unit):04}.png")
    return run([int(unit) for unit in found["batches"]], each)


@dataclass(frozen=True)
class _Job:
    """What the options that the commands share come to."""

    context: typer.Context
    network: nn.Module
    device: torch.device
    precision: Precision
    path: Path
    overwrite: bool

    def ascend(
        self, objective: Objective, by: Callable[..., Dreams] = maximize, film: Timelapse | None = None, **settings: Any
    ) -> Dreams:
        """What maximizes ``objective``, with a progress bar."""
        with console.progress(str(self.context.info_name), self.device, self.precision) as listener:
            listeners = [listener, film] if film else [listener]
            return by(self.network, objective, precision=self.precision, listeners=listeners, **settings)

    def save(self, picture: Tensor | Image.Image, dreams: Dreams, names: Sequence[str] = ("the picture",)) -> None:
        """Save what was made of ``dreams``, and say which of them, by their ``names``, mean nothing."""
        if dreams.silent:
            silent = ", ".join(names[number] for number in dreams.silent)
            typer.echo(f"silent: the network passed no gradient back to {silent}, which means nothing", err=True)
        console.save(picture, self.path, self.context, self.overwrite, dreams.stopped)

    def save_picture(self, dreams: Dreams, film: Timelapse | None) -> None:
        """Save the only picture, and its timelapse if there is one."""
        from image_optimization.images import resize, to_pillow

        self.save(dreams.images, dreams)
        size = (dreams.images.shape[2], dreams.images.shape[3])
        self.save_film(film, lambda images: to_pillow(resize(images, size)))
        console.finish(dreams.stopped)

    def save_film(self, film: Timelapse | None, draw: Callable[[Tensor], Image.Image]) -> None:
        """Beside the picture, how it came about, each frame drawn from its images."""
        if film:
            path = console.beside(self.path, f".{self.context.params['timelapse']}", self.overwrite)
            save_animation(film, draw, path)
            typer.echo(path)

    def save_page(
        self, title: str, units: list[int], dreams: Dreams, examples: Sequence[Sequence[Example]] = ()
    ) -> None:
        """Beside the picture, a page of the same units."""
        from activation_maximization.page import page
        from image_optimization.images import whole

        text = page(title, units, dreams.images, dreams.activations.tolist(), examples, console.settings(self.context))
        path = console.beside(self.path, ".html", self.overwrite)
        with whole(path) as beside:
            beside.write_text(text, encoding="utf-8")
        typer.echo(path)


def _begin(
    context: typer.Context,
    name: str,
    model: str,
    weights: Path | None,
    device: str,
    precision: Precision,
    output: Path | None,
    overwrite: bool,
) -> _Job:
    from image_optimization.layers import default_shape

    place = console.find_device(device)
    context.params["device"] = str(place)
    path = console.output_path(output, name, overwrite)
    chosen = console.find_precision(precision, place, context)
    network = load(model, weights).to(place)
    channels = default_shape(network)[0]
    if channels not in (1, 3):
        raise ValueError(
            f"{model} takes images of {channels} channels, of which there are no picture files: use Python"
        )
    return _Job(context, network, place, chosen, path, overwrite)


def _open(photo: Path, network: nn.Module, size: int, layer: str) -> Tensor:
    """The photo for the network, its longer side ``size``; its middle, where the network takes but one size."""
    from image_optimization import images
    from image_optimization.layers import default_shape, reach_layers

    shape = default_shape(network)
    picture = images.load(photo, shape[0])
    fitted = images.fit(picture, size)
    try:
        reach_layers(network, fitted, [layer])
    except ValueError:
        cropped = _middle(picture, shape[1:])
        reach_layers(network, cropped, [layer])
        return cropped
    return fitted


def _middle(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest part of ``picture`` around its middle that has the proportions of ``size``, at that size."""
    from image_optimization import images

    height, width = size
    scale = max(height / picture.shape[2], width / picture.shape[3])
    whole = images.resize(picture, (round(picture.shape[2] * scale), round(picture.shape[3] * scale)))
    top, left = (whole.shape[2] - height) // 2, (whole.shape[3] - width) // 2
    return whole[:, :, top : top + height, left : left + width]


def _pictures(folder: Path | None, network: nn.Module, size: int | None) -> Iterator[tuple[str, Tensor]]:
    """Names and pictures, of the size for ``network``; a file that cannot be read is named and left out."""
    from image_optimization import images
    from image_optimization.layers import default_shape
    from models.digits import digit_sample

    channels, height, width = default_shape(network, size)
    if folder is None:
        if (channels, height, width) != (1, 28, 28):
            raise ValueError("there are no pictures for this network in the package: give a folder of them (--data)")
        digits, labels = digit_sample()
        for digit, label in zip(digits, labels.tolist(), strict=True):
            yield f"a {label}", digit[None]
        return
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in images.FORMATS and each.is_file()):
        try:
            picture = images.load(path, channels)
        except (OSError, ValueError) as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        yield path.stem, _middle(picture, (height, width))  # as networks are tested


def _parse_position(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"a position is ROW,COLUMN, of tokens TOKEN, not {text!r}") from None


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
    return list(dict.fromkeys(units))


def _sheet(images: Tensor, units: Sequence[int], activations: Sequence[float] = (), **look: Any) -> Image.Image:
    """A contact sheet of the first of ``units``, as many as there are images."""
    from activation_maximization.grids import contact_sheet, short

    values = [f"\t{short(activation)}" for activation in activations] or [""] * len(images)
    return contact_sheet(images, [f"{unit}{value}" for unit, value in zip(units, values, strict=False)], **look)


def main() -> None:
    """The entry point of ``dream``."""
    console.run(app, "dream")


if __name__ == "__main__":
    main()
