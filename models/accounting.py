"""Memory and BOPs of a network by the paper's rule (Sec. 4.4.1, Table 5).

``python -m models.accounting [--json]`` prints the table; ``--graph MODEL.onnx`` counts an exported graph, ``--depth 50
--method binarynet --structure res --size 160x608`` (and so on) one network, as `ArchConfig` names its fields;
``--option weight_bases=2`` sets one of its method's.

memory = 32 bit x real parameters + 1 bit x binary weights; BOPs = 64 x real multiply-accumulates + binary ones.
Real parameters include BatchNorm's two a channel and the classifier's bias; activations, pooling, BatchNorm's and the
shortcut's arithmetic are not counted, as in the paper. What a method scales its binary sums with at inference is: for
XNOR-Net, one real number an output channel and two real multiplications an output. Several bases count several times.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.arch import ArchConfig, build
from models.binarize import get_method
from models.binarize.base import BinaryConv2d, BinaryLayer, Phase, set_phase
from models.command_line import Parser

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

    def count_conv(module: nn.Conv2d, output: Tensor, activation_bases: int) -> None:
        outputs = output[0].numel()
        amount = outputs * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        if isinstance(module, BinaryConv2d):
            macs["binary"] += amount * module.bases * activation_bases
            macs["real"] += outputs * module.real_multiplies
        else:
            macs["real"] += amount

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            count_conv(module, output, bases.get(module, 1))
        elif isinstance(module, nn.Linear):
            macs["real"] += module.in_features * module.out_features

    with torch.device("meta"):
        network = build(config).eval()
        bases: dict[nn.Module, int] = {m.conv: m.sign.bases for m in network.modules() if isinstance(m, BinaryLayer)}
        set_phase(network, Phase.CLIP)  # one convolution a layer, whatever its bases: they are multiplied out above
        for module in network.modules():
            module.register_forward_hook(count)
        network(torch.empty(1, 3, height, width))
    binary = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    signed = sum(m.weight.numel() for m in binary)
    total = sum(p.numel() for p in network.parameters())
    return Cost(
        binary_params=sum(m.weight.numel() * m.bases for m in binary),
        real_params=total - signed + sum(m.out_channels * m.scales for m in binary),
        binary_macs=macs["binary"],
        real_macs=macs["real"],
    )


# Paper Table 5 as printed. The 34-layer exponents are misprints there (124e10 stands for 1.24e10, 234e11 for 2.34e11).
PRINTED = {
    (18, "bireal"): {"memory_mbit": 33.6, "memory_saving": 11.14, "bops": 1.04e10, "bops_saving": 11.06},
    (18, "xnornet"): {"memory_mbit": 33.7, "memory_saving": 11.10, "bops": 1.07e10, "bops_saving": 10.86},
    (18, "none"): {"memory_mbit": 374.1, "bops": 1.16e11},
    (34, "bireal"): {"memory_mbit": 43.7, "memory_saving": 15.97, "bops": 1.24e10, "bops_saving": 18.99},
    (34, "xnornet"): {"memory_mbit": 43.9, "memory_saving": 15.88, "bops": 1.27e10, "bops_saving": 18.47},
    (34, "none"): {"memory_mbit": 697.3, "bops": 2.34e11},
}
NOTES = {
    34: "printed with the exponents 124e10, 127e10 and 234e11, which are misprints of 1.24e10, 1.27e10 and 2.34e11",
}
DIGITS = {"memory_mbit": ".1f", "memory_saving": ".2f", "bops": ".2e", "bops_saving": ".2f"}  # as printed
# Convolution and classifier weights plus about this many real parameters give the printed memory of every row.
PRINTED_EXTRA_PARAMS = 12_300

# XNOR-Net's rows are of its own structure: a shortcut around two convolutions, which changes no count.
NETWORKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bireal", "bireal", {}),
    ("xnornet", "xnornet", {"structure": "res"}),
    ("resnet", "none", {}),
)
FIGURES = ("memory_mbit", "memory_saving", "bops", "bops_saving")


def table(size: int = 224) -> list[dict[str, object]]:
    """Rows of Table 5, and of the depths that the paper leaves out, for ImageNet's 1000 classes.

    Each of `FIGURES` is there as computed and, prefixed with ``printed_``, as the paper prints it, None if it does not.
    ``differs`` names those whose printed digits are not the computed ones, rounded.
    """
    rows: list[dict[str, object]] = []
    for depth in (18, 34, 50, 152):
        full = cost_of(ArchConfig(depth=depth, method="none"), size, size)
        for name, method, fields in NETWORKS:
            cost = cost_of(ArchConfig(depth=depth, method=method, **fields), size, size)
            printed = PRINTED.get((depth, method), {})
            computed = {
                "memory_mbit": cost.memory_bits / 1e6,
                "memory_saving": full.memory_bits / cost.memory_bits,
                "bops": cost.bops,
                "bops_saving": full.bops / cost.bops,
            }
            rows.append(
                {
                    "name": f"{name}{depth}",
                    **asdict(cost),
                    **computed,
                    **{f"printed_{figure}": printed.get(figure) for figure in FIGURES},
                    "differs": [f for f in printed if f"{computed[f]:{DIGITS[f]}}" != f"{printed[f]:{DIGITS[f]}}"],
                    "note": NOTES.get(depth) if printed else None,
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or one network's cost as JSON."""
    parser = Parser(
        prog="python -m models.accounting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--graph", type=Path, metavar="MODEL.onnx", help="count this exported graph instead")
    parser.add_argument("--depth", type=int, help="count this one network instead: 18, 34, 50 or 152 layers")
    parser.add_argument("--method", default="bireal", help="its binarisation, none for full precision")
    parser.add_argument("--structure", default="bireal", help="bireal, res or plain")
    parser.add_argument("--task", default="classify", help="classify or depth")
    parser.add_argument("--width", type=float, default=1.0, help="multiple of the paper's channels")
    parser.add_argument("--classes", type=int, default=1000, help="outputs of a classifier")
    parser.add_argument("--size", default="224", help="of the image: 224, or 160x608 (height x width)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the method, such as k_map=false; repeatable",
    )
    parser.add_argument(
        "--binary-first-1x1",
        action="store_true",
        help="bottlenecks as the paper's text has them: no 1x1 is real-valued",
    )
    args = parser.parse_args(arguments)
    if args.graph:
        return _print_graph(args.graph)
    if args.depth is not None:
        return _print_network(args)
    rows = table()
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'':10} {'computed':^44} {'printed in the paper':^44}")
    heads = f"{'memory':>13} {'saving':>8} {'BOPs':>11} {'saving':>8} "
    print(f"{'network':10} {heads} {heads}")
    for row in rows:
        computed = (row[figure] for figure in FIGURES)
        printed = (row[f"printed_{figure}"] for figure in FIGURES)
        print(f"{row['name']:10} {_columns(*computed)} {_columns(*printed)}".rstrip())
    for depth, note in NOTES.items():
        print(f"{depth} layers: {note}.")
    print(
        "Memory: the printed figures are those of the convolutions' and the classifier's weights (XNOR-Net: and\n"
        f"scales) plus about {PRINTED_EXTRA_PARAMS:,} real parameters in every row; here BatchNorm and bias count."
    )
    unrounded = [
        f"{row['name']} {row['bops']:.4e} as {row['printed_bops']:.2e}"
        for row in rows
        if "bops" in row["differs"]  # type: ignore[operator]  # a list
    ]
    print(f"BOPs: cut off or rounded up in print: {', '.join(unrounded)}.")
    return 0


