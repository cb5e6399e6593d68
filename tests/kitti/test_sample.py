"""A real frame of KITTI raw against the ground truth that was packed from it elsewhere, where the data is at hand.

The data may not be shipped: the test looks for `kitti_depth_dev.tar` in the folder that BIREAL_TEST_DATA names, in
`data/` of this checkout and in `*/data/` beside it, and skips where it is not.
"""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.kitti_raw import FrameId, RawKitti
from models.data.pack import pack_raw
from service.evaluation import camera_of, depth_frames, read_depth_png

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = "kitti_depth_dev.tar"
DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0009_sync"
PACKED = "dev/2011_09_26_drive_0009"


def archive() -> Path:
    named = os.environ.get("BIREAL_TEST_DATA")
    folders = [Path(named)] if named else [ROOT / "data", *sorted(ROOT.parent.glob("*/data"))]
    found = [folder / ARCHIVE for folder in folders if (folder / ARCHIVE).is_file()]
    if not found:
        pytest.skip(f"no {ARCHIVE}: name its folder in BIREAL_TEST_DATA")
    return found[0]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The sample laid out as KITTI publishes it in `raw/`, and what was packed from its drive in `dev/`."""
    wanted = {
        "image_02_0000000000.png": f"{DRIVE}/image_02/data/0000000000.png",
        "image_03_0000000000.png": f"{DRIVE}/image_03/data/0000000000.png",
        "0000000000.bin": f"{DRIVE}/velodyne_points/data/0000000000.bin",
        "calib_cam_to_cam.txt": "calib_cam_to_cam.txt",
        "calib_velo_to_cam.txt": "calib_velo_to_cam.txt",
    }
    with tarfile.open(archive()) as tar:
        for name in (f"{PACKED}/lidar_depth/0000000000.png", f"{PACKED}/left/0000000000.jpg", f"{PACKED}/calib.json"):
            tar.extract(name, tmp_path, filter="data")
        for name, place in wanted.items():
            tar.extract(f"dev/sample_raw/{name}", tmp_path, filter="data")
            target = tmp_path / "raw" / DATE / place
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "dev" / "sample_raw" / name).rename(target)
    return tmp_path


def test_a_real_frame_projects_to_the_packed_ground_truth(tree: Path) -> None:
    raw = RawKitti(tree / "raw")
    assert raw.frames() == [FrameId(DATE, DRIVE, 0)]
    frame = raw.frame(FrameId(DATE, DRIVE, 0))
    packed = read_depth_png(tree / PACKED / "lidar_depth" / "0000000000.png")
    depth_m = frame.depth()
    assert (packed > 0).sum() > 16_000
    np.testing.assert_array_equal(depth_m > 0, packed > 0)
    assert np.abs(depth_m - packed).max() <= 1 / 512, "to the rounding of the file"
    # The offset of a pixel matters: without it hardly a point is where it belongs.
    assert (np.roll(depth_m, (1, 1), (0, 1)) > 0)[packed > 0].mean() < 0.5
    with Image.open(tree / PACKED / "left" / "0000000000.jpg") as image:
        difference = frame.image().astype(int) - np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(difference).mean() < 6, "the same picture but for JPEG, of 255"


def test_packing_it_gives_the_same_files(tree: Path) -> None:
    counts = pack_raw(tree / "raw", tree / "out", [FrameId(DATE, DRIVE, 0)], None, None)
    assert counts == {"packed": 1, "there_already": 0, "missing": 0, "without_truth": 0, "without_right": 0}
    (frame,) = depth_frames(tree / "out")
    np.testing.assert_array_equal(frame.truth(), read_depth_png(tree / PACKED / "lidar_depth" / "0000000000.png"))
    ours, theirs = frame.camera(), camera_of(tree / PACKED / "calib.json", 1242, tree / PACKED)
    assert (ours.fx_px, ours.baseline_m) == (theirs.fx_px, pytest.approx(theirs.baseline_m, abs=1e-9))
