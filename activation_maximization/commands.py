"""Implementations of the ``dream`` commands.

Each command is implemented by a function that takes the options of the command and a :class:`Job`, which shows
progress and messages to the user. The function writes a picture, or returns a text to print. Errors are raised, not
printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dreamgram.activation_maximization import deep_dream, gradient_ascent, objectives
from dreamgram.activation_maximization.classes import Classes, class_objective
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.examples import top_examples
from dreamgram.activation_maximization.expressions import parse_objective, parse_regularizer, vector_files
from dreamgram.activation_maximization.folder import (
    FOUND,
    Each,
    batches_of,
    describe_unit,
    make_again,
    make_each,
)
from dreamgram.activation_maximization.gradient_ascent import batch_size, evaluate
from dreamgram.activation_maximization.objectives import channel, deepdream, log_odds, logit, match, neuron, ramp
from dreamgram.activation_maximization.options import (
    OPTIONS_OF_COMMANDS,
    AccentuateOptions,
    AmplifyOptions,
    CaricatureOptions,
    ClassesOptions,
    DigitsOptions,
    ExamplesOptions,
    InvertOptions,
    LayersOptions,
    MaximizeOptions,
    UnitsOptions,
    parse_position,
)
from dreamgram.activation_maximization.pictures import read_folder
from dreamgram.activation_maximization.regularizers import blur, border, pixel_sum, total_variation
from dreamgram.activation_maximization.session import Session, draw_examples, draw_sheet
from dreamgram.image_optimization import images
from dreamgram.image_optimization.axes import describe_axes
from dreamgram.image_optimization.files import same_file
from dreamgram.image_optimization.input_shapes import ORIGINS, Origin, default_shape, find_shape
from dreamgram.image_optimization.layers import Layer, list_layers, reach_layers
from dreamgram.image_optimization.optimize import in_turn
from dreamgram.image_optimization.trial import blank_image
from dreamgram.models import load
from dreamgram.models.digits import digit_sample
from dreamgram.workbench.device import find_device
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.options import OptionError, PictureOptions, ReplayOptions
from dreamgram.workbench.recipe import Inputs, Recipe
from dreamgram.workbench.recipe import replay as replay_recipe
from dreamgram.workbench.sheets import Look

SHEET_ONWARD = "interrupted: saved the pictures that are finished; the same command continues with the others"


def layers(options: LayersOptions, job: Job) -> Done:
    """List the layers of a network as a table or as JSON."""
    [(name, weights)] = options.networks
    model = Inputs().load_model(name, weights)
    shape = default_shape(model, options.size)
    found = list_layers(model, shape)
    origin = find_shape(model, options.size).origin
    return Done(answer=(_describe_as_json if options.json else _describe_as_table)(name, shape, origin, found))


def _describe_as_json(name: str, shape: Sequence[int], origin: Origin, found: Sequence[Layer]) -> str:
    """Describe layers as JSON, with the fields of :class:`Layer` and the number of units of each layer."""
    listed = [
        {
            "name": layer.name,
            "units": layer.channels,
            "output": describe_axes(layer.shape, layer.unit_axis),
            **asdict(layer),
        }
        for layer in found
    ]
    described = {"model": name, "input_shape": list(shape), "input_shape_origin": origin, "layers": listed}
    return json.dumps(described, indent=1)


def _describe_as_table(name: str, shape: Sequence[int], origin: Origin, found: Sequence[Layer]) -> str:
    rows = [("layer", "kind", "channels", "output", "receptive field")]
    for layer in found:
        other = "whole image" if layer.whole_image else "unknown"
        field = f"{layer.receptive_field} px" if layer.receptive_field else other
        rows.append((layer.name, layer.kind, str(layer.channels), describe_axes(layer.shape, layer.unit_axis), field))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"{name}, for images of {' x '.join(map(str, shape))} (channels x height x width), {ORIGINS[origin]}"
    return "\n".join([head, "", *lines])


def units(options: UnitsOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a contact sheet with one image for each of the chosen units of a layer, and one row for each network.

    :func:`_make_sheet` describes the files, and ``original``.
    """
    layer, size = options.layer, options.size
    where = None if options.position is None else parse_position(options.position)
    session = Session("units", "units.png", options, job, original, resumes=options.folder is not None)
    what = f"{layer}  activation{f' at {options.position}' if where else ''}"
    chosen = session.parse_units(options.units, layer, size)

    def make(model: torch.nn.Module, label: str, some: list[int], batch: int | None) -> Dreams:
        objective = channel(layer, some) if where is None else neuron(layer, some, where)
        return session.ascend(objective, title=label, model=model, size=size, batch=batch)

    if len(session.models) > 1:
        largest = session.largest_size(size)
        return session.make_rows(what, chosen, largest, lambda model, label: make(model, label, chosen, options.batch))

    def make_some(some: list[int], batch: int | None) -> Dreams:
        return make(session.model, _name_units("unit", "units", some), some, batch)

    return _make_sheet(session, original, chosen, make_some, f"{options.model}  {what}")


