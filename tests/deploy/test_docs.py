"""docs/operations.md and docs/runbooks.md: the settings, metrics and files that they name exist."""

from __future__ import annotations

import re
import sqlite3
import subprocess
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


def test_the_restore_replaces_the_store_and_the_log_that_was_not_written_into_it(tmp_path: Path) -> None:
    commands = re.findall(r"sh -c '([^']+)' < feedback-DATE", (DOCS / "operations.md").read_text())
    assert len(commands) == 2
    assert len(set(commands)) == 1, "compose and Kubernetes"
    data, backup = tmp_path / "data", tmp_path / "backup.sqlite"
    data.mkdir()
    with sqlite3.connect(backup) as good:
        good.execute("CREATE TABLE kept AS SELECT 1 AS value")
    good.close()
    bad = sqlite3.connect(data / "feedback.sqlite")
    bad.execute("PRAGMA journal_mode = WAL")
    bad.execute("CREATE TABLE broken AS SELECT 2 AS value")
    bad.commit()
    assert (data / "feedback.sqlite-wal").stat().st_size, "left as by a process that was killed"
    with backup.open() as read:
        subprocess.run(["sh", "-c", commands[0].replace("/data", str(data))], stdin=read, check=True, timeout=60)
    assert [path.name for path in data.iterdir()] == ["feedback.sqlite"]
    with sqlite3.connect(data / "feedback.sqlite") as restored:
        assert restored.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]
    restored.close()
    bad.close()
