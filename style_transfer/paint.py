"""Implementation of the command ``stylize``, which reads photos or a video from files and writes the painted results.

The commands ``stylize replay`` and ``stylize resume`` are implemented here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from dreamgram.image_optimization import images
from dreamgram.image_optimization.animations import Animation, find_animation
from dreamgram.image_optimization.files import check_distinct
from dreamgram.image_optimization.image_opening import READABLE
from dreamgram.image_optimization.optimize import State
from dreamgram.image_optimization.video import VIDEO_ENDINGS, VIDEO_FORMATS
from dreamgram.style_transfer.budget import Budget, read_budgets
from dreamgram.style_transfer.checkpoint import prepare_checkpoint, read_checkpoint
from dreamgram.style_transfer.fade import FADED
from dreamgram.style_transfer.folder import paint_each
from dreamgram.style_transfer.options import ResumeOptions, StylizeOptions
from dreamgram.style_transfer.painter import CHANGED, PLOT_ENDING, Painter
from dreamgram.style_transfer.sheet import paint_sheet
from dreamgram.style_transfer.unfinished import ENDING, find_run, how_to_resume, is_kept_by_program, keeping_run
from dreamgram.workbench.job import Done, Job, output_path
from dreamgram.workbench.options import OptionError, ReplayOptions, check_applies
from dreamgram.workbench.recipe import Recipe, is_made, parse_json
from dreamgram.workbench.recipe import replay as replay_recipe
from dreamgram.workbench.state import claimed
from dreamgram.workbench.trust import check_trusted_output


def paint(
    options: StylizeOptions,
    job: Job,
    original: Recipe | None = None,
    state: State | None = None,
    state_path: Path | None = None,
) -> Done:
    """Paint what ``options.photo`` names: a photo, a folder of photos, a video, or an animated GIF or WebP.

    If a picture is made again, only the first frame of an animation is painted, as in a folder of photos.

    Args:
        options: the input, the paintings and all settings.
        job: the job, which shows progress and messages to the user.
        original: the recipe (the record of settings) of an earlier run to repeat or resume; None for a new run.
        state: the optimizer's state, read from a checkpoint, from which to resume the painting of a photo. The caller
            must have claimed the checkpoint with :func:`claimed`, so that no other program writes it.
        state_path: the file in the program's own folder from which ``state`` was read; None if the user named the file,
            or if there is no state.

    Raises:
        ValueError: an option or an input is not valid, or the network's weights are not those recorded in ``original``.
        OSError: a file is missing, or it cannot be read or written.
    """
    options = options.drafted()
    photo_path = options.photo
    is_video = photo_path is not None and photo_path.suffix.lower() in VIDEO_ENDINGS
    is_folder = photo_path is not None and photo_path.is_dir()
    if original is not None and (is_folder or is_video or "frame" in original.made):
        kind = "a folder" if is_folder else "a video" if is_video else "an animation"
        raise ValueError(f"only a picture of one photo can be made again, and {photo_path} is {kind}")
    if is_folder:
        assert photo_path is not None
        check_applies_to(options, "folder")
        output = _output_folder(options.output)
        painter = Painter(options, job, several=True)
        return paint_each(photo_path, output, painter.paint_of_folder, job)
    animation = None
    if photo_path is not None and not is_video and original is None:
        animation = find_animation(photo_path, max_pixels=options.max_pixels)
    if is_video or animation:
        from dreamgram.style_transfer.video import paint_video  # OpenCV and PyAV, which only videos need

        check_applies_to(options, "video", animation)
        return paint_video(options, job, animation)
    if options.vary:
        if original is not None:
            raise ValueError("only a picture of one photo can be made again: replay the pictures of the sheet instead")
        return paint_sheet(options, job)
    output = output_path(options.output, "stylized.png", options.overwrite or state is not None)
    _check_distinct(options, output)
    plan = None if original is None else plan_of(original)
    keeps_state = state_path is None and options.checkpoint is None and options.state_limit > 0
    # If a run is resumed, the caller has already claimed its file.
    with nullcontext() if options.checkpoint is None or state is not None else _new_checkpoint(options):
        painter = Painter(options, job, original=original)
        makes = partial(painter.makes, photo_path)
        with keeping_run(output, makes) if keeps_state else nullcontext(state_path) as state_path:
            return painter.paint_photo(photo_path, output, plan, state, state_path=state_path)


@contextmanager
def _new_checkpoint(options: StylizeOptions) -> Iterator[None]:
    """Claim the checkpoint file of a new run, so that no other program writes it, and check that it can be written.

    Raises:
        ValueError: another run is using the file, or the file exists and is not a checkpoint.
        OSError: the file exists and the options do not allow overwriting it, or it cannot be written.
    """
    path = options.checkpoint
    assert path is not None
    with claimed(path) as mine:
        if not mine:
            raise ValueError(f"the checkpoint {path} is used by another run")
        prepare_checkpoint(path, options.overwrite)
        yield


def replay(options: ReplayOptions, job: Job) -> Done:
    """Make a picture again from its recipe, the settings stored in its file.

    On the same machine, the new picture is identical to the original, unless the original was made by a version of
    Dreamgram before :data:`CHANGED`. In that case, a message says that the picture will differ.
    """

    def make(repeated: StylizeOptions, original: Recipe) -> Done:
        if original.made.get(FADED):
            job.tell(f"{options.picture} was faded after it was painted, so the new picture can differ slightly")
        return paint(repeated, job, original)

    return replay_recipe(options, job.tell, {"stylize": StylizeOptions}, make, CHANGED)


def resume(options: ResumeOptions, job: Job) -> Done:
    """Resume a run that was stopped or killed, from its saved state.

    On the same machine, the picture is identical to that of an uninterrupted run.
    """
    path = find_run(options.checkpoint)
    with claimed(path) as mine:
        if not mine:
            raise ValueError(f"{path.name.removesuffix(ENDING)} is still running")
        return _resume(path, options, job)


def _resume(path: Path, options: ResumeOptions, job: Job) -> Done:
    """Resume the run whose state is in the file ``path``."""
    state, recipe = read_checkpoint(path)
    job.interrupted = f"interrupted: {how_to_resume(path, recipe)}"
    is_kept = is_kept_by_program(path)
    trust = options.trust or is_kept  # only this program writes to its own folder
    told = recipe.check(path, CHANGED, trust=trust)
    output = options.output or recipe.output
    allowed = is_kept and output == recipe.output and recipe.made.get("overwrite") is True  # for this output only
    overwrite = options.overwrite or allowed
    if output is not None:
        if output != options.output and not trust:
            different = recipe.compare(output)[0] if overwrite and output.exists() else ""
            check_trusted_output(output, path, different)
        if is_made(output, recipe, overwrite):
            path.unlink()  # the run was stopped after its picture had been saved
            return Done(summary=f"{output} is finished")
    for line in told:
        job.tell(line)
    changes: dict[str, Any] = {"output": output, "checkpoint": None if is_kept else path, "overwrite": overwrite}
    if is_kept and _is_size(recipe.made.get("state_limit")):
        changes["state_limit"] = recipe.made["state_limit"]
    resumed = recipe.options.change(**changes, max_pixels=options.max_pixels)
    assert isinstance(resumed, StylizeOptions)
    if resumed.timelapse:
        job.tell("the animation will show only the remaining steps")
    try:
        return paint(resumed, job, recipe, state, path if is_kept else None)
    except ValueError as error:
        if not (recipe.is_older_than(CHANGED) and str(error).startswith("cannot resume")):
            raise
        reason = f"version {CHANGED} changed the optimization, so that its state does not fit"
        raise ValueError(f"cannot resume: {path} was made by Dreamgram {recipe.version}; {reason}") from error


def _is_size(value: object) -> bool:
    """Return whether ``value``, which was read from a file, is a valid number of bytes, an integer of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def plan_of(recipe: Recipe) -> list[Budget] | None:
    """Return the memory budgets that are stored in a recipe, or None if there are no budgets.

    The result has one budget for each scale (a size at which the image is optimized). A recipe, which holds the
    settings of a picture, contains budgets only if the picture did not fit into memory as a whole. The budgets
    determine the tiles into which the picture was divided. If the picture is made again or its run is resumed, the same
    budgets are used, because different tiles would lead to different rounding errors.

    Raises:
        ValueError: the budgets in the recipe are damaged.
    """
    try:
        if "plan" in recipe.made:
            return read_budgets(recipe.made["plan"])
        if "tiled" in recipe.made:  # version 0.1.0: height, width, pairs, side
            return read_budgets([each[2:] for each in parse_json(recipe.made["tiled"])])
    except (TypeError, ValueError, RecursionError):
        raise ValueError("the recipe does not say how the picture was tiled") from None
    return None


