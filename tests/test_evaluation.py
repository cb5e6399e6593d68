"""Scores: against hand-computed values, and on folders laid out as the data sets are."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.evaluation import (
    DEPTH_METRICS,
    Camera,
    DataError,
    TopK,
    camera_of,
    depth_errors,
    depth_frames,
    disparity_to_depth,
    errors_at_caps,
    garg_mask,
    labelled_images,
    mean_errors,
    read_depth_png,
)

Floats = npt.NDArray[np.float32]


# --- top-1 and top-5 -------------------------------------------------------------------------------------------------


def test_ranked_answers_are_counted() -> None:
    counts = TopK()
    counts.add(["a", "b", "c", "d", "e", "f"], "a")
    counts.add(["a", "b", "c", "d", "e", "f"], "e")
    counts.add(["a", "b", "c", "d", "e", "f"], "f")
    counts.add([], "a")
    assert counts.summary() == {"n": 4, "top1": 0.25, "top5": 0.5}
    assert TopK().summary() == {"n": 0, "top1": 0.0, "top5": 0.0}


# --- folders of classes ----------------------------------------------------------------------------------------------


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_images_are_found_by_suffix_in_any_case(tmp_path: Path) -> None:
    names = ["a.JPEG", "b.jpg", "c.PNG", "d.webp", "e.Bmp", "f.gif"]
    touch(*(tmp_path / "n2" / name for name in names), tmp_path / "n1" / "images" / "x.jpeg")
    touch(tmp_path / "n1" / "notes.txt", tmp_path / "README.md", tmp_path / "stray.jpg")
    (tmp_path / "n3").mkdir()
    found = labelled_images(tmp_path)
    assert [(image.folder, image.path.name) for image in found] == [("n1", "x.jpeg"), *(("n2", name) for name in names)]


def test_a_link_to_an_image_that_is_not_there_is_listed(tmp_path: Path) -> None:
    """As an image that cannot be read: without it, the scores would be of fewer images without a word."""
    touch(tmp_path / "n1" / "a.png")
    (tmp_path / "n1" / "b.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "n1" / "notes").symlink_to(tmp_path / "nothing")
    assert [image.path.name for image in labelled_images(tmp_path)] == ["a.png", "b.png"]


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        labelled_images(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        labelled_images(tmp_path / "nothing")


@pytest.mark.parametrize(("names", "said"), [(["a.jpg"], "1 image"), (["a.jpg", "b.PNG", "notes.txt"], "2 images")])
def test_a_folder_of_images_without_classes(tmp_path: Path, names: list[str], said: str) -> None:
    touch(*(tmp_path / "flat" / name for name in names))
    (tmp_path / "flat" / "n1").mkdir()
    with pytest.raises(DataError, match=f"flat has {said} directly in it and none in class folders, <class>/<file>"):
        labelled_images(tmp_path / "flat")
    with pytest.raises(DataError, match=r"move each image into a folder .* the parent folder if 'flat' is a class"):
        labelled_images(tmp_path / "flat")


# --- the Eigen protocol ----------------------------------------------------------------------------------------------


def full(value: float, height: int = 375, width: int = 1242) -> Floats:
    return np.full((height, width), value, np.float32)


def test_garg_crop_of_a_kitti_frame() -> None:
    rows, columns = np.nonzero(garg_mask(375, 1242))
    assert (rows.min(), rows.max() + 1) == (153, 371)
    assert (columns.min(), columns.max() + 1) == (44, 1197)


def test_a_perfect_prediction() -> None:
    errors = depth_errors(full(20.0), full(20.0), 80.0)
    assert errors == {**dict.fromkeys(DEPTH_METRICS, 0.0), "delta1": 1.0, "delta2": 1.0, "delta3": 1.0}


def test_errors_of_a_known_pair() -> None:
    truth = full(10.0)
    truth[:, 621:] = 40.0  # half of the crop's 1153 columns, but for one
    errors = depth_errors(full(20.0), truth, 80.0)
    assert errors is not None
    near = (621 - 44) / 1153
    far = 1 - near
    assert errors["abs_rel"] == pytest.approx(near * 1.0 + far * 0.5)
    assert errors["sq_rel"] == pytest.approx(near * 100 / 10 + far * 400 / 40)
    assert errors["rmse"] == pytest.approx(math.sqrt(near * 100 + far * 400))
    assert errors["rmse_log"] == pytest.approx(math.log(2))
    assert (errors["delta1"], errors["delta2"], errors["delta3"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("factor", "deltas"),
    [(1.24, (1, 1, 1)), (1 / 1.24, (1, 1, 1)), (1.26, (0, 1, 1)), (1.6, (0, 0, 1)), (2.0, (0, 0, 0))],
)
def test_deltas_are_symmetric_ratios(factor: float, deltas: tuple[int, int, int]) -> None:
    errors = depth_errors(full(20.0 * factor), full(20.0), 80.0)
    assert errors is not None
    assert (errors["delta1"], errors["delta2"], errors["delta3"]) == deltas


def test_delta_of_exactly_the_bound_does_not_count() -> None:
    errors = depth_errors(full(25.0), full(20.0), 80.0)
    assert errors is not None
    assert errors["delta1"] == 0.0


def test_predictions_are_not_rescaled_by_the_median() -> None:
    errors = depth_errors(full(30.0), full(20.0), 80.0)
    assert errors is not None
    assert errors["abs_rel"] == pytest.approx(0.5)


def test_only_known_points_inside_crop_and_cap_count() -> None:
    truth = full(0.0)
    truth[200, 600] = 10.0
    truth[0, 600] = 1.0  # above the crop
    truth[200, 10] = 1.0  # left of it
    truth[201, 600] = 80.0  # not less than the cap
    errors = depth_errors(full(20.0), truth, 80.0)
    assert errors is not None
    assert errors["abs_rel"] == pytest.approx(1.0)


def test_predictions_are_clipped_to_the_cap() -> None:
    errors = depth_errors(full(500.0), full(40.0), 80.0)
    assert errors is not None
    assert errors["abs_rel"] == pytest.approx(1.0)
    low = depth_errors(full(0.0), full(40.0), 80.0)
    assert low is not None
    assert math.isfinite(low["rmse_log"])


def test_points_that_the_network_did_not_see_do_not_count() -> None:
    prediction = full(20.0)
    prediction[:300] = np.nan
    errors = depth_errors(prediction, full(20.0), 80.0)
    assert errors is not None
    assert errors["abs_rel"] == 0.0


def test_images_without_a_point() -> None:
    assert depth_errors(full(20.0), full(0.0), 80.0) is None
    assert depth_errors(full(20.0), full(60.0), 50.0) is None
    assert set(errors_at_caps(full(20.0), full(60.0))) == {f"{name}_80m" for name in DEPTH_METRICS}


def test_names_at_both_caps() -> None:
    errors = errors_at_caps(full(20.0), full(16.0))
    assert set(errors) == {f"{name}_{cap}m" for name in DEPTH_METRICS for cap in (50, 80)}
    assert errors["abs_rel_50m"] == errors["abs_rel_80m"] == pytest.approx(0.25)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="same size"):
        depth_errors(full(1.0, 10, 10), full(1.0, 10, 11), 80.0)


def test_every_image_counts_the_same() -> None:
    sparse, dense = full(0.0), full(20.0)
    sparse[200, 600] = 10.0
    images = [errors_at_caps(full(20.0), sparse), errors_at_caps(full(20.0), dense)]
    assert mean_errors(images)["abs_rel_80m"] == pytest.approx(0.5)


def test_an_image_that_lacks_a_cap_does_not_count_for_it() -> None:
    images = [errors_at_caps(full(30.0), full(20.0)), errors_at_caps(full(60.0), full(60.0))]
    means = mean_errors(images)
    assert means["abs_rel_50m"] == pytest.approx(0.5)
    assert means["abs_rel_80m"] == pytest.approx(0.25)
    assert mean_errors([]) == {}


# --- ground truth ----------------------------------------------------------------------------------------------------


def write_png16(file: Path, values: Floats) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values * 256).astype(np.uint16)).save(file)


def write_frame(folder: Path, name: str, truth_folder: str, values: Floats, suffix: str = ".jpg") -> None:
    write_png16(folder / truth_folder / f"{name}.png", values)
    (folder / "left").mkdir(exist_ok=True)
    height, width = values.shape
    Image.new("RGB", (width, height)).save(folder / "left" / f"{name}{suffix}")


def test_png16_round_trip(tmp_path: Path) -> None:
    values = np.array([[0, 0.5, 10.25, 255.99609375]], np.float32)
    write_png16(tmp_path / "x.png", values)
    np.testing.assert_array_equal(read_depth_png(tmp_path / "x.png"), values)


def test_ground_truth_of_8_bits_is_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="16-bit greyscale"):
        read_depth_png(tmp_path / "x.png")


def test_ground_truth_that_is_damaged_is_named(tmp_path: Path) -> None:
    write_png16(tmp_path / "x.png", full(1.0))
    for content in ((tmp_path / "x.png").read_bytes()[:60], b"not a picture"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.png cannot be read as a PNG"):
            read_depth_png(tmp_path / "x.png")


def test_lidar_frames(tmp_path: Path) -> None:
    drive = tmp_path / "drive_0009"
    write_frame(drive, "0000000000", "lidar_depth", full(12.5))
    write_frame(drive, "0000000001", "lidar_depth", full(30.0), suffix=".PNG")
    touch(drive / "left" / "0000000002.jpg", drive / "left" / "notes.txt")
    (drive / "calib.json").write_text(json.dumps({"fx": 700.0, "baseline_m": 0.5}), encoding="utf-8")
    for root in (tmp_path, drive):
        found = depth_frames(root)
        assert [frame.path.name for frame in found] == ["0000000000.jpg", "0000000001.PNG"]
        assert found[0].kind == "lidar_depth"
        assert (found[0].truth() == 12.5).all()
        assert found[0].camera() == Camera(700.0, 0.5)


def test_disparity_frames_take_the_camera_of_their_width(tmp_path: Path) -> None:
    values = full(10.0)
    values[0, 0] = 0.0
    write_frame(tmp_path / "kitti2015", "000001_10", "disp_noc_0", values)
    (frame,) = depth_frames(tmp_path)
    assert frame.kind == "disp_noc_0"
    truth = frame.truth()
    assert truth[0, 0] == 0.0, "no disparity is no depth"
    assert truth[1, 1] == pytest.approx(721.5377 * 0.5327 / 10.0, rel=1e-6)
    assert frame.camera().fx_px == 721.5377


def test_disparity_with_a_camera_file(tmp_path: Path) -> None:
    write_frame(tmp_path, "a", "disp_noc_0", full(4.0, 10, 20))
    (tmp_path / "calib.json").write_text(json.dumps({"fx": 100, "baseline_m": 0.2}), encoding="utf-8")
    assert depth_frames(tmp_path)[0].truth()[0, 0] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("width", "fx"), [(1242, 721.5377), (1224, 707.0493), (1238, 718.3351), (1226, 707.0912), (1241, 718.856)]
)
def test_kittis_cameras(width: int, fx: float) -> None:
    camera = camera_of(None, width, Path("drive"))
    assert camera == Camera(fx, 0.5327)
    assert disparity_to_depth(np.ones((1, 1), np.float32), camera)[0, 0] == pytest.approx(fx * 0.5327)


def test_unknown_cameras_are_refused(tmp_path: Path) -> None:
    write_frame(tmp_path / "drive", "a", "lidar_depth", full(4.0, 10, 20))
    (frame,) = depth_frames(tmp_path)
    with pytest.raises(DataError, match=rf"^{tmp_path}/drive has no calib\.json, .* 20 px wide .*Add a calib\.json"):
        frame.camera()


@pytest.mark.parametrize(
    "text", ["{}", "{", "[]", "\xff", *(f'{{"fx": {fx}, "baseline_m": 0.5}}' for fx in ("0", "-7", "NaN", "Infinity"))]
)
def test_files_that_state_no_camera_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "calib.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="fx"):
        camera_of(tmp_path / "calib.json", 1242, tmp_path)


def test_disparity_to_depth_of_zero_is_zero_and_silent() -> None:
    assert disparity_to_depth(np.array([[0.0, 2.0]], np.float32), Camera(10.0, 1.0)).tolist() == [[0.0, 5.0]]


def test_folders_without_frames(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lidar_depth"):
        depth_frames(tmp_path)
