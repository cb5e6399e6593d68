"""The docs page of the grid: tables with the paper's figures beside ours, and every ordering checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from models.ablation.figures import DEPTHS, METHODS, NAMES, Figures, beside
from models.ablation.grid import (
    COMBINATIONS,
    DISTILLATION,
    EXTRAS,
    OTHERS,
    SCALED,
    SMOOTHING,
    STREAM_RMS,
    Budget,
    binary,
    cells,
    combination,
    extras,
    other,
    real,
    scaled,
    third_order,
)
from models.ablation.orderings import CHANCE, from_relu, longer, noise, sentence, stated, summary
from models.ablation.paper import FULL_PRECISION
from models.arch import build
from models.arch.config import STRUCTURES
from models.binarize.base import Phase

WORDS = {"relu": "ReLU", "clip": "Clip", "original": "original", "magnitude": "magnitude-aware"}
GRADIENTS = {"clip": "clip", "approxsign": "ApproxSign"}


#: What Tables 3 and 4 compare, beside the figures.
NOTES = (
    'Bi-Real Net from ReLU is Table 1\'s row "ReLU, magnitude-aware, ApproxSign": it has the epochs of the baselines.',
    "",
    'BinaryNet of 18 and 34 layers is the same network as Table 1\'s Res in row "ReLU, original, clip", with the same',
    "training: it also clips its weights to [-1, 1], which changes nothing while none leaves that range. Equal figures",
    "are therefore one measurement, not two. The paper's two differ: it quotes BinaryNet's from ABC-Net's authors.",
    "",
    "ABC-Net uses 3 weight bases and 1 activation base here. The paper quotes its figures from Lin et al. 2017 and",
    "prints no number of bases; we could not look it up there. By their abstract, Lin et al. come close to full",
    f"precision with enough bases, and 42.7 % is {FULL_PRECISION[18] - 42.7:.1f} points below full precision (69.3 %):",
    "the paper's ABC-Net probably has fewer bases than ours.",
    "",
)


def page(results: dict[str, Any], source: str = "ablation.json") -> str:
    """Markdown of the whole page.

    Args:
        results: the grid's results file, parsed.
        source: name of that file, beside the page.
    """
    figures = Figures(results)
    budget = figures.budget
    total = sum(record["cpu_s"] for record in results["cells"].values())
    lines = [
        "# Ablation: Tables 1 to 4 of the paper",
        "",
        summary(figures),
        longer(figures),
        "",
        f"Written by `python -m models.ablation` from [{source}]({source}).",
        "Each entry is **ours / the paper's** top-1. Ours: CIFAR-10 (JPEG re-encoded, so not comparable with published",
        f"CIFAR-10 results), {budget.images:,} training images, {results.get('test_images', 0):,} test images,",
        f"at {budget.size}x{budget.size}; networks with {budget.width:g} times the paper's channels.",
        f"Every 1-bit network is trained for {budget.binary_epochs} epochs after {budget.relu_epochs} epochs",
        f"with ReLU and, for Clip, {budget.clip_epochs} each with leaky clip and clip (SGD, Nesterov momentum 0.9,",
        f"batch size {budget.batch}, peak learning rate {budget.lr:g}, cosine schedule): {_in_all(figures)}.",
        "The paper's: ImageNet at 224x224, many epochs. Orderings can be compared, absolute levels cannot.",
        "",
        f"{len(results['cells'])} cells, {total / 60:.0f} minutes of one core; the last of them on",
        f"{results.get('hardware', '')}, PyTorch {results.get('torch', '')}, Python {results.get('python', '')}.",
        _commits(results),
        *_seeds(figures),
        "`not run` means that time ran out; the same command trains the missing cells. `-` means that there is no such",
        "figure or no such cell.",
        "",
    ]
    for depth in DEPTHS:
        lines += _table_1(figures, depth)
    lines += _other_tables(figures)
    lines += _extras(figures)
    lines += _scaled(figures)
    lines += ["## Which orderings reproduce", ""]
    lines += [
        f"*Not told apart*: the difference is below {noise(figures) * 100:.1f} points. *Both at chance*: both are",
        f"below {CHANCE:.0%}, with ten classes. Epochs are named where they differ: those with clip are part of",
        "what clip initialisation, alone or with the others, is seen to do. *About as good* and *about equal*",
        "reproduce if a network is not worse, or not different, by more; this does not show that both are equal.",
        *_false_alarms(figures),
        "",
    ]
    lines += [f"- {sentence(figures, ordering)}" for ordering in stated()]
    return "\n".join(lines) + "\n"


def _in_all(figures: Figures) -> str:
    """Epochs of the kinds of networks, with those of the networks that they start from."""
    clip, relu = combination(18, "bireal", *COMBINATIONS[-1]), combination(18, "bireal", *COMBINATIONS[0])
    return (
        f"{figures.epochs(clip)} epochs in all from Clip, {figures.epochs(relu)} from ReLU, which every baseline of "
        "Tables 3 and 4 starts from"
    )


def _commits(results: dict[str, Any]) -> str:
    """At which commits the cells were computed; records of before these were stored have none."""
    known = Counter(record["commit"] for record in results["cells"].values() if record.get("commit"))
    unknown = len(results["cells"]) - known.total()
    last = results.get("commit", "")
    if not unknown and len(known) == 1:
        return f"All cells were computed at commit {last}."
    told = [f"{count} at {commit}" for commit, count in known.most_common()]
    told += [f"{unknown} at commits that were not recorded"] if unknown else []
    return f"The cells were computed at several commits, the last at {last} ({', '.join(told)})."


def _seeds(figures: Figures) -> list[str]:
    if not any(_separately(figures, depth) for depth in DEPTHS):
        return ["All networks of Tables 1 to 4 have one seed so far: how far two seeds of one differ is not known."]
    pairs = figures.pairs()
    differ = [
        "Of the 1-bit ones, the two differ by up to",
        f"{figures.spread() * 100:.1f} points ({len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} of seeds).",
    ]
    return [
        "Results of Table 1's Bi-Real Nets are means of two seeds where both were run, as listed below each table.",
        *(differ if pairs else []),
        "The other networks have one seed.",
    ]


def _separately(figures: Figures, depth: int) -> list[str]:
    """The Bi-Real Nets of Table 1 that were run with both seeds, with the result of each."""
    networks = {"/".join(row): combination(depth, "bireal", *row) for row in COMBINATIONS}
    networks |= {f"{phase.value}/real-valued": real(depth, "bireal", phase) for phase in (Phase.RELU, Phase.CLIP)}
    return [
        f"{what} {' and '.join(f'{top1:.1%}' for top1 in found)}"
        for what, cell in networks.items()
        if len(found := figures.seeds(cell)) > 1
    ]


def _false_alarms(figures: Figures) -> list[str]:
    """How many of the verdicts are to be expected wrong by the noise of seeds."""
    chance = figures.chance(noise(figures))
    if not chance:
        return []
    return [
        "If all networks varied with their seed as these Bi-Real Nets do, two equally good ones would be told apart in",
        f"{chance:.0%} of such comparisons (Student's t); with this many, expect some wrong verdicts.",
    ]


def _table_1(figures: Figures, depth: int) -> list[str]:
    lines = [
        f"## Table 1, {depth} layers",
        "",
        "| initialisation | weight update | activation gradient | epochs | "
        + " | ".join(f"{NAMES[s]}-{depth}" for s in STRUCTURES),
        "|---|---|---|---|" + "---|" * len(STRUCTURES),
    ]
    lines[-2] += " |"
    for init in ("relu", "clip"):
        for row in (r for r in COMBINATIONS if r[0] == init):
            entries = " | ".join(figures.text(combination(depth, s, *row)) for s in STRUCTURES)
            epochs = figures.epochs(combination(depth, "bireal", *row))
            lines.append(f"| {WORDS[row[0]]} | {WORDS[row[1]]} | {GRADIENTS[row[2]]} | {epochs} | {entries} |")
        epochs = figures.epochs(real(depth, "bireal", Phase(init)))
        entries = " | ".join(figures.text(real(depth, s, Phase(init))) for s in STRUCTURES)
        lines.append(f"| {WORDS[init]} | real-valued network | | {epochs} | {entries} |")
    entry = beside(figures.ours(real(depth, "res", Phase.RELU)), FULL_PRECISION[depth])
    epochs = figures.epochs(real(depth, "res", Phase.RELU))
    lines.append(f"| | full precision | | {epochs} | | {entry} | |")
    lines += ["", "Full precision: the paper's is He et al.'s ResNet, ours is Res with ReLU."]
    lines += _real_valued(figures, depth)
    lines += ["", f"Seeds of Bi-Real-{depth} separately: {', '.join(_separately(figures, depth)) or 'only one'}."]
    return [*lines, ""]


def _real_valued(figures: Figures, depth: int) -> list[str]:
    """What the real-valued networks say of the structure, which the paper's text mentions."""
    told = []
    for phase in (Phase.RELU, Phase.CLIP):
        ours, theirs = (figures.ours(real(depth, structure, phase)) for structure in ("bireal", "res"))
        if ours is not None and theirs is not None:
            told.append(f"{ours:.1%} against {theirs:.1%} with {WORDS[phase.value]}")
    if not told:
        return []
    return [
        "Sec. 4.2 says that the Bi-Real structure could even benefit a real-valued network; the paper's figures are",
        f"not legible in our copy. Ours, Bi-Real-{depth} against Res-{depth}: {' and '.join(told)}.",
    ]


