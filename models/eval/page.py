"""``python -m models.eval.page MODEL_DIR --data DEV``: the page of a classifier, behind its card.

Runs ``python -m service evaluate`` for every variant of the file (and ``models.eval.parity`` for a binary one), keeps
what it printed in ``OUT/<name>.json``, and writes ``OUT/<name>.md`` and the reliability plot from that and the card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.command_line import Parser
from models.eval.parity import compare, load_images
from models.export.measure import run_evaluation
from models.export.readings import Occasion
from models.figures.style import BLUE, GREY, ORANGE, save
from service.card import Card
from service.errors import ServiceError

PARITY_IMAGES = 200
COLUMNS = 4  # classes side by side in the table


def evaluate(folder: Path, variant: str, data: Path, *options: str, occasion: Occasion | None = None) -> dict[str, Any]:
    """As `run_evaluation`, without what differs from machine to machine."""
    printed = run_evaluation(folder, variant, data, *options, occasion=occasion)
    return {k: v for k, v in printed.items() if k not in ("speed", "dataset", "failed")}


def reliability_plot(card: Card, evaluations: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy over stated probability, a line a variant, and how many answers each point stands for."""
    figure = Figure(figsize=(4.6, 3.6))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for (variant, found), colour in zip(evaluations.items(), (BLUE, ORANGE), strict=False):
        bins = found["reliability"]
        x, y = [b["probability"] for b in bins], [b["accuracy"] for b in bins]
        ax.plot(x, y, color=colour, label=f"{variant}, ECE {found['ece']:.3f}")
        ax.scatter(x, y, [0.15 * b["n"] for b in bins], color=colour, alpha=0.4)
    ax.set_xlabel("stated probability")
    ax.set_ylabel("fraction right")
    ax.set_title(card.name)
    ax.legend()
    return figure


def heading(card: Card, command: str) -> list[str]:
    """Title, where the page comes from, and what the card says of the model."""
    training = card.training
    return [
        f"# {card.name}, version {card.version}",
        "",
        (
            f"Written by `python -m {command}`; the card is `models/zoo/"
            f"{card.name}/{card.version}/card.yaml`, the figures are in [{card.name}.json]({card.name}.json)."
        ),
        "",
        f"- Data: {training.data}. Terms: {training.terms}.",
        f"- Recipe `{training.recipe}`, seed {training.seed}: `{training.command}`",
        f"- {training.wall_time_s / 60:.0f} minutes on {training.hardware}.",
        *([f"- {training.notes}"] if training.notes else []),
        (
            f"- Input {card.input.height}x{card.input.width}; stem in {card.stem_precision}, real-valued 1x1 in "
            f"{card.pointwise_precision}; {card.weights.binary_params:,} 1-bit and {card.weights.real_params:,} real "
            f"parameters; {card.work.bops:.3g} BOPs an image."
        ),
        *[f"- {limit}" for limit in card.limits],
        "",
    ]


def page(card: Card, findings: dict[str, Any]) -> str:
    """Markdown, from the card and the findings."""
    names = {label.wnid: label.name for label in card.classes}
    evaluations: dict[str, dict[str, Any]] = findings["evaluations"]
    lines = [
        *heading(card, "models.eval.page"),
        f"## Accuracy on {findings['dataset']}",
        "",
        "One centre crop; 95 % intervals are exact (Clopper and Pearson).",
        "",
        "| variant | images | top-1 | interval | top-5 | interval | calibration error |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, e in evaluations.items():
        lines.append(
            f"| {variant} | {e['n']:,} | {e['top1']:.2%} | {e['top1_low']:.1%} to {e['top1_high']:.1%} "
            f"| {e['top5']:.2%} | {e['top5_low']:.1%} to {e['top5_high']:.1%} | {e['ece']:.3f} |"
        )
    parity = findings.get("parity")
    if parity:
        lines += [
            "",
            (
                f"`binary` against `reference` on {parity['images']} images: {parity['integer_sums_compared']:,} "
                f"integer sums compared, layers not exact: {len(parity['layers_not_exact'])}; same first class on "
                f"{parity['top1_agreement']:.1%}, largest difference of a logit {parity['max_logit_difference']:.2g}."
            ),
        ]
    lines += ["", f"![Reliability]({card.name}-reliability.svg)", ""]
    first = next(iter(evaluations.values()))
    lines += ["## Most frequent confusions", "", "| class | taken for | times |", "|---|---|---|"]
    lines += [f"| {names[c['truth']]} | {names[c['said']]} | {c['n']} |" for c in first["confusions"]]
    lines += ["", "## Accuracy by class", "", "Worst first: right of all images of the class.", ""]
    ranked = sorted(first["per_class"].items(), key=lambda item: (item[1][0] / item[1][1], item[0]))
    cells = [f"{names[wnid]} `{wnid}` {right}/{n}" for wnid, (right, n) in ranked]
    cells += [""] * (-len(cells) % COLUMNS)
    lines += ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    rows = len(cells) // COLUMNS
    lines += ["| " + " | ".join(cells[row::rows]) + " |" for row in range(rows)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Evaluate, keep, write."""
    parser = Parser(prog="python -m models.eval.page", description=__doc__)
    parser.add_argument("model", type=Path, help="<models>/<name>/<version> of a classifier")
    parser.add_argument("--data", type=Path, help="labelled folder; without it the page is written from the kept JSON")
    parser.add_argument("--dataset", default="dev", help="what the page calls the data")
    parser.add_argument("--out", type=Path, default=Path("docs/models"))
    args = parser.parse_args()
    try:
        card = Card.load(args.model)
        args.out.mkdir(parents=True, exist_ok=True)
        kept = args.out / f"{card.name}.json"
        if args.data is not None:
            findings: dict[str, Any] = {"dataset": args.dataset, "sha256": card.sha256}
            findings["evaluations"] = {v: evaluate(args.model, v, args.data) for v in card.variants}
            if card.precision == "binary":
                findings["parity"] = compare(card, load_images(card, args.data, PARITY_IMAGES))
            kept.write_text(json.dumps(findings, indent=1) + "\n")
        findings = json.loads(kept.read_text())
    except (OSError, ServiceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save(reliability_plot(card, findings["evaluations"]), args.out / f"{card.name}-reliability.svg")
    (args.out / f"{card.name}.md").write_text(page(card, findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
