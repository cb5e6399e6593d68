"""Pictures for tests: real photographs that scikit-image ships, encoded, and files written by hand."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image

from service.imaging import DecodedImage, ImageReport

Pixels = npt.NDArray[np.uint8]

#: How each format that is read is written here.
ENCODINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 80},
    "PNG": {},
    "WEBP": {"quality": 80},
    "BMP": {},
    "GIF": {},
}


def photo() -> Image.Image:
    """A real photograph: a cat, 451 x 300."""
    return Image.fromarray(skimage.data.chelsea())


def photo_of(width: int, height: int) -> Image.Image:
    """The photograph's texture at any size."""
    return photo().resize((width, height), Image.Resampling.BICUBIC)


def of_pixels(pixels: Pixels) -> DecodedImage:
    """Pixels, uint8 [H, W, 3] RGB, as if they had been decoded from a PNG."""
    height, width = pixels.shape[:2]
    return DecodedImage(Image.fromarray(pixels), ImageReport("PNG", width, height, "RGB"))


def picture(width: int, height: int) -> DecodedImage:
    """The same as if it had been decoded."""
    return of_pixels(np.asarray(photo_of(width, height)))


def coordinates(width: int, height: int) -> DecodedImage:
    """A picture whose red is x and whose green is y, as fractions of 250."""
    x = np.linspace(0, 250, width, dtype=np.float32)[None, :].repeat(height, axis=0)
    y = np.linspace(0, 250, height, dtype=np.float32)[:, None].repeat(width, axis=1)
    return of_pixels(np.stack([x, y, np.zeros_like(x)], axis=2).round().astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """An image as a file of a format that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, format=file_format, **options)
    return stream.getvalue()


def jpeg(image: DecodedImage) -> bytes:
    """A picture as a JPEG of high quality."""
    return encode(image.image, "JPEG", quality=95)


def mean_difference(a: Pixels, b: Pixels) -> float:
    """Mean of |a - b|, of 255."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def with_orientation(image: Image.Image, orientation: int, file_format: str, **options: Any) -> bytes:
    """A file whose EXIF states an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, file_format, exif=exif, **options)


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow does not write: 16-bit colour, keyed transparency, lying headers."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = b"".join(chunk(name, content) for name, content in chunks)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + data + chunk(b"IEND", b"")


def repeated_scans(image: Image.Image, scans: int) -> bytes:
    """A progressive JPEG in grey with this number of scans: its last one is repeated, or the others are left out."""
    data = encode(image.convert("L"), "JPEG", progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    tables = [data.rindex(b"\xff\xc4", 0, start) for start in starts]
    head, last = data[: tables[0]], data[starts[-1] : -2]
    own = [data[begin:end] for begin, end in zip(tables, [*tables[1:], len(data) - 2], strict=True)]
    return head + b"".join(own[:scans]) + last * (scans - len(own)) + data[-2:]
