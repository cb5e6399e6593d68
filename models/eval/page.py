"""``python -m models.eval.page MODEL_DIR --data DEV``: write the page of a classifier.

Runs ``python -m service evaluate`` for every variant of the model (and ``models.eval.parity`` for a binary one), stores
the output in ``OUT/<name>.json``, and writes ``OUT/<name>.md`` and the reliability plot from it and the card. Every
evaluation is logged in ``OUT/classify-readings.jsonl``. The output of ``models.eval.stem`` and ``models.eval.outside``
is stored too (``--stem``, ``--outside``). The page links to the training curves and log if ``OUT`` has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.command_line import Parser, expects
from models.eval.parity import compare, load_images
from models.export.measure import run_evaluation
from models.export.readings import Occasion, count, occasion
from models.figures.style import BLUE, GREY, ORANGE, save
from service.card import Card
from service.errors import ServiceError

PARITY_IMAGES = 200
COLUMNS = 4  # classes side by side in the table
BITS = {"int8": "8 bit", "int16": "16 bit", "float32": "float32"}


def evaluate(folder: Path, variant: str, data: Path, *options: str, occasion: Occasion) -> dict[str, Any]:
    """Like `run_evaluation`, without the parts of the output that depend on the machine."""
    printed = run_evaluation(folder, variant, data, *options, occasion=occasion)
    return {k: v for k, v in printed.items() if k not in ("speed", "dataset", "failed")}


def reliability_plot(card: Card, evaluations: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy over stated probability, one line per variant; the marker area shows the number of predictions."""
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
    """Title, origin of the page, and the facts on the card."""
    training, weights = card.training, card.weights
    earlier = (
        ", not counting the runs that its initial weights come from" if "--init" in training.command.split() else ""
    )
    return [
        f"# {card.name}, version {card.version}",
        "",
        (
            f"Written by `python -m {command}` from the card `models/zoo/"
            f"{card.name}/{card.version}/card.yaml` and the results in [{card.name}.json]({card.name}.json)."
        ),
        "",
        f"- Data: {training.data}. Terms: {training.terms}.",
        f"- Recipe `{training.recipe}`, seed {training.seed}: `{training.command}`",
        *([f"- Hyper-parameters: {training.source}."] if training.source else []),
        f"- This run: {training.wall_time_s / 60:.0f} minutes until this checkpoint, on {training.hardware}{earlier}.",
        *([f"- {training.notes}"] if training.notes else []),
        (
            f"- Input {card.input.height}x{card.input.width}; stem in {card.stem_precision}, real-valued 1x1 in "
            f"{card.pointwise_precision}; {weights.binary_params:,} 1-bit and {weights.real_params:,} real "
            f"parameters; {card.work.bops:.3g} BOPs per image."
        ),
        (
            f"- Weights in memory: {weights.binary_bytes / 1e6:.2f} MB 1-bit and {weights.real_bytes / 1e6:.2f} MB "
            f"real-valued; size of the file: {weights.artefact_bytes / 1e6:.2f} MB."
        ),
        *[f"- {limit}" for limit in card.limits],
        "",
    ]


def stem_effect(found: list[dict[str, Any]], chosen: str) -> str:
    """A sentence on the results of ``models.eval.stem``: the chosen precision first, then the others."""
    ranked = sorted(found, key=lambda one: one["stem"] != chosen)
    parts = [f"{one['top1']:.1%} with a stem in {BITS[one['stem']]}" for one in ranked]
    said = (
        f"On {found[0]['n']:,} held-out training images, top-1 is {', '.join(parts)} (`models.eval.stem`; the file "
        f"uses {BITS[chosen]})."
    )
    known = [(BITS[one["stem"]], one["training"]) for one in ranked if one["stem"] != "float32" and "training" in one]
    if not known:
        return said
    costs = []
    for bits, training in known:
        points = [100 * training["against_float32"][part] for part in ("estimate", "lower", "upper")]
        costs.append("{} {:+.2f} points (95 % interval {:+.2f} to {:+.2f})".format(bits, *points))
    return (
        f"{said} These are few images for so small differences. On {known[0][1]['n']:,} images that it was trained on, "
        f"the difference to float32 is: {', '.join(costs)}."
    )


def other_things(found: dict[str, Any]) -> list[str]:
    """The section on the results of ``models.eval.outside``."""
    sets = [{"name": "photos of its classes", **found["inside"]}, *found["outside"]]
    thresholds = list(found["inside"]["share_at_least"])
    rows = [
        [one["name"], f"{one['n']:,}", f"{one['mean']:.2f}"]
        + [f"{one['share_at_least'][threshold]:.0%}" for threshold in thresholds]
        + [f"{one['auroc']:.2f}" if "auroc" in one else ""]
        for one in sets
    ]
    titles = ["images", "n", "mean probability", *(f"at least {threshold}" for threshold in thresholds), "AUROC"]
    return [
        "## What it says of other things",
        "",
        "It names one of its classes for every image. The probability of that class tells other images apart only in",
        "part (`models.eval.outside`; AUROC: the chance that a random photo of its classes gets a higher one than a",
        "random image of these; guessing gives 0.5). Answers below a request's `min_probability` are marked as",
        "`uncertain`.",
        "",
        *(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)),
        "",
    ]


