"""Options of the ``dream`` commands: for each command, a dataclass whose fields are the options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dreamgram.activation_maximization.defaults import (
    BLUR,
    BORDER,
    CLASS_REGULARIZER,
    CLASS_STEPS,
    CLASS_TRANSFORM,
    EXAMPLES,
    LOG_ODDS,
    NATURAL_WEIGHT,
    NEARNESS,
    OCTAVE_STEPS,
    OCTAVES,
    PHOTO_STEPS,
    PIXEL_SUM,
    STEPS,
)
from dreamgram.image_optimization.names import shorten
from dreamgram.workbench.options import (
    NETWORKS,
    ImageShape,
    NetworkOptions,
    Options,
    PictureOptions,
    Size,
    model_files,
    option,
)

if TYPE_CHECKING:
    from typing_extensions import Self

OBJECTIVE, PICTURE, OPTIMIZATION, OUTPUT = "Objective", "Picture", "Optimization", "Output"

LAYER = (
    "Layer name, as listed by `dream layers`. Early layers respond to edges and textures, and late layers to whole "
    "objects."
)
UNITS_HELP = "to show: all, or numbers and ranges such as 0-11 or 3,7."
LAYERS_OF_DIGITS, LAYERS_OF_VGG = ("conv1", "pool2", "hidden"), ("relu2_2", "relu4_1", "relu5_1")
COUNTS = ("0-11", "3,7", "all")
RANGE_OF_UNITS = r"\s*([0-9]+)(?:-([0-9]*))?\s*"
MANY_STEPS = (32, 128, 512)
STEPS_HELP = "Number of optimization steps. More steps give a clearer picture, but little improves after 500 steps."
SECOND = "The weight is used in all rows of the contact sheet except the first row of each --model."
PHOTO_SIZES = (128, 224, 512)
PHOTO_SIZE_HELP = "Longer side of the picture in pixels. A larger picture shows finer patterns and takes longer."
PHOTOS = ("photo.jpg", "photos/cat.png", "../photo.webp")


def _parameterizations() -> Sequence[str]:
    from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS

    return list(PARAMETERIZATIONS)


def _expressions() -> ModuleType:
    """Return the module that parses expressions. It is imported here because it loads PyTorch, which takes a while."""
    from dreamgram.activation_maximization import expressions

    return expressions


def _check_transform(text: str) -> str:
    """Return ``text`` if it describes a transform, such as ``jitter(0.1)``, or else raise a ValueError."""
    try:
        _expressions().parse_transform(text)
    except ValueError as error:
        raise ValueError(f"must be an expression such as jitter(0.1): {error}") from None
    return text


def _check_regularizer(text: str) -> str:
    """Return ``text`` if it is ``none`` or describes a regularizer, such as ``blur(7)``, or else raise a ValueError."""
    try:
        _expressions().parse_regularizer(text)
    except ValueError as error:
        raise ValueError(f"must be an expression such as total_variation(10): {error}") from None
    return text


def _vector_files(text: str) -> list[Path]:
    """Return the vector files that are named in ``text``, an expression for an objective."""
    found: list[Path] = _expressions().vector_files(text)
    return found


def parse_ranges(text: str) -> list[range] | None:
    """Return the ranges of numbers in ``text``, such as ``0-11`` or ``3,7``, or None if ``text`` is ``all``.

    Raises:
        ValueError: ``text`` is neither ``all`` nor a list of numbers and ranges.
    """
    if text.strip() == "all":
        return None
    found = [re.fullmatch(RANGE_OF_UNITS, part) for part in text.split(",")]
    ranges = [range(int(each[1]), int(each[2] or each[1]) + 1) for each in found if each]
    if len(ranges) != len(found) or not all(ranges):
        raise ValueError(f"must be 'all', or numbers and ranges such as 0-11 or 3,7, not {shorten(text)}")
    return ranges


def _check_ranges(text: str) -> str:
    """Return ``text`` if it names units, such as ``0-11``, ``3,7`` or ``all``, or else raise a ValueError."""
    parse_ranges(text)
    return text


def is_range(text: str) -> bool:
    """Return whether ``text`` is a number or a range of numbers, such as ``3`` or ``7-9``."""
    return re.fullmatch(RANGE_OF_UNITS, text) is not None


def _check_classes(text: str) -> str:
    """Return ``text`` if it can name classes, such as ``tabby,3,7-9`` or ``all``, or else raise a ValueError.

    The names of the classes are checked when the network is known.
    """
    for part in text.split(","):
        if not part.strip():
            raise ValueError(f"must be 'all', or names, numbers and ranges such as tabby,3,7-9, not {shorten(text)}")
        if is_range(part):
            parse_ranges(part)
    return text


def parse_position(text: str) -> list[int]:
    """Return the numbers in ``text``, a position in a layer: for ``2,3``, return [2, 3], the row and the column.

    Raises:
        ValueError: ``text`` is not a list of whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"must be ROW,COLUMN, or TOKEN in a transformer, not {shorten(text)}") from None