def _other_tables(figures: Figures) -> list[str]:
    budget = figures.budget
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
        f"| layers | Bi-Real Net ({figures.epochs(second)} epochs) | Bi-Real Net from ReLU "
        f"({figures.epochs(from_relu(18))} epochs) | "
        + " | ".join(f"{METHODS[m]} ({figures.epochs(other(18, m))} epochs)" for m in OTHERS)
        + " |",
        "|---|" + "---|" * (2 + len(OTHERS)),
    ]
    for depth in (18, 34, 50):
        own = binary(50) if depth == 50 else combination(depth, "bireal", "clip", "magnitude", "approxsign")
        entries = [figures.text(own), "-" if depth == 50 else figures.text(from_relu(depth))]
        known = {cell.key for cell in cells()}
        entries += [figures.text(other(depth, m)) if other(depth, m).key in known else "-" for m in OTHERS]
        lines.append(f"| {depth} | {' | '.join(entries)} |")
    return [*lines, "", *NOTES, *_fresh(figures, budget), ""]


def _extras(figures: Figures) -> list[str]:
    """Bi-Real-18 with techniques that the paper does not use."""
    best = combination(18, "bireal", "clip", "magnitude", "approxsign")
    lines = [
        "## Beside the paper: other techniques, Bi-Real-18",
        "",
        "| technique | top-1 of each seed |",
        "|---|---|",
    ]
    for what, cell in (("none", best), *((EXTRAS[cell.extra], cell) for cell in extras())):
        lines.append(f"| {what} | {', '.join(f'{top1:.1%}' for top1 in figures.seeds(cell)) or 'not run'} |")
    return [
        *lines,
        "",
        *_extras_seeds(figures),
        f"Label smoothing {SMOOTHING:g}; the teacher's answers have a weight of {DISTILLATION:g}. All are used only",
        "while the 1-bit network is trained.",
        "",
    ]


