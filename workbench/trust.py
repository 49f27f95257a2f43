"""Decide which files the recipe in a file is allowed to read, write and run.

A recipe is the record of settings in a picture or in a checkpoint, the file from which a run can be resumed. A recipe
might come from a stranger. A recipe that the user does not trust is refused if it would run a Python file. It is also
refused if it would read or write a file outside the current folder and the folder of the file that holds the recipe.
"""

# This module does not import PyTorch, because the console imports this module before it knows if there is work to do.
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dreamgram.image_optimization.files import is_inside
from dreamgram.workbench.options import NetworkOptions, Options, model_files


class UntrustedError(ValueError):
    """The error raised if a recipe would run code, or read or write a file, that the user has not allowed.

    The message does not name the options that can allow the refused action. The attribute ``remedies`` holds their
    names. The command line adds the flags of these options to the message.
    """

    def __init__(self, message: str, remedies: tuple[str, ...] = ("trust",)) -> None:
        super().__init__(message)
        self.remedies = remedies
        """Names of the options that can allow the refused action, such as ``trust``."""


def check_trusted(options: Options, files: Iterable[str], source: Path) -> None:
    """Check that a recipe runs no Python file, and reads files only in the current folder and the folder of ``source``.

    Args:
        options: the options in the recipe.
        files: paths of all input files that the recipe lists.
        source: the file that holds the recipe.

    Raises:
        UntrustedError: the recipe would run a Python file, or would read a file outside the current folder and the
            folder of ``source``.
    """
    for name, _ in options.networks if isinstance(options, NetworkOptions) else []:
        if code := [path for path in model_files(name) if path.suffix == ".py"]:
            function = name.rpartition(":")[2]
            raise UntrustedError(
                f"{source} would run the function {function} in the Python file {code[0]}; trust it only after you "
                "have read that file"
            )
    for path in [*(path for _, path in options.files()), *map(Path, files)]:
        for each in [path, *_links(path)]:
            if not _is_near(each, source):
                raise UntrustedError(f"{source} would read {each}, {_far(source)}; trust {source} to allow it")


def check_trusted_output(output: Path, source: Path, different: str = "") -> None:
    """Check that ``output`` is in the current folder or in the folder of ``source``.

    Also check that no picture with a different recipe would be replaced.

    Args:
        output: the file that the recipe would write.
        source: the file that holds the recipe.
        different: difference between the recipe of the picture in ``output`` and the recipe in ``source``, such as
            "with size 256, not 512". It is "" if the recipes do not differ or if no picture would be replaced.

    Raises:
        UntrustedError: ``output`` is outside the current folder and the folder of ``source``, or ``different`` is not
            empty.
    """
    near = _is_near(output, source)
    if not near or different:
        which = f"which was made {different}" if near else _far(source)
        message = f"{source} would write {output}, {which}; name an output, or trust {source} to allow it"
        raise UntrustedError(message, ("output", "trust"))


def needs_trust(options: Options, files: Iterable[str], output: Path, source: Path) -> bool:
    """Return whether :func:`check_trusted` or :func:`check_trusted_output` raises an UntrustedError.

    Whether ``output`` contains a picture with a different recipe is not checked.
    """
    try:
        check_trusted(options, files, source)
        check_trusted_output(output, source)
    except UntrustedError:
        return True
    return False


def _is_near(path: Path, source: Path) -> bool:
    return is_inside(path, Path()) or is_inside(path, source.parent)


def _far(source: Path) -> str:
    beside = "" if is_inside(source, Path()) else f" and the folder of {source}"
    return f"which is outside the current folder{beside}"


def _links(folder: Path) -> list[Path]:
    """Return all symbolic links in ``folder`` and its subfolders, or an empty list if ``folder`` is not a folder."""
    return [each for each in folder.rglob("*") if each.is_symlink()] if folder.is_dir() else []
