"""Decoding of uploads: every format and pixel mode, animations, all orientations, reduced JPEGs."""

import io
import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from service.image_header import gif_frames, sniff
from service.imaging import decode
from tests import pictures
from tests.pictures import ENCODINGS, Pixels, encode, png, with_orientation


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return pictures.photo()


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_the_exact_pixels(photo: Image.Image, file_format: str) -> None:
    decoded = decode(encode(photo, file_format, **({"lossless": True} if file_format == "WEBP" else {})))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(photo))
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    report = decoded.report
    assert (report.format, report.width, report.height, report.mode) == (file_format, 451, 300, "RGB")
    assert (report.converted, report.frames, report.frames_dropped, report.reduction) == (None, 1, 0, 1)


@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 3.0), ("WEBP", 4.0), ("GIF", 6.0)])
def test_lossy_formats_stay_close(photo: Image.Image, file_format: str, tolerance: float) -> None:
    decoded = decode(encode(photo, file_format, **({} if file_format == "GIF" else {"quality": 95})))
    assert decoded.report.format == file_format
    difference = decoded.pixels.astype(np.int16) - np.asarray(photo)
    assert np.abs(difference).mean() < tolerance


def test_content_decides_and_not_the_declared_type(photo: Image.Image) -> None:
    data = encode(photo, "PNG")
    for declared in ("image/jpeg", "image/png; q=1", "IMAGE/PNG", "", None, "application/octet-stream"):
        assert decode(data, declared).report.format == "PNG"


def test_a_jpeg_with_further_pictures_is_a_jpeg(photo: Image.Image) -> None:
    data = encode(photo, "MPO", save_all=True, append_images=[photo.resize((40, 30))])
    decoded = decode(data)
    assert decoded.report.format == "JPEG"
    assert decoded.image.size == (451, 300)


def test_one_pixel() -> None:
    decoded = decode(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"))
    assert decoded.pixels.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_flavours(photo: Image.Image, progressive: bool, subsampling: str) -> None:
    decoded = decode(encode(photo, "JPEG", progressive=progressive, subsampling=subsampling))
    assert decoded.image.size == (451, 300)


# --- pixel modes -----------------------------------------------------------------------------------------------------


def grey_ramp() -> Pixels:
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_grey() -> None:
    decoded = decode(encode(Image.fromarray(grey_ramp()), "PNG"))
    np.testing.assert_array_equal(decoded.pixels, np.repeat(grey_ramp()[:, :, None], 3, axis=2))
    assert (decoded.report.mode, decoded.report.converted) == ("L", "grey copied to three channels")


def test_black_and_white() -> None:
    bits = (grey_ramp() % 3 == 0).astype(np.uint8) * 255
    decoded = decode(encode(Image.fromarray(bits).convert("1"), "PNG"))
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], bits)
    assert decoded.report.mode == "1"
    assert decoded.report.converted == "black and white copied to three channels"


def test_grey_of_16_bits_keeps_its_range() -> None:
    wide = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    decoded = decode(encode(Image.fromarray(wide), "PNG"))
    np.testing.assert_array_equal(decoded.pixels[:, :, 1], grey_ramp())
    assert decoded.report.mode.startswith("I")
    assert decoded.report.converted == "16-bit grey reduced to 8 bits and copied to three channels"


def test_colour_of_16_bits_is_reduced_the_same_way() -> None:
    rows = b"\0" + struct.pack(">6H", 0x12FF, 0x8000, 0xFFFF, 0, 0x00FF, 0x0100)
    decoded = decode(png(2, 1, 16, 2, rows))
    assert decoded.pixels.tolist() == [[[0x12, 0x80, 0xFF], [0, 0, 1]]]
    assert (decoded.report.mode, decoded.report.converted) == ("RGB;16", "16 bits a channel reduced to 8")
    grey = decode(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 0x12FF, 0x8000)))
    assert grey.pixels[0, :, 0].tolist() == [0x12, 0x80]


def test_alpha_of_16_bits() -> None:
    rows = b"\0" + struct.pack(">8H", 0xFFFF, 0, 0, 0xFFFF, 0, 0, 0, 0)
    decoded = decode(png(2, 1, 16, 6, rows))
    assert decoded.pixels.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert decoded.report.mode == "RGBA;16"
    assert decoded.report.converted == "16 bits a channel reduced to 8, alpha composited on white"


