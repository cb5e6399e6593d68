"""Small files that would take seconds to minutes are refused before they are decoded; ordinary ones pass."""

import io
import itertools
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service import image_cost
from service.errors import ImageTooComplexError
from service.imaging import ImageLimits, decode
from tests.pictures import encode, photo_of, repeated_scans

SMALL = Image.new("L", (16, 16), 128)


def assert_refused(data: bytes, limit: int, parts: str, limits: ImageLimits | None = None) -> None:
    """A file is refused by this limit, and the error says so."""
    with pytest.raises(ImageTooComplexError, match=f"more than the limit of {limit} {re.escape(parts)}") as caught:
        decode(data, limits=limits)
    assert (caught.value.status, caught.value.problem()["limit"]) == (413, limit)


# --- scans of a JPEG --------------------------------------------------------------------------------------------------


def test_a_small_picture_may_have_a_hundred_scans() -> None:
    assert decode(repeated_scans(SMALL, 100)).image.size == (16, 16)
    assert_refused(repeated_scans(SMALL, 101), 100, "scans of 16 x 16 pixels")


def test_the_largest_picture_may_have_twenty_scans() -> None:
    limits = ImageLimits(max_pixels=16 * 16)
    assert decode(repeated_scans(SMALL, 20), limits=limits).image.size == (16, 16)
    assert_refused(repeated_scans(SMALL, 21), 20, "scans of 16 x 16 pixels", limits)


def test_between_them_scans_times_pixels_count() -> None:
    limits = ImageLimits(max_pixels=2 * 16 * 16)
    assert decode(repeated_scans(SMALL, 40), limits=limits).image.size == (16, 16)
    assert_refused(repeated_scans(SMALL, 41), 40, "scans of 16 x 16 pixels", limits)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_progressive_photos_of_the_largest_size_pass(mode: str) -> None:
    data = encode(photo_of(160, 120).convert(mode), "JPEG", progressive=True)
    assert decode(data, limits=ImageLimits(max_pixels=160 * 120)).image.size == (160, 120)


def test_what_only_looks_like_scans_does_not_count() -> None:
    """Thumbnails within segments, and pictures that follow the first one, as phones append them."""
    plain = encode(SMALL, "JPEG")
    thumbnails = b"\xff\xec\x03\xea" + b"\xff\xda" * 500
    assert decode(plain[:2] + thumbnails + plain[2:]).image.size == (16, 16)
    assert decode(plain + plain * 101).image.size == (16, 16)


def test_scans_hide_behind_no_marker_that_has_no_length() -> None:
    """At a restart the decoder goes on right behind an unknown marker, so its "length" must not be passed over."""
    data = repeated_scans(SMALL, 150)
    first = data.index(b"\xff\xda")
    for hiding in (b"\xff\xbf\xff\xff", b"\xff\xf0\xff\xff", b"\xff\xd0\xff\xff", b"\xff\xff\xff"):
        assert_refused(data[: first + 12] + hiding + data[first + 12 :], 100, "scans of 16 x 16 pixels")


@pytest.mark.parametrize("length", range(2, 40))
def test_pairs_are_counted_at_even_and_odd_places(length: int, rng: np.random.Generator) -> None:
    for _ in range(50):
        data = rng.choice([0x00, 0xDA, 0xFF], length).astype(np.uint8).tobytes()
        assert image_cost._count_pair(data, b"\xff\xda") == data.count(b"\xff\xda")


def test_markers_are_not_walked_without_end() -> None:
    data = repeated_scans(SMALL, 1)
    tables = b"\xff\xc4\0\2" * 20_000
    assert_refused(
        data[:-2] + tables + b"\xff\xfe\0\xcc" + b"\xff\xda" * 101 + data[-2:], 100, "scans of 16 x 16 pixels"
    )


# --- what precedes a JPEG's pixels ------------------------------------------------------------------------------------


def segments(*parts: bytes, plain: bytes | None = None) -> bytes:
    """A JPEG with these segments, code and content, at its begin."""
    plain = plain or encode(SMALL, "JPEG")
    inserted = b"".join(b"\xff" + part[:1] + struct.pack(">H", len(part) + 1) + part[1:] for part in parts)
    return plain[:2] + inserted + plain[2:]


@pytest.mark.parametrize("part", [b"\xe5", b"\xfea", b"\xe1Exif\0\0a"], ids=["empty", "comment", "exif"])
def test_segments_of_a_jpeg_are_counted(part: bytes) -> None:
    assert_refused(segments(*[part] * 1000), 1000, "segments before its pixels")


