"""The pages behind depth models' cards say what was measured, and their pictures show it."""

import functools
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.eval import depth_page as command
from models.eval import scene
from models.eval.depth_floor import floor, row_medians
from models.eval.depth_pictures import View, picture
from models.eval.depth_text import page
from models.export.readings import FOLDER, count
from service.card import Card
from service.evaluation import garg_mask
from tests.tiny_zoo import DEPTH_SIZE, FAR_M, NEAR_M, write_zoo

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "models"
SHIPPED = ["bireal50-kitti-depth", "resnet50-kitti-depth"]
FRAMES = 24


def write_drive(drive: Path) -> Path:
    """White pictures, of which `tiny-ramp` knows the depth but for a factor that grows along the drive."""
    height, width = DEPTH_SIZE
    ramp = np.tile(np.linspace(NEAR_M, FAR_M, width), (height, 1))
    for folder in ("left", "lidar_depth"):
        (drive / folder).mkdir(parents=True)
    for number in range(FRAMES):
        Image.new("RGB", (width, height), "white").save(drive / "left" / f"{number:010d}.png")
        truth = Image.fromarray(np.rint(256 * ramp * (1 + number / 100)).astype(np.uint16))
        truth.save(drive / "lidar_depth" / f"{number:010d}.png")
    (drive / "calib.json").write_text(json.dumps({"fx": 50.0, "baseline_m": 0.54}))
    return drive


DRAWN = functools.cache(scene.draw)  # two seconds of computing


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(scene, "draw", DRAWN)
    monkeypatch.setattr(sys, "argv", ["models.eval.depth_page", *map(str, arguments)])
    return command.main()


def test_one_command_writes_pages_plots_and_pictures(tmp_path, monkeypatch) -> None:
    zoo, drive, out = write_zoo(tmp_path / "zoo"), write_drive(tmp_path / "drive"), tmp_path / "docs"
    options = ["--models", zoo, "--out", out]
    pictures = ["--pictures", tmp_path / "pictures", "--frames", 2]
    train = write_drive(tmp_path / "train")
    measured = ["--data", drive, "--dataset", "a drive", *options]
    assert run(monkeypatch, *measured, *pictures, "--floor", train) == 0
    binary = json.loads((out / "tiny-bireal-depth.json").read_text())
    full = json.loads((out / "tiny-ramp.json").read_text())
    assert list(binary["evaluations"]) == ["binary", "reference"]
    assert full["evaluations"]["full"]["n"] == FRAMES
    assert full["evaluations"]["full"]["abs_rel"] == pytest.approx(
        np.mean([n / (100 + n) for n in range(FRAMES)]), abs=2e-3
    )
    difference = binary["paired"]["differences"]["abs_rel_80m"]
    expected = binary["evaluations"]["binary"]["abs_rel"] - full["evaluations"]["full"]["abs_rel"]
    assert difference["estimate"] == pytest.approx(expected)
    assert difference["blocks"] == 2 and difference["lower"] < expected < difference["upper"]
    text = (out / "tiny-bireal-depth.md").read_text()
    assert f"| abs_rel at 80 m | {expected:+.3f} |" in text
    assert f"| Bi-Real-50 | 84.9% | {binary['evaluations']['binary']['delta1_80m']:.1%} |" in text
    assert "| BinaryNet-50 | 83.0% | none here |" in text
    assert "a drive" in text and ": 1 for this model, with any weights, when the page was written" in text
    assert f"| no network: row medians of train | - | {full['floor']['delta1_80m']:.1%} |" in text
    for name in ("tiny-ramp-distance.svg", "tiny-ramp-frames.svg", "tiny-ramp-drawing.jpg"):
        assert f"({name})" in text
        assert (out / name).stat().st_size > 1000
    assert [path.name for path in sorted((tmp_path / "pictures").iterdir())] == ["0000000000.jpg", "0000000023.jpg"]
    readings = [json.loads(line) for line in (out / "depth-readings.jsonl").read_text().splitlines()]
    assert {entry["source"] for entry in readings} == {"models.eval.depth_page"}
    assert [(entry["model"], entry["variant"], entry["n"]) for entry in readings] == [
        ("tiny-ramp@1", "full", FRAMES),
        ("tiny-bireal-depth@1", "binary", FRAMES),
        ("tiny-bireal-depth@1", "reference", FRAMES),
    ]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(monkeypatch, *options) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the kept files say all"