@pytest.mark.parametrize(
    ("depth", "color", "rows", "key", "expected"),
    [
        (8, 0, b"\0\x10\x20", b"\0\x20", [16, 255]),
        (16, 0, b"\0\x10\x00\x20\x00", b"\x20\x00", [16, 255]),
        (8, 2, b"\0\x10\x10\x10\x20\x20\x20", b"\0\x20\0\x20\0\x20", [16, 255]),
        (16, 2, b"\0" + b"\x10\x00" * 3 + b"\x20\x00" * 3, b"\x20\x00" * 3, [16, 255]),
    ],
    ids=["grey 8", "grey 16", "colour 8", "colour 16"],
)
def test_one_colour_that_counts_as_transparent(
    depth: int, color: int, rows: bytes, key: bytes, expected: list[int]
) -> None:
    decoded = decode(png(2, 1, depth, color, rows, (b"tRNS", key)))
    assert decoded.pixels[0, :, 0].tolist() == expected
    assert "alpha composited on white" in str(decoded.report.converted)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(file_format: str) -> None:
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:, :4] = (200, 100, 0, 255)
    rgba[:, 4:] = (200, 100, 0, 0)
    rgba[0, 0] = (0, 0, 0, 128)
    decoded = decode(encode(Image.fromarray(rgba), file_format, lossless=True))
    assert decoded.pixels[4, 0].tolist() == [200, 100, 0]
    assert decoded.pixels[4, 7].tolist() == [255, 255, 255]
    assert decoded.pixels[0, 0].tolist() == [127, 127, 127]
    assert (decoded.report.mode, decoded.report.converted) == ("RGBA", "alpha composited on white")


def test_opaque_alpha_changes_no_pixel(photo: Image.Image) -> None:
    rgba = photo.convert("RGBA")
    decoded = decode(encode(rgba, "PNG"))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(photo))
    assert decoded.report.converted == "opaque alpha dropped"


def test_grey_with_alpha() -> None:
    la = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8))
    assert la.mode == "LA"
    decoded = decode(encode(la, "PNG"))
    assert decoded.pixels.tolist() == [[[10, 10, 10], [255, 255, 255]]]
    assert decoded.report.mode == "LA"


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def test_palette() -> None:
    decoded = decode(encode(palette_image(), "PNG"))
    assert decoded.pixels.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert (decoded.report.mode, decoded.report.converted) == ("P", "palette looked up")


@pytest.mark.parametrize(
    ("transparency", "expected"),
    [
        (1, [[255, 0, 0], [255, 255, 255], [0, 0, 255]]),
        (b"\x00\x80\xff", [[255, 255, 255], [127, 255, 127], [0, 0, 255]]),
    ],
    ids=["one entry", "a table"],
)
def test_palette_with_transparency(transparency: int | bytes, expected: list[list[int]]) -> None:
    decoded = decode(encode(palette_image(), "PNG", transparency=transparency))
    assert decoded.pixels[0].tolist() == expected
    assert decoded.report.converted == "palette looked up, alpha composited on white"


def test_transparent_gif() -> None:
    decoded = decode(encode(palette_image(), "GIF", transparency=2))
    assert decoded.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [255, 255, 255]]


def test_cmyk(photo: Image.Image) -> None:
    decoded = decode(encode(photo.convert("CMYK"), "JPEG", quality=95))
    assert (decoded.report.mode, decoded.report.converted) == ("CMYK", "CMYK converted without a colour profile")
    difference = decoded.pixels.astype(np.int16) - np.asarray(photo)
    assert np.abs(difference).mean() < 3, "inverted CMYK would differ by a hundred"


def test_bmp_with_alpha() -> None:
    decoded = decode(encode(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "BMP"))
    assert decoded.pixels[0, 0].tolist() in ([255, 255, 255], [10, 20, 30]), "writers differ on whether it counts"


# --- animation -------------------------------------------------------------------------------------------------------


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (20, 10), (40 * i, 255 - 40 * i, 0)) for i in range(count)]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_used_and_the_rest_reported(file_format: str) -> None:
    first, *rest = frames(5)
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode(encode(first, file_format, save_all=True, append_images=rest, duration=50, **options))
    assert decoded.pixels[5, 5].tolist() == [0, 255, 0]
    assert (decoded.report.frames, decoded.report.frames_dropped) == (5, 4)


def test_gif_frames_are_counted_as_pillow_counts_them() -> None:
    first, *rest = frames(6)
    for options in ({}, {"comment": b"hello " * 100}, {"loop": 3}, {"interlace": 0}):
        data = encode(first, "GIF", save_all=True, append_images=rest, **options)
        with Image.open(io.BytesIO(data)) as image:
            assert gif_frames(data) == image.n_frames == 6


def test_counting_frames_of_a_hostile_gif_ends_soon() -> None:
    data = encode(Image.new("L", (1, 1)), "GIF")
    comment = b"\x21\xfe" + b"\x01x" * 5_000_000 + b"\0"
    hostile = data[:-1] + comment + data[-1:]
    assert decode(hostile).report.frames == 1


