"""Memory and BOPs of a network by the paper's rule (Sec. 4.4.1, Table 5).

``python -m models.accounting [--json]`` prints the table, ``--graph MODEL.onnx`` the cost of an exported graph.
``--depth 50 --method binarynet --structure res --size 160x608`` prints the cost of one network; the options are named
after the fields of `ArchConfig`, and ``--option weight_bases=2`` sets an option of the method.

memory = 32 bit x real parameters + 1 bit x binary weights; BOPs = 64 x real multiply-accumulates + binary ones.
Real parameters include BatchNorm's two per channel and the classifier's bias. As in the paper, activations, pooling and
the arithmetic of BatchNorm and shortcuts are not counted. Factors that scale the binary sums at inference are counted:
for XNOR-Net, one real number per output channel and two real multiplications per output. Each base counts separately.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.arch import ArchConfig, build
from models.binarize import get_method
from models.binarize.base import BinaryConv2d, BinaryLayer, Phase, set_phase
from models.command_line import Parser, expects, show
from models.cost import BITS_REAL, Cost


def cost_of(config: ArchConfig, height: int, width: int) -> Cost:
    """Count a network's parameters and multiply-accumulates for one image of ``height`` x ``width``.

    The network runs on PyTorch's meta device (shapes only), which is exact and fast.
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
        set_phase(network, Phase.CLIP)  # one convolution per layer; count_conv multiplies by the number of bases
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


def rule_bits(config: ArchConfig) -> int:
    """Memory in bits by the rule that gives every figure printed in Table 5.

    It counts the weights of the convolutions and the classifier, XNOR-Net's scales, and `PRINTED_EXTRA_PARAMS`, but
    neither the other parameters of BatchNorm nor the classifier's bias.
    """
    with torch.device("meta"):
        network = build(config)
    binary = real = 0
    for module in network.modules():
        if isinstance(module, BinaryConv2d):
            binary += module.weight.numel() * module.bases
            real += module.out_channels * module.scales
        elif isinstance(module, nn.Conv2d | nn.Linear):
            real += module.weight.numel()
    return BITS_REAL * (real + PRINTED_EXTRA_PARAMS) + binary


# Paper Table 5 as printed, except for the 34-layer exponents, which are misprints (see NOTES).
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
# The memory printed in every row counts the convolution and classifier weights and about this many real parameters.
PRINTED_EXTRA_PARAMS = 12_300

# XNOR-Net's rows use its original structure, one shortcut around two convolutions; this does not change any count.
NETWORKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bireal", "bireal", {}),
    ("xnornet", "xnornet", {"structure": "res"}),
    ("resnet", "none", {}),
)
FIGURES = ("memory_mbit", "memory_saving", "bops", "bops_saving")


def table(size: int = 224) -> list[dict[str, object]]:
    """Rows of Table 5, and of the depths that the paper leaves out, for ImageNet's 1000 classes.

    Each row has the `FIGURES` as computed and, prefixed with ``printed_``, as printed in the paper (None if they are
    not), and the memory by `rule_bits`. ``differs`` lists the figures whose printed value is not the computed one,
    rounded.
    """
    rows: list[dict[str, object]] = []
    for depth in (18, 34, 50, 152):
        full = cost_of(ArchConfig(depth=depth, method="none"), size, size)
        for name, method, fields in NETWORKS:
            config = ArchConfig(depth=depth, method=method, **fields)
            cost = cost_of(config, size, size)
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
                    "rule_memory_mbit": rule_bits(config) / 1e6,
                    **{f"printed_{figure}": printed.get(figure) for figure in FIGURES},
                    "differs": [f for f in printed if f"{computed[f]:{DIGITS[f]}}" != f"{printed[f]:{DIGITS[f]}}"],
                    "note": NOTES.get(depth) if printed else None,
                }
            )
    return rows


#: Defaults of the options that describe a single network.
DEFAULTS: dict[str, object] = {
    "method": "bireal",
    "structure": "bireal",
    "task": "classify",
    "width": 1.0,
    "classes": 1000,
    "size": "224",
    "option": (),
    "binary_first_1x1": False,
}


@expects(OSError, ValueError)
def main(arguments: list[str] | None = None) -> int:
    """Print the table, or one network's cost as JSON."""
    parser = Parser(
        prog="python -m models.accounting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--graph", type=Path, metavar="MODEL.onnx", help="count this exported graph instead")
    parser.add_argument("--depth", type=int, help="count a single network instead, of 18, 34, 50 or 152 layers")
    network = parser.add_argument_group("network", "with --depth only")
    network.add_argument("--method", help="binarisation method, or none for full precision (default bireal)")
    network.add_argument("--structure", help="bireal (default), res or plain")
    network.add_argument("--task", help="classify (default) or depth")
    network.add_argument("--width", type=float, help="width multiplier on the paper's channel counts (default 1)")
    network.add_argument("--classes", type=int, help="number of classes of a classifier (default 1000)")
    network.add_argument("--size", help="image size: 224 (default), or 160x608 (height x width)")
    network.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of the method, such as k_map=false; repeatable",
    )
    network.add_argument(
        "--binary-first-1x1",
        action="store_true",
        default=None,
        help="make the network's first bottleneck 1x1 convolution binary, as in the paper's text",
    )
    args = parser.parse_args(arguments)
    if args.graph and args.depth is not None:
        parser.error("--graph counts a given graph and --depth builds a network: give one of them")
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.depth is None:
            parser.error(f"--{name.replace('_', '-')} describes the network that --depth N counts: give --depth, too")
    if args.graph:
        show(json.dumps(_of_graph(args.graph), indent=1))
    elif args.depth is not None:
        show(json.dumps(_of_network(args), indent=1))
    else:
        rows = table()
        show(json.dumps(rows, indent=1) if args.json else "\n".join(_lines(rows)))
    return 0


