"""The figures on a card are those of the version whose card it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

from models.ablation.grid import Budget, combination
from models.arch import ArchConfig, build
from models.eval import calibration, resolution, stem
from models.export import __main__ as export
from models.export.measure import evaluate_model
from models.export.readings import count, occasion
from models.train import checkpoint, statistics
from models.train.recipes import get_recipe
from models.train.settings import settings_of
from service.card import Card
from tests.models.test_depth_page import write_drive
from tests.tiny_zoo import COLOURS, colours_graph, write_model, write_zoo


@pytest.fixture
def two_versions(tmp_path):
    """Version 1 names colours, version 2 names each one wrongly; the label `default` is on version 1."""
    write_model(tmp_path, "tiny-colours", colours_graph(), task="classify")
    wrong = colours_graph()
    for tensor in wrong.graph.initializer:
        if tensor.name == "weight":
            turned = np.roll(numpy_helper.to_array(tensor), 1, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(turned, "weight"))
    write_model(tmp_path, "tiny-colours", wrong, version="2", task="classify")
    (tmp_path / "tiny-colours" / "labels.yaml").write_text('default: "1"')
    return tmp_path / "tiny-colours"


@pytest.fixture
def pictures(tmp_path):
    for (wnid, _), colour in zip(COLOURS, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        (tmp_path / "pictures" / wnid).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "pictures" / wnid / "a.png")
    return tmp_path / "pictures"


@pytest.fixture
def now(tmp_path):
    return occasion("a test", "colours", tmp_path / "log")


@pytest.mark.parametrize(("version", "top1"), [("1", 1.0), ("2", 0.0)])
def test_the_version_of_the_folder_is_evaluated(two_versions, pictures, now, version, top1):
    found = evaluate_model(two_versions / version, "full", pictures, now)
    assert (found["dataset"], found["variant"], found["n"]) == ("colours", "full", 3)
    assert found["values"]["top1"] == top1
    (entry,) = [json.loads(line) for line in now.file("classify").read_text().splitlines()]
    assert (entry["model"], entry["variant"], entry["n"]) == (f"tiny-colours@{version}", "full", 3)
    assert (entry["top1"], entry["top5"]) == (top1, 1.0)


def test_a_reading_is_logged_and_a_failed_one_is_not(tmp_path, now):
    zoo, drive = write_zoo(tmp_path / "zoo"), write_drive(tmp_path / "drive")
    folder = zoo / "tiny-bireal-depth" / "1"
    found = evaluate_model(folder, "reference", drive, now)
    with pytest.raises(ValueError, match="is not a folder"):
        evaluate_model(folder, "reference", tmp_path / "nothing", now)
    (entry,) = [json.loads(line) for line in now.file("depth").read_text().splitlines()]
    assert (entry["date"], entry["source"], entry["dataset"]) == (now.date, "a test", "colours")
    assert (entry["model"], entry["variant"], entry["n"]) == ("tiny-bireal-depth@1", "reference", found["n"])
    assert entry["delta1"] == pytest.approx(found["values"]["delta1"], abs=1e-4)


def test_occasions_are_counted_once_for_all_their_variants(tmp_path):
    one = {"date": "2026-01-01", "source": "notes", "dataset": "a", "model": "x@1", "variant": "binary", "what": "card"}
    lines = [
        one,
        one | {"variant": "reference"},
        one | {"what": "a look"},
        one | {"model": "x@2", "date": "2026-01-02"},
    ]
    lines += [one | {"model": "y@1"}]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [count(tmp_path / "log", name) for name in ("x", "y", "z")] == [3, 1, 0]


def test_a_file_that_cannot_be_read_is_named(two_versions, pictures, now):
    """The last line that the command printed was that of its progress bar."""
    (wnid, _), *_ = COLOURS
    (pictures / wnid / "broken.png").write_bytes((pictures / wnid / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"tiny-colours@1, full: .*broken\.png: .*Replace or remove it\.$"):
        evaluate_model(two_versions / "1", "full", pictures, now)


def test_a_failed_evaluation_leaves_the_model_that_is_there(tmp_path, monkeypatch, capsys):
    config, start = ArchConfig(depth=18, num_classes=2, width=0.125), tmp_path / "best.pt"
    checkpoint.save(start, build(config), config, "an ablation's", checkpoint.Progress())
    options = ["export", str(start), "--out", str(tmp_path / "zoo"), "--overwrite", "--name", "x", "--size", "32"]
    monkeypatch.setattr("sys.argv", options)
    assert export.main() == 0
    folder = tmp_path / "zoo" / "x" / "1"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    asked = []

    def evaluate(aside, variant, data, now):
        asked.append(Card.load(aside).name)
        if len(asked) > 1:
            raise ValueError("a.png cannot be read")
        return {"dataset": "dev", "variant": variant, "n": 1, "values": {"top1": 1.0}}

    monkeypatch.setattr("models.export.measure.evaluate_model", evaluate)
    monkeypatch.setattr("sys.argv", [*options, "--notes", "again", "--evaluate", str(tmp_path)])
    assert export.main() == 2
    assert capsys.readouterr().err == "error: a.png cannot be read\n"
    assert asked == ["x", "x"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "one of two"}]')
    monkeypatch.setattr("sys.argv", [*options, "--classes", str(tmp_path)])
    assert export.main() == 2
    assert "lists 1 classes, but the network has 2 outputs" in capsys.readouterr().err


def test_a_failure_is_passed_on(two_versions, tmp_path, now):
    with pytest.raises(ValueError, match=r"tiny-colours@1, full: .*is not a folder"):
        evaluate_model(two_versions / "1", "full", tmp_path / "nothing", now)


def refusals(path, data, monkeypatch, capsys, programs=(export, statistics, calibration, resolution, stem)):
    """What each program says of a checkpoint that it refuses; the data folder lacks classes."""
    for module in programs:
        options = [] if module is export else ["--data", str(data)]
        options += ["--out", str(data / "x")] if module in (export, statistics) else []
        monkeypatch.setattr("sys.argv", [module.__name__, str(path), *options])
        assert module.main() == 2
        yield capsys.readouterr().err


def test_a_network_that_is_not_binary_yet_is_not_exported_or_measured(tmp_path, monkeypatch, capsys):
    """It was written without a word, and answered at random: last.pt of a run in clip pre-training, or of a cell."""
    recipe = get_recipe("bireal18-tiny100")  # leaky clip, clip, and two phases that train the 1-bit network
    arch = replace(recipe.arch, num_classes=2, width=0.125)
    cell = combination(18, "bireal", "clip", "magnitude", "approxsign").start
    assert cell is not None
    real = settings_of(cell.recipe(Budget()))
    cases = (
        (recipe.name, None, {"phase": 0, "step": 3}, "leaky_clip"),
        (recipe.name, settings_of(recipe), {"phase": 2}, "clip"),
        (recipe.name, None, {"phase": 2, "epoch": 1}, ""),
        (recipe.name, None, {"phase": 4}, ""),
        (recipe.name, None, {}, ""),  # of no run
        (cell.key, real, {"phase": 2}, "clip"),
    )
    for name, settings, progress, phase in cases:
        path = tmp_path / "last.pt"
        checkpoint.save(path, build(arch), arch, name, checkpoint.Progress(**progress), settings=settings)
        for told in refusals(path, tmp_path, monkeypatch, capsys):
            assert (f"last.pt is from phase {phase} of a run of {name}" in told) == bool(phase), told
    full = replace(arch, method="none")
    checkpoint.save(path, build(full), full, "resnet18-tiny100", checkpoint.Progress(epoch=1))
    checkpoint.check_binarised(checkpoint.load(path), path)


@pytest.mark.parametrize("stored", [True, False])
def test_an_encoder_that_learned_no_classes_is_not_exported_or_measured(stored, tmp_path, monkeypatch, capsys):
    """It became a classifier whose last layer is random, and whose card said that it knows its classes."""
    recipe = get_recipe("resnet50-half-mosaics")
    arch, path = replace(recipe.arch, num_classes=2, width=0.125), tmp_path / "best.pt"
    settings = settings_of(recipe) if stored else None
    checkpoint.save(path, build(arch), arch, recipe.name, checkpoint.Progress(epoch=1), settings=settings)
    for told in refusals(path, tmp_path, monkeypatch, capsys):
        assert "best.pt is of a run of resnet50-half-mosaics, which learned feature maps and no classes" in told


def test_a_depth_network_is_not_measured_as_a_classifier(tmp_path, monkeypatch, capsys):
    """With a drive as data it was told to add classes there, and with photos it ended in a traceback."""
    config = ArchConfig(depth=18, method="none", task="depth", width=0.125, max_disparity_px=90.0)
    path = tmp_path / "best.pt"
    checkpoint.save(path, build(config), config, "resnet50-kitti-depth", checkpoint.Progress(epoch=1))
    for told in refusals(path, tmp_path, monkeypatch, capsys, (statistics, calibration, resolution, stem)):
        assert "best.pt is a depth network: give a checkpoint of a classifier" in told


@pytest.mark.parametrize("option", [("--size", "64"), ("--classes", ".")])
def test_options_of_classifiers_are_refused_for_depth(option, tmp_path, monkeypatch, capsys):
    config = ArchConfig(depth=18, method="none", task="depth", width=0.125, max_disparity_px=90.0)
    checkpoint.save(tmp_path / "best.pt", build(config), config, "an ablation's", checkpoint.Progress())
    line = ["export", str(tmp_path / "best.pt"), "--out", str(tmp_path / "zoo"), *option]
    monkeypatch.setattr("sys.argv", line)
    assert export.main() == 2
    assert "--size and --classes are for classifiers: a depth network's input is 160x608" in capsys.readouterr().err
