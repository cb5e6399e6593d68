"""The moving average of the weights: its value, that it is what a run evaluates and keeps, and that it is resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.arch import build
from models.binarize.base import Phase
from models.train import checkpoint
from models.train.average import WeightAverage
from models.train.loop import run
from tests.models.test_resume import PHASES, STEPS, Noise, recipe

DECAY = 0.9


def train(out: Path, task: Noise, *, decay: float = DECAY, resume: bool = False, save_every_s: float = 300.0) -> None:
    torch.manual_seed(1)
    made = replace(recipe(18), phases=(PHASES[0], PHASES[2]), average=decay)
    run(made, task, build(made.arch), out, resume=resume, save_every_s=save_every_s, quiet=True)


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, DECAY)
    by_hand: dict[str, torch.Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            network[0].weight += 1.0 + step
        network(torch.randn(8, 2))  # moves BatchNorm's statistics
        average.update()
        now = {key: value.detach().clone() for key, value in network.state_dict().items()}
        by_hand = {key: DECAY * by_hand.get(key, now[key]) + (1 - DECAY) * now[key] for key in now}
    for key in ("0.weight", "1.running_mean", "1.running_var"):
        assert torch.allclose(average.network.state_dict()[key], by_hand[key]), key


def test_without_a_decay_there_is_no_copy() -> None:
    network = nn.Linear(2, 2)
    average = WeightAverage(network, 0.0)
    average.update()
    assert average.network is network
    assert average.state() is None


def test_the_average_is_evaluated_and_kept_and_training_is_the_same(tmp_path: Path) -> None:
    class Watched(Noise):
        seen: nn.Module

        def evaluate(self, network: nn.Module) -> dict[str, float]:
            self.seen = network
            return super().evaluate(network)

    task = Watched()
    train(tmp_path / "averaged", task)
    train(tmp_path / "plain", Noise(), decay=0.0)
    last, plain = (checkpoint.load(tmp_path / name / "last.pt") for name in ("averaged", "plain"))
    assert all(torch.equal(last["network"][key], plain["network"][key]) for key in plain["network"])
    best = checkpoint.load(tmp_path / "averaged" / "best.pt")
    assert all(torch.equal(best["network"][key], value) for key, value in task.seen.state_dict().items())
    weight = next(key for key in best["network"] if key.endswith("weight"))
    assert not torch.equal(best["network"][weight], last["network"][weight])
    phases = {module.phase for module in task.seen.modules() if hasattr(module, "phase")}
    assert phases == {Phase.BINARY}, "the copy changes its phase with the network"


@pytest.mark.parametrize("killed_at", [12, STEPS + 5])
def test_a_killed_run_with_an_average_ends_as_the_whole_one(killed_at: int, tmp_path: Path) -> None:
    train(tmp_path / "whole", Noise())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", Noise(killed_at), save_every_s=0.0)
    train(tmp_path / "killed", Noise(), resume=True)
    for name in ("best.pt", "last.pt"):
        whole, killed = (checkpoint.load(tmp_path / run_ / name)["network"] for run_ in ("whole", "killed"))
        assert all(torch.equal(whole[key], killed[key]) for key in whole), name
