"""Sessions: everything that the ``dream`` commands share, from loading the network to saving the picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.activation_maximization import gradient_ascent
from dreamgram.activation_maximization.dreams import Dreams
from dreamgram.activation_maximization.examples import Example
from dreamgram.activation_maximization.objectives import Objective, check_units
from dreamgram.activation_maximization.options import AscentOptions, SheetOptions, SizeOptions, parse_ranges
from dreamgram.activation_maximization.pictures import crop_middle
from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.files import check_distinct
from dreamgram.image_optimization.input_shapes import default_shape, find_shape
from dreamgram.image_optimization.layers import describe, reach_layers
from dreamgram.image_optimization.optimize import Ending, in_turn
from dreamgram.image_optimization.precision import Precision
from dreamgram.image_optimization.timelapse import FRAME_SIDE, Timelapse, check_frame, save_animation
from dreamgram.image_optimization.trial import blank_image
from dreamgram.image_optimization.video import load_av
from dreamgram.workbench.device import describe_setting, find_device, find_precision
from dreamgram.workbench.job import Done, Job, beside, output_path
from dreamgram.workbench.options import OptionError, PictureOptions, Size, describe_size
from dreamgram.workbench.recipe import Inputs, Recipe, is_made
from dreamgram.workbench.sheets import Look, contact_sheet, default_columns, lay_out, same_size, short

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Session:
    """A run of one ``dream`` command that makes a picture, with the network, the input files and the output path."""

    def __init__(
        self,
        command: str,
        file: str,
        options: PictureOptions,
        job: Job,
        original: Recipe | None = None,
        parts: int = 1,
        resumes: bool = False,
    ) -> None:
        """Load the network and check that the output can be written.

        Args:
            command: name of the command, such as ``units``.
            file: name of the picture in ``outputs/`` if the options name no output file.
            options: options of the command.
            job: job that shows progress and messages to the user.
            original: recipe (the stored settings) of the picture to make again; None for a new picture.
            parts: number of optimizations in the run, such as one for each octave of a deep dream. Each optimization
                has ``options.steps`` steps.
            resumes: True if giving the same command again resumes an interrupted run. The session is then allowed to
                replace the unfinished picture of that run.

        Raises:
            ValueError: a network takes neither gray nor RGB images, or has different weights than ``original`` records.
            OSError: the output cannot be written.
        """
        self.command = command
        self.job = job
        if options.timelapse == "mp4":
            load_av()
        self.device = find_device(options.device)
        if not resumes:  # otherwise, the output is checked when the recipe is known
            self.path = output_path(options.output, file, options.overwrite)
        self.inputs = Inputs(options.max_pixels, job.tell)
        self._check_together(options)
        named = isinstance(options.weights, list)  # otherwise, the names of the networks distinguish them
        self.labels = [f"{name}  {weights}" if named else name for name, weights in options.networks]
        """Name of each network, followed by its weights if several weights were given."""
        self.models = [self.inputs.load_model(*network).to(self.device) for network in options.networks]
        """The networks that the command uses. There are several networks only if the command compares networks."""
        self.model = self.models[0]
        if original:
            original.check_network(self.inputs)
        self.shapes = [find_shape(model).shape for model in self.models]
        """Shape (C, H, W) of the default input of each network."""
        self.shape = self.shapes[0]
        self.inputs.shape = self.shape if set(self.shapes) == {self.shape} else None
        precisions = {find_precision(options.precision, self.device, model) for model in self.models}
        precision: Precision = precisions.pop() if len(precisions) == 1 else "float32"
        self.options = options.change(precision=precision).resolved(self.inputs.shape)
        self.setting = describe_setting(self.device, precision)
        for label, (channels, *_) in zip(self.labels, self.shapes, strict=True):
            if channels not in (1, 3):
                raise ValueError(
                    f"{label} takes images of {channels} channels, which no picture file can hold: use Python"
                )
        if isinstance(options, SizeOptions) and isinstance(options.size, tuple) and original is None:
            height, width = options.size  # in another order than, for example, the size of a screen
            job.tell(f"size {describe_size(options.size)}: {height} pixels high and {width} pixels wide")
        self.overwrite = options.overwrite
        if resumes:
            self.overwrite = options.overwrite or self._is_unfinished(options.output)
            self.path = output_path(options.output, file, self.overwrite)
        check_distinct("output", self.path, options.files())
        steps: int = options.steps * parts  # type: ignore[attr-defined]  # Every command that makes a picture has the option.
        self.timelapse = Timelapse(steps) if options.timelapse else None

    @staticmethod
    def _check_together(options: PictureOptions) -> None:
        """Raise an OptionError if options are given that exclude each other, such as those for only one network."""
        if options.timelapse and getattr(options, "folder", None):
            raise OptionError(
                "timelapse", "cannot be used with a folder: finished pictures have no intermediate frames"
            )
        if len(options.networks) > 1:
            for name in ("folder", "html", "timelapse", "columns"):
                if getattr(options, name, None):
                    raise OptionError(name, "cannot be used with several networks, which are shown in one row each")

    def _is_unfinished(self, path: Path | None) -> bool:
        """Return whether ``path`` is the picture of an interrupted run with the recipe (settings) of this session."""
        try:
            return path is not None and path.exists() and not is_made(path, self.recipe(), overwrite=False)
        except OutputExistsError:
            return False

    def run(self, by: Callable[..., Dreams], objective: Objective, title: str = "", **how: Any) -> Dreams:
        """Maximize ``objective`` with the function ``by``, and show progress under ``title``.

        ``by`` is a function such as :func:`gradient_ascent.maximize`, and ``how`` holds further arguments for ``by``.
        """
        same = {name: getattr(self.options, name) for name in ("precision", "compile", "seed")}
        how = {"model": self.model, **same, **how}
        with self.job.part(title or self.command, self.setting) as bar:
            how["listeners"] = [self.timelapse, bar] if self.timelapse else [bar]
            return by(objective=objective, **how)

    def ascend(self, objective: Objective, title: str = "", **how: Any) -> Dreams:
        """Maximize ``objective`` by gradient ascent with the options of the command, and show progress under ``title``.

        ``how`` holds further arguments of :func:`gradient_ascent.maximize`.
        """
        options = self.options
        assert isinstance(options, AscentOptions)
        how = {"transform": options.transform, "parameterization": options.parameterization, **how}
        return self.run(gradient_ascent.maximize, objective, title, steps=options.steps, **how)

    def choose_columns(self, count: int) -> int:
        """Return the number of columns of a contact sheet of ``count`` pictures, and store it in ``self.options``."""
        assert isinstance(self.options, SheetOptions)
        columns = self.options.columns or default_columns(count)
        self.options = self.options.change(columns=columns)
        return columns

    @contextmanager
    def naming(self, label: str) -> Iterator[None]:
        """Add ``label`` to the message of a ValueError in the ``with`` statement, if there are several networks.

        ``label`` is the label of the network that the ``with`` statement uses.
        """
        try:
            yield
        except OptionError:
            raise
        except ValueError as error:
            if len(self.models) == 1:
                raise
            raise ValueError(f"{label}: {error}") from error

    def largest_size(self, size: Size | None) -> tuple[int, int]:
        """Return the largest height and the largest width of the images of all networks, given the option ``size``."""
        shapes = [default_shape(model, size) for model in self.models]
        return max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)

    def make_rows(
        self, title: str, labels: Sequence[object], size: Sequence[int], make: Callable[[nn.Module, str], Dreams]
    ) -> Done:
        """Make a contact sheet with one row of images for each network, and save it.

        Args:
            title: title of the sheet.
            labels: label of each image in a row.
            size: largest height and largest width among the images. Smaller images are enlarged.
            make: function that makes the images of a row, given the network and its label.
        """
        look: Look = {"columns": len(labels), "title": title, "rows": self.labels}
        self.check_sheet(len(labels) * len(self.models), size, **look)
        rows, stopped = in_turn(zip(self.models, self.labels, strict=True), lambda network: make(*network))
        captions = []
        for network, row in zip(self.labels, rows, strict=False):  # after Ctrl-C, the last rows may be missing
            captions += [f"{a}\t{short(value)}" for a, value in zip(labels, row.activations.tolist(), strict=False)]
            self.warn_of_silent(row.silent, [f"{label} of {network}" for label in labels])
        pictures = same_size([image for row in rows for image in row.images])
        self.save(contact_sheet(pictures, captions, **look), stopped)
        return Done(stopped)

    def open(self, photo_path: Path, size: Size, layers: Sequence[str]) -> Tensor:
        """Read a photo from a file and resize it so that its longer side has ``size`` pixels.

        If ``size`` is (H, W), the photo is cropped at the center and resized to (H, W). If the network cannot compute
        ``layers`` from an image of the resulting size, the photo is instead cropped at the center and resized to the
        network's default input size.

        Raises:
            ValueError: the file is not a picture; the network cannot compute ``layers`` at either size; or the format
                of the output cannot hold a picture of the photo's size.
            OSError: the file cannot be read.
        """
        photo = self._open(photo_path, size, layers)
        self.check_picture(photo.shape[2:])
        return photo

    def _open(self, photo_path: Path, size: Size, layers: Sequence[str]) -> Tensor:
        picture = self.inputs.read(photo_path, self.shape[0]).image
        fitted = images.fit(picture, size) if isinstance(size, int) else crop_middle(picture, size)
        try:
            reach_layers(self.model, fitted, layers)
        except ValueError:
            cropped = crop_middle(picture, self.shape[1:])
            reach_layers(self.model, cropped, layers)
            if cropped.shape != fitted.shape:
                seen = describe(cropped.shape[1:])
                refused = describe(fitted.shape[1:])
                self.job.tell(f"{self.labels[0]} does not take {refused}: {photo_path} is cut to {seen}")
            return cropped
        return fitted

    def check_picture(self, size: Sequence[int]) -> None:
        """Check that the file formats of the output and of any animation can hold a picture of ``size`` (H, W).

        Raises:
            ValueError: a side is longer than a format allows.
        """
        height, width = size
        images.check_size(self.path, (height, width))
        if self.options.timelapse:
            check_frame(self.options.timelapse, (height, width))

    def check_sheet(self, count: int, size: Sequence[int], **look: Unpack[Look]) -> None:
        """Check that the file formats of the output and of any animation can hold a contact sheet.

        The sheet has ``count`` images of ``size`` (H, W). ``look`` holds further arguments of :func:`contact_sheet`.
        Call this method before the images are made.

        Raises:
            ValueError: a side is longer than a format allows.
        """
        height, width = size
        images.check_size(self.path, lay_out(count, (height, width), **look).size)
        if self.options.timelapse:
            scale = min(1, FRAME_SIDE / max(size))  # A frame holds smaller copies of large images.
            frame = lay_out(count, (round(height * scale), round(width * scale)), **look)
            check_frame(self.options.timelapse, frame.size)

    def parse_units(self, text: str, layer: str, size: Size | None = None) -> list[int]:
        """Return the indices of the units of ``layer`` that are listed in ``text``.

        ``text`` is ``all``, or a list of indices and ranges such as ``0-11`` or ``3,7``. If ``text`` is the same as the
        default of the option ``units``, units that do not exist in the layer are left out.

        Raises:
            ValueError: the layer or a unit does not exist, or the text is malformed.
        """
        counts = []
        for label, model in zip(self.labels, self.models, strict=True):
            with self.naming(label):
                [reached] = reach_layers(model, blank_image(default_shape(model, size)), [layer])
            counts.append(reached.channels)
        ranges = parse_ranges(text)
        if ranges is None:
            if len(set(counts)) > 1:
                numbers = ", ".join(map(str, counts))
                raise ValueError(f"the networks have {numbers} units in layer {layer!r}: give the numbers of the units")
            return list(range(counts[0]))
        if text == getattr(type(self.options), "units", None):  # the default, which may be more than a layer has
            ranges = [range(each.start, min(each.stop, *counts)) for each in ranges]
        for each in ranges:
            check_units(layer, [each[-1]], min(counts))
        units = itertools.chain.from_iterable(ranges)
        return list(dict.fromkeys(units))

    def save(self, picture: Tensor | Image.Image, stopped: Ending, made: Mapping[str, Any] | None = None) -> None:
        """Save the picture with its recipe, the settings that are stored in the file to make the picture again.

        ``stopped`` is the reason why the run ended. ``made`` holds values that were determined during the run and are
        needed to make the picture again, such as the list of the units in each batch.
        """
        recipe = self.recipe(made).stop(stopped)
        self.path = self.job.save(picture, self.path, recipe, self.overwrite)

    def recipe(self, made: Mapping[str, Any] | None = None) -> Recipe:
        """Return the recipe of the picture: the command, its options, the input files and ``made``.

        ``made`` holds values that were determined during the run and are needed to make the picture again, such as the
        list of the units in each batch.
        """
        return Recipe.of(f"dream {self.command}", self.options, self.inputs, made)

    def save_one(self, dreams: Dreams) -> None:
        """Save the only image in ``dreams`` as a picture without the title and caption of a contact sheet.

        If the options ask for an animation of the optimization, save the animation, too.
        """
        self.warn_of_silent(dreams.silent, ["the picture"])
        self.save(dreams.images, dreams.stopped)
        size = (dreams.images.shape[2], dreams.images.shape[3])
        self.save_timelapse(lambda image: images.to_pillow(images.resize(image, size)))

    def save_timelapse(self, draw: Callable[[Tensor], Image.Image]) -> None:
        """Save an animation of the optimization beside the picture, if the options ask for one.

        ``draw`` draws a frame of the animation from the images (N, C, H, W) of a step.
        """
        if self.timelapse and self.timelapse.kept_images:
            path = beside(self.path, f".{self.options.timelapse}", self.options.overwrite, self.inputs.checksums)
            save_animation(self.timelapse, draw, path)
            self.job.wrote(path)

    def save_page(
        self,
        title: str,
        units: Sequence[int],
        dreams: Dreams,
        examples: Sequence[Sequence[Example]] = (),
        names: Sequence[str] = (),
    ) -> None:
        """Save, beside the picture, a web page that shows the same units. ``names`` holds names to show for them."""
        from dreamgram.activation_maximization.page import page  # Jinja takes a while to load.

        recipe = self.recipe()
        settings = {"command": recipe.command, "version": recipe.version, **recipe.options.record()}
        text = page(title, units, dreams.images, dreams.activations.tolist(), examples, settings, names)
        path = beside(self.path, ".html", self.options.overwrite, self.inputs.checksums)
        with images.replacing(path) as written:
            written.write_text(text, encoding="utf-8")
        self.job.wrote(path)

    def warn_of_silent(self, silent: Sequence[int], names: Sequence[str]) -> None:
        """Warn the user of images that received no gradient and are therefore still noise.

        ``names`` holds the names of all images, and ``silent`` holds the indices of the images without a gradient.
        """
        if silent:
            which = ", ".join(dict.fromkeys(names[number] for number in silent))
            self.job.tell(f"warning: {which} received no gradient from the network and shows nothing but noise")


def draw_sheet(
    pictures: Tensor, labels: Sequence[object], activation_values: Sequence[float] = (), **look: Unpack[Look]
) -> Image.Image:
    """Draw a contact sheet of images, each with its label and, if ``activation_values`` are given, its activation.

    There can be more labels than images, because after Ctrl-C, only the first images exist. ``look`` holds further
    arguments for :func:`contact_sheet`.
    """
    values = [f"\t{short(activation)}" for activation in activation_values] or [""] * len(pictures)
    return contact_sheet(pictures, [f"{label}{value}" for label, value in zip(labels, values, strict=False)], **look)


def draw_examples(
    pictures: Tensor,
    labels: Sequence[object],
    examples: Sequence[Sequence[Example]],
    activation_values: Sequence[float] = (),
    **look: Unpack[Look],
) -> Image.Image:
    """Draw a contact sheet with one row for each unit: its optimized image, and its examples.

    ``look`` must have 1 + the largest number of examples as columns. The other arguments are as for :func:`draw_sheet`.
    """
    most = max(map(len, examples))
    tiles: list[Tensor] = []
    captions: list[str] = []
    for number, (picture, found) in enumerate(zip(pictures, examples, strict=False)):
        value = f"\t{short(activation_values[number])}" if activation_values else ""
        tiles += [picture, *(example.patch for example in found)]
        captions += [f"{labels[number]}{value}", *(f"{e.name}\t{short(e.activation)}" for e in found)]
        # This unit might be activated by fewer pictures than other units.
        tiles += [torch.ones_like(picture)] * (most - len(found))
        captions += ["no other picture activates it" if found else "no picture activates it"][: most - len(found)]
        captions += [""] * (len(tiles) - len(captions))
    return contact_sheet(tiles, captions, **look)
