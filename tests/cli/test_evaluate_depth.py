"""`python -m service evaluate` on drives, called as a function."""

import json

import pytest
from PIL import Image

from service.cli.main import main
from tests.tiny_zoo import DEPTH_SIZE

pytestmark = pytest.mark.usefixtures("tiny_models")


def test_evaluate_depth(run, road):
    for folder in (road, road / "drive_0001"):
        document, _ = run("evaluate", "--data", folder, "--variant", "full")
        assert document["n"] == 2
        assert document["abs_rel"] < 1e-3
        assert document["rmse"] < 0.02
        assert document["delta1"] == document["delta1_50m"] == 1.0
        assert document["abs_rel"] == document["abs_rel_80m"]
        assert document["model"] == "tiny-ramp"


def test_evaluate_depth_uses_the_folders_camera(run, road):
    (road / "drive_0001" / "calib.json").write_text(json.dumps({"fx": 75.0, "baseline_m": 0.54}))
    document, _ = run("evaluate", "--data", road, "--variant", "full")
    assert document["abs_rel"] == pytest.approx(0.5, abs=0.01)
    assert document["delta1"] == 0


def test_evaluate_depth_tells_more_than_means(run, road):
    drive = road / "drive_0001"
    Image.new("I;16", (DEPTH_SIZE[1], DEPTH_SIZE[0])).save(drive / "lidar_depth" / "2.png")  # no point at all
    (drive / "left" / "2.jpg").write_bytes((drive / "left" / "1.JPG").read_bytes())
    (drive / "calib.json").write_text(json.dumps({"fx": 75.0, "baseline_m": 0.54}))  # all is half as far again
    document, _ = run("evaluate", "--data", road, "--variant", "full")
    assert (document["n"], document["without_points"]) == (2, ["drive_0001/left/2.jpg"])
    scaled = document["median_scaled"]
    assert scaled["abs_rel_80m"] < 1e-3 < document["abs_rel_80m"], "a common factor is no error then"
    assert scaled["scale"]["median"] == pytest.approx(1 / 1.5, rel=1e-3)
    assert [image["file"] for image in document["images"]] == ["drive_0001/left/0.JPG", "drive_0001/left/1.JPG"]
    assert document["images"][0]["errors"]["abs_rel_80m"] == pytest.approx(document["abs_rel"], abs=1e-5)
    assert document["points"]["known"] == document["points"]["seen"] == 2 * document["images"][0]["points"]
    assert sum(part["points"] for part in document["by_distance"]) == document["points"]["seen"]
    assert document["intervals"]["abs_rel_80m"]["lower"] is None, "two frames are not two observations"
    assert "paired" not in document


def test_evaluate_depth_against_another_network(run, road):
    document, _ = run(
        "evaluate", "--data", road, "--model", "tiny-bireal-depth", "--variant", "reference", "--against", "full"
    )
    alone, _ = run("evaluate", "--data", road, "--model", "tiny-ramp", "--variant", "full")
    paired = document["paired"]
    assert (paired["against"]["model"], paired["against"]["variant"]) == ("tiny-ramp", "full")
    assert paired["means"]["abs_rel_80m"] == pytest.approx(alone["abs_rel_80m"])
    difference = paired["differences"]["abs_rel_80m"]
    assert difference["estimate"] == pytest.approx(document["abs_rel_80m"] - alone["abs_rel_80m"])
    assert difference["images_better"] == 0
    assert document["images"][0]["against"]["abs_rel_80m"] == pytest.approx(alone["abs_rel_80m"], abs=1e-5)
    same, _ = run(
        "evaluate",
        "--data",
        road,
        "--model",
        "tiny-bireal-depth",
        "--variant",
        "reference",
        "--against",
        "tiny-ramp:full",
    )
    assert same["paired"] == paired, "naming the model is the same"


def test_evaluate_depth_for_people(capsys, road):
    arguments = ["--data", str(road), "--model", "tiny-bireal-depth", "--variant", "reference", "--against", "full"]
    assert main(["evaluate", *arguments]) == 0
    text = capsys.readouterr().out
    for said in ("at a cap of 50 m: abs_rel", "median-scaled, 80 m", "minus that of tiny-ramp (full)", "no interval"):
        assert said in text
