"""Training: exact resumption, learning, initialisation, data."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.arch import ArchConfig, build
from models.binarize.base import BinaryActivation, Phase
from models.data.folder import hold_out, load_split, read_classes, training_batches
from models.data.kitti import load_drives
from models.train import checkpoint
from models.train.__main__ import main
from models.train.classify import ClassifyTask
from models.train.initialise import initialise_from
from models.train.loop import _write, run
from models.train.optim import learning_rate, make_optimizer
from models.train.provenance import command, write_provenance
from models.train.recipe import PhaseSpec, Recipe
from models.train.recipes import RECIPES, get_recipe

WNIDS = ("n00000001", "n00000002", "n00000003", "n00000004")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 24 images that differ by the direction and colour of their stripes."""
    root = tmp_path_factory.mktemp("photos")
    names = [{"index": i, "wnid": w, "name": f"kind {i}, synonym"} for i, w in enumerate(WNIDS)]
    (root / "small_classes.json").write_text(json.dumps(names))
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:32, 0:32]
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid
        folder.mkdir(parents=True)
        for i in range(24):
            wave = np.sin((xs if label % 2 else ys) * 0.8 + rng.uniform(0, 6.0))
            image = (
                128 + 70 * wave[..., None] * ([1, 1, -1] if label < 2 else [1, -1, 1]) + rng.normal(0, 12, (32, 32, 3))
            )
            suffix = ".JPEG" if i % 2 else ".png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}{suffix}")
    return root


def small_recipe(method: str = "bireal") -> Recipe:
    phases = (PhaseSpec(Phase.CLIP, 2, 5e-3), PhaseSpec(Phase.BINARY, 10, 5e-3))
    arch = ArchConfig(depth=18, method=method, num_classes=4, width=0.25)
    base = get_recipe("bireal18-tiny100")
    return replace(
        base, name="small", arch=arch, phases=phases, batch=16, size=32, hold_out_per_class=8, bf16=False, teacher=""
    )


# Below, mypy is told to pass over: `Module.to` without an overload for memory_format alone, options handed on as
# `object`, and layers of a Module by name and index, which torch types as `Tensor | Module`.
def train(recipe: Recipe, data: Path, out: Path, **options: object) -> checkpoint.Progress:
    torch.manual_seed(recipe.seed)
    network = build(recipe.arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return run(recipe, ClassifyTask(recipe, data, None), network, out, **options)  # type: ignore[arg-type]


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if "loss" in r]


