"""Every page: links lead somewhere, and the programs, files, targets and settings that it names exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.build import REVISION_VARIABLE
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
OURS = ("service", "models", "loadtest", "deploy", "tests")
#: Pages that record what was run when, by programs of that day.
RECORDS = ("docs/models/",)


def pages() -> list[Path]:
    """The Markdown files under version control; all of them where there is no history."""
    listing = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listing.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for text in texts}


def wrong(page: Path) -> Iterator[str]:
    """What the page names and does not exist."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield f"the link to {target}"
    if not str(page.relative_to(ROOT)).startswith(RECORDS):
        for module in set(re.findall(r"python -m ([a-z_]\w*(?:\.\w+)*)", text)):
            place = ROOT / module.replace(".", "/")
            if module.split(".")[0] in OURS and not (
                place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
            ):
                yield f"the program {module}"
    for name in set(re.findall(rf"`((?:{'|'.join(OURS)}|docs|requirements)/[\w./-]+)`", text)):
        if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists():
            yield f"the file {name}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) - set(targets):
        yield f"the target {target}"
    known = {f"BIREAL_{name.upper()}" for name in Settings.model_fields} | {"BIREAL_TEST_SEED", REVISION_VARIABLE}
    for variable in set(re.findall(r"`(BIREAL_[A-Z_]*[A-Z])\b", text)) - known:
        yield f"the setting {variable}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert list(wrong(page)) == []


def test_what_does_not_exist_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "Makefile").write_text("serve:\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n[a](#a-heading) [b](#none) [c](none.md)\n`make serve` `make nothing` `models/none.py` "
        "`BIREAL_PORT` `BIREAL_NONE`\npython -m service.none\n"
    )
    assert sorted(wrong(page)) == [
        "the file models/none.py",
        "the link to #none",
        "the link to none.md",
        "the program service.none",
        "the setting BIREAL_NONE",
        "the target nothing",
    ]
