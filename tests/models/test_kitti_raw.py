"""KITTI raw as published: lists, calibration, projection with its traps, and packing for training and evaluation."""

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import pack
from models.data.kitti import load_drives
from models.data.kitti_calibration import read_calibration, read_day
from models.data.kitti_raw import FrameId, RawKitti, read_split
from models.data.velodyne import project, read_velodyne, write_depth_png
from service.evaluation import DataError, camera_of, depth_frames, read_depth_png
from tests.models.raw_kitti import (
    BASELINE_M,
    DATE,
    DRIVE,
    FX,
    HEIGHT,
    LEFT_AT_M,
    WIDTH,
    point_at,
    write_calibration,
    write_frame,
    write_tree,
)


def depth_of(tmp_path: Path, *points: tuple[float, ...], camera: int = 2) -> np.ndarray:
    """A scan of these points, projected."""
    write_calibration(tmp_path)
    return project(np.array(points, np.float32).reshape(-1, 4), read_day(tmp_path), camera, WIDTH, HEIGHT)


def places(depth_m: np.ndarray) -> dict[tuple[int, int], float]:
    return {(int(r), int(c)): float(depth_m[r, c]) for r, c in zip(*np.nonzero(depth_m), strict=True)}


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_as_text_and_gzipped(tmp_path: Path) -> None:
    text = f"{DATE}/{DRIVE} 0000000069 l\n{DATE}/{DRIVE} 473 r\n\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    expected = [FrameId(DATE, DRIVE, 69, 2), FrameId(DATE, DRIVE, 473, 3)]
    assert read_split(tmp_path / "a.txt") == read_split(tmp_path / "a.txt.gz") == expected
    assert expected[0].name == "0000000069"


