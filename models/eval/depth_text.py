"""The text of a depth model's page, generated from its card and its stored evaluation results."""

from __future__ import annotations

from typing import Any

from models.eval.page import heading
from service.card import Card
from service.evaluation import DEPTH_METRICS

METHODS = {"none": "ResNet", "bireal": "Bi-Real", "binarynet": "BinaryNet", "xnornet": "XNOR-Net", "abcnet": "ABC-Net"}

#: The paper's Table 8, as fractions; we interpret its "accuracy" as delta < 1.25 (docs/adr/0019).
PAPER = {"none": 0.852, "bireal": 0.849, "binarynet": 0.830}
COMMAND = "models.eval.depth_page"


def label_of(card: Card) -> str:
    """Name of a network in plots and tables, such as ``Bi-Real-50``."""
    return f"{METHODS.get(card.network.method, card.network.method)}-{card.network.depth}"


def page(card: Card, findings: dict[str, Any]) -> str:
    """Markdown of the page.

    Args:
        card: the model's card.
        findings: the results stored by `models.eval.depth_page` in ``<name>.json``.
    """
    lines = [*heading(card, COMMAND), f"## Accuracy on {findings['dataset']}", ""]
    frames = next(iter(findings["evaluations"].values()))["n"]
    lines += [
        (
            f"Means over {frames} frames of the per-image metrics, inside Garg's crop, without scaling and after "
            "scaling each prediction by median(truth) / median(prediction). Lengths are in metres. See "
            "[the protocol](../kitti.md#evaluating)."
        ),
        "",
        *_accuracy(findings["evaluations"]),
        "",
        *_scales(findings["evaluations"]),
        "",
        *_intervals(findings["evaluations"]),
        "",
        _WHY.format(blocks=next(iter(findings["evaluations"].values()))["intervals"]["delta1_80m"]["blocks"]),
    ]
    if "paired" in findings:
        lines += ["", *_paired(findings["paired"])]
    lines += [
        "",
        "## The paper's table, and ours",
        "",
        *_paper(findings["group"], findings["floor"], card.network.width),
    ]
    stem = findings["figures"]
    lines += [
        "",
        "## Where the errors are",
        "",
        f"![Errors by distance]({stem}-distance.svg)",
        "",
        f"![Errors by frame]({stem}-frames.svg)",
        "",
        (
            "A synthetic scene with known depth (`models/eval/scene.py`): the input, what a laser scanner would "
            "measure, each network's depth map and its error. It shows what the maps look like and does not measure "
            "accuracy. Pictures of KITTI are not shipped: `--pictures DIR` of the command below draws them."
        ),
        "",
        f"![Input, measured depth, predictions and errors of a drawing]({stem}-drawing.jpg)",
        "",
        "## How this page was made",
        "",
        f"    python -m {COMMAND} --data DRIVE --dataset {findings['dataset']} --models models/zoo --pictures DIR",
        "",
        *_provenance(findings),
    ]
    return "\n".join(lines) + "\n"


def _accuracy(evaluations: dict[str, Any]) -> list[str]:
    """One row per variant, depth cap and scaling."""
    lines = ["| variant | cap | scaling | " + " | ".join(DEPTH_METRICS) + " |", "|---" * (3 + len(DEPTH_METRICS)) + "|"]
    for variant, found in evaluations.items():
        for cap in ("80m", "50m"):
            for scaling, values in (("none", found), ("median", found["median_scaled"])):
                cells = [f"{values[f'{name}_{cap}']:.3f}" for name in DEPTH_METRICS if f"{name}_{cap}" in values]
                if cells:
                    lines.append(f"| {variant} | {cap[:-1]} m | {scaling} | " + " | ".join(cells) + " |")
    return lines


def _scales(evaluations: dict[str, Any]) -> list[str]:
    parts = []
    for variant, found in evaluations.items():
        scale = found["median_scaled"]["scale"]
        parts.append(
            f"`{variant}` {scale['median']:.3f} (from {scale['min']:.2f} to {scale['max']:.2f} over the frames)"
        )
    return [f"Median scale factor (1 if the metric scale is right overall): {'; '.join(parts)}."]


def _intervals(evaluations: dict[str, Any]) -> list[str]:
    variant, found = next(iter(evaluations.items()))
    lines = [f"| `{variant}` {_INTERVAL_COLUMNS}", "|---|---|---|---|"]
    return lines + [
        f"| {words} {_cells(found['intervals'][name])}" for name, words in _NAMED if name in found["intervals"]
    ]


_INTERVAL_COLUMNS = "| mean | 95 % interval | the same if frames were independent |"
_NAMED = (
    ("delta1_80m", "delta < 1.25 at 80 m"),
    ("delta1_50m", "delta < 1.25 at 50 m"),
    ("abs_rel_80m", "abs_rel at 80 m"),
    ("abs_rel_50m", "abs_rel at 50 m"),
)
_WHY = (
    "The intervals are based on the means of {blocks} blocks of consecutive frames. Neighbouring frames show nearly "
    "the same street, so the last column is too narrow ([why](../adr/0043-intervals-from-blocks-of-frames.md))."
)


