"""Implementation of the command ``stylize fade``, which changes the strength of the style of a finished picture."""

from __future__ import annotations

from dataclasses import replace

from dreamgram.image_optimization import images
from dreamgram.image_optimization.files import check_distinct
from dreamgram.style_transfer.colors import finish
from dreamgram.style_transfer.options import FadeOptions, StylizeOptions
from dreamgram.workbench.job import Done, Job, output_path
from dreamgram.workbench.options import Options
from dreamgram.workbench.recipe import Recipe
from dreamgram.workbench.trust import check_trusted

FADED = "faded"
"""Name of the entry in a recipe which says that the strength was changed after the picture had been finished. The
picture can therefore differ slightly from one that was painted with this strength."""


def fade(options: FadeOptions, job: Job) -> Done:
    """Mix a finished picture with the photo that it was painted from.

    Raises:
        UntrustedError: the photo is outside the current folder and the folder of the picture, and the user has neither
            named nor trusted it.
        ValueError: the picture has no recipe, was not painted from a photo with full strength, or has another size than
            its recipe says; or the photo is missing or has changed.
        OSError: a file cannot be read or written.
    """
    source = options.picture
    recipe = Recipe.read(source, {"stylize": StylizeOptions})
    made = recipe.options
    assert isinstance(made, StylizeOptions)
    if made.photo is None:
        raise ValueError(f"{source} is a texture: there is no photo to mix it with")
    if made.vary:
        raise ValueError(f"{source} is a sheet: fade one of the pictures in the folder beside it")
    if made.strength < 1:
        raise ValueError(f"{source} already has the strength {made.strength:g}: fade the picture of full strength")
    photo_path = options.photo or made.photo
    if options.photo is None and not options.trust:
        check_trusted(Options(), [str(photo_path)], source)
    name = f"{source.stem}-{options.strength:g}{source.suffix}"
    output = output_path(options.output or source.with_name(name), name, options.overwrite)
    check_distinct("output", output, [("picture", source), ("photo", photo_path)])
    if not photo_path.exists():
        raise ValueError(f"{photo_path}, from which {source} was painted, is missing: name the file that it is now")
    photo = images.read(photo_path, max_pixels=options.max_pixels)
    if recipe.files.get(str(made.photo), photo.checksum) != photo.checksum:
        raise ValueError(f"{photo_path} is not the photo from which {source} was painted, or has changed since")
    painted = images.read(source, max_pixels=options.max_pixels)
    if painted.alpha is not None:
        raise ValueError(f"{source} is transparent: paint it again with this strength instead")
    height, width = painted.image.shape[2:]
    if (height, width) != images.fitted_size(photo.image, made.size):
        raise ValueError(f"{source} has {width}x{height} pixels, which is not the size in its recipe")
    image = finish("style", options.strength, painted.image, photo.image)
    made = made.change(strength=options.strength)
    recipe = replace(recipe, options=made, made={**recipe.made, FADED: True})
    bits = images.choose_bits(output, None, painted.bits)
    how = {"exif": painted.exif, "bits": bits, "quality": made.quality, "dpi": made.dpi}
    job.save(image, output, recipe, options.overwrite, **how)
    return Done()
