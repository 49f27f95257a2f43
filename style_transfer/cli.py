"""The command line ``stylize``: a thin skin over :func:`style_transfer.stylize`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from image_optimization import console
from image_optimization.precision import Precision
from image_optimization.timelapse import LONGEST, Timelapse, save_animation
from image_optimization.video import FORMATS
from style_transfer import video
from style_transfer.checkpoint import Checkpoint, prepare_checkpoint, read_kept_settings, read_state
from style_transfer.colors import Colors, finish, luminance, prepare
from style_transfer.folder import READABLE, paint_each
from style_transfer.losses import STYLE_LOSSES
from style_transfer.presets import PRESETS, choose_preset
from style_transfer.transfer import Cache, Stylized, blend_shares, pyramid, stylize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from image_optimization.optimize import Step
    from style_transfer.flow import Previous

app = typer.Typer(
    add_completion=False,
    epilog="stylize replay FILE.png makes a picture again, stylize resume FILE goes on from a checkpoint. "
    "--debug shows the traceback of an error.",
)
others = typer.Typer(add_completion=False, callback=lambda: None)
"""What is done by a word in place of the photo."""


def _default(name: str) -> Any:
    return console.default(stylize, name)


COLORS: Colors = _default("colors")
SEED: int = _default("seed")
PRECISION: Precision = _default("precision")


def _list_styles(wanted: bool) -> None:
    if wanted:
        from style_transfer.painters import PAINTERS

        for name, draw in PAINTERS.items():
            typer.echo(f"{name:15}{(draw.__doc__ or '').strip().splitlines()[0]}")
        raise typer.Exit


@app.command()
def command(
    context: typer.Context,
    photo: Annotated[
        Path, typer.Argument(help="The photo to paint, a folder of them, or a video.", show_default=False)
    ],
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
    style_scale: Annotated[
        float, typer.Option(help="Size of the brushstrokes; 1: of the painting at the size of the result.")
    ] = _default("style_scale"),
    content_mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture of few plain colours, a region each: from dark to light they take the styles in turn."
        ),
    ] = None,
    style_mask: Annotated[
        list[Path] | None,
        typer.Option(help="One for each style: its regions, in the colours of those of the photo that they are for."),
    ] = None,
    colors: Annotated[
        Colors,
        typer.Option(
            help="style: the painting's. content: the photo's, under the painted lightness. luminance: the photo's; "
            "only lightness is painted. match: the painting's, moved to the photo's before."
        ),
    ] = COLORS,
    preset: Annotated[str, typer.Option(help=f"How the losses are weighed: {', '.join(PRESETS)}.")] = _default(
        "preset"
    ),
    style_loss: Annotated[
        str | None, typer.Option(help=f"In place of the preset's: {', '.join(STYLE_LOSSES)}.")
    ] = _default("style_loss"),
    content_weight: Annotated[float | None, typer.Option(help="In place of the preset's.")] = _default(
        "content_weight"
    ),
    style_weight: Annotated[
        float | None, typer.Option(help="In place of the preset's, of each style layer.")
    ] = _default("style_weight"),
    tv_weight: Annotated[
        float | None, typer.Option(help="In place of the preset's; total variation, for smoothness.")
    ] = _default("tv_weight"),
    temporal_weight: Annotated[
        float | None, typer.Option(help="In place of the preset's; how near a video's frame is to the one before.")
    ] = _default("temporal_weight"),
    content_layers: Annotated[
        str | None, typer.Option(help="In place of the preset's, with their weights: relu4_2=1.")
    ] = None,
    style_layers: Annotated[
        str | None, typer.Option(help="In place of the preset's, with their weights: relu1_1=1,relu3_1=0.5.")
    ] = None,
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
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="To plan with, such as 4G or 800M; by default most of what is free. What does not fit is tiled."
        ),
    ] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16, in PNG and TIFF; by default as in the photo.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 95,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out what the camera wrote into the photo (EXIF).")
    ] = False,
    timelapse: console.Film = None,
    plot: Annotated[bool, typer.Option("--plot", help="Beside the picture a plot of the loss over the steps.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Until it is done, keep the state of the run in this file; stylize resume FILE goes on from it."
        ),
    ] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="Seconds from one checkpoint to the next.")] = 60,
    resume_from: Annotated[Path | None, typer.Option(hidden=True)] = None,
    tiled: Annotated[str | None, typer.Option(hidden=True)] = None,
    overwrite: console.Overwrite = False,
    list_styles: Annotated[
        bool,
        typer.Option("--list-styles", callback=_list_styles, is_eager=True, help="List the drawn styles and exit."),
    ] = False,
) -> None:
    """A photo in the manner of a painting.

    An image is optimized against the activations of the one and their statistics in the other.
    """
    from image_optimization import images
    from image_optimization.images import check_output
    from image_optimization.layers import smallest_size
    from models import load

    film, folder = photo.suffix.lower() in video.READABLE and not photo.is_dir(), photo.is_dir()
    _check_alone(context, "video" if film else "folder" if folder else None)
    if film:
        video.count_frames(photo)
        target = check_output(output or console.free(Path("outputs", "stylized.mp4")), overwrite, FORMATS)
    else:
        target = _output_folder(output) if folder else console.output_path(output, "stylized.png", overwrite)
    if checkpoint:
        prepare_checkpoint(checkpoint, overwrite or resume_from is not None)
    weights_of = {name: context.params[name] for name in WEIGHTS}
    chosen = choose_preset(preset, style_loss, _weights(content_layers), _weights(style_layers), **weights_of)
    context.params.update({name: getattr(chosen, name) for name in WEIGHTS}, style_loss=chosen.style_loss_name)
    place = console.find_device(device)
    precision = console.find_precision(precision, place, context)
    how: dict[str, Any] = {
        "styles": [_style(name, size) for name in style],
        "model": load(model, weights).to(place),
        "size": size,
        "blend": _numbers(blend),
        "style_scale": style_scale,
        "content_mask": None if content_mask is None else images.load(content_mask),
        "style_masks": [images.load(mask) for mask in style_mask or []],
        "colors": colors,
        "preset": preset,
        "style_loss": style_loss,
        "content_weight": content_weight,
        "style_weight": style_weight,
        "tv_weight": tv_weight,
        "temporal_weight": temporal_weight,
        "content_layers": _weights(content_layers),
        "style_layers": _weights(style_layers),
        "init": _init(init),
        "optimizer": optimizer,
        "steps": steps,
        "seed": seed,
        "precision": precision,
        "max_memory": _bytes(max_memory),
        "cache": _cache(tiled),
    }
    if film or folder:  # a mistake that is one for every picture is told once
        smallest_size(how["model"], chosen.layers)
        blend_shares(how["blend"], len(style))
    if film:
        _paint_video(context, place, how, photo, target)
    elif folder:
        paint = partial(_paint, context, place, how, unfinished=False)
        paint_each(photo, target, paint, console.settings(context), overwrite)
    else:
        if checkpoint and not resume_from:
            checkpoint.unlink(missing_ok=True)  # nobody is to go on with the run before by mistake
        stopped = _paint(context, place, how, photo, target).stopped
        if stopped == "interrupted" and checkpoint and checkpoint.exists():
            typer.echo(f"stylize resume {checkpoint} --overwrite goes on from here", err=True)
        elif stopped == "finished" and checkpoint:
            checkpoint.unlink(missing_ok=True)
        console.finish(stopped)


WEIGHTS = ("content_weight", "style_weight", "tv_weight", "temporal_weight")
"""Options whose values the settings keep, given or not: a picture is made again as it was if a default changes."""

ALONE = {
    "folder": ("content_mask", "style_mask", "checkpoint", "quality"),
    "video": ("content_mask", "style_mask", "checkpoint", "timelapse", "plot", "bits", "quality", "strip"),
}
"""Options that are for one photo."""


def _check_alone(context: typer.Context, what: str | None) -> None:
    sources = {name: context.get_parameter_source(name) for name in ALONE.get(what or "", ())}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        option = given[0].replace("_", "-")
        hint = ": the same command again goes on with what is not there yet" if option == "checkpoint" else ""
        raise ValueError(f"--{option} is for one photo, not for a {what}{hint}")


def _paint(
    context: typer.Context,
    place: torch.device,
    how: Mapping[str, Any],
    photo: Path,
    path: Path,
    unfinished: bool = True,
) -> Stylized:
    """One photo, into a file, and beside it what else is wanted; ``how`` is for :func:`style_transfer.stylize`.

    Ctrl-C ends it with the picture so far, or without one if no ``unfinished`` one is wanted.
    """
    from image_optimization import images

    wanted = context.params
    given = images.read(photo)
    bits = images.choose_bits(path, wanted["bits"], given.bits)
    images.check_size(path, images.fitted_size(given.image, wanted["size"]))
    if given.frames > 1:
        typer.echo(f"{photo} has {given.frames} frames, of which the first is painted", err=True)
    if given.alpha is not None and path.suffix.lower() in (".jpg", ".jpeg"):
        typer.echo(f"{path.name} cannot be transparent: it will be white where {photo} is", err=True)
    sizes = pyramid(given.image, wanted["size"])
    film = Timelapse(len(sizes) * wanted["steps"]) if wanted["timelapse"] else None
    keeper = None
    if wanted["checkpoint"]:
        keeper = Checkpoint(wanted["checkpoint"], console.settings(context), wanted["checkpoint_every"])
    state = read_state(wanted["resume_from"]) if wanted["resume_from"] else None
    with console.progress(photo.name, place, wanted["precision"]) as bar, keeper or nullcontext():
        listeners = [each for each in (bar, film, keeper) if each]
        result = stylize(given.image, listeners=listeners, state=state, **how)
    if result.stopped == "interrupted" and not unfinished:
        raise KeyboardInterrupt
    shape = (result.image.shape[2], result.image.shape[3])
    alpha = None if given.alpha is None else images.resize(given.alpha, shape)
    exif = b"" if wanted["strip"] else given.exif
    context.params.update(photo=photo, checkpoint=None, resume_from=None)  # nothing to the picture
    context.params.update(tiled=_tiled(how["cache"], [images.fitted_size(given.image, size) for size in sizes]))
    overwrite, quality = wanted["overwrite"], wanted["quality"]
    console.save(
        result.image, path, context, overwrite, result.stopped, alpha=alpha, exif=exif, bits=bits, quality=quality
    )
    if film and film.kept:
        _save_film(film, given.image, wanted, console.beside(path, f".{wanted['timelapse']}", overwrite))
    if wanted["plot"]:
        from style_transfer.plot import save_plot

        place_of_plot = console.beside(path, "-loss.png", overwrite)
        save_plot(result.history, sizes, place_of_plot)
        typer.echo(place_of_plot)
    return result


def _save_film(film: Timelapse, photo: Tensor, wanted: Mapping[str, Any], path: Path) -> None:
    from image_optimization import images

    size = images.fitted_size(photo, min(wanted["size"], LONGEST))

    def draw(kept: Tensor) -> Image:
        return images.to_pillow(finish(wanted["colors"], images.resize(kept, size), photo))

    save_animation(film, draw, path)
    typer.echo(path)


def _paint_video(
    context: typer.Context, place: torch.device, settings_of: Mapping[str, Any], film: Path, target: Path
) -> None:
    """Frame by frame; ``settings_of`` each are for :func:`style_transfer.stylize`."""
    from image_optimization import images

    wanted = context.params
    settings = console.settings(context)
    count = video.count_frames(film)
    # The same paintings for all frames; and colours of the photo only when a frame is shown: the next one begins with
    # what was painted.
    gray = luminance if wanted["colors"] == "luminance" else lambda image: image
    _, paintings = prepare(wanted["colors"], video.first_frame(film), settings_of["styles"])
    how = {**settings_of, "colors": "style", "styles": paintings}

    def paint(image: Tensor, previous: Previous | None, number: int, path: Path) -> None:
        def tell(step: Step) -> None:
            bar(replace(step, done=min((number + step.done) / count, 1)))

        steps = how["steps"] if previous is None else video.later_steps(how["steps"])
        result = stylize(gray(image), previous=previous, listeners=[tell], **{**how, "steps": steps})
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        images.save(result.image, path, settings, overwrite=True)

    try:
        with console.progress(film.name, place, wanted["precision"]) as bar:
            video.paint_video(film, target, paint, settings, wanted["overwrite"], partial(finish, wanted["colors"]))
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on from here", err=True)
        raise SystemExit(console.INTERRUPTED) from None
    console.tell_written(target)


def _output_folder(output: Path | None) -> Path:
    from image_optimization.images import check_folder

    folder = output or Path("outputs", "stylized")
    if folder.suffix.lower() in (*READABLE, *FORMATS) or folder.is_file():
        raise ValueError(f"the photos are a folder, so the output must be one too, not {folder}")
    check_folder(folder)
    return folder


DRAWN = 1536
"""Pixels of the side of a drawn style, at most: beyond that it is enlarged, as a painting in a file would be."""


def _style(name: str, size: int) -> Tensor:
    """A drawn style, or the picture in a file."""
    import difflib

    from image_optimization import images
    from style_transfer.painters import PAINTERS, paint

    if name in PAINTERS and not Path(name).exists():
        return paint(name, min(size, DRAWN))
    if not Path(name).exists():
        near = difflib.get_close_matches(name, PAINTERS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(f"no image file or drawn style {name!r}; {hint}drawn styles are {', '.join(PAINTERS)}")
    painting = images.read(name)
    if painting.frames > 1:
        typer.echo(f"{name} has {painting.frames} frames, of which the first is the style", err=True)
    return painting.image


def _init(what: str) -> str | Tensor:
    """``content``, ``noise``, or the picture in a file."""
    import difflib

    from image_optimization import images

    words = ("content", "noise")
    if what in words:
        return what
    if not Path(what).exists():
        near = difflib.get_close_matches(what, words, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(f"no image file {what!r}; {hint}--init is content, noise or an image file")
    return images.load(what)


def _tiled(cache: Cache, sizes: Sequence[tuple[int, int]]) -> str | None:
    """How a picture was divided that did not fit: other tiles, where more memory is free, would round otherwise.

    For each scale its height and width, the curvature pairs that L-BFGS keeps, and the side of a tile.
    """
    from style_transfer.budget import WHOLE

    budgets = {size: cache.budgets[size] for size in sizes}
    if all(budget == WHOLE for budget in budgets.values()):
        return None
    return json.dumps([[*size, *astuple(budget)] for size, budget in budgets.items()])


def _cache(tiled: str | None) -> Cache:
    """With what :func:`_tiled` told."""
    from style_transfer.budget import Budget

    return Cache(budgets={(height, width): Budget(*of_size) for height, width, *of_size in json.loads(tiled or "[]")})


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"blend weights are numbers such as 2,1, not {text!r}") from None


def _bytes(text: str | None) -> int | None:
    """``4G``, ``800M`` or ``1.5GB`` as bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+) *([kMGT])B?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0
    except ValueError:
        number = 0
    if not found or number <= 0:
        raise ValueError(f"memory is given as 4G or 800M, not {text!r}")
    return int(number * 1000 ** (1 + "kmgt".index(found[2].lower())))


