"""docs/operations.md and docs/runbooks.md: the settings, metrics and files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.build import REVISION_VARIABLE
from service.settings import Settings
from tests.deploy.exported import exported_samples

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (DOCS / "operations.md", DOCS / "runbooks.md")
# Metrics of the cluster's own, and not of the service.
FOREIGN = {"container_cpu_cfs_throttled_periods_total"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_settings_and_metrics_exist(page: Path) -> None:
    text = page.read_text()
    settings = {f"BIREAL_{name.upper()}" for name in Settings.model_fields} | {REVISION_VARIABLE}
    assert set(re.findall(r"\bBIREAL_[A-Z_]+\b", text)) <= settings
    known = exported_samples().keys() | FOREIGN
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known} | known
    assert set(re.findall(r"\b(?:bireal|container)_[a-z0-9_]+\b", text)) <= families


def test_files_exist() -> None:
    root = DOCS.parent
    text = "".join(page.read_text() for page in PAGES)
    for path in set(re.findall(r"\b((?:deploy|tests)/[\w./-]+\w)", text)):
        assert (root / path).exists(), path
