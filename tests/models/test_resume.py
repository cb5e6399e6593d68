"""A run that stops anywhere ends as the uninterrupted one: by SGD and Adam, in every kind of phase, and when killed."""

from __future__ import annotations

import json
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
from models.train.provenance import read_provenance, write_provenance
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

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        return F.cross_entropy(network(images), labels), {}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        images, labels = next(Noise().batches(PHASES[0], 99, 0))
        return {"top1": (network.eval()(images).argmax(1) == labels).float().mean().item()}


def recipe(depth: int = 50) -> Recipe:
    arch = ArchConfig(depth=depth, num_classes=4, width=0.0625, **SMALL_STEM)
    return replace(get_recipe("bireal18-tiny100"), name="small", arch=arch, phases=PHASES, bf16=False)


def train(
    out: Path,
    task: Noise,
    *,
    resume: bool = False,
    save_every_s: float = 300.0,
    phases: tuple[PhaseSpec, ...] = PHASES,
    accumulate: int = 1,
) -> None:
    torch.manual_seed(1)
    made = replace(recipe(50 if phases == PHASES else 18), phases=phases)  # the small one is several times faster
    network = build(made.arch)
    run(made, task, network, out, resume=resume, save_every_s=save_every_s, quiet=True, accumulate=accumulate)


def records(out: Path) -> list[dict[str, object]]:
    """What a log tells, without what may differ between a run and its repetition."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("wall_s", "flipped_signs")} for line in lines]


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


def test_a_log_goes_on_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a killed run had logged after its last checkpoint are taken again, and stand in the log once."""
    monkeypatch.setattr("models.train.loop.LOG_EVERY", 5)
    phases = (PHASES[0], PHASES[2])
    train(tmp_path / "whole", Noise(), phases=phases)
    out = tmp_path / "killed"
    before_any, within_an_epoch, in_the_next_phase = (17, 300.0), (8, 0.0), (30, 300.0)
    logged = []
    for killed_at, save_every_s in (before_any, within_an_epoch, in_the_next_phase):
        with pytest.raises(KeyboardInterrupt):
            train(out, Noise(killed_at), resume=True, save_every_s=save_every_s, phases=phases)
        logged.append(len(records(out)))
        with (out / "log.jsonl").open("a") as log:
            log.write('{"phase": "leaky_cl')  # the kill came in the middle of a line
    assert logged == [3, 1, 8], "only the steps since the run began, and what it had logged before its checkpoint"
    train(out, Noise(), resume=True, phases=phases)
    assert records(out) == records(tmp_path / "whole")
    assert len(records(out)) == 2 * (STEPS // 5 + 1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        ValueError, match=r"already has the last\.pt of a run: continue it with --resume, or use another --out"
    ):
        train(out, Noise(), phases=phases)
    (out / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"already has the best\.pt of a run"):
        train(out, Noise(), phases=phases)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {k: before[k] for k in before if k != "last.pt"}


def test_a_step_in_parts_is_the_step(tmp_path: Path) -> None:
    """Without BatchNorm the parts' gradients add up to the batch's, whether or not the parts are equal."""
    ends = []
    for accumulate in (1, 2, 3):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
        before = network[0].weight.detach().clone()
        made = replace(recipe(), phases=(replace(PHASES[0], weight_decay=0.01),))
        out = tmp_path / str(accumulate)
        run(made, Noise(), network, out, max_steps=STEPS, quiet=True, accumulate=accumulate)
        assert (network[0].weight - before).abs().max() > 1e-2, "the network learns"
        ends.append((network.state_dict(), records(out)[0]["loss"]))
    for weights, loss in ends[1:]:
        assert loss == pytest.approx(ends[0][1], rel=1e-4)
        assert all(torch.allclose(weights[key], ends[0][0][key], atol=1e-5) for key in weights)


