"""The recipe of a picture is a record of everything that the picture was made with.

A recipe holds the name of the command, its options and the checksums of the input files. It is stored in the picture
file (a PNG, JPEG, WebP or TIFF) and in the checkpoint of a run, a file from which the run can be resumed. This module
converts recipes to text and back, and compares recipes. The commands ``stylize replay`` and ``dream replay`` make a
picture again from its recipe.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.files import check_distinct, check_regular
from dreamgram.image_optimization.limits import MOST_PIXELS
from dreamgram.image_optimization.names import LISTED, LONGEST, shorten
from dreamgram.image_optimization.optimize import Ending
from dreamgram.models import load
from dreamgram.models.provenance import is_shipped, sources, state_hash
from dreamgram.workbench.options import ImageShape, Options, ReplayOptions, declaration, file_name
from dreamgram.workbench.trust import check_trusted
from dreamgram.workbench.version import __version__

DIGITS = 16
"""Number of hexadecimal digits of a SHA-256 hash that are stored as the checksum of a file."""

BLOCK = 2**20
"""Number of bytes of a file that are read and hashed at a time. A file is not read all at once, because a video might
not fit into memory."""

Commands = Mapping[str, type[Options]]
"""A mapping from the full names of commands, such as ``dream units``, to the classes of their options."""

_OLD = {"command", "version", "files", "stopped", "overwrite", "checkpoint", "resume_from", "list_styles"}
"""Names of entries in the recipes of Dreamgram 0.1.0 that do not count as options.

