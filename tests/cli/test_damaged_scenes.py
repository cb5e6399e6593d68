"""Road scenes of which a file is damaged: it is left out and named; a folder without a camera is refused."""

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.said import error_of

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


@pytest.mark.parametrize("damage", [damaged_truth, truth_of_another_size, damaged_picture])
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
