"""The page behind a classifier's card says what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.arch import ArchConfig
from models.data.folder import ClassName
from models.eval import outside
from models.eval import page as command
from models.export.card import make_card, write_model
from models.export.convert import to_onnx
from models.train.recipes import get_recipe
from service.card import Card
from tests.models.test_export import random_network

ROOT = Path(__file__).resolve().parents[2]
CLASSES = tuple(ClassName(f"n{i:08d}", f"kind {i}") for i in range(4))


def test_a_depth_model_is_refused_before_its_page_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ROOT / "models" / "zoo" / "resnet50-kitti-depth" / "1"
    kept = tmp_path / "resnet50-kitti-depth.json"
    kept.write_text('{"of": "the depth page"}')
    for options in ([], ["--data", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["models.eval.page", str(model), "--out", str(tmp_path), *options])
        assert command.main() == 2
        assert "models.eval.depth_page" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert kept.read_text() == '{"of": "the depth page"}'


def exported(tmp_path: Path) -> tuple[Card, Path]:
    """A small binary model, and `dev/<wnid>/*.png` beside it."""
    arch = ArchConfig(depth=18, method="bireal", num_classes=4, width=0.25)
    model = to_onnx(random_network(arch), 32, 32)
    card = make_card(
        "bireal18-tiny100",
        "1",
        arch,
        get_recipe("bireal18-tiny100"),
        model,
        height=32,
        width=32,
        classes=CLASSES,
        stem_precision="int16",
        pointwise_precision="int8",
        provenance={"command": "a command", "hardware": "a machine"},
        wall_time_s=120.0,
        notes="",
        metrics=[],
    )
    folder = write_model(card, model, tmp_path / "zoo")
    rng = np.random.default_rng(0)
    for cls in CLASSES:
        (tmp_path / "dev" / cls.wnid).mkdir(parents=True)
        for i in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
            picture.save(tmp_path / "dev" / cls.wnid / f"{i}.png")
    return card, folder


def test_the_page_is_written_from_the_services_own_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, folder = exported(tmp_path)
    out = tmp_path / "docs"
    options = [str(folder), "--data", str(tmp_path / "dev"), "--dataset", "a dev set", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["models.eval.page", *options])
    assert command.main() == 0
    findings = json.loads((out / "bireal18-tiny100.json").read_text())
    assert findings["sha256"] == card.sha256
    assert sorted(findings["evaluations"]) == ["binary", "reference"]
    assert findings["parity"]["layers_not_exact"] == {}
    text = (out / "bireal18-tiny100.md").read_text()
    assert ": 1 for this model, with any weights, when the page was written" in text
    entries = [json.loads(line) for line in (out / "classify-readings.jsonl").read_text().splitlines()]
    assert [(entry["source"], entry["variant"]) for entry in entries] == [
        ("models.eval.page", "binary"),
        ("models.eval.page", "reference"),
    ]
    binary = findings["evaluations"]["binary"]
    assert f"| binary | 12 | {binary['top1']:.2%} | {binary['top1_low']:.1%} to" in text
    for wnid, (right, n) in binary["per_class"].items():
        assert f"`{wnid}` {right}/{n}" in text
    assert "a dev set" in text and "a command" in text and "2 minutes until this checkpoint, on a machine" in text
    assert (out / "bireal18-tiny100-reliability.svg").is_file()
    assert f"{card.weights.binary_bytes / 1e6:.2f} MB 1-bit" in text
    assert f"`binary` with {binary['kernel']}, `reference` with onnxruntime" in text
    assert "stem in" not in text.partition("## Accuracy")[2] and "## The run" not in text, "nothing is known of them"
    rows = [{"stem": name, "top1": top1, "n": 8} for name, top1 in (("int8", 0.5), ("int16", 0.625), ("float32", 0.75))]
    (tmp_path / "stem.json").write_text(json.dumps(rows))
    for name in ("curves-bireal18-tiny100.svg", "bireal18-tiny100.log.jsonl"):
        (out / name).touch()
    options = [str(folder), "--stem", str(tmp_path / "stem.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["models.eval.page", *options])
    assert command.main() == 0
    text = (out / "bireal18-tiny100.md").read_text()
    said = "top-1 is 62.5% with a stem in 16 bit, 50.0% with a stem in 8 bit, 75.0% with a stem in float32"
    assert said in text, "the file's own first"
    assert "trained on" not in text.partition(said)[2].partition("\n")[0]
    assert "(curves-bireal18-tiny100.svg)" in text and "[log](bireal18-tiny100.log.jsonl)" in text
    assert json.loads((out / "bireal18-tiny100.json").read_text()) == findings | {"stem": rows}
    monkeypatch.setattr(command, "evaluate", lambda _folder, variant, _data, occasion: findings["evaluations"][variant])
    monkeypatch.setattr(command, "compare", lambda *_: findings["parity"])
    options = [str(folder), "--data", str(tmp_path / "dev"), "--dataset", "a dev set", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["models.eval.page", *options])
    assert command.main() == 0
    again = (out / "bireal18-tiny100.md").read_text()
    assert again == text, "evaluated again, the stem's figures stay"
    monkeypatch.setattr(sys, "argv", ["models.eval.page", str(tmp_path / "none"), "--out", str(out)])
    assert command.main() == 2


def test_what_the_stem_costs_on_many_images() -> None:
    """The chosen precision first, in points; float32 is what both are compared with."""
    exact = {"estimate": 0.0, "lower": -0.001, "upper": 0.001}
    cost = {"int16": {"estimate": 0.001, "lower": -0.0005, "upper": 0.0025}, "float32": exact}
    cost["int8"] = {"estimate": -0.0042, "lower": -0.01, "upper": 0.0016}
    found = [
        {"stem": name, "top1": 0.5, "n": 8, "training": {"top1": 0.6, "n": 20_000, "against_float32": one}}
        for name, one in cost.items()
    ]
    said = command.stem_effect(found, "int8")
    assert said.endswith(
        "On 20,000 images that it was trained on, the difference to float32 is: 8 bit -0.42 points (95 % interval "
        "-1.00 to +0.16), 16 bit +0.10 points (95 % interval -0.05 to +0.25)."
    )


def test_results_of_other_weights_are_not_put_beside_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card, folder = exported(tmp_path)
    shipped = json.loads((ROOT / "docs" / "models" / "bireal18-tiny100.json").read_text())
    stored = tmp_path / f"{card.name}.json"
    stored.write_text(json.dumps(shipped))
    before = stored.read_bytes()
    monkeypatch.setattr(sys, "argv", ["models.eval.page", str(folder), "--out", str(tmp_path)])
    assert command.main() == 2
    said = capsys.readouterr().err
    assert f"{stored} was measured with other weights than {card.name}'s: run models.eval.page --data DIR again" in said
    assert stored.read_bytes() == before and not (tmp_path / f"{card.name}.md").exists()


@pytest.mark.parametrize("name", ["bireal18-tiny100", "resnet18-tiny100"])
def test_pages_in_docs_are_of_the_shipped_models(name: str) -> None:
    card = Card.load(ROOT / "models" / "zoo" / name / "1")
    findings = json.loads((ROOT / "docs" / "models" / f"{name}.json").read_text())
    assert findings["sha256"] == card.sha256, "run `python -m models.eval.page` again"
    assert (ROOT / "docs" / "models" / f"{name}.md").read_text() == command.page(
        card, findings, ROOT / "docs" / "models"
    )
    for metric in card.metrics:
        shown = findings["evaluations"][metric.variant]
        assert {key: shown[key] for key in metric.values} == metric.values, "the page and the card say the same"


def test_what_is_said_of_other_things_is_on_the_page_of_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = exported(tmp_path)
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "grey" / "0.png")
    measure = ["models.eval.outside", str(folder), "--inside", str(tmp_path / "dev")]
    monkeypatch.setattr(sys, "argv", [*measure, "--outside", "grey", str(tmp_path / "grey")])
    assert outside.main() == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["inside"]["n"] == 12
    assert [(one["name"], one["n"]) for one in measured["outside"]] == [("grey", 1)]
    (tmp_path / "outside.json").write_text(json.dumps(measured))
    options = ["--data", str(tmp_path / "dev"), "--out", str(tmp_path), "--outside", str(tmp_path / "outside.json")]
    monkeypatch.setattr(command, "compare", lambda *_: {})
    monkeypatch.setattr(sys, "argv", ["models.eval.page", str(folder), *options])
    assert command.main() == 0
    grey = measured["outside"][0]
    mean = grey["mean"]  # of the one image
    row = f"| grey | 1 | {mean:.2f} | {mean >= 0.5:.0%} | {mean >= 0.9:.0%} | {grey['auroc']:.2f} |"
    assert row in (tmp_path / "bireal18-tiny100.md").read_text()

    (tmp_path / "outside.json").write_text(json.dumps(measured | {"sha256": "0" * 64}))
    assert command.main() == 2
    assert "other weights" in capsys.readouterr().err


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    inside, others = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.1])
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in others]
    assert outside.auroc(inside, others) == pytest.approx(np.mean(pairs))
    assert outside.auroc(others, others) == 0.5


def test_outside_wants_a_classifier_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(ROOT / "models" / "zoo" / "resnet50-kitti-depth" / "1")
    line = ["models.eval.outside", model, "--inside", str(tmp_path), "--outside", "grey"]
    monkeypatch.setattr(sys, "argv", [*line, str(tmp_path)])
    assert outside.main() == 2
    assert "resnet50-kitti-depth is no classifier" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit):
        outside.main()
    assert "give a name and at least one folder" in capsys.readouterr().err