def _print_network(args: argparse.Namespace) -> int:
    """Print the cost of the network that the arguments describe as JSON."""
    try:
        height, width = _sides(args.size, multiples=args.task == "depth")
        config = ArchConfig(
            depth=args.depth,
            method=args.method,
            structure=args.structure,
            task=args.task,
            num_classes=args.classes,
            width=args.width,
            max_disparity_px=90.0 if args.task == "depth" else 0.0,  # a range of outputs: it changes no count
            first_1x1_real=not args.binary_first_1x1,
            options=_options(args.method, args.option),
        )
        cost = cost_of(config, height, width)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({**asdict(cost), "memory_mbit": cost.memory_bits / 1e6, "bops": cost.bops}, indent=1))
    return 0


def _options(method: str, pairs: list[str]) -> dict[str, object]:
    """A method's options from texts such as ``weight_bases=2``, each of the type of its default.

    Raises:
        ValueError: there is no such method or option, or the value is of another type.
    """
    if method == "none" and not pairs:
        return {}
    defaults = asdict(get_method(method))
    found: dict[str, object] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise ValueError(f"--option {pair}: {method} has the options {', '.join(defaults) or 'none'}")
        kind = type(defaults[key])
        if kind is bool and text in ("true", "false"):
            found[key] = text == "true"
        elif kind is str or (kind is int and text.isdecimal()):
            found[key] = kind(text)
        else:
            wanted = "true or false" if kind is bool else "a whole number"
            raise ValueError(f"--option {pair}: {key} is {wanted}")
    return found


def _sides(text: str, *, multiples: bool) -> tuple[int, int]:
    """Height and width of ``224`` or ``160x608``; a depth network's, which are doubled back up, are multiples of 32."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 32:
        raise ValueError(f"--size {text} is not one or two numbers of at least 32")
    if multiples and any(side % 32 for side in sides):
        raise ValueError(f"--size {text}: a depth network's are multiples of 32")
    return sides[0], sides[-1]


def _print_graph(path: Path) -> int:
    """Print the cost of an exported graph as JSON."""
    # Here, because models.export needs this module.
    import onnx
    from google.protobuf.message import DecodeError

    from models.export.cost import NOTE, cost_of_graph

    if not path.is_file():
        print(f"error: no graph at {path}", file=sys.stderr)
        return 2
    try:
        cost = cost_of_graph(onnx.load(path))
    except (DecodeError, ValueError) as error:
        print(f"error: {path} is not a graph that models.export wrote ({str(error).strip()})", file=sys.stderr)
        return 2
    told = {**asdict(cost), "memory_mbit": cost.memory_bits / 1e6, "bops": cost.bops, "note": NOTE}
    print(json.dumps(told, indent=1))
    return 0


def _columns(memory: object, memory_saving: object, bops: object, bops_saving: object) -> str:
    """Four figures of a row, blank where there is none."""
    texts = [
        f"{memory:.1f} Mbit" if memory is not None else "",
        f"{memory_saving:.2f}x" if memory_saving is not None else "",
        f"{bops:.4g}" if bops is not None else "",
        f"{bops_saving:.2f}x" if bops_saving is not None else "",
    ]
    return " ".join(text.rjust(width) for text, width in zip(texts, (13, 8, 11, 8), strict=True)) + " "


if __name__ == "__main__":
    sys.exit(main())
