"""Painting of videos and animations, frame by frame.

The optimization of a frame starts from the previous painted frame, warped to line up with the new frame. To avoid
flicker, a loss keeps the result close to this warped frame. The first frame of a scene is painted like a single photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.animations import ANIMATION_FORMATS, Animation
from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.files import check_distinct, is_inside
from dreamgram.image_optimization.limits import enough_pixels, most_bytes
from dreamgram.image_optimization.optimize import Listener, Step
from dreamgram.image_optimization.timelapse import check_frame
from dreamgram.image_optimization.video import VIDEO_FORMATS, load_av
from dreamgram.image_optimization.video_conversion import Video, convert_video, count_frames, first_frame
from dreamgram.style_transfer.colors import finish, luminance, prepare
from dreamgram.style_transfer.flow import follow
from dreamgram.style_transfer.folder import ONWARD
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.painter import Painter
from dreamgram.style_transfer.stylizer import Stylized, Stylizer
from dreamgram.workbench.job import Done, Job, free
from dreamgram.workbench.recipe import is_made
from dreamgram.workbench.state import claimed

KNOWN = 0.25
"""Minimum fraction of a frame's pixels that must have reliable optical flow from the previous frame. If the fraction
is smaller, the frame begins a new scene and is painted like a single photo."""

LATER = 0.3
"""Number of steps for a frame that starts from the previous painted frame, as a fraction of the option ``steps``."""

Before = tuple[Tensor, Tensor]
"""The previous painted frame and the video frame from which it was painted, each (1, 3, H, W) in [0, 1]."""


class Stopped(Exception):
    """Exception that ends the painting of a video because the painting of one of its frames was interrupted."""


def paint_frame(
    stylizer: Stylizer, frame: Tensor, before: Before | None = None, listeners: Sequence[Listener] = ()
) -> Stylized:
    """Paint a frame of a video.

    Args:
        stylizer: a stylizer with the options for all frames and the paintings whose style the frames take. A copy of
            this stylizer, with ``frame`` as its photo, paints the frame.
        frame: the frame to paint, (1, 3, H, W) in [0, 1].
        before: the previous painted frame and the video frame from which it was painted; None for the first frame. If
            ``frame`` belongs to the same scene as the previous frame, it is painted in fewer steps and stays close to
            the previous painted frame.
        listeners: functions that are called after every step with the :class:`Step`, a record of that step.
    """
    if before is not None:
        previous = follow(*before, images.fit(frame, max(before[0].shape[2:])))
        if previous.reliable.mean() >= KNOWN:
            steps = max(round(LATER * stylizer.options.steps), 1)
            return stylizer.change(photo=frame, previous=previous, steps=steps).run(listeners=listeners)
    return stylizer.change(photo=frame, previous=None).run(listeners=listeners)


def paint_video(options: StylizeOptions, job: Job, animation: Animation | None = None) -> Done:
    """Paint a video or an animation, and save the result with the same timing and sound.

    Each painted frame is kept as a PNG in a folder, named like the output with ``.frames`` appended, until the video is
    complete. If the run is stopped, running the same command again resumes it from these frames. ``animation`` is the
    animation in the file ``options.photo``, or None if the file is a video.

    Raises:
        ValueError: another program is painting the same output at the same time, the format of the output cannot hold
            the painted frames, or an option or the video is invalid.
        OSError: a file is missing, or it cannot be read or written.
    """
    photo_path = options.photo
    assert photo_path is not None
    video = animation or photo_path
    count = count_frames(video, max_pixels=options.max_pixels)
    ending = f".{animation.form.lower()}" if animation else ".mp4"
    output = options.output or free(Path("outputs", f"stylized{ending}"))
    formats = [*VIDEO_FORMATS, *ANIMATION_FORMATS]
    if animation and output.suffix.lower() in set(images.FORMATS).difference(formats):
        several = f"{photo_path} has {count} frames, and {output.name} can hold only one"
        raise ValueError(f"{several}: the file name must end in {', '.join(formats)}")
    images.check_output(output, options.overwrite, formats)
    folder = output.with_name(f"{output.name}.frames")
    check_distinct("output", output, options.files())
    if within := [path for _, path in options.files() if is_inside(path, folder)]:
        raise ValueError(f"{within[0]} is in {folder}, where the painted frames are kept: choose another output")
    if animation and animation.transparent:
        job.tell(f"the transparent parts of {options.photo} become white")
    with claimed(output) as mine:
        if not mine:
            raise ValueError(f"{output} is being painted by another run")
        return _paint_video(options, job, video, output, folder, count)


def _check_frames(output: Path, first: Tensor, count: int, options: StylizeOptions) -> None:
    """Check that ``output`` can be written and can hold ``count`` painted frames of the size of ``first``.

    Raises:
        ImportError: the format needs PyAV, which is not installed.
        ValueError: the frames are too large or too many.
    """
    ending = output.suffix.lower()
    if ending not in ANIMATION_FORMATS:
        load_av()
        return
    height, width = images.fitted_size(first, options.size)
    check_frame(ending.removeprefix("."), (height, width))
    needed, limit = 3 * count * height * width, most_bytes(options.max_pixels)  # all frames are kept in memory
    if needed > limit:
        frames = f"{count} frames of {width}x{height} pixels take {needed / 1e9:.3g} GB"
        problem = f"{output}: {frames}, and the limit is {limit / 1e9:.3g} GB; an MP4 has no limit"
        raise TooLargeError(problem, enough_pixels(0, needed))


def _paint_video(options: StylizeOptions, job: Job, video: Video, output: Path, folder: Path, count: int) -> Done:
    """Paint ``video``, which has ``count`` frames, and save it as ``output``. Keep the painted frames in ``folder``."""
    painter = Painter(options, job, several=True)
    photo_path = options.photo
    assert photo_path is not None
    painter.inputs.add(photo_path)
    first = first_frame(video, max_pixels=options.max_pixels)
    _check_frames(output, first, count, options)
    stylizer = _stylizer(painter, first)
    before: Before | None = None
    written = 0
    job.interrupted = ONWARD

    def convert(number: int, frame: Tensor) -> Tensor:
        nonlocal before, written
        path = folder / f"{number:06}.png"
        recipe = painter.recipe(photo_path, painter.inputs)
        if not is_made(path, recipe, options.overwrite):
            gray = luminance(frame) if options.colors == "luminance" else frame
            result = paint_frame(stylizer, gray, before, [partial(_tell_share, bar, number, count)])
            if result.stopped == "interrupted":
                raise Stopped
            images.save(result.image, path, replace(recipe, made={"frame": number}).note(), overwrite=True)
        painted = images.load(path)  # a resumed run also reads the frame from the file
        if painted.shape[2:] != images.fitted_size(frame, painter.options.size):
            raise ValueError(f"{path} differs in size from the frames of {photo_path}; delete it to paint it again")
        before = painted, images.fit(frame, max(painted.shape[2:]))
        written = number + 1
        return finish(options.colors, options.strength, *before)

    try:
        with job.part(photo_path.name, painter.setting) as bar:
            convert_video(video, output, convert, job.tell, max_pixels=options.max_pixels)
    except Stopped:
        return Done("interrupted", interrupted=ONWARD)
    painter.inputs.check(photo_path)
    for number in range(written):
        (folder / f"{number:06}.png").unlink(missing_ok=True)
    with suppress(OSError):  # a folder that still contains files of the user is not deleted
        folder.rmdir()
    job.wrote(output)
    return Done()


def _stylizer(painter: Painter, first: Tensor) -> Stylizer:
    """Return a stylizer for all frames of a video. ``first`` is the first frame.

    If the option ``colors`` is ``match`` or ``luminance``, the paintings are recolored once, to match the first
    frame. The stylizer paints all frames in the colors of these paintings. If the output is to have the
    colors of the video, or a smaller strength of the style, these are applied to a painted frame only when the frame is
    written to the output. The next frame starts from the painted frame without them.
    """
    paintings = [painting for painting in painter.paintings if painting is not None]
    _, paintings = prepare(painter.options.colors, first, paintings)
    return painter.prepare(first).change(paintings=paintings, colors="style", strength=1.0)


def _tell_share(listener: Listener, number: int, count: int, step: Step) -> None:
    """Pass ``step`` to ``listener``, with the step's progress converted to a fraction of the work for the whole video.

    ``number`` is the zero-based index of the frame to which the step belongs, and ``count`` is the number of frames.
    """
    listener(replace(step, done=min((number + step.done) / count, 1)))