def test_batchnorm_sees_a_part_of_the_batch(tmp_path: Path) -> None:
    """Its running averages move once for each part, towards the part's mean."""
    network = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    run(recipe(), Noise(), network, tmp_path, max_steps=1, quiet=True, accumulate=2)
    images, _ = next(Noise().batches(PHASES[0], 0, 0))
    first, second = (part.mean(dim=(0, 2, 3)) for part in images.split(4))
    assert isinstance(network[0].running_mean, Tensor)
    assert torch.allclose(network[0].running_mean, 0.9 * 0.1 * first + 0.1 * second, atol=1e-6)


def test_a_run_in_parts_is_resumed_exactly(tmp_path: Path) -> None:
    phases = PHASES[2:3]
    train(tmp_path / "whole", Noise(), phases=phases, accumulate=2)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(out, Noise(12), phases=phases, save_every_s=0.0, accumulate=2)
    with pytest.raises(ValueError, match="was trained with --accumulate 2, not 1: use --accumulate 2"):
        train(out, Noise(), phases=phases, resume=True)
    train(out, Noise(), phases=phases, resume=True, accumulate=2)
    ends = [checkpoint.load(tmp_path / name / "last.pt")["network"] for name in ("whole", "killed")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    with pytest.raises(ValueError, match="must be 1 to 128, the batch size"):
        train(out, Noise(), phases=phases, accumulate=129)


def test_a_checkpoint_of_before_there_were_parts_is_resumed(tmp_path: Path) -> None:
    phases = (replace(PHASES[2], optimizer="adam"),)
    train(tmp_path / "whole", Noise(), phases=phases)
    out = tmp_path / "old"
    with pytest.raises(KeyboardInterrupt):
        train(out, Noise(12), phases=phases, save_every_s=0.0)
    payload = checkpoint.load(out / "last.pt")
    del payload["progress"]["accumulate"]
    torch.save(payload, out / "last.pt")
    train(out, Noise(), phases=phases, resume=True)
    assert records(out) == records(tmp_path / "whole")


def test_the_best_checkpoint_has_batchnorm_trained_again(tmp_path: Path) -> None:
    """Sec. 4.1's last epoch is part of the network, though an epoch before it may have been better."""

    class Falling(Noise):
        def evaluate(self, network: nn.Module) -> dict[str, float]:
            self.killed_at -= 1
            return {"top1": self.killed_at / 100.0}

    phases = (replace(PHASES[2], epochs=2), PHASES[3])
    train(tmp_path / "a", Falling(), phases=phases)
    assert checkpoint.load(tmp_path / "a" / "best.pt")["progress"]["phase"] == 1
    train(tmp_path / "b", Falling(), phases=phases[:1])
    best = checkpoint.load(tmp_path / "b" / "best.pt")["progress"]
    assert (best["phase"], best["epoch"]) == (0, 1), "elsewhere the best epoch is kept"


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(tmp_path: Path) -> None:
    train(tmp_path, Noise(), phases=PHASES[1:2])
    with pytest.raises(ValueError, match="is of recipe small, not bireal18-tiny100: use another --out"):
        checkpoint.load_resumable(tmp_path / "last.pt", get_recipe("bireal18-tiny100"), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 4}, r"recipe small \(batch 128, not 4\): use another --out"),
        ({"seed": 2, "min_scale": 0.5}, r"\(seed 1, not 2; min_scale 0\.35, not 0\.5\)"),
        ({"phases": PHASES[1:]}, r"\(2 phases, not 3\)"),
        ({"phases": (PHASES[0], replace(PHASES[2], lr=0.5))}, r"\(phases\[1\]\.lr 0\.02, not 0\.5\)"),
        ({"depth": replace(recipe().depth, photometric=0.25)}, r"\(depth\.photometric 0\.5, not 0\.25\)"),
        ({"arch": replace(recipe(18).arch, options={"gradient": "clip"})}, r"\(arch\.options .*, not .*clip"),
    ],
)
def test_a_changed_recipe_is_not_resumed(change: dict[str, object], said: str, tmp_path: Path) -> None:
    made = replace(recipe(18), phases=(PHASES[0], PHASES[2]))
    network = build(made.arch)
    run(made, Noise(), network, tmp_path, max_steps=1, quiet=True)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=said):
        run(replace(made, **change), Noise(), network, tmp_path, resume=True, quiet=True)  # type: ignore[arg-type]
    assert (tmp_path / "last.pt").read_bytes() == before
    told_otherwise = replace(made, source="elsewhere", terms="others", limits=("none",))
    progress = run(told_otherwise, Noise(), network, tmp_path, resume=True, max_steps=1, quiet=True)
    assert progress.step == 2, "words about a run do not change it"


