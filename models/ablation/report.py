"""The docs page of the grid: tables with the paper's figures beside ours, and every ordering checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.ablation.grid import COMBINATIONS, OTHERS, Cell, binary, combination, other, real, third_order
from models.ablation.paper import printed
from models.arch.config import STRUCTURES
from models.binarize.base import Phase

NAMES = {"bireal": "Bi-Real", "res": "Res", "plain": "Plain"}
METHODS = {"binarynet": "BinaryNet", "xnornet": "XNOR-Net", "abcnet": "ABC-Net"}
WORDS = {"relu": "ReLU", "clip": "Clip", "original": "original", "magnitude": "magnitude-aware"}
GRADIENTS = {"clip": "clip", "approxsign": "ApproxSign"}
NOISE = 0.01  # differences below a point are within what two seeds or 4000 test images tell apart


class Figures:
    """Ours and the paper's top-1 by cell."""

    def __init__(self, results: dict[str, Any]) -> None:
        self._cells = results["cells"]
        self._paper = printed()

    def ours(self, cell: Cell) -> float | None:
        """Top-1 as a fraction, None if the cell was not run."""
        record = self._cells.get(cell.key)
        return None if record is None else float(record["top1"])

    def paper(self, cell: Cell) -> float | None:
        """Top-1 in percent, None if it is not printed."""
        return self._paper.get(cell.key)

    def text(self, cell: Cell) -> str:
        """Ours / the paper's, in percent."""
        ours, paper = self.ours(cell), self.paper(cell)
        return f"{'not run' if ours is None else f'{ours:.1%}'} / {'-' if paper is None else f'{paper:.1f} %'}"


def page(results: dict[str, Any]) -> str:
    """Markdown of the whole page."""
    figures, budget = Figures(results), results["budget"]
    total = sum(record["cpu_s"] for record in results["cells"].values())
    lines = [
        "# Ablation: Tables 1 to 4 of the paper",
        "",
        "Written by `python -m models.ablation`; figures are in [ablation.json](ablation.json). Each entry is",
        "**ours / the paper's** top-1. Ours: CIFAR-10 (JPEG re-encoded, so not comparable with published CIFAR-10",
        f"figures), {budget['images']:,} training images, {results.get('test_images', 0):,} test images, scaled up to",
        f"{budget['size']}x{budget['size']}; networks {budget['width']:g} times as wide as the paper's, with its stem.",
        f"Every 1-bit network is trained for {budget['binary_epochs']} epochs after {budget['relu_epochs']} epochs",
        f"with ReLU and, for Clip, {budget['clip_epochs']} each with leaky clip and clip (SGD, Nesterov momentum 0.9,",
        f"batch {budget['batch']}, peak rate {budget['lr']:g}, cosine).",
        "The paper's are ImageNet at 224x224, many epochs: orderings can be compared, levels cannot.",
        "",
        f"{len(results['cells'])} cells, {total / 60:.0f} minutes of one core; {results.get('hardware', '')},",
        f"PyTorch {results.get('torch', '')}, Python {results.get('python', '')}, commit {results.get('commit', '')}.",
        "`not run`: the time did not suffice; the same command goes on with what is missing.",
        "",
    ]
    for depth in (18, 34):
        lines += _table_1(figures, depth)
    lines += _other_tables(figures)
    lines += ["## Which orderings reproduce", ""]
    lines += [f"- {sentence}" for sentence in orderings(figures)]
    return "\n".join(lines) + "\n"


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
    if depth == 18:
        lines += ["", "Bi-Real-18 again, with another seed: "]
        again = [
            f"{'/'.join(row)} {figures.text(combination(18, 'bireal', *row, seed=2)).split(' / ')[0]}"
            for row in COMBINATIONS
        ]
        lines[-1] += ", ".join(again) + "."
    return [*lines, ""]


def _other_tables(figures: Figures) -> list[str]:
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
    return [*lines, "", "ABC-Net here has 3 weight bases and 1 activation base.", ""]


def _pairs() -> Iterator[tuple[str, Cell, Cell]]:
    """Orderings that the paper states: (what, the better, the worse)."""
    for depth in (18, 34):
        best = [combination(depth, s, "clip", "magnitude", "approxsign") for s in STRUCTURES]
        yield f"the Bi-Real structure beats the ResNet's at {depth} layers", best[0], best[1]
        yield f"the ResNet's structure beats the plain one at {depth} layers", best[1], best[2]
        for structure in STRUCTURES:
            name = f"{NAMES[structure]}-{depth}"
            worst = ("relu", "original", "clip")
            base = combination(depth, structure, *worst)
            yield (
                f"magnitude-aware update alone helps {name}",
                combination(depth, structure, "relu", "magnitude", "clip"),
                base,
            )
            yield (
                f"ApproxSign alone helps {name}",
                combination(depth, structure, "relu", "original", "approxsign"),
                base,
            )
            yield (
                f"clip initialisation alone helps {name}",
                combination(depth, structure, "clip", "original", "clip"),
                base,
            )
            full = combination(depth, structure, "clip", "magnitude", "approxsign")
            yield f"all three together help {name}", full, base
    best18 = combination(18, "bireal", "clip", "magnitude", "approxsign")
    for method in ("xnornet", "abcnet", "binarynet"):
        yield f"Bi-Real-18 beats {METHODS[method]}", best18, other(18, method)
    yield "Bi-Real-34 beats ABC-Net", combination(34, "bireal", "clip", "magnitude", "approxsign"), other(34, "abcnet")
    yield "Bi-Real-50 beats BinaryNet", binary(50), other(50, "binarynet")


def orderings(figures: Figures) -> Iterator[str]:
    """One sentence for each ordering of the paper: it reproduces, it does not, or it cannot be told."""
    for what, better, worse in _pairs():
        ours = (figures.ours(better), figures.ours(worse))
        if ours[0] is None or ours[1] is None:
            yield f"Not run: {what}."
            continue
        difference = ours[0] - ours[1]
        told = f"{ours[0]:.1%} against {ours[1]:.1%}"
        if difference > NOISE:
            yield f"Reproduces: {what} ({told})."
        elif difference < -NOISE:
            yield f"**Does not reproduce** with this budget and one seed: {what}; it is the other way round ({told})."
        else:
            yield f"**Not told apart**: {what}; the difference is below a point ({told})."
