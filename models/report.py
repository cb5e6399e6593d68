"""``python -m models.report [--write]``: generate the table of models in README.md from the cards in the zoo.

Figures are never typed by hand: the cards hold the results of ``python -m service evaluate``, and a test fails if
README.md differs from the cards.
"""

from __future__ import annotations

import sys
from pathlib import Path

from models.command_line import Parser, expects, show
from service.card import Card, Metric
from service.errors import ServiceError

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "models" / "zoo"
README = ROOT / "README.md"
BEGIN = "<!-- models: written by `python -m models.report --write` -->"
END = "<!-- /models -->"


def cards(zoo: Path = ZOO) -> list[Card]:
    """All cards of a zoo, sorted by task, then binary before full precision."""
    found = [Card.load(path.parent) for path in sorted(zoo.glob("*/*/card.yaml"))]
    return sorted(found, key=lambda card: (card.task, card.precision))


def accuracy(metric: Metric) -> str:
    """The headline figures of one evaluation."""
    values = metric.values
    if "top1" in values:
        return f"top-1 {values['top1']:.1%}, top-5 {values['top5']:.1%}"
    return f"delta<1.25 {values['delta1']:.3f}, abs_rel {values['abs_rel']:.3f}, rmse {values['rmse']:.2f} m"


def table(found: list[Card]) -> str:
    """Markdown table with one row per evaluated variant."""
    lines = [
        "| model | variant | data | accuracy | weights in memory | file | BOPs per image |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in found:
        for metric in card.metrics:
            memory = sum(card.weight_bytes(metric.variant).values())
            bops = "float32" if metric.variant == "reference" else f"{card.work.bops:.3g}"
            lines.append(
                f"| `{card.name}` | {metric.variant} | {metric.dataset}, n={metric.n} | {accuracy(metric)} "
                f"| {memory / 1e6:.2f} MB | {card.weights.artefact_bytes / 1e6:.2f} MB | {bops} |"
            )
    return "\n".join(lines)


def render(readme: str, found: list[Card]) -> str:
    """The README with the table between its markers replaced.

    Raises:
        ValueError: the markers are missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md lacks the markers {BEGIN} and {END}")
    head, rest = readme.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n{table(found)}\n{END}{tail}"


@expects(OSError, ValueError, ServiceError)
def main() -> int:
    """Print the table or, with ``--write``, update README.md."""
    parser = Parser(prog="python -m models.report", description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    if parser.parse_args().write:
        README.write_text(render(README.read_text(), cards()))
    else:
        show(table(cards()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
