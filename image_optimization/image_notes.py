"""Encode and read notes. A note is text that is stored in the metadata of a picture file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from dreamgram.image_optimization.image_reading import check_file, open_image

PNG_KEY = "dreamgram"
"""Keyword of the iTXt chunk in which a PNG holds the note, the text that this package stores in a picture file."""

NAMESPACE = "urn:dreamgram:"
"""XML namespace of the XMP element that holds the note, the text that this package stores in a picture file."""

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dreamgram="{namespace}"><dreamgram:note>{note}</dreamgram:note></rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_note(note: str) -> None:
    """Raise ValueError if ``note`` has characters that XML cannot hold, such as most control characters."""
    found = _NOT_IN_XML.search(note)
    if found:
        raise ValueError(f"a note cannot hold the character {found[0]!r}; encode it, for example as JSON")


def encode_xmp(note: str) -> bytes:
    """Return an XMP packet that holds ``note``."""
    text = escape(note, {"\r": "&#13;"})  # XML reads a plain carriage return as a line feed
    return _PACKET.format(namespace=NAMESPACE, note=text).encode()


def decode_xmp(packet: bytes) -> str | None:
    """Return the note that :func:`encode_xmp` put into ``packet``.

    The result is None if ``packet`` has no note or is not valid XML.
    """
    try:  # expat itself rejects entities that expand without limit
        found = ElementTree.fromstring(packet.rstrip(b"\0")).find(f".//{{{NAMESPACE}}}note")
    except ElementTree.ParseError:
        return None
    return None if found is None else found.text or ""


def read_note(path: str | os.PathLike[str]) -> str | None:
    """Return the note, the text that :func:`~dreamgram.image_optimization.images.save` stored in a picture file.

    The result is None if the file has no note or its note cannot be decoded.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` does not exist, is a folder, or may not be read.
        ValueError: the file is not an image, is damaged, or has more than twice Pillow's ``MAX_IMAGE_PIXELS``.
    """
    path = Path(path)
    check_file(path)
    with path.open("rb") as file, open_image(file, path) as picture:
        text = picture.info.get(PNG_KEY)
        packet = picture.info.get("xmp")
    if isinstance(text, str):
        return str(text)
    return decode_xmp(packet) if isinstance(packet, bytes) else None
