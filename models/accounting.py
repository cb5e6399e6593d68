"""Memory and BOPs of a network by the paper's rule (Sec. 4.4.1, Table 5): ``python -m models.accounting [--json]``.

memory = 32 bit x real parameters + 1 bit x binary weights; BOPs = 64 x real multiply-accumulates + binary ones.
Real parameters include BatchNorm's two a channel and the classifier's bias; activations, pooling, BatchNorm's and the
shortcut's arithmetic are not counted, as in the paper.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.arch import ArchConfig, build
from models.binarize.base import BinaryConv2d

BITS_REAL = 32
BOPS_REAL_MAC = 64


@dataclass(frozen=True)
class Cost:
    """What one network stores and computes for one image.

    Attributes:
        binary_params: 1-bit weights.
        real_params: 32-bit parameters.
        binary_macs: multiply-accumulates of a binary with a binary value.
        real_macs: the others.
    """

    binary_params: int
    real_params: int
    binary_macs: int
    real_macs: int

    @property
    def memory_bits(self) -> int:
        """Paper Sec. 4.4.1."""
        return BITS_REAL * self.real_params + self.binary_params

    @property
    def bops(self) -> int:
        """Binary operations, a real multiply-accumulate counted as 64."""
        return BOPS_REAL_MAC * self.real_macs + self.binary_macs


def cost_of(config: ArchConfig, height: int, width: int) -> Cost:
    """Count a network's parameters and multiply-accumulates for one image of ``height`` x ``width``.

    Runs the network on PyTorch's meta device (shapes only), so it is exact and takes no time.
    """
    macs = {"binary": 0, "real": 0}

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            amount = output[0].numel() * module.in_channels * kernel
            macs["binary" if isinstance(module, BinaryConv2d) else "real"] += amount
        elif isinstance(module, nn.Linear):
            macs["real"] += module.in_features * module.out_features

    with torch.device("meta"):
        network = build(config).eval()
        for module in network.modules():
            module.register_forward_hook(count)
        network(torch.empty(1, 3, height, width))
    binary = sum(m.weight.numel() for m in network.modules() if isinstance(m, BinaryConv2d))
    total = sum(p.numel() for p in network.parameters())
    return Cost(binary, total - binary, macs["binary"], macs["real"])


# Paper Table 5 as printed. The 34-layer exponents are misprints there (124e10 stands for 1.24e10, 234e11 for 2.34e11).
PRINTED = {
    (18, "bireal"): {"memory_mbit": 33.6, "bops": 1.04e10},
    (18, "none"): {"memory_mbit": 374.1, "bops": 1.16e11},
    (34, "bireal"): {"memory_mbit": 43.7, "bops": 1.24e10},
    (34, "none"): {"memory_mbit": 697.3, "bops": 2.34e11},
}


def table(size: int = 224) -> list[dict[str, object]]:
    """Rows of Table 5, and of the depths that the paper leaves out, for ImageNet's 1000 classes."""
    rows: list[dict[str, object]] = []
    for depth in (18, 34, 50, 152):
        full = cost_of(ArchConfig(depth=depth, method="none"), size, size)
        for method, cost in (("bireal", cost_of(ArchConfig(depth=depth), size, size)), ("none", full)):
            printed = PRINTED.get((depth, method), {})
            rows.append(
                {
                    "name": f"{'bireal' if method == 'bireal' else 'resnet'}{depth}",
                    **asdict(cost),
                    "memory_mbit": cost.memory_bits / 1e6,
                    "memory_saving": full.memory_bits / cost.memory_bits,
                    "bops": cost.bops,
                    "bops_saving": full.bops / cost.bops,
                    "printed_memory_mbit": printed.get("memory_mbit"),
                    "printed_bops": printed.get("bops"),
                }
            )
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m models.accounting", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    rows = table()
    if parser.parse_args().json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'network':10} {'memory':>13} {'saving':>7} {'BOPs':>10} {'saving':>7}   printed in the paper")
    for row in rows:
        printed = row["printed_memory_mbit"]
        paper = f"{printed} Mbit, {row['printed_bops']:.3g}" if printed else "-"
        print(
            f"{row['name']:10} {row['memory_mbit']:8.1f} Mbit {row['memory_saving']:6.2f}x {row['bops']:10.4g} "
            f"{row['bops_saving']:6.2f}x   {paper}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