def test_a_binary_network_learns_the_small_classes(photos: Path, tmp_path: Path) -> None:
    progress = train(small_recipe(), photos, tmp_path)
    # Of 32 held-out pictures; by chance half are right once in 500 runs. CPUs round differently: on one it was 0.66, on
    # others above 0.75.
    assert progress.metrics["top1"] >= 0.5, "chance is 0.25"
    assert (tmp_path / "best.pt").is_file()
    flipped = [json.loads(x).get("flipped_signs", 0) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert max(flipped) > 0, "binary weights change sign while the network learns"


def test_resumption_is_exact(photos: Path, tmp_path: Path) -> None:
    recipe = replace(small_recipe(), phases=(PhaseSpec(Phase.CLIP, 1, 5e-3), PhaseSpec(Phase.BINARY, 2, 5e-3)))
    train(recipe, photos, tmp_path / "whole")
    for _ in range(10):
        train(recipe, photos, tmp_path / "parts", resume=True, max_steps=3)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ends = [checkpoint.load(tmp_path / name / "last.pt")["network"] for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_batches_depend_on_seed_epoch_and_step_alone(photos: Path) -> None:
    data = load_split(photos, "train", 32)
    options = {"batch": 16, "size": 32, "min_scale": 0.5, "seed": 3}
    whole = list(training_batches(data, epoch=1, **options))  # type: ignore[arg-type]
    rest = list(training_batches(data, epoch=1, first_step=4, **options))  # type: ignore[arg-type]
    other = next(training_batches(data, epoch=2, **options))  # type: ignore[arg-type]
    assert len(whole) == 6
    assert torch.equal(whole[4][0], rest[0][0])
    assert not torch.equal(whole[0][0], other[0])


def test_held_out_images_are_not_trained_on(photos: Path) -> None:
    data = load_split(photos, "train", 32)
    train_part, held_out = hold_out(data, 8)
    assert (len(train_part), len(held_out)) == (64, 32)
    assert sorted(set(held_out.labels.tolist())) == [0, 1, 2, 3]
    seen = {image.tobytes() for image in train_part.images}
    assert not seen & {image.tobytes() for image in held_out.images}
    assert read_classes(photos)[1].name == "kind 1"


def test_missing_data_is_named(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"classes\.json"):
        load_split(tmp_path, "train", 32)
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_split(photos, "dev", 32)
    with pytest.raises(FileNotFoundError, match="has no drive"):
        load_drives(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


@pytest.mark.parametrize("depth", [18, 50])
def test_bireal_takes_every_weight_of_its_full_precision_twin(depth: int, tmp_path: Path) -> None:
    full = ArchConfig(depth=depth, method="none", num_classes=4, width=0.25)
    source = build(full)
    checkpoint.save(tmp_path / "full.pt", source, full, "small", checkpoint.Progress())
    network = build(replace(full, method="bireal"))
    fresh = initialise_from(network, tmp_path / "full.pt")
    # only what a ResNet does not have stays fresh: the 1x1s that match the x1 stream between stages
    assert all("match" in name for name in fresh)
    assert torch.equal(network.stem[0].weight, source.stem[0].weight)  # type: ignore[union-attr,index]
    last = "body" if depth == 18 else "expand"
    theirs = source.stages[3][-1].convs[-1][0].weight  # type: ignore[union-attr,index]
    assert torch.equal(getattr(network.stages[3][-1], last).conv.weight, theirs)  # type: ignore[union-attr,index]
    depth_net = build(replace(full, task="depth", max_disparity_px=90.0))
    assert all(not name.startswith("encoder.stages") for name in initialise_from(depth_net, tmp_path / "full.pt"))


def test_batchnorm_retraining_freezes_the_rest() -> None:
    network = build(ArchConfig(depth=18, num_classes=4, width=0.25))
    optimizer = make_optimizer(network, PhaseSpec(Phase.BINARY, 1, 1e-3, batchnorm_only=True))
    trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert trained == sum(2 * m.num_features for m in norms)
    assert not network.stem[0].weight.requires_grad  # type: ignore[union-attr,index]


def test_weights_decay_and_batchnorm_and_biases_do_not() -> None:
    network = build(ArchConfig(depth=18, method="none", num_classes=4, width=0.25))
    optimizer = make_optimizer(network, PhaseSpec(Phase.RELU, 1, 0.1, "sgd", weight_decay=1e-4))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decay[id(parameter)] for name, parameter in network.named_parameters()}
    weights = {"fc.weight"} | {
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)
    }
    assert names == {name: 1e-4 if name in weights else 0.0 for name in names}
    assert len(weights) == 21


def test_learning_rates() -> None:
    spec = PhaseSpec(Phase.BINARY, 20, 0.01, "sgd", "step", (10, 15))
    rates = [learning_rate(spec, epoch * 5, 100, 5) for epoch in (0, 9, 10, 14, 15, 19)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])
    cosine = PhaseSpec(Phase.BINARY, 1, 1.0, warmup=0.1)
    assert learning_rate(cosine, 0, 100, 100) == pytest.approx(0.1)
    assert learning_rate(cosine, 10, 100, 100) == pytest.approx(1.0)
    assert learning_rate(cosine, 99, 100, 100) < 0.001


@pytest.mark.parametrize(
    ("depth", "batch", "epochs", "lr", "milestones"),
    [
        (18, 128, 20, 0.01, (10, 15)),
        (34, 1024, 40, 0.08, (20, 30)),
        (50, 800, 100, 0.064, (50, 75)),
        (152, 4000, 120, 0.1, (60, 90)),
    ],
)
def test_paper_recipes_have_the_papers_hyper_parameters(
    depth: int, batch: int, epochs: int, lr: float, milestones: tuple[int, int]
) -> None:
    """Sec. 4.1: SGD, momentum 0.9 and not Nesterov's, no weight decay, both sub-steps of a bottleneck alike."""
    paper = RECIPES[f"paper-bireal{depth}-imagenet"]
    assert (paper.batch, paper.size, paper.label_smoothing, paper.bf16) == (batch, 224, 0.0, False)
    first = [Phase.LEAKY_CLIP, Phase.CLIP] + [Phase.BINARY_1X1] * (depth >= 50) + [Phase.BINARY]
    assert [p.phase for p in paper.phases] == [*first, Phase.BINARY]
    assert [(p.epochs, p.lr, p.milestones) for p in paper.phases[:-1]] == [(epochs, lr, milestones)] * len(first)
    assert [p.batchnorm_only for p in paper.phases] == [False] * len(first) + [True]
    assert paper.phases[-1].epochs == 1
    assert all((p.optimizer, p.schedule, p.weight_decay) == ("sgd", "step", 0.0) for p in paper.phases)
    start = RECIPES[paper.init]
    assert (start.arch.depth, start.arch.activation, start.init) == (depth, "relu", "")
    assert [p.phase for p in start.phases] == [Phase.RELU]
    with pytest.raises(ValueError, match="unknown recipe 'x'"):
        get_recipe("x")