These recipes hold options and other values in a single dictionary.
"""

_HASH = "[0-9a-f]{0,64}"

_PATTERNS = {
    "network": f"{_HASH}(?:,{_HASH}){{0,999}}",
    "version": ".{0,100}",
    "stopped": "finished|converged|interrupted",
}
"""Dictionary from the names of entries of a recipe to regular expressions. The whole value of each entry must match its
regular expression."""

MOST_FILES = 10_000
"""Largest allowed number of input files in a recipe."""

_OLD_MADE = ("output", "tiled", "found")
"""Names of the entries in the recipes of Dreamgram 0.1.0 that hold values determined during the run."""


class Inputs:
    """A record of the input files of a picture, with their checksums, and of the networks that are used."""

    def __init__(self, max_pixels: int = MOST_PIXELS, tell: Callable[[str], None] = lambda line: None) -> None:
        """Make a record without any files or networks.

        Args:
            max_pixels: largest allowed number of pixels in an input picture.
            tell: function that shows a message to the user. It is called if a picture file does not say which pixel
                values stand for black and white, so that these values are guessed.
        """
        self.max_pixels = max_pixels
        self.tell = tell
        self.checksums: dict[str, str] = {}
        """Dictionary from the path of each input file to its checksum; see :func:`checksum`."""
        self.networks: list[str] = []
        """Hash of the weights of each network; "" for a network that comes with the package."""
        self.shape: ImageShape | None = None
        """Shape (C, H, W) of the images that the network takes. It is None if several networks take images of different
        shapes, or if no option depends on the shape."""

    def copy(self) -> Inputs:
        """Return a copy to which input files can be added without changing the original record."""
        copied = Inputs(self.max_pixels, self.tell)
        copied.checksums, copied.networks, copied.shape = dict(self.checksums), list(self.networks), self.shape
        return copied

    @property
    def network(self) -> str:
        """Hashes of the weights of all networks, joined by commas; "" if all networks come with the package."""
        return ",".join(self.networks) if any(self.networks) else ""

    def read(self, path: Path, channels: int = 3) -> images.Picture:
        """Read the picture in a file and hash the file; see :func:`dreamgram.image_optimization.images.read`."""
        picture = images.read(path, channels, max_pixels=self.max_pixels)
        self.checksums[str(path)] = picture.checksum
        if picture.notice:
            self.tell(picture.notice)
        return picture

    def add(self, path: Path) -> None:
        """Record the checksum of a file or folder, such as a video, that is not read with :meth:`read`."""
        self.checksums[str(path)] = checksum(path)

    def check(self, *paths: Path) -> None:
        """Check that the files and folders ``paths`` have not changed since :meth:`add` recorded their checksums.

        Call this method after the files have been read.

        Raises:
            ValueError: a file changed, so that its checksum might not match the contents that were read.
        """
        for path in paths:
            if checksum(path) != self.checksums[str(path)]:
                raise ValueError(f"{path} changed while it was read; run the command again")

    def load_model(self, name: str, weights: Path | None) -> nn.Module:
        """Load a network, record its files and the hash of its weights, and return the network.

        The arguments are those of :func:`dreamgram.models.load`.

        Raises:
            ValueError: a file changed while the network was loaded. In that case, the checksum of the file might not
                match the contents that were loaded.
        """
        before = {path: checksum(path) for path in sources(name, weights) if path.exists()}
        model = load(name, weights)
        files = sources(name, weights)
        for path in files:
            self.add(path)
            if before.get(path, self.checksums[str(path)]) != self.checksums[str(path)]:
                raise ValueError(f"{path} changed while the network was loaded; run the command again")
        # A network that comes with the package is identified by the version of the package.
        self.networks.append("" if is_shipped(name) and not files else state_hash(model))
        return model


def checksum(path: Path) -> str:
    """Return the first :data:`DIGITS` hexadecimal digits of the SHA-256 hash of a file or folder.

    The hash of a folder covers the names and contents of all files in the folder and its subfolders.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: ``path`` is neither a regular file nor a folder but, for example, a pipe.
    """
    check_regular(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    found = hashlib.sha256()
    if path.is_dir():
        for each in sorted(each for each in path.rglob("*") if each.is_file()):
            line = f"{each.relative_to(path).as_posix()} {checksum(each)}\n"
            found.update(line.encode(errors="surrogateescape"))  # the names need not be UTF-8
        return found.hexdigest()[:DIGITS]
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Recipe:
    """A record of everything that a picture was made with, to be stored in the picture file."""

    command: str
    """The command's full name, such as ``stylize`` or ``dream units``."""
    options: Options
    """Options of the command, with each placeholder, such as None, replaced by the value that it stands for (see
    :meth:`Options.resolved`)."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Mapping from the path of each input file to its checksum at the time when the file was read."""
    network: str = ""
    """Hash of the network's weights; "" for a network that comes with the package. The hashes of several networks are
    joined by commas."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Values, by name, that were determined during the run and are needed to make the picture again, such as the sizes
    of tiles or the lists of units that were optimized in the same batch. In a checkpoint, the values also include the
    path of the picture to write."""
    stopped: Ending = "finished"
    """Reason why the run ended: ``finished``, ``converged`` or ``interrupted``."""
    version: str = __version__
    """Version of Dreamgram that made the picture."""
    unknown: tuple[str, ...] = ()
    """Names of options that were read from a file and that this version of Dreamgram does not know."""
    shape: ImageShape | None = field(default=None, compare=False)
    """Shape (C, H, W) of the images that the network takes. The shape is not stored in the picture file. It is used to
    compare this recipe with a recipe from an earlier version. Such an older recipe can contain placeholders, such as
    None."""

    @classmethod
    def of(cls, command: str, options: Options, inputs: Inputs, made: Mapping[str, Any] | None = None) -> Recipe:
        """Return the recipe of a picture that ``command`` makes from ``options`` and ``inputs``.

        The recipe names the installed version of Dreamgram as the version that made the picture. ``made`` holds values
        that are determined during the run and are needed to make the picture again.
        """
        resolved, shape = options.resolved(inputs.shape), inputs.shape
        return cls(command, resolved, dict(inputs.checksums), inputs.network, made or {}, shape=shape)

    @classmethod
    def parse(cls, text: str, commands: Commands, source: object) -> Recipe:
        """Return the recipe in ``text``, which was written by :meth:`note` or by version 0.1.0 of Dreamgram.

        Args:
            text: the recipe as JSON.
            commands: mapping from the names of the commands whose recipes are accepted to the classes of their options.
            source: the origin of the text, such as the path of a file, for error messages.

        Raises:
            ValueError: ``text`` is not a recipe, belongs to a command that is not accepted, or has options that are not
                valid.
        """
        try:
            entries = parse_json(text)
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, dict) or not isinstance(entries.get("command"), str):
            raise ValueError(f"{source} holds no recipe of Dreamgram that can be read")
        tools = sorted({command.split()[0] for command in commands})
        if entries["command"] not in commands:
            made_by = shorten(entries["command"])
            raise ValueError(f"{source} was made by {made_by}, not by a command of {' or '.join(tools)}")
        if "options" in entries:
            record, made = entries["options"], entries.get("made", {})
        else:
            record = {name: value for name, value in entries.items() if name not in (*_OLD, *_OLD_MADE)}
            record = commands[entries["command"]].of_first_version(record)
            made = {name: entries[name] for name in _OLD_MADE if entries.get(name) is not None}
        files = entries.get("files", {})
        if not all(isinstance(each, dict) for each in (record, made, files)):
            raise ValueError(f"{source} holds no recipe of Dreamgram that can be read")
        try:
            options, strange = commands[entries["command"]].from_record(record)
            options = options.resolved()
            _check_entries(entries, files, made)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the recipe in {source} cannot be followed: {error}") from None
        return cls(
            entries["command"],
            options,
            files,
            entries.get("network", ""),
            made,
            entries.get("stopped", "finished"),
            entries.get("version", ""),
            tuple(strange),
        )

    @classmethod
    def read(cls, path: Path, commands: Commands) -> Recipe:
        """Read the recipe in a picture file; see :meth:`parse` for ``commands``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a picture, or the file holds no valid recipe of one of ``commands``.
        """
        note = images.read_note(path)
        if note is None:
            raise ValueError(f"{path} holds no recipe of Dreamgram")
        return cls.parse(note, commands, path)

    def note(self) -> str:
        """Return the recipe as JSON, to be stored in a file."""
        entries: dict[str, Any] = {"command": self.command, "version": self.version, "options": self.options.record()}
        entries |= {"files": dict(self.files), "network": self.network}
        entries |= {"made": dict(self.made), "stopped": self.stopped}
        return json.dumps(entries)

    def stop(self, stopped: Ending) -> Recipe:
        """Return a copy that records why the run ended: ``finished``, ``converged`` or ``interrupted``."""
        return replace(self, stopped=stopped)

    def difference(self, other: Recipe) -> str:
        """Describe the first difference between this recipe and ``other``, or return "" if there is none.

        An example is "with size 256, not 512", where 256 is the value in ``other``. The comparison covers the command,
        the options that a picture depends on, the contents of the files that both recipes name, and the weights of the
        network. It also covers the contents of the main input file, such as the photo, even if the two recipes give
        different names for this file.
        """
        if other.command != self.command:
            return f"by {other.command}, not {self.command}"
        if different := self.options.difference(other.options.resolved(self.shape)):
            return f"with {different}"
        if other.unknown:
            return f"with {other.unknown[0][:LONGEST]}, which this version does not know"
        for theirs, ours in self._shared_files(other).items():
            if other.files.get(theirs, self.files[ours]) != self.files[ours]:
                return f"from a different {theirs}"
        if self.network and other.network and self.network != other.network:
            return "with different network weights"
        return ""

    def same_as(self, other: Recipe) -> bool:
        """Return whether this recipe and ``other`` make the same picture."""
        return not self.difference(other)

    def compare(self, path: Path) -> tuple[str, bool]:
        """Return how the recipe in the picture ``path`` differs from this recipe, and whether the picture is finished.

        The difference is described as by :meth:`difference`; the description is "" if both recipes make the same
        picture. A picture is not finished if its run was interrupted. If the file has no valid recipe of the same
        command, the description is "without a recipe of this command", and the picture counts as finished.
        """
        try:
            found = Recipe.read(path, {self.command: type(self.options)})
        except (ValueError, OSError):
            return "without a recipe of this command", True
        return self.difference(found), found.stopped != "interrupted"

    @property
    def output(self) -> Path | None:
        """Path of the picture to write if the recipe contains it, as a recipe in a checkpoint does; otherwise None."""
        output = self.made.get("output")
        return None if output is None else Path(output)

    def _shared_files(self, other: Recipe) -> dict[str, str]:
        """Return a dictionary from the names of files in ``other`` to those of the corresponding files in this recipe.

        Two files correspond if they have the same name, or if each is the main input file of its recipe, such as the
        photo. A file without a corresponding file is omitted.
        """
        pairs = {name: name for name in other.files if name in self.files}
        for each in fields(self.options):
            if declaration(each).positional:
                theirs, ours = str(getattr(other.options, each.name)), str(getattr(self.options, each.name))
                if theirs in other.files and ours in self.files:
                    pairs[theirs] = ours
        return pairs

    def check(self, source: str | Path, changed: str = "", *, trust: bool = False) -> list[str]:
        """Check that the picture can be made again, and return warnings to show to the user before it is made.

        Args:
            source: the file that holds the recipe; the warnings contain its name.
            changed: the version of Dreamgram that last changed the optimization, or "" if there is none. Earlier
                versions made different pictures from the same recipe.
            trust: True if the user trusts the recipe. The recipe is then allowed to run a Python file, and to name
                files outside the current folder and the folder of ``source``.

        Raises:
            UntrustedError: the recipe needs the user's trust, and ``trust`` is False.
            ValueError: the run that made the picture was interrupted, or an input file is missing or has changed.
        """
        if self.stopped == "interrupted":
            raise ValueError(f"{source} was interrupted, so it cannot be made again")
        if not trust:
            check_trusted(self.options, self.files, Path(source))
        self.check_files()
        told = [f"{source} was made with {name}, which this version does not know" for name in _listed(self.unknown)]
        if _version_numbers(self.version) > _version_numbers(__version__):
            told.append(f"{source} was made by Dreamgram {self.version}, which is newer than this one, {__version__}")
        if self.is_older_than(changed):
            told.append(
                f"{source} was made by Dreamgram {self.version}; version {changed} changed the optimization, so the "
                "picture will differ"
            )
        return told

    def is_older_than(self, version: str) -> bool:
        """Return whether a version of Dreamgram before ``version`` made the picture.

        The result is False if the recipe does not say which version made the picture.
        """
        return [] < _version_numbers(self.version) < _version_numbers(version)

    def check_network(self, inputs: Inputs) -> None:
        """Check that the network that ``inputs`` loaded has the weights that the picture was made with.

        Raises:
            ValueError: the network has different weights.
        """
        if self.network and self.network != inputs.network:
            raise ValueError("the network has different weights now from when the picture was made")

    def check_files(self) -> None:
        """Check that the input files have not changed since the picture was made.

        Raises:
            ValueError: an input file is missing or has changed.
        """
        for name, recorded in self.files.items():
            if not Path(name).exists():
                raise ValueError(f"{name}, used to make this picture, is missing")
            if checksum(Path(name)) != recorded:
                raise ValueError(f"{name}, used to make this picture, has changed since")


