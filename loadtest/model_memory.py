"""Memory of each served model and variant: `python -m loadtest.model_memory --out model-memory.json`.

Starts the service several times and reads the gauges that it sets at its start: by how much the process grew when it
loaded a variant and ran it once (`bireal_model_session_bytes`), and the size of one copy of the weights
(`bireal_model_weight_bytes`).
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from loadtest.options import add_report, progress, run_report
from loadtest.stack import StackError, get, service
from models.command_line import Parser, count

GREW, WEIGHTS = "bireal_model_session_bytes", "bireal_model_weight_bytes"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the measurement. Returns the exit code: 0 or 2 (it could not run)."""
    return run_report(measure, _parser().parse_args(argv), StackError, OSError)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts the service as often as asked and returns the report.

    Raises:
        StackError: It does not start.
        OSError: It does not answer.
    """
    options = ["--model-dir", arguments.model_dir] if arguments.model_dir else []
    pages = []
    for number in range(arguments.starts):
        progress(f"start {number + 1} of {arguments.starts}")
        with service(options) as server:
            pages.append(get(f"{server.url}/metrics"))
    return {"kind": "model-memory", "starts": arguments.starts, "rows": rows(pages)}


def rows(pages: Sequence[str]) -> list[dict[str, Any]]:
    """One row per model and variant, in bytes: medians over the starts, and the range of the growth.

    Args:
        pages: the service's metrics, one page per start.
    """
    grew: dict[tuple[str, str], list[int]] = defaultdict(list)
    weights: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                key = sample.labels.get("model", ""), sample.labels.get("variant", "")
                if sample.name == GREW:
                    grew[key].append(int(sample.value))
                elif sample.name == WEIGHTS:
                    weights[key][sample.labels["precision"]] = int(sample.value)
    return [
        {
            "model": model,
            "variant": variant,
            "binary_weight_bytes": weights[model, variant].get("binary", 0),
            "real_weight_bytes": weights[model, variant].get("real", 0),
            "grew_bytes": int(statistics.median(values)),
            "grew_lowest_bytes": min(values),
            "grew_highest_bytes": max(values),
        }
        for (model, variant), values in sorted(grew.items())
    ]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.model_memory", description=__doc__)
    parser.add_argument("--starts", type=count, default=5, help="starts of the service (default %(default)s)")
    parser.add_argument("--model-dir", type=Path, help="models to use instead of the shipped ones")
    add_report(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