def _check_position(text: str) -> str:
    """Return ``text`` if it is a position in a layer, such as ``2,3``, or else raise a ValueError."""
    parse_position(text)
    return text


@dataclass(frozen=True, kw_only=True)
class ComparingOptions(NetworkOptions):
    """Base class with the options of commands that can compare several networks."""

    SEVERAL = True

    model: list[str] | str = option(
        "digits",
        f"Network to use: {NETWORKS}. Give --model several times to compare networks, which are shown in separate "
        "rows. In this case, either give --weights once for each network, in the same order, or leave it out. To "
        "compare checkpoints of one network, give --model once and --weights several times.",
        group="Network",
        metavar="NAME",
        files=model_files,
        values=("digits", ["digits", "digits-robust"], "torchvision:resnet50"),
    )


@dataclass(frozen=True, kw_only=True)
class SizeOptions(Options):
    """Base class with the option for the size of the pictures."""

    size: Size | None = option(
        None,
        "Size, in pixels, of the picture that passes through the network: one number for a square, or HEIGHTxWIDTH. "
        "For example, 64x96 is 64 pixels high and 96 pixels wide. The default is the network's input size. A larger "
        "picture has room for more of the patterns that activate a unit.",
        group=PICTURE,
        least=1,
        metavar="N|HxW",
        values=(64, (64, 96), 224),
    )

    def resolved(self, shape: ImageShape | None = None) -> Self:
        """Return a copy in which ``size``, if it was None, is the height and width in ``shape``."""
        resolved = super().resolved(shape)
        if resolved.size is not None or shape is None:
            return resolved
        return resolved.change(size=shape[1:])


@dataclass(frozen=True, kw_only=True)
class LayersOptions(SizeOptions, NetworkOptions):
    """The options of ``dream layers``."""

    json: bool = option(False, "Print JSON for other programs instead of a table.", group=OUTPUT)


TRANSFORM_HELP = (
    "Transform that is applied to the image before the network sees it, with new random parameters in each step. "
    "It keeps the picture from becoming noise. robust: slight rotations, shifts, zooms and shears, whose limits "
    "can be set; for example, robust(degrees=5) rotates by at most 5 degrees. jitter(0.1): only shifts, by at most "
    "0.1 of each side, for pictures that must stay upright, such as spectrograms. noise(0.1): adds noise of this "
    "strength, so that only strong forms remain; noise(0.25, fall=0.8) falls by 80 % over the steps. "
    "none: no transform; the objective then reaches a higher value, but the picture looks mostly like noise. Several "
    "transforms, such as 'jitter(0.1) + robust(5)', are applied from left to right."
)
TRANSFORM_VALUES = ("robust(degrees=5)", "jitter(0.1) + robust(5)", "none")


