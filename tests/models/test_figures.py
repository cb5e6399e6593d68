"""The paper's analysis figures: the areas of Fig. 7, the counts of Sec. 3, and that the command draws them all."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.arch import SMALL_STEM, ArchConfig, BiRealNet
from models.binarize.base import Phase
from models.figures import __main__ as command
from models.figures import approximations, capability, curves, distributions
from models.figures.page import page
from models.train import checkpoint
from tests.models.test_export import random_network

ROOT = Path(__file__).resolve().parents[2]
TINY = ArchConfig(depth=18, method="bireal", num_classes=4, width=0.25, **SMALL_STEM)


@pytest.mark.parametrize(("gradient", "area"), [("clip", 1.0), ("approxsign", 2 / 3), ("approxsign3", 0.5)])
def test_shaded_areas_are_the_papers(gradient: str, area: float) -> None:
    assert approximations.shaded_area(gradient) == pytest.approx(area, abs=2e-4)
    a, value, _ = approximations.curves(gradient)
    assert value[-1] == pytest.approx(1.0, abs=2e-4), "an approximation ends where the sign does"
    if gradient == "approxsign":
        equation_4 = np.where(a < 0, 2 * a + a * a, 2 * a - a * a)
        inside = np.abs(a) < 1
        assert np.abs(value - equation_4)[inside].max() < 2e-4


def test_capability_is_the_papers_example() -> None:
    example = capability.paper_example()
    assert (example.sum_choices, example.entries, example.shortcut_choices) == (289, 6272, 289**2)
    assert example.bits(2) == 6272
    assert capability.bottleneck_entry(64, 256) == (257, 577, 65)


def test_capability_of_a_network_grows_with_every_shortcut_and_bounds_what_is_seen() -> None:
    network = random_network(TINY)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = capability.layers(network, x)
    assert len(found) == 16
    assert [c.sum_choices for c in found[:5]] == [145, 145, 145, 145, 145]
    assert [c.shortcut_choices for c in found[:5]] == [145, 145**2, 145**3, 145**4, 145]
    assert found[0].entries == 16 * 16 * 16
    assert found[4].entries == 32 * 8 * 8
    seen = capability.distinct_sums(network, x)
    assert len(seen) == 16
    assert all(1 < distinct <= 2 * possible for distinct, possible in seen.values())


def test_magnitude_aware_weights_have_the_real_ones_magnitude() -> None:
    for magnitudes in distributions.weight_magnitudes(BiRealNet(TINY)).values():
        assert magnitudes.aware == pytest.approx(magnitudes.real, rel=1e-5)
        assert magnitudes.real < magnitudes.sign


def test_activations_are_those_behind_the_non_linearity() -> None:
    network, x = BiRealNet(TINY), torch.randn(2, 3, 16, 16)
    relu = distributions.activations(network, x, Phase.RELU)
    clip = distributions.activations(network, x, Phase.CLIP)
    assert len(relu) == len(clip) == 16
    assert all(values.min() >= 0 for values in relu.values())
    assert all(values.abs().max() <= 1 for values in clip.values())
    assert any(values.min() < 0 for values in clip.values())


def test_the_command_draws_every_figure_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(TINY)
    checkpoint.save(tmp_path / "net.pt", network, TINY, "a recipe", checkpoint.Progress())
    for label in range(2):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(label).integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "a.png")
    options = [f"--{name}={tmp_path / 'net.pt'}" for name in ("bireal", "original", "relu", "clip")]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["x", *options, f"--images={tmp_path / 'images'}", f"--out={out}"])
    assert command.main() == 0
    drawn = {path.name: path.read_bytes() for path in out.glob("*.svg")}
    assert sorted(drawn) == ["fig7-approximations.svg", "fig8-weights.svg", "fig9-activations.svg"]
    numbers = json.loads((out / "figures.json").read_text())
    assert (out / "README.md").read_text() == page(numbers)
    assert numbers["networks"]["clip"] == "a recipe"
    assert numbers["size"] == 64, "what the grid's networks are trained at"
    assert "--clip RUNS/a recipe/last.pt" in page(numbers)
    assert "2 test images at 64x64" in page(numbers)
    assert numbers["capability"][0]["entries"] == 16 * 64 * 64, "a stem without stride keeps the size"
    assert command.main() == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.svg")} == drawn, "drawn again, the files are the same"
    monkeypatch.setattr(
        sys, "argv", ["x", *options[:3], f"--clip={tmp_path / 'none.pt'}", "--images=x", f"--out={out}"]
    )
    assert command.main() == 2


def test_curves_of_a_log(tmp_path: Path) -> None:
    steps = [
        {"epoch": e, "step": s, "loss": 2.0 - e, "flipped_signs": 0.1, "activations_inside": 0.7, "train_top1": 0.3}
        for e in range(2)
        for s in (25, 50)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(r) + "\n" for r in [*steps, {"epoch": 2, "held_out": {"top1": 0.4}}]))
    figure = curves.draw(log, "run")
    assert [ax.get_title() for ax in figure.axes] == ["run: loss", "top-1", "shares"]
    means = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines}
    assert list(means["held out"]) == [0.4]
    assert means["loss"].tolist() == pytest.approx([1.5])
    assert curves.position(steps[-1], 50) == 2.0
    # killed after the checkpoint at epoch 1, step 25: the resumed run repeats step 50
    again = [steps[-1] | {"loss": 0.5}, {"epoch": 2, "held_out": {"delta1": 0.6, "abs_rel": 0.2}}]
    log.write_text("".join(json.dumps(r) + "\n" for r in [*steps, *again]))
    figure = curves.draw(log, "depth")
    assert figure.axes[1].get_title() == "delta < 1.25"
    means = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines}
    assert list(means["held out"]) == [0.6]
    assert means["loss"].tolist() == pytest.approx([(2.0 + 2.0 + 1.0 + 0.5) / 4])
    # an encoder that learned on mosaics of photos (models.train.mosaic)
    log.write_text("".join(json.dumps(r) + "\n" for r in [*steps, {"epoch": 2, "held_out": {"correlation": 0.8}}]))
    figure = curves.draw(log, "mosaics")
    assert figure.axes[1].get_title() == "correlation of feature maps"
    means = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines}
    assert list(means["held out"]) == [0.8]
    log.write_text("")
    with pytest.raises(ValueError, match="has no steps"):
        curves.draw(log, "run")


def test_the_page_in_docs_is_that_of_the_numbers_in_docs() -> None:
    folder = ROOT / "docs" / "figures"
    assert (folder / "README.md").read_text() == page(json.loads((folder / "figures.json").read_text()))
