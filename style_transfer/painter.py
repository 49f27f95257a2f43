"""Code shared by the painting of single photos, folders of photos and videos. It reads files and saves the results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.files import check_distinct
from dreamgram.image_optimization.layers import smallest_size
from dreamgram.image_optimization.names import did_you_mean, unknown
from dreamgram.image_optimization.optimize import Ending, State
from dreamgram.image_optimization.timelapse import FRAME_SIDE, Timelapse, save_animation
from dreamgram.image_optimization.video import load_av
from dreamgram.style_transfer.budget import WHOLE, Budget
from dreamgram.style_transfer.checkpoint import Checkpoint
from dreamgram.style_transfer.drawn_styles import DRAWN_STYLES, draw_style
from dreamgram.style_transfer.options import NAMED_STARTS, NO_STYLE, StylizeOptions
from dreamgram.style_transfer.stylizer import Stylized, Stylizer
from dreamgram.style_transfer.unfinished import how_to_resume, make_room
from dreamgram.workbench.device import describe_setting, find_device, find_precision
from dreamgram.workbench.job import Done, Job, beside
from dreamgram.workbench.options import OptionError
from dreamgram.workbench.recipe import Inputs, Recipe, is_made

LARGEST_DRAWN = 1536
"""Maximum width and height, in pixels, of a drawn style, which is a square painting that the program draws itself. For
a larger result, the drawing is enlarged like a painting from a file."""


CHANGED = "0.2.0"
"""Latest version of Dreamgram that changed how pictures are optimized. This version changed L-BFGS and the number of
steps at smaller sizes. With the same settings, earlier versions make different pictures."""

PLOT_ENDING = "-loss.png"
"""Ending of the plot's file name. For a picture ``photo.png``, the plot of the loss is ``photo-loss.png``."""