def _make_sheet(
    session: Session,
    original: Recipe | None,
    chosen: list[int],
    make: Callable[[list[int], int | None], Dreams],
    title: str,
    known: Classes | None = None,
) -> Done:
    """Make a contact sheet with one image for each of the ``chosen`` units of a network.

    If the options name a folder, each image is also saved to a separate file in this folder. ``original`` is the recipe
    (the stored settings) of a picture that is to be made again. If a folder was named when that picture was first made,
    the recipe records which units were optimized in the same batch, and these batches are used again.

    ``make`` makes the images of some units, given the number of images in a batch. ``known`` describes the units if
    they are classes.
    """
    options, job = session.options, session.job
    assert isinstance(options, UnitsOptions | ClassesOptions)
    shape = default_shape(session.model, options.size)
    look: Look = {"columns": options.columns, "title": title}
    if options.folder and same_file(session.path.parent, options.folder) and session.path.stem.isdigit():
        raise OptionError("output", f"must not be {session.path}: pictures in the folder are saved under such names")
    found = original.made.get(FOUND) if original else None
    batches = {} if found is None else batches_of(found)
    if known:
        objectives.check_units(known.layer, chain.from_iterable(batches.values()), known.count)
    alone = found is not None and "unit" in found  # The picture to make again shows a single unit, as in a folder.
    chosen = list(batches) or chosen
    if alone:
        session.check_picture(shape[1:])
    else:
        session.check_sheet(len(chosen), shape[1:], **look)
    if batches:
        each = make_again(batches, lambda some: make(some, len(some)))
    elif options.folder is None:
        each = Each(chosen, make(chosen, options.batch), {})
    else:
        batch = options.batch or batch_size(shape[1] * shape[2], session.device)
        job.interrupted = SHEET_ONWARD
        how: dict[str, Any] = {"batch": batch, "recipe": session.recipe(), "overwrite": options.overwrite}
        each = make_each(options.folder, chosen, lambda some: make(some, len(some)), **how)
    chosen, dreams, batches = each
    names = [*map(known.label if known else str, chosen)]
    kind = "class" if known else "unit"
    session.warn_of_silent(dreams.silent, [f"{kind} {name}" for name in names])
    if alone:
        about = {**describe_unit(dreams, 0, chosen), "batch": batches[chosen[0]]}
        session.save(dreams.images[0], dreams.stopped, {FOUND: about})
        return Done(dreams.stopped)
    look["columns"] = session.choose_columns(len(dreams.images))
    sheet: Callable[..., Image.Image] = partial(draw_sheet, labels=names, **look)
    made = {FOUND: {"batches": batches}} if batches else None
    session.save(sheet(dreams.images, activation_values=dreams.activations.tolist()), dreams.stopped, made)
    session.save_timelapse(sheet)
    if options.html:
        session.save_page(title, chosen, dreams, names=names)
    return Done(dreams.stopped, interrupted=SHEET_ONWARD if options.folder else Done.interrupted)