def test_a_network_that_is_not_at_hand_keeps_its_row(tmp_path) -> None:
    cards = command.depth_cards(write_zoo(tmp_path / "zoo"))
    full = next(card for card in cards if card.precision == "full")
    rows = [{"method": "none", "delta1_80m": 0.5}, {"method": "binarynet", "delta1_80m": 0.25}]
    stored = tmp_path / f"{full.name}.json"
    kept = {"sha256": full.sha256, "dataset": "a drive", "group": rows}
    stored.write_text(json.dumps(kept))
    found = {card.name: {"evaluations": {card.variants[0]: {"n": 1}}} for card in cards}
    command.complete(cards, found, command.kept_rows(cards, tmp_path, "a drive"))
    group = found[full.name]["group"]
    assert [row["method"] for row in group] == ["none", "bireal", "binarynet"]
    assert group[-1] == rows[-1] and "n" in group[0], "what was measured replaces what was stored"
    assert command.kept_rows(cards, tmp_path, "another drive") == {}
    stored.write_text(json.dumps(kept | {"sha256": "0" * 64}))
    assert command.kept_rows(cards, tmp_path, "a drive") == {}, "compared with another full-precision network"


def test_results_of_other_weights_are_not_put_beside_a_card(tmp_path, monkeypatch, capsys) -> None:
    zoo, out = write_zoo(tmp_path / "zoo"), tmp_path / "docs"
    out.mkdir()
    kept = json.loads((DOCS / "resnet50-kitti-depth.json").read_text())
    for card in command.depth_cards(zoo):
        shown = kept | {"evaluations": dict.fromkeys(card.variants, kept["evaluations"]["full"])}
        (out / f"{card.name}.json").write_text(json.dumps(shown))
    assert run(monkeypatch, "--models", zoo, "--out", out) == 2
    said = capsys.readouterr().err
    assert "tiny-ramp.json was measured with other weights than tiny-ramp's: run models.eval.depth_page --data" in said
    assert not list(out.glob("*.md"))


def test_what_cannot_be_done_is_said(tmp_path, monkeypatch, capsys) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    inside = ROOT / "docs" / "pictures"
    for arguments, said in (
        (["--models", tmp_path], "no depth model"),
        (["--models", zoo, "--out", tmp_path / "docs"], "tiny-ramp.json"),
        (["--models", zoo, "--data", tmp_path, "--out", tmp_path / "docs"], "failed for tiny-ramp@1, full: "),
        (["--models", zoo, "--data", tmp_path, "--pictures", inside], "is in the repository"),
    ):
        assert run(monkeypatch, *arguments) == 2
        assert said in capsys.readouterr().err
    assert not inside.exists()
    with pytest.raises(SystemExit):
        run(monkeypatch, "--pictures", tmp_path)
    (zoo / "tiny-ramp" / "1" / "card.yaml").unlink()
    with pytest.raises(ValueError, match="lacks tiny-ramp"):
        command.depth_cards(zoo)


def test_the_last_version_is_the_one_that_the_service_calls_last(tmp_path) -> None:
    zoo = write_zoo(tmp_path)
    for name in ("tiny-bireal-depth", "tiny-ramp"):
        for version in ("2", "10"):
            shutil.copytree(zoo / name / "1", zoo / name / version)
            card = zoo / name / version / "card.yaml"
            card.write_text(re.sub(r"(?m)^version: .*$", f"version: '{version}'", card.read_text()))
    assert {card.version for card in command.depth_cards(zoo)} == {"10"}


def test_the_floor_is_each_rows_median(tmp_path) -> None:
    """Four rows, of which the second has no point: its nearest row stands in."""
    for name in ("train", "test"):
        for folder in ("left", "lidar_depth"):
            (tmp_path / name / folder).mkdir(parents=True)
    rows = [np.array([[10, 10], [0, 0], [8, 0], [4, 6]]), np.array([[30, 20], [0, 0], [8, 0], [5, 5]])]
    for name, truths in (("train", rows), ("test", [np.array([[9, 9], [9, 9], [8, 8], [5, 10]])])):
        for number, truth in enumerate(truths):
            Image.new("RGB", (2, 4)).save(tmp_path / name / "left" / f"{number}.png")
            values = (256 * np.repeat(truth, 20, axis=1)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / name / "lidar_depth" / f"{number}.png")
    medians = row_medians(tmp_path / "train")
    assert medians.tolist() == [15.0, 15.0, 8.0, 5.0]
    found = floor(tmp_path / "train", tmp_path / "test")
    assert found["abs_rel_80m"] == pytest.approx((6 / 9 + 0) / 2), "the crop of four rows is the middle two"
    assert found["delta1_80m"] == pytest.approx(0.5)


