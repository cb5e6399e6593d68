"""Road scenes of which a file is damaged: it is left out and named; a folder without a camera is refused."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.said import error_of
from tests.pictures import encode

pytestmark = pytest.mark.usefixtures("tiny_models")


def damaged_truth(drive: Path) -> Path:
    path = drive / "lidar_depth" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    return path


def truth_of_another_size(drive: Path) -> Path:
    path = drive / "lidar_depth" / "0.png"
    Image.new("I;16", (9, 5), 256).save(path)
    return path


def damaged_picture(drive: Path) -> Path:
    path = drive / "left" / "0.JPG"
    path.write_bytes(b"not a picture")
    return path


def bomb(path: Path) -> Path:
    """A small PNG whose header declares more pixels than Pillow opens."""
    whole = encode(Image.new("I;16", (4, 4), 256), "PNG")
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + whole[24:29]
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    return path


def truth_with_too_many_pixels(drive: Path) -> Path:
    return bomb(drive / "lidar_depth" / "0.png")


def picture_with_too_many_pixels(drive: Path) -> Path:
    return bomb(drive / "left" / "0.JPG")


def unreadable(path: Path) -> Path:
    """Not by its mode, which does not keep root from reading: the first page of a process is never mapped."""
    path.unlink()
    path.symlink_to("/proc/self/mem")
    return path


def picture_that_cannot_be_read(drive: Path) -> Path:
    return unreadable(drive / "left" / "0.JPG")


DAMAGES = [
    damaged_truth,
    truth_of_another_size,
    truth_with_too_many_pixels,
    damaged_picture,
    picture_with_too_many_pixels,
    picture_that_cannot_be_read,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_compare_leaves_out_a_damaged_file(run, road, damage):
    bad = damage(road / "drive_0001")
    document, _ = run("compare", road, "--a", "reference", "--b", "full")
    assert document["n"] == 1
    (failed,) = document["failed"]
    assert Path(failed["file"]).name == "0.JPG"
    assert bad.name in failed["detail"]


def test_a_camera_that_cannot_be_read_is_no_matter_of_one_picture(capsys, road):
    unreadable(road / "drive_0001" / "calib.json")
    said = error_of(capsys, "evaluate", "--data", road, "--variant", "full")
    assert "calib.json cannot be read: Input/output error." in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_evaluate_depth_leaves_out_a_damaged_file(run, road, damage):
    bad = damage(road / "drive_0001")
    document, _ = run("evaluate", "--data", road, "--variant", "full", code=1)
    assert document["n"] == 1
    (failed,) = document["failed"]
    assert Path(failed["file"]).name == "0.JPG"
    assert bad.name in failed["detail"]


def test_evaluate_depth_ends_where_no_picture_has_a_camera(capsys, road):
    (road / "drive_0001" / "calib.json").write_text("{}")
    assert "must contain fx" in error_of(capsys, "evaluate", "--data", road, "--variant", "full")