def _weights(text: str | None) -> dict[str, float] | None:
    """``relu1_1=1,relu3_1=0.5`` by layer; a layer without a weight has 1."""
    if text is None:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        layer, _, weight = part.strip().partition("=")
        if layer in weights:
            raise ValueError(f"layer {layer} is given twice in {text!r}")
        try:
            weights[layer] = float(weight or 1)
        except ValueError:
            raise ValueError(f"layers are given with weights such as relu1_1=1,relu3_1=0.5, not {text!r}") from None
    return weights


@others.command()
def replay(
    picture: Annotated[Path, typer.Argument(help="A PNG that stylize made.", show_default=False)],
    output: console.Output = None,
    overwrite: console.Overwrite = False,
) -> None:
    """Make a picture again, from the settings that it holds: on the same machine, bit for bit."""
    from image_optimization.images import read_settings

    kept = read_settings(picture)
    if kept.get("command") != "stylize":
        raise ValueError(f"{picture} was not made by stylize: it cannot be made again")
    if kept.get("stopped") == "interrupted":
        raise ValueError(f"{picture} was interrupted: it cannot be made again")
    console.check_files(kept)
    given = {**kept, "output": output, "overwrite": overwrite}
    app(console.arguments(typer.main.get_command(app), given), prog_name="stylize", standalone_mode=False)


@others.command()
def resume(
    checkpoint: Annotated[Path, typer.Argument(help="Written by stylize --checkpoint.", show_default=False)],
    overwrite: console.Overwrite = False,
) -> None:
    """Go on with a run that was stopped: to the same picture, on the same machine, as if it had not been."""
    kept = read_kept_settings(checkpoint)
    console.check_files(kept)
    kept |= {"checkpoint": checkpoint, "resume_from": checkpoint, "overwrite": overwrite}
    if kept.get("timelapse"):
        typer.echo("the animation will have only the steps from here on", err=True)
    app(console.arguments(typer.main.get_command(app), kept), prog_name="stylize", standalone_mode=False)


def main() -> None:
    """The entry point of ``stylize``."""
    if sys.argv[1:2] == ["--resume"]:
        sys.argv[1] = "resume"
    console.run(others if sys.argv[1:2] in (["replay"], ["resume"]) else app, "stylize")


if __name__ == "__main__":
    main()