@dataclass(frozen=True, kw_only=True)
class AscentOptions(PictureOptions):
    """Options common to the commands that make pictures by gradient ascent at a single size."""

    steps: int = option(STEPS, STEPS_HELP, group=OPTIMIZATION, least=1, values=MANY_STEPS)
    transform: str = option(
        "robust",
        TRANSFORM_HELP,
        group=OPTIMIZATION,
        metavar="EXPRESSION",
        parse=_check_transform,
        values=TRANSFORM_VALUES,
    )
    parameterization: str | None = option(
        None,
        "Representation of the image during optimization. pixels: the pixel values, for the sharpest "
        "picture. fourier: Fourier coefficients in decorrelated colors, for a smoother, more natural picture. "
        "phases: only the phases of these coefficients; the magnitudes stay those of natural photos. pyramid: a "
        "sum of images of many sizes, in which large forms appear first (optimizer: uniform). The default is fourier "
        "for color images (`dream classes`: pyramid) and pixels for gray images.",
        group=OPTIMIZATION,
        choices=_parameterizations,
        metavar="NAME",
        values=("pixels", "fourier", "phases"),
    )

    @staticmethod
    def default_parameterization(channels: int) -> str:
        """Return the name of the default parameterization for images with ``channels`` channels."""
        name: str = _expressions().default_parameterization(channels)
        return name

    def resolved(self, shape: ImageShape | None = None) -> Self:
        """Return a copy in which the parameterization and all parameters of the transform are set."""
        expressions = _expressions()
        resolved = super().resolved(shape)
        parameterization = resolved.parameterization
        if parameterization is None and shape is not None:
            parameterization = self.default_parameterization(shape[0])
        transform = expressions.write_out_transform(resolved.transform)
        return resolved.change(transform=transform, parameterization=parameterization)


@dataclass(frozen=True, kw_only=True)
class SheetOptions(AscentOptions):
    """Options common to the commands that draw a contact sheet of any number of pictures."""

    columns: int | None = option(
        None,
        "Number of pictures in each row of the contact sheet. By default, there are about as many columns as rows.",
        group=OUTPUT,
        compare=False,
        least=1,
        values=(1, 4, 8),
    )


@dataclass(frozen=True, kw_only=True)
class PageOptions(AscentOptions):
    """Base class with the option for a web page."""

    html: bool = option(
        False,
        "Also save a web page that shows the same pictures. The page is a single file in the "
        "same folder as the picture, and has a search box.",
        group=OUTPUT,
        compare=False,
        adds_file=True,
    )


@dataclass(frozen=True, kw_only=True)
class FolderOptions(SheetOptions, PageOptions):
    """Options common to the commands that make one picture for each of many units or classes."""

    batch: int | None = option(
        None,
        "Number of pictures that are optimized at the same time. The default is at most 64, or at most 256 on a GPU "
        "with at least 32 GB of memory. If a run with --folder is killed, the pictures of one batch are lost. A "
        "smaller batch takes less memory and more time.",
        group=OPTIMIZATION,
        compare=False,
        least=1,
        values=(1, 8, 64),
    )
    folder: Path | None = option(
        None,
        "Also save each picture as a separate file in this folder. The pictures are made in batches, and "
        "are saved as soon as their batch is finished. To continue a run that was stopped, give the same command "
        "again.",
        group=OUTPUT,
        compare=False,
        recorded=False,
        metavar="FOLDER",
        values=("units", "outputs/conv2", "../dreams"),
    )


@dataclass(frozen=True, kw_only=True)
class LayerOptions(AscentOptions):
    """Options common to the commands that show several units of a layer."""

    layer: str = option("pool2", LAYER, group=OBJECTIVE, metavar="NAME", values=LAYERS_OF_DIGITS)


@dataclass(frozen=True, kw_only=True)
class UnitsOptions(ComparingOptions, SizeOptions, LayerOptions, FolderOptions):
    """The options of ``dream units``."""

    units: str = option(
        "0-11",
        f"Units (channels or neurons) {UNITS_HELP}",
        group=OBJECTIVE,
        compare=False,
        metavar="all|N-N|N,N",
        parse=_check_ranges,
        values=COUNTS,
    )
    position: str | None = option(
        None,
        "Position in the layer at which to maximize each unit, as ROW,COLUMN, or as TOKEN in a transformer. The "
        "pattern that activates the unit then appears once in the picture. By default, the mean over all positions is "
        "maximized, which fills the picture with a texture.",
        group=OBJECTIVE,
        metavar="ROW,COLUMN",
        parse=_check_position,
        values=("0,0", "2,3", "5"),
    )