def _lines(rows: list[dict[str, object]]) -> Iterator[str]:
    """The table and its remarks as lines of text."""
    yield f"{'':10} {'computed':^44} {'printed in the paper':^44} {'printed rule':>13}"
    heads = f"{'memory':>13} {'saving':>8} {'BOPs':>11} {'saving':>8} "
    yield f"{'network':10} {heads} {heads} {'memory':>12}"
    for row in rows:
        computed = (row[figure] for figure in FIGURES)
        printed = (row[f"printed_{figure}"] for figure in FIGURES)
        rule = f"{row['rule_memory_mbit']:.1f} Mbit"
        yield f"{row['name']:10} {_columns(*computed)} {_columns(*printed):44} {rule:>13}"
    for depth, note in NOTES.items():
        yield f"{depth} layers: {note}."
    yield (
        "Memory: the printed figures follow a rule of their own (last column): the weights of the convolutions and\n"
        f"the classifier (XNOR-Net: also the scales) plus about {PRINTED_EXTRA_PARAMS:,} real parameters in every\n"
        "row. The computed ones count all of BatchNorm and the bias."
    )
    unrounded = [
        f"{row['name']} {row['bops']:.4e} as {row['printed_bops']:.2e}"
        for row in rows
        if "bops" in row["differs"]  # type: ignore[operator]  # a list
    ]
    yield f"BOPs truncated or rounded up in print: {', '.join(unrounded)}."


def _of_network(args: argparse.Namespace) -> dict[str, object]:
    """The cost of the network described by the arguments.

    Raises:
        ValueError: there is no such network.
    """
    height, width = _sides(args.size, multiples=args.task == "depth")
    config = ArchConfig(
        depth=args.depth,
        method=args.method,
        structure=args.structure,
        task=args.task,
        num_classes=args.classes,
        width=args.width,
        max_disparity_px=90.0 if args.task == "depth" else 0.0,  # the output range does not affect the cost
        first_1x1_real=not args.binary_first_1x1,
        options=_options(args.method, args.option),
    )
    return _told(cost_of(config, height, width))


def _options(method: str, pairs: Sequence[str]) -> dict[str, object]:
    """Parse a method's options from strings such as ``weight_bases=2``, using the types of the defaults.

    Raises:
        ValueError: there is no such method or option, or a value has the wrong type.
    """
    if method == "none" and not pairs:
        return {}
    defaults = asdict(get_method(method))
    found: dict[str, object] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise ValueError(f"--option {pair}: the options of {method} are: {', '.join(defaults) or 'none'}")
        kind = type(defaults[key])
        if kind is bool and text in ("true", "false"):
            found[key] = text == "true"
        elif kind is str or (kind is int and text.isdecimal()):
            found[key] = kind(text)
        else:
            wanted = "true or false" if kind is bool else "a whole number"
            raise ValueError(f"--option {pair}: {key} must be {wanted}")
    return found


def _sides(text: str, *, multiples: bool) -> tuple[int, int]:
    """Height and width from ``224`` or ``160x608``, multiples of 32 if ``multiples`` (depth networks need that)."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 32:
        raise ValueError(f"--size {text}: give one number or HEIGHTxWIDTH, each at least 32")
    if multiples and any(side % 32 for side in sides):
        raise ValueError(f"--size {text}: a depth network needs multiples of 32")
    return sides[0], sides[-1]


def _of_graph(path: Path) -> dict[str, object]:
    """The cost of an exported graph.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or models.export did not write it.
    """
    # Imported here because the other figures need no ONNX.
    import onnx
    from google.protobuf.message import DecodeError

    from models.export.cost import NOTE, cost_of_graph

    if not path.is_file():
        raise FileNotFoundError(f"no graph at {path}")
    try:
        cost = cost_of_graph(onnx.load(path))
    except (DecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a graph written by models.export ({str(error).strip()})") from error
    return {**_told(cost), "note": NOTE}


def _told(cost: Cost) -> dict[str, object]:
    return {**asdict(cost), "memory_mbit": cost.memory_bits / 1e6, "bops": cost.bops}


def _columns(memory: object, memory_saving: object, bops: object, bops_saving: object) -> str:
    """The four figures of a row, blank where missing."""
    texts = [
        f"{memory:.1f} Mbit" if memory is not None else "",
        f"{memory_saving:.2f}x" if memory_saving is not None else "",
        f"{bops:.4g}" if bops is not None else "",
        f"{bops_saving:.2f}x" if bops_saving is not None else "",
    ]
    return " ".join(text.rjust(width) for text, width in zip(texts, (13, 8, 11, 8), strict=True)) + " "


if __name__ == "__main__":
    sys.exit(main())
