"""Checkpoints: everything needed to resume a run exactly where it stopped, and to export its network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.arch import ArchConfig, build
from models.arch.bireal import BiRealNet
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet
from models.binarize.base import Phase
from models.train import torch_file
from models.train.recipe import Recipe
from models.train.recipes import DEPTH_TEACHER, RECIPES
from models.train.settings import differences, settings_of

KEYS = {"arch", "recipe", "network", "progress"}  # what every checkpoint has


@dataclass
class Progress:
    """Progress of a run: the next step, the training time and the held-out metrics.

    Attributes:
        phase: index into the recipe's phases.
        epoch: epoch within the phase.
        step: step within the epoch.
        wall_s: training time so far in seconds, over all resumptions.
        cpu_s: the same in seconds of one core, of the processes that trained it.
        best: best value of the task's metric on the held-out set so far.
        metrics: the latest metrics on the held-out set.
        accumulate: micro-batches per step.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    best: float = float("-inf")
    metrics: dict[str, float] = field(default_factory=dict)
    accumulate: int = 1


def save(
    path: Path,
    network: torch.nn.Module,
    arch: ArchConfig,
    recipe: str,
    progress: Progress,
    optimizer: Any = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically, so that an interrupted run never leaves a partial file.

    ``settings`` are those of `models.train.settings`; a checkpoint that is not resumed needs none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {
        "arch": asdict(arch),
        "recipe": recipe,
        "network": network.state_dict(),
        "progress": asdict(progress),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "settings": settings,
    }
    temporary = path.with_suffix(".part")
    torch.save(payload, temporary)
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's payload, with tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of models.train, or describes a network that this version lacks.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}: train one with `python -m models.train RECIPE`")
    payload = torch_file.read(path, "give a checkpoint of models.train, such as RUN/best.pt")
    if not isinstance(payload, dict) or not payload.keys() >= KEYS:
        lacking = ", ".join(sorted(KEYS - payload.keys())) if isinstance(payload, dict) else "all of its keys"
        raise ValueError(
            f"{path} is not a checkpoint of models.train (it lacks {lacking}): convert another program's weights with "
            "`python -m models.import_official`"
        )
    try:
        ArchConfig(**payload["arch"])
        payload["progress"] = asdict(Progress(**payload["progress"]))
    except (TypeError, ValueError) as error:
        why = str(error).replace("ArchConfig.__init__() ", "its network: ").replace("Progress.__init__() ", "")
        raise ValueError(
            f"{path} cannot be used by this version ({why}): use the version of the program that wrote it"
        ) from error
    return payload


def check_unused(out: Path) -> None:
    """Check that ``out`` holds no other run, whose best.pt could be mistaken for that of the new run.

    Raises:
        ValueError: there is a checkpoint.
    """
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise ValueError(f"{out} already has the {name} of a run: continue it with --resume, or use another --out")


def load_resumable(path: Path, recipe: Recipe, accumulate: int) -> dict[str, Any]:
    """`load` a checkpoint to resume a run of ``recipe`` with ``accumulate`` micro-batches per step.

    Checkpoints from before settings were stored are resumed if the network is the same.

    Raises:
        FileNotFoundError, ValueError: see `load`.
        ValueError: the checkpoint is of another recipe or of other settings of this one, or used another number of
            micro-batches.
    """
    payload = load(path)
    theirs = payload.get("recipe")
    if theirs != recipe.name:
        raise ValueError(f"{path} is of recipe {theirs}, not {recipe.name}: use another --out, or resume {theirs}")
    now = settings_of(recipe)
    stored = payload.get("settings") or {"arch": json.loads(json.dumps(payload["arch"]))}
    if changed := differences(stored, now):
        raise ValueError(
            f"{path} was trained with another recipe {recipe.name} ({'; '.join(changed)}): use another --out, or the "
            "version of the program that started it"
        )
    before = payload["progress"].get("accumulate", 1)
    if before != accumulate:
        raise ValueError(
            f"{path} was trained with --accumulate {before}, not {accumulate}: use --accumulate {before}, because "
            "BatchNorm's statistics depend on it"
        )
    return payload


def check_binarised(payload: dict[str, Any], path: Path) -> None:
    """Check that a 1-bit network comes from the phase that trains it as one.

    Nothing is known of checkpoints that no run wrote (recovered, imported, measured again), which start at no step.

    Raises:
        ValueError: it comes from an earlier or a real-valued phase; as a 1-bit network it would answer at random.
    """
    settings, at, recipe = payload.get("settings") or {}, payload["progress"], payload["recipe"]
    phases = settings.get("phases") or (settings_of(RECIPES[recipe])["phases"] if recipe in RECIPES else [])
    behind = at["phase"] - (
        at["epoch"] == at["step"] == 0
    )  # at the start of a phase, the weights are of the one before
    if not ArchConfig(**payload["arch"]).binary or not 0 <= behind < len(phases):
        return
    if (phase := phases[behind]["phase"]) != Phase.BINARY:
        raise ValueError(
            f"{path} is from phase {phase} of a run of {recipe}, in which not all of its 1-bit layers are binary yet: "
            "give a checkpoint of phase binary, such as best.pt"
        )


def check_classifies(payload: dict[str, Any], path: Path) -> None:
    """Check that a checkpoint is of a classifier, from a run that learned classes.

    Raises:
        ValueError: it is a depth network, or its run learned feature maps only (models.train.mosaic), so that it would
            answer at random.
    """
    if payload["arch"]["task"] != "classify":
        raise ValueError(f"{path} is a depth network: give a checkpoint of a classifier")
    recipe = payload["recipe"]
    without = recipe in RECIPES and RECIPES[recipe].mosaics
    if (payload.get("settings") or {}).get("mosaics", without):
        raise ValueError(
            f"{path} is of a run of {recipe}, which learned feature maps and no classes: its last layer is random; "
            "give it to a run of models.train as --init"
        )


def load_network(path: Path) -> BiRealNet | ResNet | DepthNet:
    """The network of a checkpoint, in eval mode, without the adapters of `models.train.hints`.

    Raises:
        FileNotFoundError, ValueError: see `load`.
        ValueError: it is the pretrained depth teacher, or its weights are not those of the network that it names.
    """
    payload = load(path)
    if payload.get("recipe") == DEPTH_TEACHER:
        raise ValueError(
            f"{path} is the depth teacher ({DEPTH_TEACHER}), which is for distillation only (--teacher of "
            "models.train): it is none of our networks and cannot be exported or measured"
        )
    network = build(ArchConfig(**payload["arch"]))
    fill(network, {k: v for k, v in payload["network"].items() if "hints" not in k.split(".")}, path)
    network.eval()
    return network


def fill(network: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load the weights of the checkpoint at ``path`` into ``network``.

    Raises:
        ValueError: names or shapes differ.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        why = str(error).splitlines()[1:2] or [str(error)]  # the first line only names the class
        raise ValueError(f"{path} holds the weights of another network: {why[0].strip():.200}") from error