def page(card: Card, findings: dict[str, Any], beside: Path) -> str:
    """Markdown of the page.

    Args:
        card: the model's card.
        findings: the results stored in ``<name>.json``.
        beside: folder of the page, which may also hold the training curves and log.
    """
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
    kernels = [f"`{variant}` with {e['kernel']}" for variant, e in evaluations.items()]
    lines += ["", f"Kernels: {', '.join(kernels)}."]
    if "reference" in evaluations:
        lines[-1] += (
            " `reference` sums in float32. The last bits of its sums depend on the CPU's instruction set and can flip "
            "a sign near its threshold, so on another CPU it may classify a few images differently."
        )
    if "stem" in findings:
        lines += ["", stem_effect(findings["stem"], card.stem_precision)]
    parity = findings.get("parity")
    if parity:
        lines += [
            "",
            (
                f"`binary` against `reference` on {parity['images']} images: {parity['integer_sums_compared']:,} "
                f"integer sums compared, layers not exact: {len(parity['layers_not_exact'])}; same top-1 class on "
                f"{parity['top1_agreement']:.1%}, largest logit difference {parity['max_logit_difference']:.2g}."
            ),
        ]
    if "readings" in findings:
        lines += [
            "",
            (
                "Evaluations on this data are logged in [classify-readings.jsonl](classify-readings.jsonl) since "
                f"2026-12-01: {findings['readings']} for this model, with any weights, when the page was written. "
                "Earlier ones were not counted."
            ),
        ]
    lines += ["", f"![Reliability]({card.name}-reliability.svg)", ""]
    if "outside" in findings:
        lines += other_things(findings["outside"])
    curves, log = f"curves-{card.name}.svg", f"{card.name}.log.jsonl"
    if (beside / curves).is_file():
        lines += ["## The run", "", f"![Curves of the run named above]({curves})", ""]
        if (beside / log).is_file():
            lines += [f"See its [log]({log}), and [training](../training.md) for the steps before it.", ""]
    first = next(iter(evaluations.values()))
    lines += ["## Most frequent confusions", "", "| class | predicted as | times |", "|---|---|---|"]
    lines += [f"| {names[c['truth']]} | {names[c['said']]} | {c['n']} |" for c in first["confusions"]]
    lines += ["", "## Accuracy by class", "", "Correct predictions / images of the class, worst first.", ""]
    ranked = sorted(first["per_class"].items(), key=lambda item: (item[1][0] / item[1][1], item[0]))
    cells = [f"{names[wnid]} `{wnid}` {right}/{n}" for wnid, (right, n) in ranked]
    cells += [""] * (-len(cells) % COLUMNS)
    lines += ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    rows = len(cells) // COLUMNS
    lines += ["| " + " | ".join(cells[row::rows]) + " |" for row in range(rows)]
    return "\n".join(lines) + "\n"


def classifier(folder: Path) -> Card:
    """The card of a classifier.

    Raises:
        ServiceError: the folder does not hold a valid card.
        ValueError: it is the card of a depth model, whose own page would be overwritten.
    """
    card = Card.load(folder)
    if card.task != "classify":
        raise ValueError(f"{card.name} is no classifier: models.eval.depth_page writes the pages of depth models")
    return card


def stored_results(card: Card, path: Path, program: str) -> dict[str, Any]:
    """The results that ``program`` measured of a model.

    Raises:
        ValueError: they are those of other weights, such as of an earlier export.
    """
    found: dict[str, Any] = json.loads(path.read_text())
    if found["sha256"] != card.sha256:
        raise ValueError(f"{path} was measured with other weights than {card.name}'s: run {program} again")
    return found


@expects(OSError, ServiceError, ValueError)
def main() -> int:
    """Evaluate, store the results and write the page."""
    parser = Parser(prog="python -m models.eval.page", description=__doc__)
    parser.add_argument("model", type=Path, help="<models>/<name>/<version> of a classifier")
    parser.add_argument("--data", type=Path, help="labelled folder; without it the page is rewritten from stored JSON")
    parser.add_argument("--dataset", default="dev", help="name of the data on the page (default dev)")
    parser.add_argument("--stem", type=Path, help="output of models.eval.stem for the model's checkpoint")
    parser.add_argument("--outside", type=Path, help="output of models.eval.outside for the model")
    parser.add_argument("--out", type=Path, default=Path("docs/models"), help="output folder (default docs/models)")
    args = parser.parse_args()
    card = classifier(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f"{card.name}.json"
    if args.data is None:
        findings = stored_results(card, kept, "models.eval.page --data DIR")
    else:
        # keep only results that are not measured here, and only if they are of the same weights
        earlier = json.loads(kept.read_text()) if kept.is_file() else {}
        same = earlier.get("sha256") == card.sha256
        old = {kind: found for kind, found in earlier.items() if same and kind in ("stem", "outside")}
        findings = {"dataset": args.dataset, "sha256": card.sha256}
        now = occasion("models.eval.page", args.dataset, args.out)
        findings["evaluations"] = {v: evaluate(args.model, v, args.data, occasion=now) for v in card.variants}
        findings["readings"] = count(now.file(card.task), card.name)
        if card.precision == "binary":
            findings["parity"] = compare(card, load_images(card, args.data, PARITY_IMAGES))
        findings |= old
    if args.stem is not None:
        findings["stem"] = json.loads(args.stem.read_text())
    if args.outside is not None:
        findings["outside"] = stored_results(card, args.outside, "models.eval.outside")
        del findings["outside"]["sha256"]  # the page's own says it
    kept.write_text(json.dumps(findings, indent=1) + "\n")
    save(reliability_plot(card, findings["evaluations"]), args.out / f"{card.name}-reliability.svg")
    (args.out / f"{card.name}.md").write_text(page(card, findings, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