Result = TypeVar("Result")


def replay(
    options: ReplayOptions,
    tell: Callable[[str], None],
    commands: Commands,
    work: Callable[[Any, Recipe], Result],
    changed: str = "",
) -> Result:
    """Make a picture again from the recipe that is stored in its file, and return the result of ``work``.

    Args:
        options: the options of the command ``replay``.
        tell: function that shows a message to the user.
        commands: mapping from the names of the commands that could have made the picture to the classes of their
            options.
        work: function that makes the picture again. Its arguments are the options for making the picture and the
            recipe of the original picture.
        changed: the version of Dreamgram that last changed the optimization; see :meth:`Recipe.check`.

    Raises:
        UntrustedError: the recipe needs the user's trust, and ``options.trust`` is False.
        ValueError: the file contains no recipe of one of ``commands``, the picture cannot be made again (see
            :meth:`Recipe.check`), or the output is the file of the original picture.
    """
    recipe = Recipe.read(options.picture, commands)
    if options.output is not None:
        check_distinct("output", options.output, [("picture to make again", options.picture)])
    for line in recipe.check(options.picture, changed, trust=options.trust):
        tell(line)
    same = {name: getattr(options, name) for name in ("output", "overwrite", "max_pixels")}
    return work(recipe.options.only_picture().change(**same), recipe)


