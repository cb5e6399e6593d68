"""The docs page of the figures; every number comes from ``figures.json``."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from models.figures.approximations import AREAS
from models.figures.capability import bottleneck_entry, paper_example

WIDTH = 120


def paragraph(*parts: str) -> str:
    """One wrapped paragraph."""
    text = textwrap.fill(" ".join(parts), WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{text}\n"


def span(values: list[float]) -> str:
    """Smallest to largest value, in percent."""
    return f"{min(values):.0%} to {max(values):.0%}"


def command(numbers: dict[str, Any]) -> str:
    """The command that recreates the page."""
    networks = [f"    --{name} RUNS/{recipe}/last.pt \\\n" for name, recipe in numbers["networks"].items()]
    shown = f"    --images DATA/test --size {numbers['size']} --out docs/figures\n"
    return f"```\npython -m models.figures \\\n{''.join(networks)}{shown}```\n"


def page(numbers: dict[str, Any]) -> str:
    """Markdown of the page."""
    areas = numbers["areas"]
    parts = [
        "# The paper's analysis figures, from our networks\n",
        paragraph(
            "The networks are cells of the [ablation grid](../ablation.md): narrow, and trained for a few epochs on",
            f"CIFAR-10. Activations are from {numbers['images']} test images at {numbers['size']}x{numbers['size']}.",
            f"{numbers['hardware']}, PyTorch {numbers['torch']}. The numbers are in [figures.json](figures.json).",
            "The command is as follows, where RUNS is the grid's `--out` and DATA its `--data`:",
        ),
        command(numbers),
        "## Fig. 7: approximations of the sign\n",
        "![The three approximations and their derivatives](fig7-approximations.svg)\n",
        paragraph(
            "Each curve is the integral of the derivative used in training (`models/binarize/functional.py`), so the",
            f"figure checks the code. Area between the sign and the approximation: clip {areas['clip']:.4f}",
            f"(paper: {AREAS['clip']:.0f}), Eq. 4 {areas['approxsign']:.4f} (paper: 2/3), Eq. 6",
            f"{areas['approxsign3']:.4f} (not printed; exactly 1/2).",
        ),
        _weights(numbers["weights"]),
        _activations(numbers["activations"]),
        _capability(numbers),
    ]
    return "\n".join(parts)


def _weights(weights: dict[str, Any]) -> str:
    aware, original = weights["magnitude"], weights["original"]
    first, last = next(iter(aware)), list(aware)[-1]
    ratios = [1.0 / m["real"] for m in aware.values()]
    return "\n".join(
        [
            "## Fig. 8: magnitudes of weights\n",
            "![Histograms of real weights, binary values as lines](fig8-weights.svg)\n",
            paragraph(
                f"The mean magnitude of the real weights is {aware[first]['real']:.3f} in the first 1-bit layer and",
                f"{aware[last]['real']:.3f} in the last. With the plain sign the binary weights have magnitude 1, or",
                f"{min(ratios):.0f} to {max(ratios):.0f} times as much. With the magnitude-aware sign, the binary",
                "weights of each output channel have the mean magnitude of its real weights (Eq. 19). After training",
                f"with the original update, the means are {original[first]['real']:.3f} and",
                f"{original[last]['real']:.3f}.",
            ),
        ]
    )


def _activations(behind: dict[str, Any]) -> str:
    clip = list(behind["clip"].values())
    saturated = [layer["at_minus_one"] + layer["at_plus_one"] for layer in clip]
    return "\n".join(
        [
            "## Fig. 9: activations after ReLU and after clip\n",
            "![Histograms of activations](fig9-activations.svg)\n",
            paragraph(
                f"After ReLU no activation is negative, and {span([x['zero'] for x in behind['relu'].values()])} of a",
                f"layer's activations are zero. After clip, {span([x['negative'] for x in clip])} are negative, and",
                f"{span(saturated)} are exactly -1 or +1, like signs.",
            ),
        ]
    )


def _capability(numbers: dict[str, Any]) -> str:
    example = paper_example()
    each, entries = example.sum_choices, example.entries
    reduce, body, expand = bottleneck_entry(64, 256)
    lines = [
        "## Representational capability (Sec. 3.1 to 3.3)\n",
        paragraph(
            "R is the number of configurations of a feature map: the choices per entry to the power of the number of",
            f"entries. The paper's example has {example.name} and 3x3 kernels: signs give 2^{entries}, sums",
            f"{each}^{entries} = 2^{example.bits(each):.0f}, and sums with the shortcut ({each}^2)^{entries} =",
            f"2^{example.bits(example.shortcut_choices):.0f}. In the bottleneck of Sec. 3.3 there are {reduce} choices",
            f"after the 1x1 that reads 256 channels and {body} after the 3x3; the paper prints {reduce} x {body} x",
            f"{reduce}. The last 1x1 reads 64 channels and has {expand} choices, on the other path.",
        ),
        paragraph("Our network, at this image size; *distinct* is the number of values that the sums actually took:"),
        "| layer | entries | choices of a sum | distinct | log2 R: signs | sums | with shortcuts |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer, (distinct, _) in zip(numbers["capability"], numbers["distinct_sums"].values(), strict=True):
        count, choices = layer["entries"], layer["sum_choices"]
        sums, shortcuts = (count * math.log2(int(n)) for n in (choices, layer["shortcut_choices"]))
        lines.append(
            f"| {layer['name']} | {count:,} | {choices:,} | {distinct:,} | {count:,} | {sums:,.0f} | {shortcuts:,.0f} |"
        )
    return "\n".join(lines) + "\n"