@pytest.mark.parametrize("line", ["a/b 12", "a/b x l", "a/b 12 left", "ab 12 l", "a/b/c 12 l", "a/b -1 l"])
def test_lines_that_name_no_frame(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(f"{DATE}/{DRIVE} 1 l\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt:2: .*is not"):
        read_split(tmp_path / "a.txt")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", gzip.compress(b"")[:10] + b"\xff" * 8])
def test_lists_that_hold_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz"):
        read_split(tmp_path / "a.gz")


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration(tmp_path: Path) -> None:
    write_calibration(tmp_path)
    found = read_day(tmp_path)
    assert (found.width, found.height, found.fx_px) == (WIDTH, HEIGHT, FX)
    assert found.baseline_m == pytest.approx(BASELINE_M)
    forward = found.velo_to_image(2) @ np.array([10.0, 0, 0, 1])
    assert forward / forward[2] == pytest.approx([32 - FX * LEFT_AT_M / 10, 20, 1])


def test_calibration_that_is_not_as_published(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"calib_cam_to_cam\.txt cannot be read.*calib\.zip"):
        read_day(tmp_path)
    write_calibration(tmp_path)
    file = tmp_path / "calib_velo_to_cam.txt"
    file.write_text(file.read_text().replace("T:", "U:"))
    with pytest.raises(DataError, match="no entry T with 3 numbers"):
        read_day(tmp_path)
    file.write_text("R: 1 2 3\nT: 0 0 0\n")
    with pytest.raises(DataError, match="R has 3 numbers, not 9"):
        read_day(tmp_path)
    with pytest.raises(DataError, match="projected"):
        read_calibration(tmp_path / "calib_cam_to_cam.txt").velo_to_image(2)


# --- projection ------------------------------------------------------------------------------------------------------


def test_a_pixel_is_the_rounded_place_less_one(tmp_path: Path) -> None:
    """What projects to (u, v) counted from 0 is stored at (v - 1, u - 1), as in KITTI's development kit."""
    assert places(depth_of(tmp_path, point_at(31.0, 25.0, 8.0))) == {(24, 30): 8.0}
    assert places(depth_of(tmp_path, point_at(31.4, 25.4, 8.0))) == {(24, 30): 8.0}
    assert places(depth_of(tmp_path, point_at(31.6, 24.6, 8.0))) == {(24, 31): 8.0}


def test_the_edges_of_the_picture(tmp_path: Path) -> None:
    inside = depth_of(tmp_path, point_at(1.0, 1.0, 8.0), point_at(WIDTH, HEIGHT, 9.0))
    assert places(inside) == {(0, 0): 8.0, (HEIGHT - 1, WIDTH - 1): 9.0}
    outside = [(0.4, 20.0), (20.0, 0.4), (WIDTH + 0.6, 20.0), (20.0, HEIGHT + 0.6)]
    assert places(depth_of(tmp_path, *(point_at(u, v, 8.0) for u, v in outside))) == {}


def test_the_nearest_of_several_points_is_kept(tmp_path: Path) -> None:
    points = [point_at(31.0, 25.0, depth) for depth in (30.0, 8.0, 12.0)]
    assert places(depth_of(tmp_path, *points)) == {(24, 30): 8.0}


def test_points_behind_and_points_that_are_none(tmp_path: Path) -> None:
    nothing = [(-8.0, 0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 0.5), (np.nan, 1.0, 1.0, 0.5), (np.inf, 1.0, 1.0, 0.5)]
    assert places(depth_of(tmp_path, *nothing)) == {}
    assert places(depth_of(tmp_path)) == {}, "an empty scan"


def test_the_right_camera_sees_a_point_further_left(tmp_path: Path) -> None:
    """By fx * baseline / depth, 50 * 0.5 / 5 = 5 pixels, the disparity."""
    point = point_at(31.0, 25.0, 5.0)
    assert places(depth_of(tmp_path, point, camera=3)) == {(24, 25): 5.0}


def test_against_a_plain_loop(tmp_path: Path, rng: np.random.Generator) -> None:
    """Point by point as the formulas say, on a scan with many collisions."""
    write_calibration(tmp_path)
    calibration = read_day(tmp_path)
    points = rng.uniform((-5, -20, -8, 0), (60, 20, 8, 1), (4000, 4)).astype(np.float32)
    expected = np.zeros((HEIGHT, WIDTH))
    matrix = calibration.velo_to_image(2)
    for x, y, z, _ in points.astype(np.float64):
        u, v, depth_m = matrix @ (x, y, z, 1.0)
        if x < 0 or depth_m <= 0:
            continue
        column, row = round(u / depth_m) - 1, round(v / depth_m) - 1
        if 0 <= column < WIDTH and 0 <= row < HEIGHT and not 0 < expected[row, column] <= depth_m:
            expected[row, column] = depth_m
    found = project(points, calibration, 2, WIDTH, HEIGHT)
    assert (found > 0).sum() > 500
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_scans_that_were_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(17))
    with pytest.raises(DataError, match="17 bytes"):
        read_velodyne(tmp_path / "a.bin")
    with pytest.raises(DataError, match="cannot be read"):
        read_velodyne(tmp_path / "b.bin")


def test_depth_files_keep_metres_to_a_256th(tmp_path: Path) -> None:
    depth_m = np.array([[0.0, 5.004, 80.0, 255.9, 300.0]], np.float32)
    write_depth_png(tmp_path / "a.png", depth_m)
    found = read_depth_png(tmp_path / "a.png")
    assert found[0, :4] == pytest.approx(depth_m[0, :4], abs=1 / 512)
    assert found[0, 4] == 0, "what the file cannot hold is none, not something else"


# --- frames and packing ----------------------------------------------------------------------------------------------