@dataclass(frozen=True, kw_only=True)
class ExamplesOptions(SizeOptions, LayerOptions, PageOptions):
    """The options of ``dream examples``."""

    units: str = option(
        "0-5",
        f"Units (channels or neurons) {UNITS_HELP}",
        group=OBJECTIVE,
        metavar="all|N-N|N,N",
        parse=_check_ranges,
        values=COUNTS,
    )
    data: Path | None = option(
        None,
        "Folder of pictures to search for examples. Its subfolders are searched, too. The pictures are resized and "
        "cropped to the network's input size, regardless of --size. For a network that takes gray pictures of 28x28 "
        "pixels, the default is a set of 1,000 handwritten digits.",
        group="Input",
        metavar="FOLDER",
        values=("photos", "data/validation", "../pictures"),
    )
    top: int = option(
        EXAMPLES,
        "Maximum number of examples in the row of each unit. With more examples, it is easier to see what the examples "
        "have in common.",
        group=PICTURE,
        formerly="count",
        least=1,
        values=(4, 9, 16),
    )


@dataclass(frozen=True, kw_only=True)
class DigitsOptions(ComparingOptions, AscentOptions):
    """The options of ``dream digits``."""

    classes: str = option(
        "0-9",
        f"Classes {UNITS_HELP}",
        group=OBJECTIVE,
        metavar="all|N-N|N,N",
        parse=_check_ranges,
        values=("0-9", "3,7", "8"),
    )
    log_odds: float = option(
        LOG_ODDS,
        "Weight of the log-odds of a class, from 0 to 1. The weight of its activation is 1 minus this weight. The "
        "log-odds fall if the picture also activates other classes, so a larger weight makes it less ambiguous. "
        f"{SECOND}",
        group=OBJECTIVE,
        missing=0.0,
        least=0,
        most=1,
        values=(0.0, 0.5, 1.0),
    )
    pixel_sum: float = option(
        PIXEL_SUM,
        f"Weight of the penalty on the sum of all pixel values. {SECOND} A larger weight leaves fewer bright pixels. "
        "Too large a weight leaves an empty picture.",
        group=OBJECTIVE,
        formerly="ink",
        values=(0.0, 0.01, 0.1),
    )
    border: float = option(
        BORDER,
        f"Weight of the penalty on bright pixels far from the middle of the picture. {SECOND} A larger weight gives "
        "smaller digits in the middle.",
        group=OBJECTIVE,
        missing=0.0,
        values=(0.0, 350.0, 1000.0),
    )
    blur: float = option(
        BLUR,
        f"Weight of the penalty on the difference between a picture and its blurred copy. {SECOND} A larger weight "
        "gives softer edges.",
        group=OBJECTIVE,
        formerly="smoothness",
        values=(0.0, 1200.0, 5000.0),
    )
    compare: bool = option(
        False,
        "Add a last row to the contact sheet, made like the second row but with the network digits-robust. This "
        "network was trained to resist noise that misleads other networks.",
        group=OBJECTIVE,
    )