def is_made(path: Path, recipe: Recipe, overwrite: bool) -> bool:
    """Return whether the picture file ``path`` exists, was made with ``recipe`` and is finished.

    If the result is False, the caller is allowed to create or replace the file.

    Raises:
        OutputExistsError: ``path`` exists but was not made with ``recipe``, and ``overwrite`` is False.
    """
    if not path.exists():
        return False
    different, finished = recipe.compare(path)
    if not different:
        return finished
    if not overwrite:
        raise OutputExistsError(f"{path} was made {different}; choose another output or overwrite it")
    return False


def parse_json(text: str) -> Any:
    """Parse JSON from a file that might come from a stranger.

    Raises:
        ValueError: ``text`` is not JSON, or an object in it has the same key twice.
        RecursionError: lists or objects are nested too deeply.
    """

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    return json.loads(text, object_pairs_hook=to_dict)


def _check_entries(entries: Mapping[str, Any], files: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Check the entries of a recipe that are not options and have the same meaning for all commands.

    ``entries`` holds all entries; ``files`` and ``made`` are the values of the entries with these names.

    Raises:
        ValueError: an entry has the wrong type or an impossible value.
    """
    for name, pattern in _PATTERNS.items():
        value = entries.get(name, "finished" if name == "stopped" else "")
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise ValueError(f"its {name} must not be {shorten(value)}")
    if len(files) > MOST_FILES:
        raise ValueError(f"it names more than {MOST_FILES} files")
    for name, value in files.items():
        file_name("files", name)
        if not (isinstance(value, str) and re.fullmatch(_HASH, value)):
            raise ValueError(f"the hash of {shorten(name)} must not be {shorten(value)}")
    if made.get("output") is not None:
        if not isinstance(made["output"], str):
            raise ValueError(f"its output must be a file name, not {shorten(made['output'])}")
        file_name("output", made["output"])


def _listed(names: Sequence[str]) -> list[str]:
    """Return a list of the first :data:`LISTED` of ``names``, each shortened to at most :data:`LONGEST` characters.

    If there are more names, the last item of the list says how many, such as "3 more options".
    """
    listed = [name[:LONGEST] for name in names[:LISTED]]
    return [*listed, f"{len(names) - LISTED} more options"] if len(names) > LISTED else listed


def _version_numbers(version: str) -> list[int]:
    """Return the numbers in ``version``, such as [0, 2, 0] for both 0.2.0 and its pre-release 0.2.0rc1."""
    return [int(found[0]) for part in version.split(".") if (found := re.match(r"[0-9]+", part))]