def test_frames_of_a_tree(tmp_path: Path) -> None:
    raw = RawKitti(write_tree(tmp_path))
    assert raw.drives == [(DATE, DRIVE)]
    assert [frame.index for frame in raw.frames()] == [0, 1, 2]
    left, right = raw.frame(FrameId(DATE, DRIVE, 1)).pair()
    assert (left.shape, left[0, 0, 0], right[0, 0, 0]) == ((HEIGHT, WIDTH, 3), 200, 100)
    own, other = raw.frame(FrameId(DATE, DRIVE, 1, camera=3)).pair()
    assert (own[0, 0, 0], other[0, 0, 0]) == (100, 200)
    assert places(raw.frame(FrameId(DATE, DRIVE, 1)).depth()) == {(24, 30): 11.0, (29, 10): 5.0}
    with pytest.raises(DataError, match="no image 0000000009"):
        raw.frame(FrameId(DATE, DRIVE, 9)).image()
    with pytest.raises(DataError, match="no scan 0000000009"):
        raw.frame(FrameId(DATE, DRIVE, 9)).depth()
    with pytest.raises(DataError, match="has no image"):
        raw.frames([(DATE, "none_sync")])
    with pytest.raises(DataError, match="folder above the dates"):
        _ = RawKitti(tmp_path / DATE).drives


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The command's exit code, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["models.data.pack", *map(str, arguments)])
    code = pack.main()
    output = capsys.readouterr()
    return code, output.out or output.err


def test_a_packed_drive_is_read_by_training_and_evaluation(tmp_path, monkeypatch, capsys) -> None:
    raw, out = write_tree(tmp_path / "raw"), tmp_path / "packed"
    code, printed = run(monkeypatch, capsys, "raw", raw, "--out", out)
    counts = {"packed": 3, "there_already": 0, "missing": 0, "without_truth": 0, "without_right": 0}
    assert (code, json.loads(printed)) == (0, counts)
    drive = out / DRIVE.removesuffix("_sync")
    original = raw / DATE / DRIVE / "image_03" / "data" / "0000000002.png"
    assert (drive / "right" / "0000000002.png").read_bytes() == original.read_bytes()
    frames = depth_frames(out)
    assert [frame.path.stem for frame in frames] == ["0000000000", "0000000001", "0000000002"]
    assert places(frames[2].truth()) == {(24, 30): 12.0, (29, 10): 5.0}
    assert camera_of(drive / "calib.json", WIDTH, drive).baseline_m == pytest.approx(BASELINE_M)
    (first, *_) = load_drives(out)
    assert first.right is not None
    assert first.disparity_px.max() == pytest.approx(FX * BASELINE_M / 5.0 * 608 / WIDTH, rel=1e-4)
    code, printed = run(monkeypatch, capsys, "raw", raw, "--out", out)
    assert json.loads(printed)["there_already"] == 3, "a second run leaves them alone"


