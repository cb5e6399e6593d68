"""The table of memory by model and variant, from pages of metrics."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest import model_memory
from loadtest.stack import Started

PAGE = """# TYPE bireal_model_session_bytes gauge
bireal_model_session_bytes{{task="classify",model="m",version="1",variant="binary"}} {grew}
bireal_model_session_bytes{{task="classify",model="m",version="1",variant="full"}} 5e+07
# TYPE bireal_model_weight_bytes gauge
bireal_model_weight_bytes{{task="classify",model="m",version="1",variant="binary",precision="binary"}} 1000.0
bireal_model_weight_bytes{{task="classify",model="m",version="1",variant="binary",precision="real"}} 200.0
bireal_model_weight_bytes{{task="classify",model="m",version="1",variant="full",precision="real"}} 40000.0
"""


def test_a_row_is_the_median_of_the_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def made_up(_options: object) -> Iterator[Started]:
        yield Started("http://127.0.0.1:9", 0, None)  # type: ignore[arg-type]  its process is not looked at

    pages = iter(PAGE.format(grew=grew) for grew in (3000, 9000, 4000))
    monkeypatch.setattr(model_memory, "service", made_up)
    monkeypatch.setattr(model_memory, "get", lambda _: next(pages))
    out = tmp_path / "memory.json"
    assert model_memory.main(["--starts", "3", "--out", str(out)]) == 0
    binary, full = json.loads(out.read_text())["rows"]
    assert binary == {
        "model": "m",
        "variant": "binary",
        "binary_weight_bytes": 1000,
        "real_weight_bytes": 200,
        "grew_bytes": 4000,
        "grew_lowest_bytes": 3000,
        "grew_highest_bytes": 9000,
    }
    assert (full["grew_bytes"], full["real_weight_bytes"], full["binary_weight_bytes"]) == (50_000_000, 40_000, 0)


def test_the_table_in_the_readme_is_the_recorded_one() -> None:
    root = Path(__file__).resolve().parents[2]
    record = json.loads((root / "docs/benchmarks/serving/model-memory.json").read_text())
    lines = (root / "README.md").read_text().splitlines()
    start = lines.index("| model | variant | 1-bit weights | real weights | process grew by |") + 2
    shown, model = {}, ""
    for line in lines[start : lines.index("", start)]:
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        model = first.strip("`") or model
        shown[model, cells[0]] = cells[1:]

    def megabytes(count: int, digits: int) -> str:
        return f"{count / 1e6:.{digits}f} MB" if count else "-"

    assert shown == {
        (row["model"], row["variant"]): [
            megabytes(row["binary_weight_bytes"], 2),
            megabytes(row["real_weight_bytes"], 2),
            megabytes(row["grew_bytes"], 1),
        ]
        for row in record["rows"]
    }