def _check_distinct(options: StylizeOptions, output: Path) -> None:
    """Check that the run would not overwrite one of its own files by mistake.

    The picture ``output`` must not be an input file. The checkpoint must be neither an input file nor another file that
    the run writes.

    Raises:
        ValueError: two files that must be different are the same.
    """
    check_distinct("output", output, options.files())
    if options.checkpoint is not None:
        written = [("animation", output.with_suffix(f".{options.timelapse}"))] if options.timelapse else []
        written += [("plot", output.with_name(f"{output.stem}{PLOT_ENDING}"))] if options.plot else []
        check_distinct("checkpoint", options.checkpoint, [("output", output), *written, *options.files()])


def check_applies_to(options: StylizeOptions, kind: str, animation: Animation | None = None) -> None:
    """Check that every option that differs from its default can be used with the ``kind`` of input.

    ``kind`` is ``folder`` or ``video``. ``animation`` is the input if it is an animation, which counts as a video.

    Raises:
        OptionError: an option cannot be used with this kind of input.
    """
    try:
        check_applies(options, kind)
    except OptionError as error:
        problem = error.problem + (f", and {animation.path} has {animation.count} frames" if animation else "")
        if error.name == "checkpoint":
            problem += ": to resume, run the same command again, which skips what is already painted"
        raise OptionError(error.name, problem) from None


def _output_folder(output: Path | None) -> Path:
    folder = output or Path("outputs", "stylized")
    if folder.suffix.lower() in (*READABLE, *VIDEO_FORMATS) or folder.is_file():
        raise ValueError(f"the photos are a folder, so the output must be one too, not {folder}")
    images.check_folder(folder)
    return folder