def test_a_checkpoint_of_before_there_were_settings_is_resumed_as_the_same_network(tmp_path: Path) -> None:
    made = replace(recipe(18), phases=PHASES[:1])
    network = build(made.arch)
    run(made, Noise(), network, tmp_path, max_steps=1, quiet=True)
    payload = checkpoint.load(tmp_path / "last.pt")
    del payload["settings"]
    torch.save(payload, tmp_path / "last.pt")
    wider = replace(made, arch=replace(made.arch, width=0.125))
    with pytest.raises(ValueError, match=r"another recipe small \(arch\.width 0\.0625, not 0\.125\)"):
        run(wider, Noise(), build(wider.arch), tmp_path, resume=True, quiet=True)
    assert run(replace(made, batch=64), Noise(), network, tmp_path, resume=True, max_steps=1, quiet=True).step == 2


def test_weights_of_another_network_are_said_to_be(tmp_path: Path) -> None:
    """As of a recipe whose adapters came or went, which its architecture does not say."""
    made = replace(recipe(18), phases=PHASES[:1])
    run(made, Noise(), build(made.arch), tmp_path, max_steps=1, quiet=True)
    with pytest.raises(ValueError, match=r"last\.pt holds the weights of another network: Missing key"):
        run(made, Noise(), nn.Linear(1, 1), tmp_path, resume=True, quiet=True)


def test_the_processor_time_of_all_resumptions_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("models.train.loop.time.process_time", lambda: float(next(ticks)))
    made = replace(recipe(18), phases=PHASES[:1])
    network = build(made.arch)
    first = run(made, Noise(), network, tmp_path, max_steps=10, quiet=True).cpu_s
    assert first == 10.0, "a tick a step"
    whole = run(made, Noise(), network, tmp_path, resume=True, quiet=True).cpu_s
    assert whole == STEPS + 1.0, "and one for the evaluation"
    assert checkpoint.load(tmp_path / "last.pt")["progress"]["cpu_s"] == whole


def test_a_run_resumed_on_other_hardware_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(hardware: str, *, resumed: bool) -> str:
        monkeypatch.setattr("models.train.provenance.hardware", lambda: hardware)
        write_provenance(tmp_path, recipe(), resumed=resumed)
        facts = read_provenance(tmp_path / "last.pt")
        assert facts["torch"] == torch.__version__, "what stayed the same is said once"
        return facts["hardware"]

    assert written("2 cores of A", resumed=True) == "2 cores of A", "its folder had none"
    assert written("2 cores of A", resumed=True) == "2 cores of A"
    assert written("4 cores of B, a GPU", resumed=True) == "2 cores of A, then 4 cores of B, a GPU"
    assert written("4 cores of B, a GPU", resumed=True) == "2 cores of A, then 4 cores of B, a GPU"
    assert written("2 cores of A", resumed=True) == "2 cores of A, then 4 cores of B, a GPU, then 2 cores of A"
    assert written("2 cores of A", resumed=False) == "2 cores of A", "another run began"


def test_a_run_that_diverges_stops(tmp_path: Path) -> None:
    phases = (replace(PHASES[2], lr=1e30, epochs=2, schedule="constant"),)
    with pytest.raises(
        ValueError, match=r"small binary 1/2, step 25: the loss is (nan|inf) .*with a lower learning rate"
    ):
        train(tmp_path, Noise(), phases=phases)
    assert not (tmp_path / "best.pt").exists()


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