def test_momentum_is_plain_in_the_papers_recipes_and_nesterovs_in_ours() -> None:
    for name, recipe in RECIPES.items():
        assert {p.nesterov for p in recipe.phases} == {not name.startswith("paper-")}, name
    spec = RECIPES["paper-bireal18-imagenet"].phases[0]
    for nesterov, expected in ((False, 1.0 + 1.9), (True, 1.9 + 2.71)):
        linear = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(linear.weight)
        optimizer = make_optimizer(linear, replace(spec, lr=1.0, nesterov=nesterov))
        for _ in range(2):  # velocity 1, then 0.9 + 1; Nesterov's step is the gradient and 0.9 of the velocity
            optimizer.zero_grad()
            linear(torch.ones(1, 1)).sum().backward()
            optimizer.step()
        assert -linear.weight.item() == pytest.approx(expected)


def test_a_bireal_net_starts_from_its_counterpart_with_relu_weight_for_weight(tmp_path: Path) -> None:
    for depth in (18, 50):
        paper = RECIPES[f"paper-bireal{depth}-imagenet"]
        small = {"num_classes": 4, "width": 0.125}
        start = replace(RECIPES[paper.init].arch, **small)
        checkpoint.save(tmp_path / "real.pt", build(start), start, paper.init, checkpoint.Progress())
        assert initialise_from(build(replace(paper.arch, **small)), tmp_path / "real.pt") == []


def test_baselines_have_the_budget_of_bireal() -> None:
    ours = RECIPES["bireal18-tiny100"]
    for name in ("binarynet18-tiny100", "xnornet18-tiny100", "abcnet18-tiny100"):
        recipe = RECIPES[name]
        assert sum(p.epochs for p in recipe.phases) == sum(p.epochs for p in ours.phases)
        assert all(p.phase is Phase.BINARY for p in recipe.phases)
        assert (recipe.teacher, recipe.seed, recipe.batch) == (ours.teacher, ours.seed, ours.batch)
        assert recipe.arch.structure == "res"
        assert recipe.arch.method == name.removesuffix("18-tiny100")
        assert build(replace(recipe.arch, width=0.125)).config.method == recipe.arch.method
    assert RECIPES[RECIPES["bireal34-tiny100"].init].arch.depth == 34


def test_bottlenecks_on_small_images_take_two_steps() -> None:
    recipe = RECIPES["bireal50-tiny100"]
    phases = [Phase.LEAKY_CLIP, Phase.CLIP, Phase.BINARY_1X1, Phase.BINARY]
    assert [phase.phase for phase in recipe.phases] == phases
    start = RECIPES[recipe.init]
    assert (start.arch.depth, start.arch.method, start.views, start.soft_labels) == (50, "none", recipe.views, True)
    assert recipe.twin in ("", recipe.init), "the card names the network that it starts from"


@pytest.mark.parametrize(("method", "fresh"), [("binarynet", 0), ("xnornet", 80), ("abcnet", 32)])
def test_what_a_baseline_does_not_take_from_its_twin_is_in_its_source(method: str, fresh: int, tmp_path: Path) -> None:
    recipe = RECIPES[f"{method}18-tiny100"]
    full = replace(RECIPES[recipe.init].arch, width=0.125)
    checkpoint.save(tmp_path / "full.pt", build(full), full, recipe.init, checkpoint.Progress())
    network = build(replace(recipe.arch, width=0.125))
    assert len(initialise_from(network, tmp_path / "full.pt")) == fresh
    told = f"{fresh} of {len(network.state_dict())} tensors" if fresh else "fresh: nothing"
    assert told in recipe.source


