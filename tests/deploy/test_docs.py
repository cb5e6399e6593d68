"""docs/operations.md and docs/runbooks.md: links lead somewhere, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.settings import Settings
from tests.deploy.exported import exported_samples

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (DOCS / "operations.md", DOCS / "runbooks.md")
# Metrics of the cluster's own, and not of the service.
FOREIGN = {"container_cpu_cfs_throttled_periods_total"}


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_settings_and_metrics_exist(page: Path) -> None:
    text = page.read_text()
    settings = {f"BIREAL_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bBIREAL_[A-Z_]+\b", text)) <= settings
    known = exported_samples().keys() | FOREIGN
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known} | known
    assert set(re.findall(r"\b(?:bireal|container)_[a-z0-9_]+\b", text)) <= families


def test_commands_and_files_exist() -> None:
    root = DOCS.parent
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([a-z]+):.*## ", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", text)) <= targets
    for path in set(re.findall(r"\b((?:deploy|tests)/[\w./-]+\w)", text)):
        assert (root / path).exists(), path
