"""Limits on decoding cost beyond the number of pixels: a crafted small image can take minutes to decode.

The decoders have no deadline, and a decoding thread cannot be stopped. So the parts of a file are counted from its
bytes before a decoder runs. The limits are far above what cameras and programs write, and bound a decode to seconds.
"""

import re
from collections.abc import Iterator

import numpy as np

from service.errors import ImageTooComplexError
from service.image_header import bmp_is_run_length, gif_first_frame

#: Pillow reads the segments before a JPEG's pixels one by one; a photo has a few dozen, of 64 kB at most.
_JPEG_SEGMENTS = 1000
#: Pillow also reads bytes between segments one by one. Ordinary files have none.
_JPEG_FILLING = 65_536
#: The standard limits EXIF to 64 kB. Pillow joins EXIF from several segments in quadratic time.
_JPEG_EXIF_BYTES = 1_000_000

#: Each scan of a progressive JPEG visits every block, even with nothing to add. Programs write up to 18 scans.
_JPEG_SCANS = 100
#: Scans for an image of `max_pixels`; smaller images may have more. 20 x 50 million pixels take one to five seconds.
_JPEG_SCANS_OF_LARGEST = 20
#: Markers to walk while counting scans; a few tables precede each scan.
_JPEG_MARKERS = 10_000

#: Chunks that hold pixels; libpng writes 8 kB into each.
_PNG_PIXEL_CHUNKS = 20_000
_PNG_PIXEL_NAMES = frozenset({b"IDAT", b"fdAT", b"fcTL"})
#: All other chunks. Each may decompress to 1 MB.
_PNG_OTHER_CHUNKS = 500

#: Bytes before a GIF's first frame: comments, a colour profile, XMP, in blocks of 255 bytes at most.
_GIF_BYTES_BEFORE_FRAME = 2_000_000

#: Pillow decodes a run-length encoded BMP in Python. Limits both the file's bytes and the image's pixels.
_BMP_RUN_LENGTH = 4_000_000

_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_MARKER = re.compile(rb"\xff[\x01-\xfe]")  # FF 00 is an escaped data byte FF; FF FF is fill
_MARKER_AFTER_PIXELS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # D0..D7 restart the decoder within a scan


def check_file(data: bytes, kind: str) -> None:
    """Rejects a file that would be slow to open. Takes milliseconds at most.

    Args:
        data: The file's bytes.
        kind: JPEG, PNG, WEBP, BMP or GIF, from `sniff`.

    Raises:
        ImageTooComplexError: It has far more parts than ordinary files (413).
    """
    if kind == "JPEG":
        _check_jpeg_header(data)
    elif kind == "PNG":
        _check_png(data)
    elif kind == "GIF":
        first = gif_first_frame(data)
        if (len(data) if first is None else first) > _GIF_BYTES_BEFORE_FRAME:
            raise ImageTooComplexError("GIF", "bytes before its first frame", _GIF_BYTES_BEFORE_FRAME)
    elif kind == "BMP" and bmp_is_run_length(data) and len(data) > _BMP_RUN_LENGTH:
        raise ImageTooComplexError("BMP", "bytes of run-length data", _BMP_RUN_LENGTH)


def check_pixels(data: bytes, kind: str, size: tuple[int, int], max_pixels: int) -> None:
    """Rejects a file whose pixels would be slow to decode.

    Args:
        data: The file's bytes.
        kind: JPEG, PNG, WEBP, BMP or GIF, from `sniff`.
        size: Width and height, pixels; their product is at most `max_pixels`.
        max_pixels: The limit on the pixels of any image.

    Raises:
        ImageTooComplexError: A JPEG has too many scans for its size, or a run-length BMP too many pixels (413).
    """
    pixels = max(1, size[0] * size[1])
    if kind == "JPEG":
        limit = min(_JPEG_SCANS, _JPEG_SCANS_OF_LARGEST * max_pixels // pixels)
        if _has_more_scans(data, limit):
            raise ImageTooComplexError("JPEG", f"scans of {size[0]} x {size[1]} pixels", limit)
    elif kind == "BMP" and bmp_is_run_length(data) and pixels > _BMP_RUN_LENGTH:
        raise ImageTooComplexError("BMP", "run-length encoded pixels", _BMP_RUN_LENGTH)


def _check_jpeg_header(data: bytes) -> None:
    """Walks the segments before the pixels as Pillow does."""
    at, filling, exif = 2, 0, 0
    for number, (code, start, end) in enumerate(_jpeg_markers(data, _MARKER)):
        filling += start - at
        at = end
        if code == _START_OF_SCAN:
            break
        if code == _APP1 and data.startswith(b"Exif\0\0", start + 4):
            exif += end - start
        if number >= _JPEG_SEGMENTS:
            raise ImageTooComplexError("JPEG", "segments before its pixels", _JPEG_SEGMENTS)
        if exif > _JPEG_EXIF_BYTES:
            raise ImageTooComplexError("JPEG", "bytes of EXIF", _JPEG_EXIF_BYTES)
    else:
        filling += len(data) - at  # without pixels, Pillow reads all of the rest
    if filling > _JPEG_FILLING:
        raise ImageTooComplexError("JPEG", "bytes between its segments", _JPEG_FILLING)


def _has_more_scans(data: bytes, limit: int) -> bool:
    """Whether a JPEG has more scans than the limit, or too many markers to count them.

    Scans in thumbnails and after the end of the image do not count.
    """
    if _count_pair(data, b"\xff\xda") <= limit:
        return False  # a quick upper bound, sufficient for nearly all files
    scans = 0
    for number, (code, _, _) in enumerate(_jpeg_markers(data, _MARKER_AFTER_PIXELS)):
        if code == _END_OF_IMAGE:
            return False
        scans += code == _START_OF_SCAN
        if scans > limit or number >= _JPEG_MARKERS:
            return True
    return False


def _count_pair(data: bytes, pair: bytes) -> int:
    """How often two different bytes follow each other: `bytes.count`, in an eighth of its time.

    Args:
        data: At least two bytes.
        pair: The two.
    """
    wanted = int.from_bytes(pair, "little")
    even, odd = (np.frombuffer(data, "<u2", (len(data) - at) // 2, at) == wanted for at in (0, 1))
    return int(np.count_nonzero(even) + np.count_nonzero(odd))


def _jpeg_markers(data: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yields code, start and end of each marker segment; for a start of scan, the end of its header."""
    at = 2
    while found := pattern.search(data, at):
        at = found.end()
        code = data[at - 1]
        # Only these have a length. The others, C8 and D8 among them, stand alone or stop the decoder.
        if (0xC0 <= code <= 0xEF and code != 0xC8 and not 0xD0 <= code <= 0xD9) or code == 0xFE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield code, found.start(), at


def _check_png(data: bytes) -> None:
    """Walks the chunks to the end as Pillow does: those after the pixels cost as much as those before."""
    at, pixels, others = 8, 0, 0
    while at < len(data):
        name = data[at + 4 : at + 8]
        if name == b"IEND":
            return
        if name in _PNG_PIXEL_NAMES:
            pixels += 1
        else:
            others += 1
        if pixels > _PNG_PIXEL_CHUNKS:
            raise ImageTooComplexError("PNG", "chunks of pixels", _PNG_PIXEL_CHUNKS)
        if others > _PNG_OTHER_CHUNKS:
            raise ImageTooComplexError("PNG", "chunks other than pixels", _PNG_OTHER_CHUNKS)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