def test_a_log_has_flips_and_the_share_of_activations_inside(photos: Path, tmp_path: Path) -> None:
    recipe = replace(small_recipe(), phases=(PhaseSpec(Phase.BINARY, 1, 5e-3),))
    task = ClassifyTask(recipe, photos, None)
    network = build(recipe.arch)
    seen: list[torch.Tensor] = []

    def last_step(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            seen.append(inputs[0].detach())

    signs = [m for m in network.modules() if isinstance(m, BinaryActivation)]
    for module in signs:
        module.register_forward_pre_hook(last_step)
    run(recipe, task, network, tmp_path)
    (record,) = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines() if "loss" in x]
    last = torch.cat([x.flatten() for x in seen[-len(signs) :]])
    assert record["activations_inside"] == pytest.approx((last.abs() <= 1).float().mean().item(), abs=1e-6)
    assert 0 < record["flipped_signs"] < 1


def test_a_log_is_json_even_of_a_run_that_diverges() -> None:
    log = io.StringIO()
    _write(
        log, {"loss": float("nan"), "held_out": {"abs_rel": float("inf"), "delta1": 0.5}, "activations_inside": None}
    )
    record = json.loads(log.getvalue(), parse_constant=pytest.fail)
    assert record == {"loss": None, "held_out": {"abs_rel": None, "delta1": 0.5}, "activations_inside": None}


def test_command_line_errors_are_one_sentence(tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "models.train",
        "resnet18-tiny100",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["models.train", *map(str, arguments), "--threads", "1"])
    return main()


def test_a_recipe_that_starts_from_another_wants_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bireal18-tiny100-long", "paper-bireal18-imagenet"):
        start = RECIPES[name].init
        for resume in ([], ["--resume"]):  # there is nothing to resume
            assert run_main(monkeypatch, name, "--data", tmp_path, "--out", tmp_path / "out", *resume) == 2
            assert f"recipe {name} starts from the weights of {start}: give its checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_wants_no_weights_to_start_from(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(small_recipe(), phases=(replace(small_recipe().phases[0], epochs=1),), init="resnet18-tiny100")
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    train(replace(recipe, init=""), photos, tmp_path, max_steps=2)
    arguments = (recipe.name, "--data", photos, "--out", tmp_path, "--resume")
    assert run_main(monkeypatch, *arguments, "--accumulate", 2) == 2
    assert "was trained with --accumulate 1, not 2" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists(), "a run that does not begin leaves no word of itself"
    assert run_main(monkeypatch, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == 1
    assert "--accumulate" not in command(recipe)
    assert command(recipe, 4).endswith("--init RUNS/resnet18-tiny100/best.pt --accumulate 4")


def test_the_command_names_the_checkpoints_that_a_run_was_given(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It named those of the recipe, or none, also where others were given."""
    recipe = small_recipe()
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    monkeypatch.setattr("models.train.__main__.run", lambda *_, **__: checkpoint.Progress())
    for theirs, init, told in (
        ("resnet18-tiny100", "resnet18-tiny100", " --init RUNS/resnet18-tiny100/best.pt"),
        ("imported", "resnet18-tiny100", " --init start.pt"),
        ("imported", "", " --init start.pt"),
    ):
        monkeypatch.setitem(RECIPES, recipe.name, replace(recipe, init=init))
        checkpoint.save(tmp_path / "start.pt", build(recipe.arch), recipe.arch, theirs, checkpoint.Progress())
        arguments = (recipe.name, "--data", photos, "--out", tmp_path / "out", "--init", tmp_path / "start.pt")
        assert run_main(monkeypatch, *arguments) == 0
        facts = json.loads((tmp_path / "out" / "run.json").read_text())
        assert facts["command"] == f"python -m models.train small --data DATA --out RUNS/small{told}"
    write_provenance(tmp_path / "out", recipe, resumed=True)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == facts, "a resumed run is given none"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("resnet18-tiny100", "--teacher", "recipe resnet18-tiny100 learns from no teacher"),
        ("bireal18-tiny100-long", "--teacher", "recipe bireal18-tiny100-long learns from --soft-labels"),
        ("bireal18-tiny100", "--soft-labels", "recipe bireal18-tiny100 uses none"),
    ],
)
def test_a_teacher_without_effect_is_refused(
    name: str,
    option: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(monkeypatch, name, "--data", tmp_path, "--out", tmp_path / "out", option, tmp_path) == 2
    assert f"error: {option} would have no effect: {message}\n" == capsys.readouterr().err
