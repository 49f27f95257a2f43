"""Errors to whose messages a user interface, such as the command line, may add advice.

Importing this module does not import PyTorch.
"""

from __future__ import annotations


class OutputExistsError(FileExistsError):
    """The error raised if a file to write exists and the caller has not allowed overwriting it.

    The message does not say how to allow overwriting. In Python, the argument ``overwrite`` allows it. The command line
    adds the name of its own flag to the message.
    """


class TooLargeError(ValueError):
    """The error raised if a picture or video is too large to be decoded.

    The message does not say how to allow larger pictures. In Python, the argument ``max_pixels`` allows them. The
    command line adds the name of its own flag to the message.
    """


class NotWrittenError(OSError):
    """The error raised if a finished picture could not be written to its file.

    The message names the file in which the picture was saved instead.
    """
