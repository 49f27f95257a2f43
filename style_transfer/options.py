"""The options of style transfer. Each option is declared in this module; the code that uses it is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreamgram.image_optimization.names import must_be, shorten
from dreamgram.style_transfer.default_layers import CONTENT_LAYERS, FIVE, FOUR
from dreamgram.style_transfer.presets import PRESETS, choose_preset, style_losses
from dreamgram.workbench.options import (
    ImageShape,
    OptionError,
    PictureOptions,
    RecipeOptions,
    RunOptions,
    model_files,
    option,
    parse_bytes,
    parse_layer_weights,
    parse_numbers,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from dreamgram.style_transfer.presets import Preset

Colors = Literal["style", "content", "luminance", "match"]
LayerWeights = dict[str, float]

LOSSES, SCALES = "Losses", "Optimization"

INIT: Literal["content", "noise"] = "content"
"""Default of the option ``init``, the image to start from."""

SEAMLESS_STEP = 16
"""Number of pixels of which the side of a seamless texture must be a multiple. It is the stride of VGG's deepest style
layer, ``relu5_1``. Only then do the squares of each pooling divide the texture without a remainder."""

MOST_VARIATIONS = 100
"""Largest number of pictures on a sheet."""

NO_STYLE = "none"
"""Value of the option ``style`` that stands for no painting: a region of the photo stays as it is."""

NAMED_STARTS = ("content", "noise")
"""Values of the option ``init`` that have a special meaning: ``content`` is the photo, and ``noise`` is random noise.
All other values are file names."""


def _optimizers() -> list[str]:
    from dreamgram.image_optimization.optimize import OPTIMIZERS

    return list(OPTIMIZERS)


@dataclass(frozen=True, kw_only=True)
class StyleOptions(RunOptions):
    """The options of :func:`stylize`, except for the pictures and the network, which are separate arguments."""

    size: int = option(
        512,
        "Longer side of the result in pixels. Brush strokes grow in proportion to the size. At twice the size, the run "
        "takes about four times as long. For a quick preview, use --draft.",
        group="Picture",
        least=1,
        values=(256, 512, 1024),
    )
    draft: bool = option(
        False,
        "Make a preview in about a fifth of the time, at half the size and with half the steps. Use the preview to "
        "choose a painting and weights. Its colors may differ slightly from those of the full-size picture.",
        group="Picture",
        recorded=False,
    )
    blend: list[float] | None = option(
        None,
        "Weights for blending several styles. For example, 2,1 gives the first style twice the weight of the second. "
        "By default, all styles have the same weight.",
        group="Picture",
        parse=parse_numbers,
        least=0,
        metavar="X,X",
        values=("1,1", "2,1", "1,0"),
    )
    style_scale: float = option(
        1.0,
        "Factor for the size of the brush strokes. At 1, the painting is resized to the size of the result before its "
        "style is measured. At 2, it is resized to twice that size, so that its strokes are twice as large.",
        group="Picture",
        above=0,
        values=(0.5, 1.0, 2.0),
    )
    colors: Colors = option(
        "style",
        "Colors of the result. style: the painting's colors. content: the photo's colors, applied to the finished "
        "picture. luminance: the photo's colors, applied to a picture that is painted in gray. match: the painting's "
        "colors, adjusted to match the photo before painting.",
        group="Picture",
        values=("style", "content", "match"),
    )
    strength: float = option(
        1.0,
        "Strength of the style, from 0 to 1. The finished picture is mixed with the photo: 0.7 gives 70 % of the "
        "painted picture and 30 % of the photo. To change the strength of a finished picture within a second, use the "
        "command fade.",
        group="Picture",
        least=0,
        most=1,
        values=(0.3, 0.6, 1.0),
    )
    seamless: bool = option(
        False,
        "Make a texture without seams: copies of it, side by side, look like one large picture. For --texture only; "
        "the size must be a multiple of 16.",
        group="Picture",
        applies=("photo",),
    )
    preset: str = option(
        "default",
        "Set of losses and weights. default gives the best-looking pictures. gatys is for comparison: it has the "
        "losses and weights of the program neural-style, which follows Gatys et al.",
        group=LOSSES,
        choices=lambda: list(PRESETS),
        metavar="|".join(PRESETS),
        values=("default", "gatys"),
    )
    style_loss: str | None = option(
        None,
        "Style loss; overrides the preset. wasserstein compares means and covariances of activations. gram compares "
        "Gram matrices. nearest is wasserstein plus the distance from each activation to the most similar activation "
        "of the painting; it gives cleaner strokes but takes about twice as long as wasserstein. [default: "
        "wasserstein; gatys: gram]",
        group=LOSSES,
        choices=lambda: list(style_losses()),
        metavar="NAME",
        values=("wasserstein", "gram", "nearest"),
    )
    content_weight: float | None = option(
        None,
        "Weight of the content loss; overrides the preset. Larger values keep more of the photo. [default: 1; gatys: "
        "5]",
        group=LOSSES,
        least=0,
        values=(0.3, 1.0, 3.0),
    )
    style_weight: float | None = option(
        None,
        "Weight of the style loss; overrides the preset. Larger values give more of the painting's style and less of "
        "the photo; try 3. [default: 1; gatys: 100]",
        group=LOSSES,
        least=0,
        values=(0.3, 1.0, 3.0),
    )
    tv_weight: float | None = option(
        None,
        "Weight of the total variation, a loss that measures the differences between neighboring pixels; overrides the "
        "preset. Larger values smooth out grain; very large values also smooth out brush strokes. [default: 0.5; "
        "gatys: 0.001]",
        group=LOSSES,
        least=0,
        values=(0.0, 0.5, 5.0),
    )
    temporal_weight: float | None = option(
        None,
        "Weight of the loss that keeps each frame of a video close to the previous frame; overrides the preset. Larger "
        "values reduce flicker. [default: 200; gatys: 0.001]",
        group=LOSSES,
        least=0,
        values=(0.0, 200.0, 1000.0),
    )
    content_layers: LayerWeights | None = option(
        None,
        "Layers in which the activations should match those of the photo; overrides the preset. Each layer can have a "
        "weight, as in relu3_1=1,relu4_2=0.5. Early layers keep more of the photo's detail than late layers. [default: "
        "relu3_1=0.12,relu4_2=0.36; for gram and nearest: relu4_2=1]",
        group=LOSSES,
        parse=parse_layer_weights,
        least=0,
        metavar="LAYER=X,...",
        values=("relu4_2", "relu3_1", "relu3_1=0.12,relu4_2=0.36"),
    )
    style_layers: LayerWeights | None = option(
        None,
        "Layers in which statistics of the activations, for example their means, should match those of the paintings; "
        "overrides the preset. Each layer can have a weight, as in relu1_1=1,relu3_1=0.5. Early layers capture color "
        "and texture; late layers capture larger forms. [default: relu1_1, relu2_1, relu3_1 and relu4_1, each with "
        "weight 1; for gram also relu5_1]",
        group=LOSSES,
        parse=parse_layer_weights,
        least=0,
        metavar="LAYER=X,...",
        values=("relu1_1,relu2_1", "relu1_1=1,relu3_1=0.5", "relu4_1"),
    )
    focus: float | None = option(
        None,
        "Emphasis of the content loss on parts of the photo that stand out to the network, such as faces and hands; "
        "overrides the preset. With 1, they keep their details, and plain parts get bold strokes. With 0, all parts of "
        "the photo count equally, as they also do in networks without VGG's layer relu5_1. [default: 1; for gram: 0]",
        group=LOSSES,
        least=0,
        most=1,
        values=(0.0, 0.5, 1.0),
    )
    style_margin: float | None = option(
        None,
        "Width of the strips along the edges of each painting that are left out, as a fraction of its shorter side; "
        "overrides the preset. Scans of paintings often show a frame there. A painting with a style mask is used as a "
        "whole. [default: 0.05; gatys: 0]",
        group=LOSSES,
        least=0,
        most=0.4,
        values=(0.0, 0.05, 0.2),
    )
    optimizer: str = option(
        "lbfgs",
        "Optimizer. lbfgs reaches a low loss in less time than adam; adam needs less memory. uniform is adam with the "
        "same step size for all pixels.",
        group=SCALES,
        choices=_optimizers,
        metavar="NAME",
        values=("lbfgs", "adam", "uniform"),
    )
    steps: int = option(
        60,
        "Number of optimization steps at the full size. Unless the picture is very small, it is first optimized at "
        "smaller sizes, with a third as many steps at each of them. Fewer steps make the brush strokes fainter. More "
        "than 200 steps improve the picture only a little.",
        group=SCALES,
        least=1,
        values=(20, 60, 200),
    )
    max_memory: int | None = option(
        None,
        "Maximum memory, such as 4G, to use on the device that --device selects. A picture that needs more memory is "
        "processed in tiles, which does not change how the result looks. By default, most of the free memory is used.",
        group=SCALES,
        compare=False,
        parse=parse_bytes,
        least=1,
        metavar="BYTES",
        values=("800M", "4G", "16G"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seamless and self.size % SEAMLESS_STEP:
            nearest = max(SEAMLESS_STEP, SEAMLESS_STEP * round(self.size / SEAMLESS_STEP))
            what = f"must be a multiple of {SEAMLESS_STEP} for a seamless texture, such as {nearest}"
            raise OptionError("size", f"{what}, not {self.size}")

    @property
    def losses(self) -> Preset:
        """The losses, layers and weights that these options select."""
        return choose_preset(self.preset, self)

    def drafted(self) -> Self:
        """Return these options, with ``size`` and ``steps`` halved if ``draft`` is True."""
        if not self.draft:
            return self
        least = SEAMLESS_STEP if self.seamless else 1
        size = max(least, self.size // 2 // least * least)
        return self.change(draft=False, size=size, steps=max(1, self.steps // 2))

    @classmethod
    def of_first_version(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record of version 0.1.0, completed with the defaults that this version had."""
        defaults: dict[str, Any] = {
            "focus": 0.0,
            "style_margin": 0.0,
            "content_layers": CONTENT_LAYERS,
            "style_layers": FOUR if record.get("style_loss") == "nearest" else FIVE,
        }
        return {**record, **{name: value for name, value in defaults.items() if not record.get(name)}}

    def resolved(self, shape: ImageShape | None = None) -> Self:
        """Return a copy in which the style loss, the layers and the weights of all losses are set.

        If one of these options is None, it gets the value of the preset.
        """
        return self.change(**self.losses.as_options())


