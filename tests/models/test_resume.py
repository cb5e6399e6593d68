"""A run that stops anywhere ends as the uninterrupted one: by SGD and Adam, in every kind of phase, and when killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch import SMALL_STEM, ArchConfig, build
from models.binarize.base import Phase
from models.figures.curves import read_log
from models.train import checkpoint
from models.train.loop import run
from models.train.recipe import PhaseSpec, Recipe
from models.train.recipes import get_recipe

STEPS = 25  # an epoch; the last of them is logged
PHASES = (
    PhaseSpec(Phase.LEAKY_CLIP, 1, 0.02, "sgd", "step", milestones=(1,)),
    PhaseSpec(Phase.BINARY_1X1, 1, 5e-3, "adam"),
    PhaseSpec(Phase.BINARY, 1, 0.02, "sgd", "step"),
    PhaseSpec(Phase.BINARY, 1, 2e-4, "sgd", "step", batchnorm_only=True),
)


class Noise:
    """Four classes of noise around a mean each; a batch depends on (epoch, step) alone."""

    metric = "top1"

    def __init__(self, killed_at: int = 0) -> None:
        self.killed_at, self.asked = killed_at, 0

    def steps_per_epoch(self) -> int:
        return STEPS

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        for step in range(first_step, STEPS):
            self.asked += 1
            if self.asked == self.killed_at:
                raise KeyboardInterrupt
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            labels = torch.arange(8) % 4
            yield torch.randn(8, 3, 8, 8, generator=generator) + labels[:, None, None, None], labels

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, float]]:
        images, labels = batch
        return F.cross_entropy(network(images), labels), {}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        images, labels = next(Noise().batches(PHASES[0], 99, 0))
        return {"top1": (network.eval()(images).argmax(1) == labels).float().mean().item()}


def recipe() -> Recipe:
    arch = ArchConfig(depth=50, num_classes=4, width=0.0625, **SMALL_STEM)
    return replace(get_recipe("bireal18-tiny100"), name="small", arch=arch, phases=PHASES, bf16=False)


def train(out: Path, task: Noise, *, resume: bool = False, save_every_s: float = 300.0) -> None:
    torch.manual_seed(1)
    run(recipe(), task, build(recipe().arch), out, resume=resume, save_every_s=save_every_s, quiet=True)


def test_a_killed_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    """Killed in every phase: after a step with a checkpoint, and far from the last one."""
    train(tmp_path / "whole", Noise())
    out = tmp_path / "killed"
    for killed_at, save_every_s in ((12, 0.0), (30, 300.0), (40, 0.0), (22, 300.0)):
        with pytest.raises(KeyboardInterrupt):
            train(out, Noise(killed_at), resume=True, save_every_s=save_every_s)
    train(out, Noise(), resume=True)
    for name in ("last.pt", "best.pt"):
        ends = [checkpoint.load(tmp_path / run_ / name) for run_ in ("whole", "killed")]
        assert ends[0]["network"].keys() == ends[1]["network"].keys()
        assert all(torch.equal(ends[0]["network"][key], ends[1]["network"][key]) for key in ends[0]["network"]), name
        assert ends[0]["progress"]["best"] == ends[1]["progress"]["best"]
    logs = [read_log(tmp_path / run_ / "log.jsonl") for run_ in ("whole", "killed")]
    assert len(logs[0][0]) == len(PHASES)
    assert [r["loss"] for r in logs[0][0]] == [r["loss"] for r in logs[1][0]]
    assert logs[0][1] == logs[1][1]


def test_retraining_batchnorm_moves_no_weight(tmp_path: Path) -> None:
    """Sec. 4.1's last step: convolutions and classifier stand still, BatchNorm does not."""
    torch.manual_seed(1)
    network = build(recipe().arch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    retrain = replace(recipe(), phases=(replace(PHASES[-1], lr=0.05),))
    run(retrain, Noise(), network, tmp_path, quiet=True)
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, value in network.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (name.rsplit(".", 1)[0] in norms), name