def examples(options: ExamplesOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a contact sheet with the optimized image of each unit and the real pictures that activate the unit most."""
    session = Session("examples", "examples.png", options, job, original)
    layer, size = options.layer, options.size
    chosen = session.parse_units(options.units, layer, size)
    best = top_examples(session.model, layer, chosen, _find_pictures(session, options.data), options.top)
    if options.data is not None:
        session.inputs.check(options.data)
    title = f"{options.model}  {layer}  dreams with their mean activation, and what excited each unit most"
    most = max(map(len, best))
    look: Look = {"columns": 1 + most, "title": title}
    session.check_sheet(len(chosen) * (1 + most), default_shape(session.model, size)[1:], **look)
    dreams = session.ascend(channel(layer, chosen), size=size)

    draw: Callable[..., Image.Image] = partial(draw_examples, labels=chosen, examples=best, **look)
    session.warn_of_silent(dreams.silent, [f"unit {unit}" for unit in chosen])
    session.save(draw(dreams.images, activation_values=dreams.activations.tolist()), dreams.stopped)
    session.save_timelapse(draw)
    if options.html:
        session.save_page(title, chosen, dreams, best)
    return Done(dreams.stopped)


def _find_pictures(session: Session, folder: Path | None) -> Iterable[tuple[str, Tensor]]:
    """Return the name and the image (1, C, H, W) of each picture that can be chosen as an example for a unit.

    Pictures from a folder are resized and cropped to the network's input size. A file that cannot be read is reported
    and skipped. If ``folder`` is None, the pictures are the handwritten digits that come with the package.

    Raises:
        ValueError: ``folder`` is not an existing folder; or ``folder`` is None, and the network does not take gray
            images of 28 x 28 pixels.
    """
    if folder is None:
        if session.shape != (1, 28, 28):
            raise OptionError("data", "is missing: the package has no pictures for this network, so name a folder")
        digits, labels = digit_sample()
        return [(f"a {label}", digit[None]) for digit, label in zip(digits, labels.tolist(), strict=True)]
    if not folder.is_dir():
        raise OptionError("data", f"must be a folder of pictures, and there is no folder {folder}")
    session.inputs.add(folder)
    job = session.job
    return read_folder(folder, default_shape(session.model), job.tell, job.fail, session.options.max_pixels)


def classes(options: ClassesOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a contact sheet with one image for each of the chosen classes, and one row for each network.

    :func:`_make_sheet` describes the files, and ``original``.
    """
    session = Session("classes", "classes.png", options, job, original, resumes=options.folder is not None)
    found: dict[torch.nn.Module, tuple[Classes, list[int]]] = {}
    for label, model in zip(session.labels, session.models, strict=True):
        with session.naming(label):
            classes_of_model = Classes.of(model, options.layer, options.size)
            found[model] = classes_of_model, classes_of_model.find(options.classes)
    counts = dict.fromkeys(len(chosen) for _, chosen in found.values())
    if len(counts) > 1:
        raise OptionError("classes", f"names {' and '.join(map(str, counts))} classes of different networks")
    regularizer = parse_regularizer(options.regularizer)
    minus = f"({options.regularizer})" if re.search("[+-]", options.regularizer) else options.regularizer
    shown = "activation" if regularizer is None else f"activation - {minus}"

    def make(model: torch.nn.Module, label: str, some: list[int], batch: int | None) -> Dreams:
        layer = found[model][0].layer
        objective = class_objective(model, some, layer, options.natural)
        objective = objective if regularizer is None else objective - regularizer
        channels = default_shape(model, options.size)[0]
        kind = options.parameterization or options.default_parameterization(channels)
        how: dict[str, Any] = {"size": options.size, "parameterization": kind, "batch": batch}
        made = session.ascend(objective, title=label, model=model, **how)
        # The captions show the activation without other terms. After Ctrl-C, images may be missing.
        return replace(made, activations=evaluate(model, logit(some[: len(made.images)], layer), made.images))

    if len(session.models) > 1:
        # The networks can have different names for the same column.
        names = [[known.label(number) for number in chosen] for known, chosen in found.values()]
        labels = [" / ".join(dict.fromkeys(column)) for column in zip(*names, strict=True)]
        largest = session.largest_size(options.size)
        return session.make_rows(
            shown, labels, largest, lambda model, label: make(model, label, found[model][1], options.batch)
        )
    known, chosen = found[session.model]
    session.options = session.options.change(layer=known.layer)

    def make_some(some: list[int], batch: int | None) -> Dreams:
        return make(session.model, _name_units("class", "classes", [*map(known.label, some)]), some, batch)

    title = f"{options.model}  {known.layer}  {shown}"
    return _make_sheet(session, original, chosen, make_some, title, known)


def digits(options: DigitsOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a contact sheet of digit classes with two rows for each network.

    In the first row of a network, each image is optimized only for the activation of its class. The images in the
    second row are optimized for :func:`readable_digits`. ``options.compare`` adds a last row, which is made like the
    second row, but with the network ``digits-robust``.
    """
    session = Session("digits", "digits.png", options, job, original)
    chosen = session.parse_units(options.classes, "logits")
    readable, formula = readable_digits(options, chosen), _formula(options)
    rows = []
    for label, model in zip(session.labels, session.models, strict=True):
        rows += [(f"{label}: activation", model, logit(chosen)), (f"{label}: {formula}", model, readable)]
    if options.compare:
        rows.append((f"digits-robust: {formula}", load("digits-robust").to(session.device), readable))

    def make_row(row: tuple[str, torch.nn.Module, objectives.Objective]) -> Dreams:
        _, model, wanted = row
        made = session.ascend(wanted, model=model)
        # The captions in all rows show the activation without the regularizers.
        return replace(made, activations=evaluate(model, logit(chosen), made.images))

    labels = chosen * len(rows)
    look: Look = {"columns": len(chosen), "title": "logits", "rows": [title for title, _, _ in rows]}
    session.check_sheet(len(labels), session.shape[1:], **look)
    sheet: Callable[..., Image.Image] = partial(draw_sheet, labels=labels, **look)
    dreams_of_rows, stopped = in_turn(rows, make_row)
    silent = [number for dreams in dreams_of_rows for number in dreams.silent]
    session.warn_of_silent(silent, [f"class {unit}" for unit in chosen])
    activation_values = torch.cat([dreams.activations for dreams in dreams_of_rows]).tolist()
    images_of_rows = torch.cat([dreams.images for dreams in dreams_of_rows])
    session.save(sheet(images_of_rows, activation_values=activation_values), stopped)
    session.save_timelapse(sheet)
    return Done(stopped)


def readable_digits(options: DigitsOptions, classes: Sequence[int]) -> objectives.Objective:
    """Return the objective of the regularized rows of ``dream digits``. One image is made for each of ``classes``."""
    wanted = logit(classes)
    if options.log_odds:
        wanted = (1 - options.log_odds) * wanted + options.log_odds * log_odds(classes)
    penalty = ramp(0.4 * options.pixel_sum, options.pixel_sum) * pixel_sum(1)  # a digit is drawn before ink is removed
    if options.border:
        penalty = penalty + border(options.border)
    return wanted - (penalty + blur(options.blur))


def _formula(options: DigitsOptions) -> str:
    """Return a description of the objective :func:`readable_digits` for the heading of a row."""
    odds = options.log_odds
    wanted = f"{1 - odds:g} x activation + {odds:g} x log-odds" if odds else "activation"
    edge = f" - {options.border:g} x brightness near the border" if options.border else ""
    return f"{wanted} - {options.pixel_sum:g} x sum of pixels{edge} - {options.blur:g} x what a blur would change"


def maximize(options: MaximizeOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a picture that maximizes ``options.objective``, the text of an expression.

    If the objective is for several pictures, such as one for each class in ``logit(0-9)``, or if there are several
    networks, make a contact sheet.
    """
    session = Session("maximize", "maximized.png", options, job, original)
    shape = default_shape(session.model, options.size)
    vectors = [path for path in vector_files(options.objective) if path.is_file()]
    for path in vectors:
        session.inputs.add(path)
    # Whether the network can take the whole photo depends on the layers. To find the layers, the expression is parsed
    # with a blank image in place of the photo.
    stand_in = None if options.photo is None else torch.zeros(1, *shape)
    objective = _parse_for(session, stand_in)
    read = sorted(objective.layers)
    fitting = options.size if isinstance(options.size, tuple) else max(shape[1:])
    init = None
    if options.photo is not None:
        if objective.photo is None:
            raise OptionError("photo", "is not used: only match and caricature compare with a photo")
        photo = session.open(options.photo, fitting, read)
        objective = _parse_for(session, photo)
    if options.init is not None:
        init = session.open(options.init, fitting, read)
        if objective.photo is not None:
            init = images.resize(init, (objective.photo.shape[2], objective.photo.shape[3]))
    session.inputs.check(*vectors)
    given = objective.photo if init is None else init
    size = session.largest_size(options.size) if given is None else given.shape[2:]
    how: dict[str, Any] = {"size": None if given is not None else options.size, "init": init}
    labels = objective.units or range(objective.images)
    if len(session.models) > 1:
        return session.make_rows(
            options.objective,
            labels,
            size,
            lambda model, label: session.ascend(objective, title=label, model=model, **how),
        )
    look: Look = {"columns": options.columns, "title": f"{options.model}  {options.objective}"}
    if objective.images == 1:
        session.check_picture(size)
    else:
        session.check_sheet(objective.images, size, **look)
    dreams = session.ascend(objective, **how)
    if objective.images == 1:
        session.save_one(dreams)
        return Done(dreams.stopped)
    look["columns"] = session.choose_columns(len(dreams.images))
    sheet: Callable[..., Image.Image] = partial(draw_sheet, labels=labels, **look)
    session.warn_of_silent(dreams.silent, [f"picture {label}" for label in labels])
    session.save(sheet(dreams.images, activation_values=dreams.activations.tolist()), dreams.stopped)
    session.save_timelapse(sheet)
    return Done(dreams.stopped)


def _parse_for(session: Session, photo: Tensor | None) -> objectives.Objective:
    """Parse the expression in the options of ``dream maximize``, check it for each network, and return the objective.

    ``photo`` is the photo to compare images with.

    Raises:
        OptionError: the objective makes different numbers of images for different networks; or the options name a
            photo or an image to start from, but the networks take images of different shapes.
        ValueError: the expression is not valid for one of the networks.
    """
    options = session.options
    assert isinstance(options, MaximizeOptions)
    for name in ("photo", "init"):
        if getattr(options, name) is not None and len(set(session.shapes)) > 1:
            raise OptionError(name, "can be shown only to networks that take images of the same shape")
    found = []
    for label, model in zip(session.labels, session.models, strict=True):
        blank = blank_image(default_shape(model, options.size))

        def count_units(layer: str, model: torch.nn.Module = model, blank: Tensor = blank) -> int:
            return reach_layers(model, blank, [layer])[0].channels

        with session.naming(label):
            found.append(parse_objective(options.objective, photo, count_units))
            if len(session.models) > 1:
                reach_layers(model, blank if photo is None else photo, sorted(found[-1].layers))
    counts = dict.fromkeys(objective.images for objective in found)
    if len(counts) > 1:
        numbers = " and ".join(map(str, counts))
        raise OptionError(
            "objective", f"makes {numbers} pictures for different networks: give the numbers of the units"
        )
    return found[0]


def amplify(options: AmplifyOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make a deep dream of a photo."""
    session = Session("amplify", "amplified.png", options, job, original, parts=options.octaves)
    photo = session.open(options.photo, options.size, [options.layer])
    objective = deepdream(options.layer) if options.unit is None else channel(options.layer, options.unit)
    dreams = session.run(deep_dream.amplify, objective, photo=photo, octaves=options.octaves, steps=options.steps)
    session.save_one(dreams)
    return Done(dreams.stopped)


def invert(options: InvertOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make an image, starting from noise, for which the activations of a layer are close to those for a photo."""
    session = Session("invert", "inverted.png", options, job, original)
    photo = session.open(options.photo, options.size, [options.layer])
    dreams = session.ascend(match(options.layer, photo) - total_variation(options.smoothness))
    session.save_one(dreams)
    return Done(dreams.stopped)


def caricature(options: CaricatureOptions, job: Job, original: Recipe | None = None) -> Done:
    """Make an image, starting from noise, that exaggerates the features that a layer detects in a photo."""
    session = Session("caricature", "caricature.png", options, job, original)
    photo = session.open(options.photo, options.size, [options.layer])
    dreams = session.ascend(objectives.caricature(options.layer, photo))
    session.save_one(dreams)
    return Done(dreams.stopped)


def accentuate(options: AccentuateOptions, job: Job, original: Recipe | None = None) -> Done:
    """Change a photo so that the parts that activate a unit stand out."""
    session = Session("accentuate", "accentuated.png", options, job, original)
    photo = session.open(options.photo, options.size, [options.layer])
    objective = gradient_ascent.accentuate(
        session.model, options.layer, options.unit, photo, near=options.near, nearness=options.nearness
    )
    dreams = session.ascend(objective, init=photo)
    session.save_one(dreams)
    return Done(dreams.stopped)


WORK = {
    "dream units": units,
    "dream examples": examples,
    "dream classes": classes,
    "dream digits": digits,
    "dream maximize": maximize,
    "dream amplify": amplify,
    "dream invert": invert,
    "dream caricature": caricature,
    "dream accentuate": accentuate,
}
"""Map from the full name of each command that makes a picture, such as ``dream units``, to its implementation.

The recipe of a picture (the settings stored in the picture file) contains the full name of the command.
"""


def replay(options: ReplayOptions, job: Job) -> Done:
    """Make a picture again from its recipe, the settings that are stored in the picture file.

    On the same machine, the new picture is bit-identical to the original, except on a GPU with random transforms.
    """

    def make(repeated: PictureOptions, original: Recipe) -> Done:
        random = getattr(repeated, "transform", "robust") != "none"
        if random and find_device(repeated.device).type == "cuda":
            job.tell("on a GPU, a picture that is made with random transforms differs slightly each time")
        work: Any = WORK[original.command]  # Each function takes the options of its own command.
        done: Done = work(repeated, job, original)
        return done

    return replay_recipe(options, job.tell, OPTIONS_OF_COMMANDS, make)


def _name_units(one: str, several: str, names: Sequence[object]) -> str:
    """Return a short label for units, such as ``units 0 to 11``, which contains the first and the last of ``names``.

    ``one`` and ``several`` are what a unit is called, such as ``unit`` and ``units``.
    """
    return f"{one} {names[0]}" if len(names) == 1 else f"{several} {names[0]} to {names[-1]}"
