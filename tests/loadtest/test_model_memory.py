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
