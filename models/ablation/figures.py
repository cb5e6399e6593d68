"""The grid's results beside the paper's: top-1 of a cell, averaged over the seeds that were run."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

from scipy.stats import t

from models.ablation.grid import COMBINATIONS, Budget, Cell, combination
from models.ablation.paper import printed

NAMES = {"bireal": "Bi-Real", "res": "Res", "plain": "Plain"}
METHODS = {"binarynet": "BinaryNet", "xnornet": "XNOR-Net", "abcnet": "ABC-Net"}
SEEDS = (1, 2)  # seeds that a cell may have been trained with
DEPTHS = (18, 34)  # of Table 1


class Figures:
    """Our top-1 and the paper's, by cell."""

    def __init__(self, results: dict[str, Any]) -> None:
        self._cells = results["cells"]
        self.budget = Budget(**results["budget"])
        self._paper = printed()

    def seeds(self, cell: Cell) -> list[float]:
        """Top-1 (fraction) of every seed of this cell that was run, whatever the seed of ``cell`` itself."""
        keys = (replace(cell, seed=seed).key for seed in SEEDS)
        return [float(self._cells[key]["top1"]) for key in keys if key in self._cells]

    def ours(self, cell: Cell) -> float | None:
        """Top-1 (fraction), mean over seeds; None if the cell was not run."""
        found = self.seeds(cell)
        return mean(found) if found else None

    def pairs(self) -> list[float]:
        """Top-1 differences (fractions) between two seeds, one for each 1-bit Bi-Real Net of Table 1 run with both.

        Techniques beside the paper's do not count: they say nothing of the others.
        """
        both = (self.seeds(combination(depth, "bireal", *row)) for depth in DEPTHS for row in COMBINATIONS)
        return [max(found) - min(found) for found in both if len(found) > 1]

    def spread(self) -> float:
        """Largest of `pairs`; 0 if no cell of Table 1 was run twice."""
        return max(self.pairs(), default=0.0)

    def chance(self, least: float) -> float:
        """Probability that two networks that are equally good come out more than ``least`` (a fraction) apart.

        By Student's t from `pairs`, if every network varies with its seed as those do; 0 without any.
        """
        pairs = self.pairs()
        square = mean(pair**2 for pair in pairs) if pairs else 0.0
        return float(2.0 * t.sf(least / square**0.5, len(pairs))) if square else 0.0

    def epochs(self, cell: Cell) -> int:
        """Epochs that the cell's weights are trained for, with those of the cells they come from."""
        return cell.epochs(self.budget)

    def fresh(self, cell: Cell) -> int | None:
        """Number of tensors not initialised from the cell it starts from; None if the cell was not run."""
        record = self._cells.get(cell.key)
        return None if record is None else int(record.get("fresh", 0))

    def paper(self, cell: Cell) -> float | None:
        """The paper's top-1 in percent; None if the paper does not print it."""
        return self._paper.get(cell.key)

    def text(self, cell: Cell) -> str:
        """Ours / the paper's, in percent."""
        return beside(self.ours(cell), self.paper(cell))


def beside(ours: float | None, paper: float | None) -> str:
    """Ours (a fraction) / the paper's (in percent), both in percent."""
    return f"{'not run' if ours is None else f'{ours:.1%}'} / {'-' if paper is None else f'{paper:.1f} %'}"