@dataclass(frozen=True, kw_only=True)
class StylizeOptions(StyleOptions, PictureOptions):
    """The options of the command ``stylize``."""

    VARIABLE = (
        *("style_weight", "content_weight", "tv_weight", "strength", "style_scale", "steps", "seed", "colors"),
        *("style_loss", "preset", "optimizer", "focus", "style_margin"),
    )

    photo: Path | None = option(
        None,
        "Photo, folder of photos, video, or animated GIF or WebP to paint. It is required, unless --texture is given.",
        group="Input",
        compare=False,
        positional=True,
        values=("photo.jpg", "photos", "film.mp4"),
    )
    style: list[str] = option(
        help="Painting whose style to use: a file, or the name of a painting that the program draws itself (see "
        "--list-styles). To use several paintings, repeat this option. With --content-mask, none leaves a region as it "
        "is in the photo.",
        group="Input",
        files=lambda name: [Path(name)],
        metavar="FILE|NAME",
        values=(["brushwork"], ["painting.jpg"], ["painting.jpg", "marbling"]),
    )
    texture: bool = option(
        False,
        "Make a square texture in the style of the painting, without a photo. With --seamless, copies of the texture "
        "fit together.",
        group="Input",
        applies=("photo",),
    )
    keep: Path | None = option(
        None,
        "Picture in black and white whose white parts are kept: there, the result has exactly the pixels of the photo. "
        "The style is measured only in the other parts. The picture must have the proportions of the photo.",
        group="Input",
        applies=("photo",),
        metavar="FILE",
        values=("mask.png", "masks/face.png", "mask.gif"),
    )
    content_mask: Path | None = option(
        None,
        "Picture with a few solid colors, each of which marks a region of the photo. Without --style-mask, the first "
        "--style is used for the region with the darkest color, the second --style for the region with the next "
        "lighter color, and so on.",
        group="Input",
        applies=("photo",),
        metavar="FILE",
        values=("mask.png", "masks/sky.png", "mask.gif"),
    )
    style_mask: list[Path] | None = option(
        None,
        "Mask for a painting: a picture in which each color marks the part of the painting to use for the region that "
        "has the same color in --content-mask. Give one mask for each --style, in the same order.",
        group="Input",
        applies=("photo",),
        metavar="FILE",
        values=(["mask.png"], ["masks/painting.png"], ["first.png", "second.png"]),
    )
    init: str = option(
        INIT,
        "Image to start from: content (the photo), noise, or a picture file. With noise, the result keeps less of the "
        "photo's detail.",
        group=SCALES,
        files=lambda what: [] if what in NAMED_STARTS else [Path(what)],
        metavar="content|noise|FILE",
        values=("content", "noise", "start.png"),
    )
    model: list[str] | str = option(
        "vgg16",
        "Network whose activations are compared: vgg16, vgg19, or another network with VGG's layer names.",
        group="Network",
        files=model_files,
        metavar="NAME",
        values=("vgg16", "vgg19", "my_network.py:vgg"),
    )
    vary: list[str] | None = option(
        None,
        "Paint the photo several times with different values of an option, as in style_weight=1,3,10, and show the "
        "pictures on one sheet. Shorter: --style-weight 1,3,10. If this option is given twice, the second option "
        "varies from row to row.",
        group="Output",
        applies=("photo",),
        metavar="NAME=X,X",
        values=(["style_weight=1,3,10"], ["strength=0.3,0.6,1"], ["seed=1,2,3", "style_loss=wasserstein,nearest"]),
    )
    bits: Literal[8, 16] | None = option(
        None,
        "Bits per color channel in PNG and TIFF files, 8 or 16. By default, as many as in the photo.",
        group="Output",
        compare=True,
        applies=("photo", "folder"),
        values=(8, 16),
    )
    quality: int = option(
        95,
        "Quality of JPEG and WebP files, from 1 to 100. Larger values give better quality and larger files.",
        group="Output",
        compare=False,
        applies=("photo",),
        least=1,
        most=100,
        values=(75, 90, 100),
    )
    dpi: int | None = option(
        None,
        "Resolution to store in the file for printing, in dots per inch. At 300 dpi, a picture of 3000 pixels is 25 cm "
        "wide. By default, none is stored.",
        group="Output",
        applies=("photo", "folder"),
        least=1,
        most=10_000,
        values=(72, 300, 600),
    )
    strip: bool = option(
        False,
        "Do not copy the photo's metadata (EXIF), such as the camera and the date, into the result.",
        group="Output",
        applies=("photo", "folder"),
    )
    plot: bool = option(
        False,
        "Also save a plot of the loss, in the same folder as the picture.",
        group="Output",
        compare=False,
        adds_file=True,
        applies=("photo", "folder"),
    )
    checkpoint: Path | None = option(
        None,
        "Save the state of the run to this file, so that 'stylize resume FILE' can resume the run after it is stopped. "
        "The file is deleted when the picture is finished. By default, the state is saved in the program's own folder, "
        "and 'stylize resume' resumes the last run.",
        group="Output",
        compare=False,
        recorded=False,
        applies=("photo",),
        metavar="FILE",
        values=("run.ckpt", "outputs/run.ckpt", "../run.ckpt"),
    )
    checkpoint_every: float | None = option(
        None,
        "Seconds between two saves of the state of the run, from which the run can be resumed. With a larger value, "
        "more steps are lost if the program is killed. 0 saves the state after every step. By default, the state is "
        "first saved after about a minute, and then so seldom that saving takes at most 2 % of the time.",
        group="Output",
        compare=False,
        least=0,
        metavar="SECONDS",
        values=(0.0, 60.0, 600.0),
    )
    state_limit: int = option(
        10**9,
        "Maximum disk space, such as 4G, for the states of all unfinished runs in the program's own folder. If the "
        "states need more space, those of the oldest runs are deleted. A run whose state alone exceeds this limit "
        "cannot be resumed. With 0, no state is saved there.",
        group="Output",
        compare=False,
        recorded=False,
        applies=("photo",),
        parse=parse_bytes,
        least=0,
        metavar="BYTES",
        values=("100M", "1G", "16G"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.photo is None and not self.texture:
            raise OptionError("photo", "must be given, unless a texture is made, which needs no photo")
        if self.photo is not None and self.texture:
            raise OptionError("texture", f"must be left out if a photo, such as {self.photo}, is painted")
        if self.seamless and not self.texture:
            raise OptionError("seamless", "must be left out if a photo is painted: only textures can be seamless")
        if self.vary is not None and self.checkpoint is not None:
            raise OptionError("checkpoint", "is for a single picture, not for a sheet of variations")
        self.variations()

    def variations(self) -> list[dict[str, Any]]:
        """Return the options of each picture on the sheet that ``vary`` asks for, row by row, as changes by name.

        The result is a list of one empty dictionary if nothing varies.

        Raises:
            OptionError: an option cannot vary, is named twice, or a value is not allowed.
        """
        # Nothing is converted before it is known that the list is short, because a recipe may come from a stranger.
        texts = self.vary or []
        if len(texts) > 2:
            raise OptionError("vary", f"must name one or two options, not {len(texts)}")
        count = math.prod(text.count(",") + 1 for text in texts)
        if count > MOST_VARIATIONS:
            raise OptionError("vary", f"must give at most {MOST_VARIATIONS} pictures, not {count}")
        axes = [self._axis(text) for text in texts]
        if len({name for axis in axes for name in axis[0]}) < len(axes):
            raise OptionError("vary", f"must name an option once, but {next(iter(axes[0][0]))} is named twice")
        columns, *rows = axes or [[{}]]
        return [{**row, **column} for row in (rows[0] if rows else [{}]) for column in columns]

    def _axis(self, text: str) -> list[dict[str, Any]]:
        """Return the changes that ``text``, such as ``style_weight=1,3``, stands for, one dictionary for each value."""
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        if name not in self.VARIABLE:
            names = must_be(name, self.VARIABLE).removeprefix("must be ")
            raise OptionError("vary", f"must name an option: {names}")
        if not values:
            raise OptionError("vary", f"must give values of {name}, as in {name}=X,X, not {shorten(text)}")
        changed = [getattr(self.change(vary=None, **{name: value}), name) for value in values.split(",")]
        if len(set(changed)) < len(changed):
            raise OptionError("vary", f"must give different values of {name}, not {shorten(values)}")
        return [{name: value} for value in changed]


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(RecipeOptions):
    """The options of the command ``stylize resume``, which continues a run that was stopped."""

    checkpoint: Path | None = option(
        None,
        "File that stylize --checkpoint wrote for the run, or the name of the run, which was shown when the run was "
        "stopped. By default, the last unfinished run that was started in the current folder.",
        group="Input",
        positional=True,
        values=("run.ckpt", "outputs/run.ckpt", "portrait"),
    )


@dataclass(frozen=True, kw_only=True)
class FadeOptions(RecipeOptions):
    """The options of the command ``stylize fade``, which changes the strength of a finished picture."""

    picture: Path = option(
        help="Painted picture whose style is to become weaker. Its file contains its recipe, which names the photo.",
        group="Input",
        positional=True,
        values=("outputs/picture.png", "picture.jpg", "picture.webp"),
    )
    photo: Path | None = option(
        None,
        "Photo from which the picture was painted. By default, the file that the recipe names.",
        group="Input",
        metavar="FILE",
        values=("photo.jpg", "photos/portrait.png", "../photo.tif"),
    )
    strength: float = option(
        help="Strength of the style, from 0 to 1: 0.7 gives 70 % of the painted picture and 30 % of the photo.",
        group="Picture",
        least=0,
        most=1,
        values=(0.3, 0.6, 0.9),
    )