class Painter:
    """A painter that paints photos one after another with the same paintings, network and options."""

    def __init__(
        self, options: StylizeOptions, job: Job, several: bool = False, original: Recipe | None = None
    ) -> None:
        """Read the paintings, the network and the masks.

        Args:
            options: the paintings and all settings.
            job: the job, which shows progress and messages to the user.
            several: True if several pictures will be painted. In this case, the constructor raises any error that would
                recur for every picture.
            original: the recipe (the record of settings) of a picture that is to be made again or resumed; None for a
                new picture. The network must have the weights recorded in the recipe.
        """
        self.job = job
        self.inputs = Inputs(options.max_pixels, job.tell)
        if options.timelapse == "mp4":
            load_av()
        device = find_device(options.device)
        self.options = options
        self.paintings = [None if name == NO_STYLE else self._read_style(name) for name in options.style]
        self.model = self.inputs.load_model(*options.networks[0]).to(device)
        self.options = options.change(precision=find_precision(options.precision, device, self.model))
        self.setting = describe_setting(device, self.options.precision)
        self.replaces = options.overwrite and original is None
        """True if the animation and the plot of the loss are allowed to replace existing files. This is not allowed if
        the options come from a recipe (the settings of an earlier run), because the user then named only the
        picture."""
        if original:
            original.check_network(self.inputs)
        self.masks_and_init: dict[str, Any] = {
            "content_mask": self._read_mask(options.content_mask),
            "style_masks": [self._read_mask(mask) for mask in options.style_mask or []],
            "keep": self._read_mask(options.keep),
            "init": self._read_init(options.init),
        }
        self.stylizer: Stylizer | None = None
        self.older: tuple[Path, str] | None = None
        """Path of the first existing picture that was found to have been made by a version before :data:`CHANGED`, and
        that version; None if no such picture has been found."""
        self.told_of_older = False
        """True if the user has been told of the picture in :attr:`older`."""
        if several:
            side = smallest_size(self.model, options.losses.layers)
            self.prepare(torch.zeros(1, 3, side, side))

    def changed(self, **changes: Any) -> Painter:
        """Return a copy of this painter, with the same paintings and network, in which some options have new values."""
        changes = {name: value for name, value in changes.items() if getattr(self.options, name) != value}
        other = copy(self)
        other.options = self.options.change(**changes)
        if self.stylizer is not None:
            other.stylizer = self.stylizer.change(**changes)
        return other

    def prepare(self, photo: Tensor | None, plan: Sequence[Budget] | None = None) -> Stylizer:
        """Return a :class:`Stylizer`, which performs the style transfer, for a photo (1, 3, H, W) in [0, 1].

        Without a photo, the result is a stylizer for a texture. Results that have been computed from the paintings are
        reused for later photos. ``plan`` holds one memory budget for each scale (a size at which the image is
        optimized). By default, the budgets are computed from the option ``max_memory`` or the free memory. The plan of
        the first call is used for all photos; later plans are ignored.
        """
        if self.stylizer is None:
            how = {**self.masks_and_init, "model": self.model, "plan": plan}
            self.stylizer = Stylizer(photo, self.paintings, self.options, **how)
        else:
            self.stylizer = self.stylizer.change(photo=photo)
        return self.stylizer

    def recipe(self, photo_path: Path | None, inputs: Inputs, result: Stylized | None = None) -> Recipe:
        """Return the recipe, the settings to store in the picture that is painted from the file ``photo_path``.

        ``inputs`` holds the checksums of the input files. ``result`` is the result of the style transfer, or None if
        there is no result yet. If ``result`` shows that the picture was too large for memory and was divided into
        tiles, the recipe also holds the size of the tiles, on which the rounding errors depend.
        """
        made: dict[str, Any] = {}
        if result is not None and any(budget != WHOLE for budget in result.plan):
            made = {"plan": [list(astuple(budget)) for budget in result.plan]}
        return Recipe.of("stylize", self.options.change(photo=photo_path), inputs, made)

    def makes(self, photo_path: Path | None, recipe: Recipe) -> bool:
        """Return whether ``photo_path`` will be painted with the settings that are recorded in ``recipe``."""
        inputs = self.inputs.copy()
        if photo_path is not None:
            inputs.add(photo_path)
        return self.recipe(photo_path, inputs).same_as(recipe)

    def paint_of_folder(self, photo_path: Path | None, output: Path) -> Done | None:
        """Paint one photo from a folder and save it as ``output``. If painting is interrupted, nothing is saved.

        If ``photo_path`` is None, a texture is painted.

        Return how painting ended. If ``output`` already is the finished picture of this photo, made with the current
        settings, return None.
        """
        check_distinct("output", output, self.options.change(photo=photo_path).files())
        if output.exists():
            inputs = self.inputs.copy()
            if photo_path is not None:
                inputs.add(photo_path)
            if is_made(output, self.recipe(photo_path, inputs), self.options.overwrite):
                self._look_at_version(output)
                return None
        self._tell_of_older()
        return self.paint_photo(photo_path, output, in_folder=True)

    def _look_at_version(self, output: Path) -> None:
        """Store ``output``, an existing picture, in :attr:`older` if a version before :data:`CHANGED` made it."""
        if self.older is None:
            recipe = Recipe.read(output, {"stylize": StylizeOptions})
            self.older = (output, recipe.version) if recipe.is_older_than(CHANGED) else None

    def _tell_of_older(self) -> None:
        """Tell the user once that new pictures will look different, if :attr:`older` holds an existing picture."""
        if self.older and not self.told_of_older:
            self.told_of_older = True
            output, version = self.older
            self.job.tell(
                f"{output} was made by Dreamgram {version}; version {CHANGED} changed the optimization, so the "
                "pictures that are painted now look different; choose another output to paint all anew"
            )

    def paint_photo(
        self,
        photo_path: Path | None,
        output: Path,
        plan: Sequence[Budget] | None = None,
        state: State | None = None,
        in_folder: bool = False,
        state_path: Path | None = None,
    ) -> Done:
        """Paint the photo in the file ``photo_path`` and save the result as ``output``.

        If the options ask for an animation or a plot of the loss, each of them is saved in its own file. If painting is
        interrupted, the unfinished picture is saved, unless ``in_folder`` is True.

        Args:
            photo_path: the file of the photo; None for a texture.
            output: the file to write.
            plan: one memory budget for each scale (a size at which the image is optimized). By default, the budgets are
                computed from the option ``max_memory`` or the free memory.
            state: the optimizer's state, read from a checkpoint, from which to resume. The result then replaces the
                unfinished picture of the same run.
            in_folder: True if the photo is painted as one of the photos in a folder. The result is then saved only if
                it is finished, and it replaces any file at ``output``. The caller must have checked with
                :func:`is_made` that the file may be replaced.
            state_path: a file in the program's own folder in which to save the state of the run. If the options name a
                checkpoint file, the state is saved in the checkpoint file instead. If neither file is given, the state
                is not saved.
        """
        options, inputs = self.options, self.inputs.copy()
        given = None if photo_path is None else inputs.read(photo_path)
        images.choose_bits(output, options.bits, given.bits if given else 8)
        size = images.fitted_size(given.image, options.size) if given else (options.size, options.size)
        images.check_size(output, size)
        if given:
            self._tell_of(given, photo_path, output)
        stylizer = self.prepare(given.image if given else None, plan)
        timelapse = Timelapse(sum(stylizer.steps)) if options.timelapse else None
        keeper = self._checkpoint(photo_path, output, inputs, state, state_path)
        with self.job.part(photo_path.name if photo_path else "texture", self.setting) as bar:
            listeners = [each for each in (timelapse, keeper, bar) if each]
            result = stylizer.run(state=state, listeners=listeners)
        if result.stopped == "interrupted" and in_folder:
            return Done(result.stopped)
        recipe = self.recipe(photo_path, inputs, result).stop(result.stopped)
        is_own = state is not None and recipe.compare(output) == ("", False)  # the unfinished picture of this run
        output = self._save(result, given, output, recipe, options.overwrite or in_folder or is_own)
        if timelapse and timelapse.kept_images:
            self._save_timelapse(timelapse, stylizer, output, inputs.checksums)
        if options.plot:
            from dreamgram.style_transfer.plot import save_plot  # matplotlib takes half a second to load

            plot = beside(output, PLOT_ENDING, self.replaces, inputs.checksums)
            save_plot(result.history, stylizer.scales, plot)
            self.job.wrote(plot)
        return self._done(result.stopped, keeper)

    def _tell_of(self, given: images.Picture, photo_path: Path | None, output: Path) -> None:
        if given.frames > 1:
            self.job.tell(f"{photo_path} has {given.frames} frames, of which the first is painted")
        if given.alpha is not None and output.suffix.lower() in (".jpg", ".jpeg"):
            self.job.tell(f"{output.name} cannot be transparent: the transparent parts of {photo_path} become white")

    def _checkpoint(
        self, photo_path: Path | None, output: Path, inputs: Inputs, state: State | None, state_path: Path | None
    ) -> Checkpoint | None:
        """Return the object that saves the state of the run during the optimization, or None if the state is not saved.

        ``inputs`` holds the checksums of the input files. For the other arguments, see :meth:`paint_photo`.
        """
        options = self.options
        path = options.checkpoint or state_path
        if path is None:
            return None
        if state is None and options.checkpoint:
            path.unlink(missing_ok=True)  # so that nobody resumes an earlier run by mistake
        made: dict[str, Any] = {"output": str(output)}
        has_room = None
        if not options.checkpoint:
            made |= {"folder": str(Path.cwd()), "overwrite": options.overwrite, "state_limit": options.state_limit}
            has_room = partial(make_room, path, limit=options.state_limit)
        recipe = replace(self.recipe(photo_path, inputs), made=made)
        onward = how_to_resume(path, recipe)
        has_state = state is not None
        return Checkpoint(path, recipe, options.checkpoint_every, self.job, onward, has_room, has_state)

    def _done(self, stopped: Ending, keeper: Checkpoint | None) -> Done:
        """Return the outcome of painting a photo, given ``stopped``, the reason why painting ended.

        If painting was interrupted and ``keeper`` has saved the state of the run, the outcome includes a message that
        tells how to resume. If painting was not interrupted, the state that this run has saved is deleted.
        """
        if keeper is None or not keeper.has_state:
            return Done(stopped)
        if stopped == "interrupted":
            return Done(stopped, interrupted=f"{Done.interrupted}; {keeper.onward}")
        keeper.path.unlink(missing_ok=True)
        return Done(stopped)

    def _save(
        self, result: Stylized, given: images.Picture | None, path: Path, recipe: Recipe, overwrite: bool
    ) -> Path:
        """Save the result as ``path`` and return the path. ``given`` is the photo; None for a texture."""
        options = self.options
        how: dict[str, Any] = {
            "quality": options.quality,
            "bits": images.choose_bits(path, options.bits, 8),
            "dpi": options.dpi,
        }
        if given is not None:
            size = (result.image.shape[2], result.image.shape[3])
            how = {
                **how,
                "alpha": None if given.alpha is None else images.resize(given.alpha, size),
                "exif": b"" if options.strip else given.exif,
                "bits": images.choose_bits(path, options.bits, given.bits),
            }
        return self.job.save(result.image, path, recipe, overwrite, **how)

    def _save_timelapse(
        self, timelapse: Timelapse, stylizer: Stylizer, path: Path, input_files: Collection[str]
    ) -> None:
        size = images.fitted_size(stylizer.photo, min(self.options.size, FRAME_SIDE))

        def show(image: Tensor) -> Image:
            return images.to_pillow(stylizer.finish(images.resize(image, size)))

        path = beside(path, f".{self.options.timelapse}", self.replaces, input_files)
        save_animation(timelapse, show, path)
        self.job.wrote(path)

    def _read_style(self, name: str) -> Tensor:
        """Return the painting in the file ``name`` or, if there is no such file, the drawn style with this name.

        Raises:
            FileNotFoundError: there is no file ``name``, and no drawn style has this name.
        """
        if Path(name).exists():
            picture = self.inputs.read(Path(name))
            if picture.frames > 1:
                self.job.tell(f"{name} has {picture.frames} frames, of which the first is the style")
            return picture.image
        if name in DRAWN_STYLES:
            return draw_style(name, min(self.options.size, LARGEST_DRAWN))
        raise FileNotFoundError(unknown("image file or drawn style", name, DRAWN_STYLES, "drawn styles are"))

    def _read_mask(self, path: Path | None) -> Tensor | None:
        return None if path is None else self.inputs.read(path).image

    def _read_init(self, what: str) -> str | Tensor:
        """Return ``what`` if it is ``content`` or ``noise``; otherwise, return the picture in the file ``what``."""
        if what in NAMED_STARTS:
            return what
        if not Path(what).exists():
            hint = did_you_mean(what, NAMED_STARTS).strip()
            problem = f"must be content, noise or an image file, and there is no file {what!r}"
            raise OptionError("init", problem + (f"; {hint}" if hint else ""))
        return self.inputs.read(Path(what)).image
