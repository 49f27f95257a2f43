"""Encode and read notes. A note is text that is stored in the metadata of a picture file."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from dreamgram.image_optimization.image_opening import open_file, open_image, reading
from dreamgram.image_optimization.image_tiff import Tag, is_tiff, read_tags
from dreamgram.image_optimization.limits import MOST_PIXELS

PNG_KEY = "dreamgram"
"""Keyword of the iTXt chunk that holds the note in a PNG. The note is a text that this package stores in the file."""

NAMESPACE = "urn:dreamgram:"
"""XML namespace of the XMP element that holds the note, a text that this package stores in a picture file."""

_BEGIN, _END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n', '\n<?xpacket end="r"?>'

_META = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" {properties}</rdf:Description>
</rdf:RDF>
</x:xmpmeta>"""

_NOTE = 'xmlns:dreamgram="{namespace}"><dreamgram:note>{note}</dreamgram:note>'

_EXTENDED = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{digest}">'
"""Property of the XMP packet in a JPEG. It says that other segments hold extended XMP with the MD5 hash ``digest``."""

SEGMENT = 65_533
"""Largest number of bytes of content in one segment of a JPEG."""

XMP_HEADER, EXTENSION_HEADER = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
"""First bytes of a JPEG segment that holds the XMP packet, and of one that holds a piece of the extended XMP."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_note(note: str) -> None:
    """Raise ValueError if ``note`` has characters that XML cannot hold, such as most control characters."""
    found = _NOT_IN_XML.search(note)
    if found:
        raise ValueError(f"a note cannot hold the character {found[0]!r}; encode it, for example as JSON")


def encode_xmp(note: str) -> bytes:
    """Return an XMP packet that holds ``note``."""
    return f"{_BEGIN}{_META.format(properties=_property(note))}{_END}".encode()


def encode_jpeg_xmp(note: str) -> bytes:
    """Return the bytes of one or more JPEG segments that hold ``note`` as XMP.

    A segment is limited to 64 kB. If the XMP packet with the note does not fit into one segment, the note is stored as
    "extended XMP" (XMP specification, part 3): the note is divided among several segments, and the XMP packet only
    refers to these segments.
    """
    packet = encode_xmp(note)
    if len(XMP_HEADER) + len(packet) <= SEGMENT:
        return _segment(XMP_HEADER, packet)
    whole = _META.format(properties=_property(note)).encode()
    digest = hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()
    reference = _META.format(properties=_EXTENDED.format(digest=digest))
    segments = [_segment(XMP_HEADER, f"{_BEGIN}{reference}{_END}".encode())]
    head = EXTENSION_HEADER + digest.encode()
    room = SEGMENT - len(head) - 8  # the length of all pieces together and the offset of this piece take 8 bytes
    for start in range(0, len(whole), room):
        place = struct.pack(">II", len(whole), start)
        segments.append(_segment(head, place, whole[start : start + room]))
    return b"".join(segments)


def _property(note: str) -> str:
    text = escape(note, {"\r": "&#13;"})  # XML reads an unescaped carriage return as a line feed
    return _NOTE.format(namespace=NAMESPACE, note=text)


def _segment(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body


def _extended_xmp(packet: bytes, segments: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the extended XMP to which the XMP packet ``packet`` of a JPEG refers; empty if there is none.

    ``segments`` holds the name, such as "APP1", and the content of each metadata segment of the JPEG.
    """
    pieces: dict[int, bytes] = {}
    start = len(EXTENSION_HEADER) + 32
    for _, body in segments:
        if body.startswith(EXTENSION_HEADER) and len(body) >= start + 8 and body[start - 32 : start] in packet:
            pieces[struct.unpack_from(">II", body, start)[1]] = body[start + 8 :]
    return b"".join(pieces[place] for place in sorted(pieces))


def decode_xmp(packet: bytes) -> str | None:
    """Return the note that :func:`encode_xmp` put into ``packet``.

    The result is None if ``packet`` contains no note or is not valid XML.
    """
    try:  # expat itself rejects entities that expand without limit
        found = ElementTree.fromstring(packet.rstrip(b"\0")).find(f".//{{{NAMESPACE}}}note")
    except ElementTree.ParseError:
        return None
    return None if found is None else found.text or ""


def read_note(path: str | os.PathLike[str]) -> str | None:
    """Return the note, a text that :func:`~dreamgram.image_optimization.images.save` stored in a picture file.

    The result is None if the file has no note or if its note cannot be decoded.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` does not exist, is a folder, or is not readable.
        ValueError: the file is not an image, or is damaged.
    """
    path = Path(path)
    text: object = None
    segments: Sequence[tuple[str, bytes]] = []
    with open_file(path, MOST_PIXELS) as file, reading(path):
        if is_tiff(file):  # Pillow cannot open all TIFF files
            packet = read_tags(file).get(Tag.XMLPacket)
        else:
            with open_image(file) as picture:
                text, packet = picture.info.get(PNG_KEY), picture.info.get("xmp")
                segments = getattr(picture, "applist", [])  # only a JPEG has this attribute
    if isinstance(text, str):
        return str(text)
    if not isinstance(packet, bytes):
        return None
    note = decode_xmp(packet)
    return decode_xmp(_extended_xmp(packet, segments)) if note is None else note