def _cells(found: dict[str, Any], sign: str = "") -> str:
    """Table cells: the mean, its interval, and the interval for independent frames."""
    cells = [f"{found['estimate']:{sign}.3f}"]
    for one in (found, found["if_frames_were_independent"]):
        whole = one["lower"] is not None
        cells.append(f"{one['lower']:{sign}.3f} to {one['upper']:{sign}.3f}" if whole else "too few frames")
    return f"| {' | '.join(cells)} |"


def _paired(paired: dict[str, Any]) -> list[str]:
    other = f"{paired['against']['model']} (`{paired['against']['variant']}`)"
    lines = [
        f"## Difference from {other}, image by image",
        "",
        "This network's metric minus the other's on the same image.",
        "",
        f"| {_INTERVAL_COLUMNS} of the other's mean | better on |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in _NAMED:
        if name in paired["differences"]:
            found = paired["differences"][name]
            relative = found["estimate"] / paired["means"][name]
            lines.append(f"| {words} {_cells(found, '+')} {relative:+.1%} | {found['images_better']} images |")
    return lines


def _paper(group: list[dict[str, Any]], floor: dict[str, Any] | None, width: float) -> list[str]:
    """Table 8 beside our results and the baseline, and a note on what so few scenes can show."""
    lines = [
        "| network | paper, KITTI | ours, delta < 1.25 at 80 m | at 50 m | abs_rel at 80 m | less full: paper | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {row["method"]: row for row in group}
    for method in [*PAPER, *(method for method in rows if method not in PAPER)]:
        row, printed = rows.get(method), PAPER.get(method)
        name = METHODS.get(method, method) + "-50" if row is None else row["label"]
        paper = "-" if printed is None else f"{printed:.1%}"
        gap = "-" if printed is None or method == "none" else f"{100 * (printed - PAPER['none']):+.1f} points"
        if row is None:
            lines.append(f"| {name} | {paper} | none here | | | {gap} | |")
            continue
        values = f"{row['delta1_80m']:.1%} | {row['delta1_50m']:.1%} | {row['abs_rel_80m']:.3f}"
        lines.append(f"| {name} | {paper} | {values} | {gap} | {_points(row['difference'])} |")
    full = rows.get("none", group[0])
    if floor is not None:
        gap = f"{100 * (floor['delta1_80m'] - full['delta1_80m']):+.1f} points"
        lines.append(
            f"| no network: row medians of {floor['drive']} | - | {floor['delta1_80m']:.1%} "
            f"| {floor['delta1_50m']:.1%} | {floor['abs_rel_80m']:.3f} | - | {gap} |"
        )
    meaning = (
        "The paper trains for 60,000 steps of 10 images on the split of Garg et al., thousands of frames from dozens "
        f"of drives, and evaluates on its test set. Here the {full['n']} consecutive frames of one drive show "
        f"{full['n'] / 10:.0f} seconds of one street, and the networks were trained on the few scenes named above "
        "under Data. The absolute level says how well a few scenes generalise to one more, and cannot be compared "
        "with the paper's."
    )
    if width != 1.0:
        meaning += f" Our networks have {width:g} times the paper's channels."
    found = rows["bireal"]["difference"] if "bireal" in rows else None
    if found and found["lower"] is not None:
        half = 50 * (found["upper"] - found["lower"])
        claim = 100 * (PAPER["none"] - PAPER["bireal"])
        sees = (
            f"a loss of {claim:.1f} points, as in the paper, cannot be distinguished from none, or from several times "
            "as much."
            if half > claim
            else f"fine enough to detect a loss of {claim:.1f} points, as in the paper."
        )
        meaning += (
            " Although both networks are compared on the same images, the interval of their difference has a "
            f"half-width of {half:.1f} points: {sees}"
        )
    return [*lines, "", meaning]


def _points(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    text = f"{100 * found['estimate']:+.1f} points"
    if found["lower"] is None:
        return text
    return f"{text} ({100 * found['lower']:+.1f} to {100 * found['upper']:+.1f})"


def _provenance(findings: dict[str, Any]) -> list[str]:
    machine = findings["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    kernels = sorted({found["kernel"] for found in findings["evaluations"].values()})
    return [
        (
            f"{findings['date']}, commit {machine['commit']}, {machine['hardware']}, {' and '.join(kernels)}, one "
            f"thread a run; {versions}."
        ),
        "",
        (
            "Every evaluation on this data, by this command, by `models.export` or recorded from notes, is logged in "
            f"[depth-readings.jsonl](depth-readings.jsonl): {findings['readings']} for this model, with any weights, "
            "when the page was written. The notes above say which choices were made after which of them."
        ),
    ]
