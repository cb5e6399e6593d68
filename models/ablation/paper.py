"""The figures printed in the paper's Tables 1 to 4: ImageNet top-1 in percent, by `Cell.key`.

Figures are left out (some 34-layer columns, the real-valued rows of Table 1, 152 layers) if the grid has no such cell
or if they are not legible in our copy of the paper.
"""

from __future__ import annotations

from models.ablation.grid import COMBINATIONS, Cell, binary, combination, other, third_order

_TABLE_1 = {
    (18, "bireal"): (32.9, 36.8, 40.5, 47.5, 37.4, 38.1, 53.6, 56.4),
    (18, "res"): (27.8, 32.2, 33.9, 41.6, 32.8, 34.3, 42.4, 45.7),
    (18, "plain"): (3.3, 4.7, 4.3, 8.5, 3.2, 4.9, 6.7, 12.1),
    (34, "bireal"): (53.1, 58.0, 59.9, 61.4, 55.9, 58.1, 60.8, 62.2),
    (34, "res"): (27.5, 33.9, 33.6, 47.5, 35.0, 38.2, 43.9, 49.0),
}

#: Columns of Table 1 that we have the paper's figures of: depth and structure.
COLUMNS = tuple(_TABLE_1)

#: He et al.'s ResNets by depth, the last row of Table 1. Our counterparts are pre-activation ResNets with ReLU.
FULL_PRECISION = {18: 69.3, 34: 73.3}


def printed() -> dict[str, float]:
    """Top-1 in percent by `Cell.key` (of seed 1)."""
    figures: dict[str, float] = {}
    for (depth, structure), column in _TABLE_1.items():
        for row, top1 in zip(COMBINATIONS, column, strict=True):
            figures[combination(depth, structure, *row).key] = top1
    others: list[tuple[Cell, float]] = [
        (third_order(), 56.46),
        (other(18, "binarynet"), 42.2),
        (other(18, "abcnet"), 42.7),
        (other(18, "xnornet"), 51.2),
        (other(34, "abcnet"), 52.4),
        (binary(50), 62.6),
        (other(50, "binarynet"), 9.4),
        (other(50, "xnornet"), 63.1),
    ]
    return figures | {cell.key: top1 for cell, top1 in others}
