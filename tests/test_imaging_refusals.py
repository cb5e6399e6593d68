"""Uploads that are refused: no image, not an image of ours, damaged, or too large; each with the error that helps."""

import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service.errors import BrokenImageError, EmptyBodyError, ImageTooLargeError, ServiceError, UnsupportedImageError
from service.imaging import DecodedImage, ImageLimits, decode
from tests import pictures
from tests.pictures import ENCODINGS, encode, png


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return pictures.photo()


# --- no image of ours -------------------------------------------------------------------------------------------------


def test_no_bytes() -> None:
    with pytest.raises(EmptyBodyError):
        decode(b"", "image/jpeg")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"hello, this is no image", "text"),
        (b"BMW is a car maker, and this is text", "text"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'{"image": "..."}', "JSON"),
        (b"%PDF-1.7\n", "PDF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        (b"PK\3\4rest", "ZIP"),
        (b"\x93NUMPY\1\0", "NumPy"),
        ("Grüße, 猫".encode(), "text"),
        (b"\0\1\2\3", "no known image format"),
        (b"\xff", "no known image format"),
        (b"RIFF\0\0\0\0WAVEfmt ", "no known image format"),
    ],
)
def test_content_that_is_no_image_is_named(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedImageError, match=named) as caught:
        decode(data, "image/jpeg")
    assert "JPEG, PNG, WebP, BMP or GIF" in caught.value.remedy


def test_a_png_without_its_line_breaks_is_told_how_to_be_sent(photo: Image.Image) -> None:
    data = encode(photo.resize((16, 16)), "PNG")
    for taken_out in (b"\r\n\0", b"\r\n", b"\r", b"\n"):  # by curl -d, by older ones, by transfers as text
        with pytest.raises(UnsupportedImageError, match="PNG image that lost its line breaks") as caught:
            decode(data.translate(None, taken_out))
        assert "use --data-binary @FILE, not -d" in caught.value.remedy
    for begun in range(1, 8):  # of the signature itself
        with pytest.raises(UnsupportedImageError) as caught:
            decode(data[:begun])
        assert "curl" not in caught.value.remedy


def test_formats_that_pillow_could_read_are_still_refused(photo: Image.Image) -> None:
    for file_format in ("TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "DDS"):
        with pytest.raises(UnsupportedImageError):
            decode(encode(photo.resize((16, 16)), file_format))


@pytest.mark.parametrize(
    "declared", ["text/plain", "application/json", "application/pdf", "video/mp4", "multipart/form-data; boundary=x"]
)
def test_a_declared_type_that_is_no_image_is_refused(photo: Image.Image, declared: str) -> None:
    with pytest.raises(UnsupportedImageError, match=declared.partition(";")[0]):
        decode(encode(photo, "PNG"), declared)


@pytest.mark.parametrize("file_format", sorted(ENCODINGS))
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_truncated_files(photo: Image.Image, file_format: str, kept: float) -> None:
    data = encode(photo, file_format, **ENCODINGS[file_format])
    with pytest.raises(BrokenImageError, match=file_format):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize("file_format", sorted(ENCODINGS))
def test_header_and_nothing_else(photo: Image.Image, file_format: str) -> None:
    data = encode(photo, file_format, **ENCODINGS[file_format])
    for length in range(1, 60):
        with pytest.raises((BrokenImageError, UnsupportedImageError)):
            decode(data[:length])


def decode_or_refuse(data: bytes, limits: ImageLimits) -> DecodedImage | ServiceError:
    try:
        return decode(data, limits=limits, hint=(8, 8))
    except ServiceError as error:
        return error


@pytest.mark.parametrize("file_format", sorted(ENCODINGS))
def test_damaged_files_give_pixels_or_a_client_error(
    photo: Image.Image, file_format: str, rng: np.random.Generator
) -> None:
    """Bytes flipped at random, mostly in the headers: whatever the decoder trips over is the file's fault."""
    small = photo.resize((64, 48))
    data = encode(small, file_format, **ENCODINGS[file_format])
    limits = ImageLimits(max_pixels=10**6)
    for _ in range(400):
        damaged = bytearray(data)
        span = len(data) if rng.random() < 0.3 else min(len(data), 200)
        for position in rng.integers(0, span, rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow comments on odd metadata
            decoded = decode_or_refuse(bytes(damaged), limits)
        if isinstance(decoded, ServiceError):
            assert 400 <= decoded.status < 500
        else:
            assert decoded.pixels.shape[2] == 3
            assert decoded.report.width * decoded.report.height <= 10**6


# --- too many pixels -------------------------------------------------------------------------------------------------


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def gif_frame_beyond_its_screen(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
    at = data.index(b",\0\0\0\0\x08\0\x08\0")
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def webp_extended_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", exif=b"Exif\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def webp_lossless_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    assert data[12:16] == b"VP8L"
    data[21:25] = ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(data)


def webp_lossy_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", quality=50))
    assert data[12:16] == b"VP8 "
    data[26:30] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (jpeg_header, (20_000, 20_000)),
        (lambda w, h: png(w, h, 8, 2, b"\0" * 100), (20_000, 20_000)),
        (bmp_header, (20_000, 20_000)),
        (gif_header, (20_000, 20_000)),
        (gif_frame_beyond_its_screen, (20_000, 20_000)),
        (webp_extended_header, (20_000, 20_000)),
        (webp_lossless_header, (16_000, 16_000)),
        (webp_lossy_header, (16_000, 16_000)),
        (lambda w, h: png(w, h, 8, 0, b"\0"), (2**31 - 1, 2**31 - 1)),
        (lambda w, h: png(w, h, 8, 0, b"\0"), (2**31 - 1, 1)),
    ],
    ids=["jpeg", "png", "bmp", "gif", "gif frame", "webp vp8x", "webp vp8l", "webp vp8", "largest png", "one row"],
)
def test_a_header_with_too_many_pixels_is_refused_before_decoding(
    make: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        decode(make(*size))
    assert f"{size[0]} x {size[1]}" in caught.value.detail
    assert "50000000" in caught.value.detail


def test_limit_does_not_rest_on_pillows_own(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageTooLargeError):
        decode(jpeg_header(20_000, 20_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    for file_format in ("JPEG", "PNG", "BMP"):
        assert decode(encode(photo, file_format)).image.size == (451, 300)


def test_limit_is_inclusive() -> None:
    data = encode(Image.new("L", (20, 10)), "PNG")
    assert decode(data, limits=ImageLimits(200)).image.size == (20, 10)
    with pytest.raises(ImageTooLargeError, match="limit is 199 pixels"):
        decode(data, limits=ImageLimits(199))


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_a_side_longer_than_any_jpegs_is_refused_whatever_the_area(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLargeError, match="limit is 65535 pixels per side"):
        decode(encode(Image.new("L", size), "PNG"))
    allowed = (min(size[0], 65_535), min(size[1], 65_535))
    assert decode(encode(Image.new("L", allowed), "PNG")).image.size == allowed


def test_decompression_bomb_in_metadata(photo: Image.Image) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 20_000_000, zip=True)
    data = encode(photo.resize((8, 8)), "PNG", pnginfo=info)
    assert len(data) < 100_000
    with pytest.raises(BrokenImageError):
        decode(data)