# --- the shipped pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_pages_in_docs_are_of_the_shipped_models(name: str) -> None:
    card = Card.load(ROOT / "models" / "zoo" / name / "1")
    findings = json.loads((DOCS / f"{name}.json").read_text())
    assert findings["sha256"] == card.sha256, "run `python -m models.eval.depth_page --data DRIVE` again"
    assert (DOCS / f"{name}.md").read_text() == page(card, findings)
    for metric in card.metrics:
        shown = findings["evaluations"][metric.variant]
        assert {key: shown[key] for key in metric.values} == pytest.approx(metric.values, abs=2e-3), metric.variant
    logged = count(FOLDER / "depth-readings.jsonl", name)
    assert 1 < findings["readings"] <= logged, "the page counts what the log has, and notes before it"
    for file in ("distance.svg", "frames.svg", "drawing.jpg"):
        assert (DOCS / f"{findings['figures']}-{file}").is_file()


def findings_of_shipped() -> tuple[Card, dict[str, Any]]:
    card = Card.load(ROOT / "models" / "zoo" / SHIPPED[0] / "1")
    return card, json.loads((DOCS / f"{SHIPPED[0]}.json").read_text())


def test_the_text_follows_the_interval() -> None:
    card, findings = findings_of_shipped()
    row = next(row for row in findings["group"] if row["method"] == "bireal")
    row["difference"] |= {"estimate": -0.002, "lower": -0.004, "upper": 0.0}
    assert "fine enough to detect a loss of 0.3 points" in page(card, findings)
    row["difference"] |= {"lower": -0.05, "upper": 0.046}
    assert "half-width of 4.8 points: a loss of 0.3 points, as in the paper, cannot be distinguished" in page(
        card, findings
    )
    row["difference"] |= {"lower": None, "upper": None}
    assert "-0.2 points |" in page(card, findings) and "half-width" not in page(card, findings)


def test_a_third_method_gets_its_row() -> None:
    card, findings = findings_of_shipped()
    row = next(row for row in findings["group"] if row["method"] == "bireal")
    findings["group"].append(row | {"method": "binarynet", "label": "BinaryNet-50", "delta1_80m": 0.4321})
    assert "| BinaryNet-50 | 83.0% | 43.2% |" in page(card, findings)


# --- the drawing and the pictures ------------------------------------------------------------------------------------


@pytest.fixture
def drawing() -> tuple[np.ndarray, np.ndarray]:
    return DRAWN()


def test_the_drawing_knows_its_depth(drawing) -> None:
    rgb, depth_m = drawing
    assert rgb.shape == (375, 1242, 3) and depth_m.shape == (375, 1242)
    for row in (230, 300, 370):  # the road in the middle, by similar triangles
        assert depth_m[row, 610] == pytest.approx(scene.FX_PX * scene.CAMERA_M / (row - scene.CY_PX), rel=1e-5)
    assert depth_m[10, 610] == 0, "the sky"
    assert rgb[10, 610, 2] > rgb[10, 610, 0] > 120
    nearest_car = depth_m[300, 300]  # its back stands at 8 m
    assert nearest_car == pytest.approx(8.0, abs=0.1)
    assert depth_m.max() <= scene.FARTHEST_M


def test_a_scan_is_sparse_and_exact(drawing) -> None:
    _, depth_m = drawing
    points = scene.scan(depth_m)
    known = points > 0
    assert 10_000 < known.sum() < 25_000
    np.testing.assert_array_equal(points[known], depth_m[known])
    assert (known & garg_mask(375, 1242)).sum() > 0.5 * known.sum()
    assert not known[:100].any(), "no beam goes up there"


def test_errors_have_the_colours_that_the_bar_explains() -> None:
    truth = np.zeros((60, 200), np.float32)
    places = {(40, 40): 20.0, (40, 100): 10.0, (40, 160): 40.0}
    for place, value in places.items():
        truth[place] = value
    prediction = np.full_like(truth, 20.0)
    figure = picture(View(np.zeros((60, 200, 3), np.uint8), truth, {"a network": prediction}), "input")
    error = np.asarray(figure.axes[3].images[0].get_array()).astype(int)
    right, far, near = (error[place] for place in places)
    assert right.min() > 230, "white where it is right"
    assert far[0] > far[2] + 50, "red at double"
    assert near[2] > near[0] + 50, "blue at half"
    assert (error[10, 10] == 0).all(), "black where nothing is known"
    assert "abs_rel" in figure.axes[3].get_title(loc="left")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=20)
    assert stream.getbuffer().nbytes > 1000
