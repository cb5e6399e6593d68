"""docs/training.md says what the logs beside it say."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
LOG = re.compile(r"\]\((models/[\w-]+-tiny100\.log\.jsonl)\)")


def test_a_row_with_the_log_of_a_classifier_has_its_best_held_out_figure() -> None:
    rows = [(path, row) for row in (DOCS / "training.md").read_text().splitlines() for path in LOG.findall(row)]
    assert len(rows) >= 4
    for path, row in rows:
        records = [json.loads(line) for line in (DOCS / path).read_text().splitlines()]
        best = max(record["held_out"]["top1"] for record in records if "held_out" in record)
        assert f"{best * 100:.1f} % ([log]({path}))" in row or f"([log]({path})) | {best * 100:.1f} % |" in row, path