@pytest.mark.parametrize("side", ["image_02", "image_03"])
def test_a_packing_that_was_stopped_leaves_no_torn_image(side: str, tmp_path, monkeypatch, capsys) -> None:
    """A left image says that its frame is packed, so a torn one would be kept for ever."""
    write_tree(tmp_path / "raw")
    copy = shutil.copyfile

    def stopped(source: Path, target: Path) -> None:
        if side in source.parts:
            target.write_bytes(source.read_bytes()[:100])
            raise KeyboardInterrupt
        copy(source, target)

    monkeypatch.setattr(sys, "argv", ["pack", "raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])
    with monkeypatch.context() as once:
        once.setattr("models.data.pack.shutil.copyfile", stopped)
        with pytest.raises(KeyboardInterrupt):
            pack.main()
    assert not list((tmp_path / "out").glob("*/left/*"))
    assert pack.main() == 0
    capsys.readouterr()
    assert load_drives(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_packing_a_list_of_which_a_part_is_there(tmp_path, monkeypatch, capsys) -> None:
    raw, out = write_tree(tmp_path / "raw"), tmp_path / "packed"
    write_frame(raw, 7, None)  # no scan, as for frames 177 to 180 of drive 0009
    (raw / DATE / DRIVE / "image_03" / "data" / "0000000007.png").unlink()
    lines = [f"{DATE}/{DRIVE} {index} {side}" for index, side in ((1, "l"), (1, "r"), (7, "l"), (40, "l"))]
    (tmp_path / "split.txt").write_text("\n".join(lines))
    code, printed = run(monkeypatch, capsys, "raw", raw, "--out", out, "--split", tmp_path / "split.txt", "--jpeg", 90)
    expected = {"packed": 2, "there_already": 0, "missing": 1, "without_truth": 1, "without_right": 1}
    assert (code, json.loads(printed)) == (1, expected)
    assert [frame.path.name for frame in depth_frames(out)] == ["0000000001.jpg"], "one without truth is not evaluated"
    assert {path.name for path in out.glob("*/left/*")} == {"0000000001.jpg", "0000000007.jpg"}


def test_annotated_ground_truth_takes_the_place_of_scans(tmp_path, monkeypatch, capsys) -> None:
    raw, out = write_tree(tmp_path / "raw"), tmp_path / "packed"
    folder = tmp_path / "annotated" / "val" / DRIVE / "proj_depth" / "groundtruth" / "image_02"
    folder.mkdir(parents=True)
    write_depth_png(folder / "0000000001.png", np.full((HEIGHT, WIDTH), 7, np.float32))
    options = ["--out", out, "--drive", f"{DATE}/{DRIVE}", "--annotated", tmp_path / "annotated"]
    code, printed = run(monkeypatch, capsys, "raw", raw, *options)
    assert (code, json.loads(printed)["without_truth"]) == (0, 2)
    (frame,) = depth_frames(out)
    assert (frame.path.stem, float(frame.truth().min())) == ("0000000001", 7.0)


def test_packing_kitti_2015(tmp_path, monkeypatch, capsys) -> None:
    """Scenes of two days lie in folders of their own, each with its camera."""
    training, out = tmp_path / "kitti" / "training", tmp_path / "packed"
    for number, fx in enumerate((FX, FX, 60.0)):
        name = f"{number:06d}"
        write_calibration(tmp_path / name, fx=fx)
        for folder in ("calib_cam_to_cam", "disp_noc_0", "image_2", "image_3"):
            (training / folder).mkdir(parents=True, exist_ok=True)
        (training / "calib_cam_to_cam" / f"{name}.txt").write_bytes(
            (tmp_path / name / "calib_cam_to_cam.txt").read_bytes()
        )
        write_depth_png(training / "disp_noc_0" / f"{name}_10.png", np.full((HEIGHT, WIDTH), 5, np.float32))
        for camera in ("image_2", "image_3"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(training / camera / f"{name}_10.png")
    code, printed = run(monkeypatch, capsys, "kitti2015", tmp_path / "kitti", "--out", out)
    assert (code, json.loads(printed)) == (0, {"packed": 3, "without_right": 0})
    frames = depth_frames(out)
    assert [(frame.path.parents[1].name, float(frame.truth()[0, 0])) for frame in frames] == [
        ("kitti2015_64x40", pytest.approx(FX * BASELINE_M / 5)),
        ("kitti2015_64x40", pytest.approx(FX * BASELINE_M / 5)),
        ("kitti2015_64x40b", pytest.approx(60 * BASELINE_M / 5)),
    ]
    assert len(load_drives(out)) == 3
    (training / "calib_cam_to_cam" / "000001.txt").unlink()  # of an archive of its own
    code, printed = run(monkeypatch, capsys, "kitti2015", tmp_path / "kitti", "--out", tmp_path / "again")
    assert code == 2
    assert "data_scene_flow_calib.zip" in printed


def test_what_is_not_as_published_is_said(tmp_path, monkeypatch, capsys) -> None:
    raw = write_tree(tmp_path / "raw")
    Image.new("RGB", (WIDTH + 9, HEIGHT)).save(raw / DATE / DRIVE / "image_02" / "data" / "0000000001.png")
    for arguments, said in (
        (["raw", raw, "--out", tmp_path / "a"], "synchronised and rectified"),
        (["raw", tmp_path / "none", "--out", tmp_path / "a"], "folder above the dates"),
        (["raw", raw, "--out", tmp_path / "a", "--drive", "0001"], "give each drive as"),
        (["kitti2015", tmp_path, "--out", tmp_path / "a"], "data_scene_flow"),
    ):
        code, printed = run(monkeypatch, capsys, *arguments)
        assert code == 2
        assert printed.splitlines()[-1].startswith("error: ")
        assert said in printed
