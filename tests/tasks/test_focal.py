"""Which focal length metres rest on: the client's, EXIF's, or the training camera's."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import BadParameterError
from service.imaging import ImageReport, decode
from service.tasks import DEPTH, DepthOptions, DepthResult
from service.tasks.focal import exif_focal
from tests.cards import depth_card
from tests.pictures import encode, photo_of

ORIENTATION, DETAILS, FOCAL_35MM, WIDTH, HEIGHT = 0x0112, 0x8769, 0xA405, 0xA002, 0xA003


def taken(
    width: int, height: int, details: dict[int, Any], *, orientation: int = 1, file_format: str = "JPEG"
) -> bytes:
    """A photograph as a camera writes it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif.get_ifd(DETAILS).update(details)
    return encode(photo_of(width, height), file_format, exif=exif)


def answer(data: bytes, **options: Any) -> DepthResult:
    card = depth_card()
    prepared = DEPTH.preprocess(decode(data, hint=DEPTH.decode_hint(card)), card)
    output = np.full((card.input.height, card.input.width), 10, np.float32)
    return DEPTH.postprocess(output, prepared, card, DepthOptions(**options))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_tells_the_focal_length_by_the_diagonal(file_format: str) -> None:
    result = answer(taken(800, 600, {FOCAL_35MM: 26}, file_format=file_format))
    assert result.focal.source == "exif"
    assert result.focal.fx_px == pytest.approx(26 * 1000 / 43.2666, rel=1e-5)  # 800 x 600 has a diagonal of 1000
    assert "26 mm" in result.focal.reason
    card = depth_card()
    assert card.depth is not None
    expected = 10 * result.focal.fx_px * result.geometry.scale_x / card.depth.fx_px
    np.testing.assert_allclose(result.depth_m, expected, rtol=1e-6)


def test_it_is_the_same_camera_when_it_is_turned() -> None:
    upright = answer(taken(800, 600, {FOCAL_35MM: 26, WIDTH: 800, HEIGHT: 600}, orientation=6))
    assert (upright.geometry.picture_width, upright.geometry.picture_height) == (600, 800)
    assert upright.focal.fx_px == pytest.approx(26 * 1000 / 43.2666, rel=1e-5)


def test_a_reduced_decode_does_not_pass_for_a_cut_picture() -> None:
    result = answer(taken(4001, 3001, {FOCAL_35MM: 26, WIDTH: 4001, HEIGHT: 3001}))
    assert result.focal.source == "exif"


def test_the_clients_own_comes_first() -> None:
    result = answer(taken(800, 600, {FOCAL_35MM: 26}), fx_px=700)
    assert (result.focal.fx_px, result.focal.source) == (700, "query")


@pytest.mark.parametrize(
    ("size", "details", "reason"),
    [
        ((800, 600), {}, "has no FocalLengthIn35mmFilm"),
        ((800, 600), {FOCAL_35MM: 0}, "has no FocalLengthIn35mmFilm"),  # the standard's word for unknown
        ((800, 600), {FOCAL_35MM: 60000}, "has no FocalLengthIn35mmFilm"),
        ((800, 240), {FOCAL_35MM: 26}, "panorama"),
        ((800, 600), {FOCAL_35MM: 26, WIDTH: 800, HEIGHT: 800}, "was cropped"),
        ((600, 1200), {FOCAL_35MM: 5000}, "implausible"),
    ],
)
def test_what_exif_tells_is_not_believed_blindly(size: tuple[int, int], details: dict[int, Any], reason: str) -> None:
    result = answer(taken(*size, details))
    assert result.focal.source == "assumed"
    assert reason in result.focal.reason
    assert (result.depth_m == 10).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage in here"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_exif(exif: bytes) -> None:
    assert answer(encode(photo_of(80, 60), "JPEG", exif=exif)).focal.source == "assumed"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_directory_of_details_costs_neither_picture_nor_orientation() -> None:
    entries = struct.pack("<HHII", ORIENTATION, 3, 1, 6) + struct.pack(
        "<HHII", DETAILS, 4, 1, 0xFFFFFF
    )  # behind the end
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    report = decode(encode(photo_of(80, 60), "JPEG", exif=exif)).report
    assert (report.exif_rotation, report.exif_focal_35mm) == (90, None)


@pytest.mark.parametrize("fx", [26.0, 4.2, 79.0, 80_001.0])
def test_a_focal_length_that_no_camera_of_this_picture_has(fx: float) -> None:
    with pytest.raises(BadParameterError, match="80 to 80000 pixels are accepted") as caught:
        answer(encode(photo_of(800, 600), "JPEG"), fx_px=fx)
    assert "not millimetres" in caught.value.remedy
    assert caught.value.parameter == "fx"


def test_the_views_at_the_limits() -> None:
    assert math.degrees(2 * math.atan(1 / (2 * 0.1))) == pytest.approx(157, abs=0.5)
    report = ImageReport("JPEG", 4000, 3000, "RGB", exif_focal_35mm=26)
    assert exif_focal(report).fx_px == pytest.approx(3004.6, abs=0.1)
    assert exif_focal(report._replace(width=2000, height=1500)).fx_px == pytest.approx(1502.3, abs=0.1)
