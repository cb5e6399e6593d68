"""What a file's first bytes reveal before any decoder runs: its format, and some properties that Pillow hides.

Deliberately independent of Pillow. The content, not the client's claim, decides here which decoder may run, and the
canvas of a WebP is measured here because its decoder allocates the canvas as soon as it is created.
"""

from collections.abc import Iterator

#: Sizes of all BMP headers; "BM" alone also starts ordinary text.
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Unsupported formats that people send. The error names them, so that the sender knows what to convert.
_OTHER_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"\x93NUMPY", "a NumPy array"),
)

#: Most GIF blocks to walk while counting frames: an ordinary 20 MB file has 80,000, a hostile one ten million.
_GIF_BLOCK_BUDGET = 100_000


def sniff(data: bytes) -> str | None:
    """Detects the image format from the content.

    Args:
        data: The file's bytes; the first 18 decide.

    Returns:
        JPEG, PNG, WEBP, BMP or GIF, or None for anything else.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    return None


def lost_line_breaks(data: bytes) -> bool:
    """Whether this is a PNG damaged by a transfer as text, which its signature is designed to reveal."""
    return data.startswith(b"\x89PNG") and not _PNG_SIGNATURE.startswith(data[: len(_PNG_SIGNATURE)])


def looks_like(data: bytes) -> str:
    """Describes content that is not a supported image: "a PDF document", "text"."""
    if lost_line_breaks(data):
        return "a PNG image that lost its line breaks on the way"
    for offset, signature, words in _OTHER_SIGNATURES:
        if data.startswith(signature, offset):
            return words
    head = data[:512].lstrip()
    lowered = head.lower()
    if b"<svg" in lowered:
        return "an SVG drawing"
    if lowered.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"{", b"[")):
        return "JSON"
    return "text" if _is_text(head) else "binary data of no known image format"


def _is_text(head: bytes) -> bool:
    """Whether the bytes are UTF-8 text without control characters; the last character may be incomplete."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start == 0 or error.start < len(head) - 3:
            return False
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head)


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file's canvas, pixels, from its first chunk; None if that chunk is unknown.

    Layouts: VP8X, 24-bit sizes minus 1; VP8L, two 14-bit fields minus 1 after a signature byte; VP8 (a key frame of
    RFC 6386), two 14-bit fields after its 3-byte tag and start code.
    """
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L":
        fields = int.from_bytes(body[1:5], "little")
        return (fields & 0x3FFF) + 1, (fields >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


def png_bit_depth(data: bytes) -> int:
    """Bits per channel according to a PNG's header: 1, 2, 4, 8 or 16; 0 if the header is incomplete."""
    return data[24] if len(data) > 24 else 0


def bmp_is_run_length(data: bytes) -> bool:
    """Whether a BMP's header declares run-length encoded pixels, of 8 or 4 bits."""
    has_field = int.from_bytes(data[14:18], "little") >= 40
    return has_field and int.from_bytes(data[30:34], "little") in {1, 2}


def gif_first_frame(data: bytes) -> int | None:
    """Offset of a GIF's first frame, bytes; None if there is none within the blocks that are walked."""
    return next((at for label, at in _gif_blocks(data) if label == 0x2C), None)


def gif_frames(data: bytes) -> int:
    """Number of frames of a GIF, without decoding; a lower bound if the file has too many blocks to walk."""
    return sum(1 for label, _ in _gif_blocks(data) if label == 0x2C)


def gif_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of a GIF's canvas, pixels: its screen, enlarged to hold its first frame, as in decoders."""
    if len(data) < 10:
        return None
    width, height = _uint16(data, 6), _uint16(data, 8)
    for label, at in _gif_blocks(data):
        if label == 0x2C and at + 9 <= len(data):
            left, top = _uint16(data, at + 1), _uint16(data, at + 3)
            return max(width, left + _uint16(data, at + 5)), max(height, top + _uint16(data, at + 7))
    return width, height


def _uint16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields label and offset of each block: 0x2C is an image, 0x21 an extension."""
    position = 13 + _color_table_bytes(data, 10)
    budget = _GIF_BLOCK_BUDGET
    while position < len(data):
        label, start = data[position], position
        if label == 0x2C:  # image: position and size, flags, colour table, code size, then data
            position += 11 + _color_table_bytes(data, position + 9)
        elif label == 0x21:
            position += 2
        else:  # 0x3B ends the file; anything else means that it is damaged
            return
        yield label, start
        while position < len(data) and data[position]:  # sub-blocks: a length byte and data, until an empty one
            position += 1 + data[position]
            budget -= 1
            if budget == 0:
                return
        position += 1
        budget -= 1
        if budget <= 0:
            return


def _color_table_bytes(data: bytes, flags_at: int) -> int:
    """Bytes of the colour table that follows its flags: bit 7 says whether there is one, bits 0..2 how large it is."""
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