# --- EXIF ------------------------------------------------------------------------------------------------------------

# How each orientation's stored pixels look once they are upright (EXIF 2.3, table 6, in NumPy's terms).
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_every_orientation_is_made_upright(rng: np.random.Generator, orientation: int, file_format: str) -> None:
    stored = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(file_format, {})
    plain = decode(encode(Image.fromarray(stored), file_format, **options)).pixels
    decoded = decode(with_orientation(Image.fromarray(stored), orientation, file_format, **options))
    np.testing.assert_array_equal(decoded.pixels, UPRIGHT[orientation](plain))
    report = decoded.report
    assert report.exif_orientation == orientation
    assert (report.height, report.width) == decoded.pixels.shape[:2]
    # What the report says was done gives the same picture.
    told = plain[:, ::-1] if report.exif_mirrored else plain
    np.testing.assert_array_equal(decoded.pixels, np.rot90(told, -report.exif_rotation // 90))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(photo: Image.Image, orientation: int) -> None:
    report = decode(with_orientation(photo, orientation, "JPEG")).report
    assert (report.exif_orientation, report.exif_rotation, report.exif_mirrored) == (1, 0, False)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage in here", b"x"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture(photo: Image.Image, exif: bytes) -> None:
    report = decode(encode(photo, "JPEG", exif=exif)).report
    assert (report.width, report.exif_orientation) == (451, 1)


# --- reduced decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "hint", "reduction"),
    [
        ((512, 512), None, 1),
        ((511, 511), (128, 128), 1),
        ((512, 512), (128, 128), 2),
        ((1023, 2000), (128, 128), 2),
        ((1024, 2000), (128, 128), 4),
        ((2048, 2048), (128, 128), 8),
        ((2600, 2600), (10, 10), 8),
        ((2000, 500), (128, 128), 1),
        ((100, 100), (128, 128), 1),
        ((1242, 375), (184, 608), 1),
    ],
)
def test_reduced_jpeg_keeps_twice_the_size_needed(
    size: tuple[int, int], hint: tuple[int, int] | None, reduction: int
) -> None:
    decoded = decode(encode(pictures.photo_of(*size), "JPEG"), hint=hint)
    assert decoded.report.reduction == reduction
    assert (decoded.report.width, decoded.report.height) == size, "the report is about the picture at full size"
    assert decoded.image.size == tuple(-(-side // reduction) for side in size)
    if hint is not None and reduction > 1:
        assert decoded.image.width >= 2 * hint[1]
        assert decoded.image.height >= 2 * hint[0]


@pytest.mark.parametrize("orientation", [1, 6])
def test_hint_is_about_the_upright_picture(orientation: int) -> None:
    stored = pictures.photo_of(1200, 400) if orientation == 1 else pictures.photo_of(400, 1200)
    decoded = decode(with_orientation(stored, orientation, "JPEG"), hint=(100, 300))
    assert decoded.report.reduction == 2
    assert decoded.image.size == (600, 200)


def test_reduced_jpeg_shows_the_same_picture() -> None:
    data = encode(pictures.photo_of(1600, 1200), "JPEG", quality=95)
    full = decode(data).image.resize((200, 150), Image.Resampling.BOX)
    reduced = decode(data, hint=(150, 200))
    assert reduced.report.reduction == 4
    small = reduced.image.resize((200, 150), Image.Resampling.BOX)
    difference = np.asarray(full).astype(np.int16) - np.asarray(small)
    assert np.abs(difference).mean() < 1.0


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_in_full(file_format: str) -> None:
    assert decode(encode(pictures.photo_of(800, 800), file_format), hint=(10, 10)).image.size == (800, 800)


# --- properties ------------------------------------------------------------------------------------------------------


def test_the_same_bytes_give_the_same_pixels_from_many_threads() -> None:
    data = with_orientation(pictures.photo_of(900, 700), 6, "JPEG")
    expected = decode(data, hint=(128, 128)).pixels
    found: list[bool] = []

    def work() -> None:
        found.extend(np.array_equal(decode(data, hint=(128, 128)).pixels, expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def test_pixels_are_a_copy() -> None:
    decoded = decode(encode(Image.new("RGB", (2, 2)), "PNG"))
    decoded.pixels[:] = 7
    assert decoded.pixels.max() == 0


@pytest.mark.parametrize("file_format", sorted(ENCODINGS))
def test_sniffing_needs_few_bytes(photo: Image.Image, file_format: str) -> None:
    data = encode(photo, file_format, **ENCODINGS[file_format])
    assert sniff(data) == sniff(data[:18]) == file_format
