"""Errors that a front end reports in its own words. A front end can import this module without importing PyTorch."""

from __future__ import annotations


class OutputExistsError(FileExistsError):
    """The error raised if a file exists that the caller has not allowed to overwrite.

    The message does not say how to allow it. In Python, this is the argument ``overwrite``. The command line adds the
    name of its flag to the message.
    """


class TooLargeError(ValueError):
    """The error raised if a picture or video is too large to be decoded.

    The message does not say how to allow it. In Python, this is the argument ``max_pixels``. The command line adds the
    name of its flag to the message.
    """


class NotWrittenError(OSError):
    """The error raised if a finished picture could not be written to its file.

    The message names the file in which the picture was saved instead.
    """
