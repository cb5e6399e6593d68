"""The docs page of the grid: tables with the paper's figures beside ours, and every ordering checked."""

from __future__ import annotations

from typing import Any

import torch

from models.ablation.figures import METHODS, NAMES, Figures, beside
from models.ablation.grid import (
    COMBINATIONS,
    DISTILLATION,
    EXTRAS,
    OTHERS,
    SMOOTHING,
    Budget,
    binary,
    combination,
    extras,
    other,
    real,
    third_order,
)
from models.ablation.orderings import CHANCE, noise, sentence, stated, summary
from models.ablation.paper import FULL_PRECISION
from models.arch import build
from models.arch.config import STRUCTURES
from models.binarize.base import Phase

WORDS = {"relu": "ReLU", "clip": "Clip", "original": "original", "magnitude": "magnitude-aware"}
GRADIENTS = {"clip": "clip", "approxsign": "ApproxSign"}


def page(results: dict[str, Any], source: str = "ablation.json") -> str:
    """Markdown of the whole page.

    Args:
        results: the grid's results file, parsed.
        source: name of that file, beside the page.
    """
    figures, budget = Figures(results), results["budget"]
    total = sum(record["cpu_s"] for record in results["cells"].values())
    lines = [
        "# Ablation: Tables 1 to 4 of the paper",
        "",
        summary(figures),
        "",
        f"Written by `python -m models.ablation` from [{source}]({source}).",
        "Each entry is **ours / the paper's** top-1. Ours: CIFAR-10 (JPEG re-encoded, so not comparable with published",
        f"CIFAR-10 results), {budget['images']:,} training images, {results.get('test_images', 0):,} test images,",
        f"at {budget['size']}x{budget['size']}; networks with {budget['width']:g} times the paper's channels.",
        f"Every 1-bit network is trained for {budget['binary_epochs']} epochs after {budget['relu_epochs']} epochs",
        f"with ReLU and, for Clip, {budget['clip_epochs']} each with leaky clip and clip (SGD, Nesterov momentum 0.9,",
        f"batch size {budget['batch']}, peak learning rate {budget['lr']:g}, cosine schedule).",
        "The paper's: ImageNet at 224x224, many epochs. Orderings can be compared, absolute levels cannot.",
        "",
        f"{len(results['cells'])} cells, {total / 60:.0f} minutes of one core; {results.get('hardware', '')},",
        f"PyTorch {results.get('torch', '')}, Python {results.get('python', '')}, commit {results.get('commit', '')}.",
        *_seeds(figures),
        "`not run` means that time ran out; the same command trains the missing cells.",
        "",
    ]
    for depth in (18, 34):
        lines += _table_1(figures, depth)
    lines += _other_tables(figures, Budget(**budget))
    lines += _extras(figures)
    lines += ["## Which orderings reproduce", ""]
    lines += [
        f"*Not told apart*: the difference is below {noise(figures) * 100:.1f} points. *Both at chance*: both networks",
        f"are below {CHANCE:.0%}, with ten classes.",
        "",
    ]
    lines += [f"- {sentence(figures, ordering)}" for ordering in stated()]
    return "\n".join(lines) + "\n"


def _seeds(figures: Figures) -> list[str]:
    if not figures.spread():
        return ["All networks have one seed so far."]
    return [
        "Results of Bi-Real-18 are means of two seeds where both were run; two seeds of a 1-bit network differ by up",
        f"to {figures.spread() * 100:.1f} points. The other networks have one seed.",
    ]


def _table_1(figures: Figures, depth: int) -> list[str]:
    lines = [
        f"## Table 1, {depth} layers",
        "",
        "| initialisation | weight update | activation gradient | "
        + " | ".join(f"{NAMES[s]}-{depth}" for s in STRUCTURES),
        "|---|---|---|" + "---|" * len(STRUCTURES),
    ]
    lines[-2] += " |"
    for init in ("relu", "clip"):
        for row in (r for r in COMBINATIONS if r[0] == init):
            entries = " | ".join(figures.text(combination(depth, s, *row)) for s in STRUCTURES)
            lines.append(f"| {WORDS[row[0]]} | {WORDS[row[1]]} | {GRADIENTS[row[2]]} | {entries} |")
        entries = " | ".join(figures.text(real(depth, s, Phase(init))) for s in STRUCTURES)
        lines.append(f"| {WORDS[init]} | real-valued network | | {entries} |")
    entry = beside(figures.ours(real(depth, "res", Phase.RELU)), FULL_PRECISION[depth])
    lines.append(f"| | full precision | | | {entry} | |")
    lines += ["", "Full precision: the paper's is He et al.'s ResNet, ours is Res with ReLU."]
    if depth == 18:
        again = [
            f"{'/'.join(row)} {' and '.join(f'{top1:.1%}' for top1 in found)}"
            for row in COMBINATIONS
            if len(found := figures.seeds(combination(18, "bireal", *row))) > 1
        ]
        lines += ["", f"Seeds of Bi-Real-18 separately: {', '.join(again) or 'only one'}."]
    return [*lines, ""]


def _other_tables(figures: Figures, budget: Budget) -> list[str]:
    second = combination(18, "bireal", "clip", "magnitude", "approxsign")
    lines = [
        "## Table 2: order of the approximation, Bi-Real-18",
        "",
        "| ApproxSign (second order) | third order |",
        "|---|---|",
        f"| {figures.text(second)} | {figures.text(third_order())} |",
        "",
        "## Tables 3 and 4: methods",
        "",
        "| layers | Bi-Real Net | " + " | ".join(METHODS[m] for m in OTHERS) + " |",
        "|---|" + "---|" * (1 + len(OTHERS)),
    ]
    for depth in (18, 34, 50):
        own = binary(50) if depth == 50 else combination(depth, "bireal", "clip", "magnitude", "approxsign")
        lines.append(
            f"| {depth} | {figures.text(own)} | " + " | ".join(figures.text(other(depth, m)) for m in OTHERS) + " |"
        )
    lines += ["", "ABC-Net uses 3 weight bases and 1 activation base here."]
    return [*lines, *_fresh(figures, budget), ""]


def _extras(figures: Figures) -> list[str]:
    """Bi-Real-18 with techniques that the paper does not use."""
    best = combination(18, "bireal", "clip", "magnitude", "approxsign")
    lines = [
        "## Beside the paper: label smoothing and distillation, Bi-Real-18",
        "",
        "| technique | top-1 of each seed |",
        "|---|---|",
    ]
    for what, cell in (("none", best), *((EXTRAS[cell.extra], cell) for cell in extras())):
        lines.append(f"| {what} | {', '.join(f'{top1:.1%}' for top1 in figures.seeds(cell)) or 'not run'} |")
    return [
        *lines,
        "",
        f"Label smoothing {SMOOTHING:g}; the teacher's answers have a weight of {DISTILLATION:g}. Both are used only",
        "while the 1-bit network is trained.",
        "",
    ]


def _fresh(figures: Figures, budget: Budget) -> list[str]:
    """Names the tensors that the baselines cannot take from the real-valued network they start from."""
    told = []
    for method, why in (
        ("xnornet", "whose BatchNorms precede the sign"),
        ("abcnet", "whose activation bases have no counterpart there"),
    ):
        cell = other(18, method)
        if fresh := figures.fresh(cell):
            with torch.device("meta"):  # names only
                total = len(build(cell.recipe(budget).arch).state_dict())
            told.append(f"{fresh} of {total} tensors of {METHODS[method]}-18, {why}")
    return [f"Randomly initialised instead of taken from the ReLU network: {'; and '.join(told)}."] if told else []