@dataclass(frozen=True, kw_only=True)
class ClassesOptions(ComparingOptions, SizeOptions, FolderOptions):
    """The options of ``dream classes``."""

    steps: int = option(CLASS_STEPS, STEPS_HELP, group=OPTIMIZATION, least=1, values=MANY_STEPS)
    transform: str = option(
        CLASS_TRANSFORM,
        TRANSFORM_HELP,
        group=OPTIMIZATION,
        metavar="EXPRESSION",
        parse=_check_transform,
        values=TRANSFORM_VALUES,
    )
    natural: float = option(
        NATURAL_WEIGHT,
        "Weight with which the activations of all layers are kept like those of natural pictures. The batch "
        "normalizations of a network have stored what is natural. With 0, or if the network has no batch "
        "normalization, only the activation of the class is maximized. Larger values give a calmer picture, in which "
        "the class may be harder to recognize.",
        group=OBJECTIVE,
        least=0,
        values=(0.0, 0.5, 2.0),
    )
    classes: str = option(
        "0-9",
        "Classes to show: all, or names, numbers and ranges, such as 'tabby,espresso,3,7-9'.",
        group=OBJECTIVE,
        compare=False,
        metavar="NAME,N,N-N|all",
        parse=_check_classes,
        values=("tabby,espresso", "3,7-9", "all"),
    )
    layer: str | None = option(
        None,
        "Layer with one unit for each class. The default is the layer called logits or, if there is none, the last "
        "layer that is not a softmax.",
        group=OBJECTIVE,
        metavar="NAME",
        values=("logits", "fc", "classifier.6"),
    )
    regularizer: str = option(
        CLASS_REGULARIZER,
        "Expression to subtract from the activation of each class, such as 'share() * blur(7) + total_variation(0.5)'. "
        "`dream maximize --help` lists the regularizers. none: no regularizer.",
        group=OBJECTIVE,
        metavar="EXPRESSION",
        parse=_check_regularizer,
        values=("none", "sparing()", "share() * blur(7)"),
    )

    @staticmethod
    def default_parameterization(channels: int) -> str:
        """Return the name of the default parameterization of pictures of classes with ``channels`` channels."""
        return "pyramid" if channels == 3 else "pixels"


@dataclass(frozen=True, kw_only=True)
class MaximizeOptions(ComparingOptions, SizeOptions, SheetOptions):
    """The options of ``dream maximize``."""

    objective: str = option(
        help="Expression to maximize, in quotes, such as 'channel(conv2, 3) - 0.5 * channel(conv2, 7)' or "
        "'logit(0-9) - sparing()'. If a term names several units, as logit(0-9) does, one picture is made for each "
        "unit.",
        group="Input",
        files=_vector_files,
        positional=True,
        values=("logit(0-9) - sparing()", "channel(conv2, 3) - 0.5 * channel(conv2, 7)", "deepdream(pool2)"),
    )
    photo: Path | None = option(
        None,
        "Photo to compare the picture with, for the objectives 'match' and 'caricature'. The photo is cropped if "
        "--size is HEIGHTxWIDTH.",
        group="Input",
        metavar="FILE",
        values=PHOTOS,
    )
    init: Path | None = option(
        None,
        "Picture to start from instead of noise. To change a photo only a little, start from the photo itself. The "
        "starting picture is cropped if --size is HEIGHTxWIDTH.",
        group="Input",
        metavar="FILE",
        values=PHOTOS,
    )

    def resolved(self, shape: ImageShape | None = None) -> Self:
        """Return a copy in which ``size`` is set, unless the default size would crop a photo.

        A size of (height, width) crops the pictures ``photo`` and ``init``. If one of these pictures is given and
        ``size`` is None, ``size`` is therefore set only if the network's input is a square.
        """
        resolved = super().resolved(shape)
        fitted = self.size is None and (self.photo or self.init)
        return resolved.change(size=None) if fitted and isinstance(resolved.size, tuple) else resolved


@dataclass(frozen=True, kw_only=True)
class PhotoOptions(PictureOptions):
    """Options common to the commands that need a photo."""

    photo: Path = option(
        help="Photo to show to the network.", group="Input", compare=False, positional=True, values=PHOTOS
    )
    model: list[str] | str = option(
        "vgg16",
        f"Network to visualize: {NETWORKS}.",
        group="Network",
        files=model_files,
        metavar="NAME",
        values=("vgg16", "vgg19", "torchvision:resnet50"),
    )
    layer: str = option("relu4_1", LAYER, group=OBJECTIVE, metavar="NAME", values=LAYERS_OF_VGG)
    size: int = option(224, PHOTO_SIZE_HELP, group=PICTURE, least=1, values=PHOTO_SIZES)