def test_markers_without_content_count_as_segments() -> None:
    """Pillow reads on behind an end of image that comes before the pixels."""
    plain = encode(SMALL, "JPEG")
    assert_refused(plain[:2] + b"\xff\xd9" * 1001 + plain[2:], 1000, "segments before its pixels")


def test_exif_of_a_jpeg_is_limited() -> None:
    part = b"\xe1Exif\0\0" + bytes(65_000)
    assert_refused(segments(*[part] * 16), 1_000_000, "bytes of EXIF")


@pytest.mark.parametrize("filling", [b"\xff", b"\0"], ids=["filling", "junk"])
def test_bytes_between_segments_are_limited(filling: bytes) -> None:
    plain = encode(SMALL, "JPEG")
    assert_refused(plain[:2] + b"\xff\xe5\0\2" + filling * 70_000 + plain[2:], 65_536, "bytes between its segments")
    assert_refused(plain[:2] + b"\xff\xe5\0\2" + filling * 70_000, 65_536, "bytes between its segments")


def test_photos_with_all_that_cameras_and_editors_add_pass() -> None:
    tags = Image.Exif()
    tags[0x010E] = "d" * 60_000
    xmp = b"\xe1http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)
    data = encode(SMALL, "JPEG", exif=tags, icc_profile=bytes(1_500_000), comment="c" * 60_000)
    photo = segments(*[xmp] * 60, plain=data)
    assert len(photo) > 5_000_000
    assert decode(photo).image.size == (16, 16)


# --- PNG, GIF, BMP ----------------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("part", [chunk(b"abCd"), chunk(b"tEXt", b"a\0b")], ids=["private", "text"])
@pytest.mark.parametrize("end", [33, -12], ids=["before", "after"])
def test_chunks_beside_the_pixels_of_a_png_are_counted(part: bytes, end: int) -> None:
    plain = encode(SMALL, "PNG")
    assert_refused(plain[:end] + part * 501 + plain[end:], 500, "chunks other than pixels")
    assert decode(plain[:end] + part * 400 + plain[end:]).image.size == (16, 16)


def test_a_png_may_have_its_pixels_in_thousands_of_chunks() -> None:
    plain = encode(SMALL, "PNG")
    start = plain.index(b"IDAT") - 4
    for empty, passes in ((19_000, True), (20_001, False)):
        data = plain[:start] + chunk(b"IDAT") * empty + plain[start:]
        if passes:
            assert decode(data).image.size == (16, 16)
        else:
            assert_refused(data, 20_000, "chunks of pixels")


def test_what_follows_the_end_of_a_png_does_not_count() -> None:
    assert decode(encode(SMALL, "PNG") + chunk(b"abCd") * 1000).image.size == (16, 16)


def test_comments_before_a_gifs_first_frame_are_limited() -> None:
    plain = encode(SMALL, "GIF")
    start = 13 + (3 << ((plain[10] & 7) + 1))
    comment, tiny = b"\x21\xfe" + (b"\xff" + b"a" * 255) * 4000 + b"\0", b"\x21\xfe\1a\0"
    assert decode(plain[:start] + comment + plain[start:]).image.size == (16, 16)
    assert_refused(plain[:start] + comment * 2 + plain[start:], 2_000_000, "bytes before its first frame")
    assert_refused(plain[:start] + tiny * 400_001 + plain[start:], 2_000_000, "bytes before its first frame")


def test_an_animation_may_be_longer_than_that() -> None:
    frames = [Image.effect_noise((256, 256), 60 + shade) for shade in range(40)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert len(stream.getvalue()) > 2_000_000
    assert decode(stream.getvalue()).report.frames == 40


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 8 bits a pixel, stored as run lengths."""
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = bytes(itertools.chain.from_iterable((shade, shade, shade, 0) for shade in range(256)))
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def test_run_lengths_of_a_bmp_are_limited() -> None:
    assert decode(run_length_bmp(4, 2, b"\4\5\0\0\4\7\0\1")).pixels[:, 0, 0].tolist() == [7, 5]
    assert_refused(run_length_bmp(4, 2, b"\4\5" * 2_000_000), 4_000_000, "bytes of run-length data")
    assert_refused(run_length_bmp(2001, 2000, b"\1\5\0\0" * 2000), 4_000_000, "run-length encoded pixels")


def test_a_large_bmp_without_run_lengths_passes() -> None:
    assert decode(encode(Image.new("L", (2300, 2000)), "BMP")).image.size == (2300, 2000)
