"""The command line, called as a function; tests/live starts it as a process."""

import json
import re
import shutil
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.stats import binomtest

from service.cli.data import spread
from service.cli.main import main
from tests.cli.said import error_of
from tests.live.service_process import ROOT, command, environment
from tests.pictures import encode, photo
from tests.tiny_zoo import COLOURS, DEPTH_SIZE, FAR_M, NEAR_M

pytestmark = pytest.mark.usefixtures("tiny_models")

COLOUR_NAMES = {"red": "red", "green": "lime", "blue": "blue"}


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Three images a class, in suffixes of several cases, and files that are none."""
    for wnid, name in COLOURS:
        folder = tmp_path / "labelled" / wnid
        folder.mkdir(parents=True)
        for number, suffix in enumerate((".jpg", ".JPEG", ".png")):
            data = encode(
                Image.new("RGB", (50 + number, 40), COLOUR_NAMES[name]), "PNG" if suffix == ".png" else "JPEG"
            )
            (folder / f"{number}{suffix}").write_bytes(data)
        (folder / "notes.txt").write_text("not an image")
    return tmp_path / "labelled"


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(photo(), "JPEG"))
    return path


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_predict_a_photo(run, photograph):
    document, progress = run(
        "predict", photograph, "--task", "classify", "--model", "tiny-colours", "--variant", "full"
    )
    assert document["file"] == str(photograph)
    assert (document["model"], document["variant"]) == ("tiny-colours", "full")
    assert len(document["predictions"]) == 3
    assert document["image"]["width"] == 451
    assert progress == ""  # no bar for one image


def test_predict_runs_the_binary_network_by_default(run, photograph, op):
    document, _ = run("predict", photograph)
    assert (document["model"], document["variant"]) == ("tiny-bireal", "binary")
    assert document["kernel"] == op


def test_predict_a_folder(run, labelled):
    document, progress = run("predict", labelled, "--variant", "full", "--top-k", 1)
    assert document["count"] == 9
    names = [result["predictions"][0]["name"] for result in document["results"]]
    assert names == ["red"] * 3 + ["green"] * 3 + ["blue"] * 3
    assert "9/9" in progress


def test_predict_says_which_of_several_cannot_be_read(run, labelled):
    broken = labelled / COLOURS[1][0] / "1.JPEG"
    broken.write_bytes(b"text")
    document, _ = run("predict", labelled, "--variant", "full", code=1)
    (problem,) = [result for result in document["results"] if "code" in result]
    assert (problem["file"], problem["code"]) == (str(broken), "unsupported-image")


def test_predict_depth_to_a_file(run, road, tmp_path):
    picture = road / "drive_0001" / "left" / "0.JPG"
    for name, read in (
        ("map.npy", np.load),
        ("map.png16.png", lambda path: read_picture(path) / 256),
    ):
        document, _ = run("predict", picture, "--task", "depth", "--variant", "full", "--output", tmp_path / name)
        assert document["max_m"] == pytest.approx(FAR_M)
        np.testing.assert_allclose(read(tmp_path / name)[0, [0, -1]], [NEAR_M, FAR_M], atol=0.01)
    run("predict", picture, "--task", "depth", "--variant", "full", "--output", tmp_path / "map.png")
    assert read_picture(tmp_path / "map.png").shape[0] > DEPTH_SIZE[0], "with a scale bar"
    document, _ = run("predict", picture, "--task", "depth", "--variant", "full", "--out", tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text())["max_m"] == document["max_m"]
    run("predict", picture, "--task", "depth", "--variant", "full", "--out", tmp_path / "map.ply")
    cloud = trimesh.load(tmp_path / "map.ply")
    assert len(cloud.vertices) == DEPTH_SIZE[0] * DEPTH_SIZE[1]


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_predict_with_a_camera(run, road):
    picture = road / "drive_0001" / "left" / "0.JPG"
    document, _ = run("predict", picture, "--task", "depth", "--variant", "full", "--fx", 100)
    assert document["max_m"] == pytest.approx(2 * FAR_M)


def test_predict_for_people(capsys, labelled):
    assert main(["predict", str(labelled / COLOURS[0][0]), "--variant", "full"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "red 100.0 %" in lines[0]
    assert "[tiny-colours, full, onnxruntime]" in lines[0]


def test_predict_keeps_no_answer_that_it_has_printed(labelled, monkeypatch):
    """Ten thousand photos must not fill the memory."""
    alive, most = weakref.WeakSet(), []

    class Member:
        """A part of an answer."""

    def line(path: Path, body: dict) -> str:
        alive.add(body.setdefault("member", Member()))
        most.append(len(alive))
        return path.name

    monkeypatch.setattr("service.cli.predict._line", line)
    assert main(["predict", str(labelled), "--variant", "full"]) == 0
    assert len(most) == 9
    assert max(most) <= 2


# ---- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_a_labelled_folder(run, labelled):
    document, progress = run("evaluate", "--data", labelled, "--variant", "full")
    assert (document["n"], document["top1"], document["top5"]) == (9, 1.0, 1.0)
    assert (document["model"], document["variant"], document["failed"]) == ("tiny-colours", "full", [])
    assert "9/9" in progress


def test_evaluate_counts_what_is_wrong(run, labelled):
    wrong = labelled / COLOURS[0][0] / "0.jpg"
    wrong.write_bytes(encode(Image.new("RGB", (40, 40), "blue"), "JPEG"))
    document, _ = run("evaluate", "--data", labelled, "--variant", "full")
    assert document["top1"] == pytest.approx(8 / 9)
    assert document["top5"] == 1.0
    interval = binomtest(8, 9).proportion_ci(method="exact")
    assert (document["top1_low"], document["top1_high"]) == pytest.approx((interval.low, interval.high))
    assert document["per_class"][COLOURS[0][0]] == [2, 3]
    (confusion,) = document["confusions"]
    assert (confusion["truth"], confusion["n"]) == (COLOURS[0][0], 1)
    assert sum(item["n"] for item in document["reliability"]) == 9
    assert 0 <= document["ece"] <= 1


def test_evaluate_takes_folders_called_by_name(run, labelled):
    """As `compare` does, in any case; those of both kinds are one class."""
    wnid, name = COLOURS[0]
    (labelled / name.upper()).mkdir()
    (labelled / wnid / "0.jpg").rename(labelled / name.upper() / "0.jpg")
    (labelled / COLOURS[1][0]).rename(labelled / COLOURS[1][1])
    document, _ = run("evaluate", "--data", labelled, "--variant", "full")
    assert (document["n"], document["top1"]) == (9, 1.0)
    assert document["per_class"] == {each: [3, 3] for each, _ in COLOURS}


def test_evaluate_names_the_folders_that_are_no_class(capsys, labelled):
    for name in ("holiday", "n99999999"):
        (labelled / name).mkdir()
        (labelled / name / "a.jpg").write_bytes(encode(photo(), "JPEG"))
    said = error_of(capsys, "evaluate", "--data", labelled, "--variant", "full")
    assert f"'holiday' in {labelled} names no class of tiny-colours" in said
    assert "the same holds for 1 other folder" in said


def test_evaluate_a_share(run, labelled):
    document, _ = run("evaluate", "--data", labelled, "--variant", "full", "--limit", 3)
    assert (document["n"], document["top1"]) == (3, 1.0)


def test_a_share_is_evenly_spread():
    assert spread(range(9), 3) == [0, 3, 6]
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 9) == spread(range(3), None) == [0, 1, 2]


def test_evaluate_reports_files_that_cannot_be_read(run, labelled):
    broken = labelled / COLOURS[0][0] / "0.jpg"
    broken.write_bytes(b"text")
    document, _ = run("evaluate", "--data", labelled, "--variant", "full", code=1)
    assert (document["n"], document["top1"]) == (8, 1.0)
    assert [item["file"] for item in document["failed"]] == [str(broken)]


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_compare_a_photo(run, photograph):
    document, _ = run("compare", photograph, "--a", "reference", "--b", "full")
    assert (document["a"]["variant"], document["b"]["variant"]) == ("reference", "full")
    first_a, first_b = (document[side]["predictions"][0]["name"] for side in "ab")
    assert document["agree"] is (first_a == first_b)
    assert document["weights"]["a_bytes"] > 0


def test_compare_a_folder(run, labelled):
    document, progress = run("compare", labelled, "--a", "full", "--b", "full")
    assert (document["n"], document["agreement"]) == (9, 1.0)
    assert document["a"]["model"] == document["b"]["model"] == "tiny-colours"
    assert document["disagreements"] == document["failed"] == []
    assert "9/9" in progress


@pytest.mark.parametrize(
    "command", ["compare --a reference --b full", "predict --variant full", "evaluate --variant full --data"]
)
def test_which_pictures_of_a_folder_a_command_cannot_read(capsys, labelled, tmp_path, command):
    folder = shutil.copytree(labelled, tmp_path / "pictures")
    for name in ("a.HEIC", "b.heic", "c.tif", "notes.txt"):
        (folder / COLOURS[0][0] / name).write_bytes(b"")
    assert main([*command.split(), str(folder)]) == 0
    assert "skipped 2 .heic, 1 .tif: convert them" in capsys.readouterr().err


def test_compare_depth(run, road):
    document, _ = run("compare", road / "drive_0001" / "left", "--task", "depth", "--a", "full", "--b", "full")
    assert (document["n"], document["within_1_25"], document["abs_rel"]) == (2, 1.0, 0.0)


def test_compare_for_people(capsys, labelled):
    assert main(["compare", str(labelled), "--a", "reference", "--b", "full"]) == 0
    text = capsys.readouterr().out
    assert "9 images: the variants agree on" in text
    assert "[tiny-bireal, reference, onnxruntime]" in text
    assert main(["compare", str(labelled / COLOURS[0][0] / "0.jpg"), "--a", "reference"]) == 0
    assert re.match("The variants (dis)?agree.\n  a: ", capsys.readouterr().out)
    assert main(["compare", str(labelled / COLOURS[0][0] / "0.jpg"), "--a", "full", "--b", "full"]) == 0
    assert "full: the same variant twice: differences are noise." in capsys.readouterr().out


# ---- models ----------------------------------------------------------------------------------------------------------


def test_models(run, op):
    document, _ = run("models")
    assert document["ready"] is True
    assert document["kernel"] == op
    assert document["kernel"] in document["kernels"]
    names = {model["name"]: model for model in document["models"]}
    assert list(names) == ["tiny-bireal", "tiny-bireal-depth", "tiny-colours", "tiny-ramp"]
    assert all(variant["ready"] for model in document["models"] for variant in model["variants"])


def test_models_says_what_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(tmp_path / "none"))
    document, _ = run("models", code=1)
    assert document["ready"] is False
    assert "does not exist" in document["reasons"][0]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "absent.jpg"], "absent.jpg does not exist"),
        (["predict", "{empty}"], "no image in"),
        (["predict", "{photo}", "--model", "none", "--variant", "full"], "no model 'none'"),
        (["predict", "{photo}", "--variant", "ternary"], "no variant 'ternary'"),
        (["predict", "{photo}", "--model", "tiny-colours", "--variant", "binary"], "'tiny-bireal'"),
        (["predict", "{text}", "--variant", "full"], "seems to be text"),
        (["predict", "{photo}", "--top-k", "0", "--variant", "full"], "--top-k"),
        (["predict", "{photo}", "--task", "depth", "--variant", "full", "--output", "{empty}/map.gif"], "map.gif ends"),
        (
            ["predict", "{photo}", "--task", "depth", "--variant", "full", "--output", "/nowhere/a.png"],
            "cannot be written",
        ),
        (
            ["predict", "{photo}", "--task", "depth", "--size", "original", "--out", "{empty}/map.ply"],
            "only interpolate",
        ),
        (["predict", "{photo}", "--output", "a.png"], "--task depth"),
        (["predict", "{photo}", "--task", "depth", "--fx", "0"], "--fx"),
        (["predict"], "PATH"),
        (["evaluate", "--data", "absent", "--variant", "full"], "absent is not a folder"),
        (["evaluate", "--data", "{empty}", "--variant", "full"], "has no images"),
        (["evaluate", "--data", "{other}", "--variant", "full"], "no class of tiny-colours"),
        (["evaluate", "--data", "{empty}", "--task", "depth", "--variant", "full"], "lidar_depth"),
        (["evaluate", "--data", "{empty}", "--limit", "0"], "--limit"),
        (["evaluate", "--data", "{other}", "--against", "full"], "compare FOLDER"),
        (["compare", "absent"], "absent does not exist"),
        (["compare", "{photo}", "--a", "x"], "no variant 'x'"),
        (["serve", "--port", "many"], "--port"),
        (["serve", "--queue-size", "0"], "--queue-size"),
        (["serve", "--nonsense"], "--nonsense"),
        (["guess"], "guess"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_sentence(capsys, tmp_path, photograph, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "other" / "n99999999").mkdir(parents=True)
    (tmp_path / "other" / "n99999999" / "a.jpg").write_bytes(photograph.read_bytes())
    places = {
        "{photo}": photograph,
        "{empty}": tmp_path / "empty",
        "{text}": tmp_path / "text.jpg",
        "{other}": tmp_path / "other",
    }
    filled = []
    for argument in arguments:
        for place, path in places.items():
            argument = argument.replace(place, str(path))
        filled.append(argument)
    assert said in error_of(capsys, *filled)


def test_a_variable_that_is_not_valid(capsys, monkeypatch):
    monkeypatch.setenv("BIREAL_FALLBACK", "sometimes")
    assert "BIREAL_FALLBACK='sometimes'" in error_of(capsys, "serve")


def test_an_evaluation_of_nothing_readable_is_an_error(capsys, labelled):
    for file in labelled.rglob("*.*"):
        file.write_bytes(b"text")
    assert "None of the images could be evaluated" in error_of(
        capsys, "evaluate", "--data", labelled, "--variant", "full"
    )


def test_as_a_process(zoo, photograph):
    """Exactly one document on standard output, and nothing else said."""
    ended = subprocess.run(
        command("predict", photograph, "--variant", "full", "--json"),
        cwd=ROOT,
        env=environment(BIREAL_MODEL_DIR=str(zoo)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ended.stdout)["variant"] == "full"
    assert ended.stderr == ""