@dataclass(frozen=True, kw_only=True)
class AmplifyOptions(PhotoOptions):
    """The options of ``dream amplify``."""

    layer: str = option("relu4_3", LAYER, group=OBJECTIVE, metavar="NAME", values=LAYERS_OF_VGG)
    unit: int | None = option(
        None,
        "Index of a single unit (channel or neuron) to amplify. By default, all units of the layer are amplified.",
        group=OBJECTIVE,
        least=0,
        values=(0, 3, 100),
    )
    size: int = option(512, PHOTO_SIZE_HELP, group=PICTURE, least=1, values=(256, 512, 1024))
    octaves: int = option(
        OCTAVES,
        "Number of octaves, the image sizes that are processed one after another, from small to large. Each octave is "
        "1.4 times as high and as wide as the previous octave. More octaves give larger shapes.",
        group=OPTIMIZATION,
        least=1,
        values=(1, 4, 6),
    )
    steps: int = option(
        OCTAVE_STEPS,
        "Number of optimization steps at each octave (image size). More steps change the photo more strongly. 10 steps "
        "are typical, and 30 steps have a very strong effect.",
        group=OPTIMIZATION,
        least=1,
        values=(5, 10, 30),
    )


@dataclass(frozen=True, kw_only=True)
class InvertOptions(PhotoOptions, AscentOptions):
    """The options of ``dream invert``."""

    smoothness: float = option(
        0.5,
        "Weight of the penalty on the total variation, which measures the differences between neighboring pixels. A "
        "larger weight removes grain, and a very large weight also removes detail. Values from 0 to 5 are usual.",
        group=OBJECTIVE,
        values=(0.0, 0.5, 5.0),
    )
    steps: int = option(PHOTO_STEPS, STEPS_HELP, group=OPTIMIZATION, least=1, values=MANY_STEPS)


@dataclass(frozen=True, kw_only=True)
class CaricatureOptions(PhotoOptions, AscentOptions):
    """The options of ``dream caricature``."""

    steps: int = option(PHOTO_STEPS, STEPS_HELP, group=OPTIMIZATION, least=1, values=MANY_STEPS)


@dataclass(frozen=True, kw_only=True)
class AccentuateOptions(PhotoOptions, AscentOptions):
    """The options of ``dream accentuate``."""

    unit: int = option(
        help="Index of the unit (channel or neuron) to emphasize. `dream units` shows the units of a layer.",
        group=OBJECTIVE,
        metavar="N",
        least=0,
        values=(0, 3, 100),
    )
    near: str = option(
        "relu2_1",
        "Layer whose activations should stay close to those for the photo. It should come earlier in the network than "
        "the layer given by --layer. An earlier layer preserves finer detail.",
        group=OBJECTIVE,
        metavar="NAME",
        values=("relu1_2", "relu2_1", "relu3_1"),
    )
    nearness: float = option(
        NEARNESS,
        "Weight of the term that keeps the activations of the layer given by --near close to those for the photo. A "
        "larger weight changes the photo less. Try values between 3 and 300.",
        group=OBJECTIVE,
        values=(3.0, 30.0, 300.0),
    )


@dataclass(frozen=True, kw_only=True)
class EachOptions(Options):
    """Options that :func:`dreamgram.activation_maximization.folder.make_each` stores in the pictures that it saves."""

    about: str = option(
        "",
        "Description of how the pictures are made.",
        group="Input",
        values=("", "10 seeds", "32 steps; no regularizer"),
    )


OPTIONS_OF_COMMANDS: dict[str, type[PictureOptions]] = {
    "dream units": UnitsOptions,
    "dream examples": ExamplesOptions,
    "dream classes": ClassesOptions,
    "dream digits": DigitsOptions,
    "dream maximize": MaximizeOptions,
    "dream amplify": AmplifyOptions,
    "dream invert": InvertOptions,
    "dream caricature": CaricatureOptions,
    "dream accentuate": AccentuateOptions,
}
"""Map from the full name of each command that makes a picture, such as ``dream units``, to the class of its options.

The recipe of a picture (the settings stored in the picture file) contains the full name of the command.
"""