def _scaled(figures: Figures) -> list[str]:
    """Bi-Real Nets of all depths with and without scaled streams."""
    lines = [
        "## Beside the paper: scaled streams",
        "",
        "ApproxSign passes no gradient where an activation is beyond 1, and a Bi-Real Net's streams grow with depth.",
        f"Here they are scaled to an RMS of {STREAM_RMS:g} before the first step of 1-bit training",
        "([ADR 72](adr/0072-streams-that-gradients-pass.md)). Magnitude-aware, ApproxSign; top-1 of each seed.",
        "",
        "| network | starts from | epochs | not scaled | scaled | gain of the means | Res, the same training |",
        "|---|---|---|---|---|---|---|",
    ]
    for depth, init, _ in sorted(SCALED):
        pair = scaled(depth, init)
        entries = " | ".join(", ".join(f"{top1:.1%}" for top1 in figures.seeds(cell)) or "not run" for cell in pair)
        without, with_ = (figures.ours(cell) for cell in pair)
        gain = "-" if without is None or with_ is None else f"{(with_ - without) * 100:+.1f} points"
        res = figures.ours(replace(pair[0], structure="res"))
        lines.append(
            f"| Bi-Real-{depth} | {WORDS[init]} | {figures.epochs(pair[0])} | {entries} | {gain} | "
            f"{'-' if res is None else f'{res:.1%}'} |"
        )
    return [
        *lines,
        "",
        "A network with scaled streams computes what it computes without, so that only the training differs: which",
        "gradients pass, and the size of a step relative to the scaled BatchNorms' weights. Which of the two it is was",
        "not measured.",
        "",
    ]


def _extras_seeds(figures: Figures) -> list[str]:
    """How far the seeds of each technique differ, which says nothing of the cells of the tables."""
    told = [
        f"{(max(found) - min(found)) * 100:.1f} points with {EXTRAS[cell.extra]}"
        for cell in extras()
        if len(found := figures.seeds(cell)) > 1
    ]
    return [f"The two seeds differ by {', '.join(told)}."] if told else []


def _fresh(figures: Figures, budget: Budget) -> list[str]:
    """Names the tensors that the baselines cannot take from the real-valued network they start from."""
    told = []
    for depth, method, why in (
        (18, "xnornet", "whose BatchNorms precede the sign"),
        (50, "xnornet", "for the same reason"),
        (18, "abcnet", "whose activation bases have no counterpart there"),
    ):
        cell = other(depth, method)
        if fresh := figures.fresh(cell):
            with torch.device("meta"):  # names only
                total = len(build(cell.recipe(budget).arch).state_dict())
            told.append(f"{fresh} of {total} tensors of {METHODS[method]}-{depth}, {why}")
    return [f"Randomly initialised instead of taken from the ReLU network: {'; '.join(told)}."] if told else []
