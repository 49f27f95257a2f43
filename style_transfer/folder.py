"""Functions that paint each photo in a folder into a separate file.

If a photo cannot be painted, the remaining photos are still painted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamgram.image_optimization.files import same_file
from dreamgram.image_optimization.image_opening import READABLE
from dreamgram.image_optimization.memory import is_out_of_memory
from dreamgram.image_optimization.optimize import in_turn
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.options import OptionError
from dreamgram.workbench.state import claimed

SHOWN = 5
"""Maximum number of skipped files whose names are listed in the message about them."""

ONWARD = "interrupted: run the same command again to resume"


def paint_each(photo_folder: Path, output: Path, paint: Callable[[Path, Path], Done | None], job: Job) -> Done:
    """Call ``paint`` for each photo in ``photo_folder``, to save each painted picture as a PNG in ``output``.

    Args:
        photo_folder: the folder of photos.
        output: the folder of results, which must be a different folder.
        paint: a function that paints one picture, given the path of the photo and the path of the PNG to write. The
            function returns the outcome as a :class:`Done`, or None if the picture had already been painted in an
            earlier run. The function is not called for a picture that another program is painting at the same time.
        job: the object through which messages are shown to the user, for example about a photo that could not be
            painted. The remaining photos are still painted.

    Returns:
        The outcome of the whole run. Its summary says how many pictures were painted, how many already existed, how
        many were left to another program that is painting them, and how many failed.

    Raises:
        ValueError: ``photo_folder`` contains no pictures, or ``output`` is the same folder.
    """
    photo_paths = list_pictures(photo_folder, output, job)
    counts: Counter[str] = Counter()
    job.interrupted = ONWARD

    def paint_one(pair: tuple[Path, Path]) -> Done:
        try:
            with claimed(pair[1]) as mine:
                if not mine:
                    counts["left to another run"] += 1
                    return Done()
                done = paint(*pair)
        except OptionError:
            raise  # it would recur for every photo
        except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            problem, name = (" ".join(str(each).split()) for each in (error, pair[0]))  # a name may contain line breaks
            job.fail(f"failed: {problem}" if name in problem else f"failed: {name}: {problem}", error)
            counts["failed"] += 1
            return Done(failed=1)
        if done is None or done.stopped != "interrupted":
            counts["already existed" if done is None else "painted"] += 1
        return done or Done()

    _, stopped = in_turn(zip(photo_paths, name_outputs(photo_paths, output), strict=True), paint_one)
    summary = f"{output}: " + ", ".join(f"{number} {what}" for what, number in counts.items())
    return Done(stopped, counts["failed"], summary if counts else "", ONWARD)


def list_pictures(photo_folder: Path, output: Path, job: Job) -> list[Path]:
    """List the pictures in ``photo_folder``, sorted by name, and tell the user which other files are skipped.

    A file counts as a picture if its name has one of the extensions :data:`READABLE`, even if the file cannot be read.
    The names of the first :data:`SHOWN` skipped files are shown to the user through ``job``. Hidden files, whose names
    begin with a dot, are ignored.

    Raises:
        ValueError: ``photo_folder`` contains no pictures, or ``output`` is the same folder.
    """
    if same_file(output, photo_folder):
        raise ValueError(f"the output is the folder of the photos, {photo_folder}: choose a different folder")
    there = sorted(path for path in photo_folder.iterdir() if not path.name.startswith("."))
    photo_paths = [path for path in there if path.suffix.lower() in READABLE and not path.is_dir()]
    if not photo_paths:
        raise ValueError(f"{photo_folder} contains no pictures ({', '.join(READABLE)})")
    if others := [path.name for path in there if path not in photo_paths]:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        job.tell(f"skipped, because they are not pictures: {', '.join(others[:SHOWN])}{more}")
    return photo_paths


def name_outputs(files: Sequence[Path], output: Path) -> list[Path]:
    """Return the path of a PNG in the folder ``output`` for each of ``files``, which are all in one folder.

    A PNG is named after its file, without the extension: ``a.png`` for ``a.jpg``. If several names differ only in their
    extensions, the extension is kept: ``a.jpg.png``. If that name is also taken, a number is appended:
    ``a.jpg-2.png``. Names that differ only in upper and lower case count as the same name, because some file systems do
    not distinguish between them.
    """
    stems = Counter(file.stem.casefold() for file in files)
    names: list[str] = []
    for file in files:
        name = file.stem if stems[file.stem.casefold()] == 1 else file.name
        taken = {each.casefold() for each in names}
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], numbered) if each.casefold() not in taken))
    return [output / f"{name}.png" for name in names]
