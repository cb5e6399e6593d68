"""docs/paper.md names things that exist, and leaves no equation, table or figure of the paper out."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.train.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "paper.md"
TEXT = PAGE.read_text()
CODE = re.findall(r"`([^`]+)`", TEXT)
FILES = sorted({c for c in CODE if re.fullmatch(r"[\w./-]+/[\w.-]+\.\w+", c)})
TESTS = sorted({c for c in CODE if "::" in c})
COMMANDS = sorted({m for c in CODE for m in re.findall(r"^python -m ([\w.]+)", c)})


def test_the_page_is_read_as_it_is_written() -> None:
    assert len(FILES) > 30
    assert len(TESTS) > 20
    assert {"models.accounting", "models.ablation", "models.figures", "service"} <= set(COMMANDS)


@pytest.mark.parametrize("path", FILES)
def test_every_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", TESTS)
def test_every_test_exists(name: str) -> None:
    path, test = name.split("::")
    assert f"def {test}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_exists(module: str) -> None:
    found = find_spec(module)
    assert found is not None
    if found.submodule_search_locations is not None:
        found = find_spec(f"{module}.__main__")
    assert found is not None
    assert found.origin is not None
    assert '__name__ == "__main__"' in Path(found.origin).read_text()


def test_every_name_in_brackets_is_in_its_file() -> None:
    pairs = re.findall(r"`([\w/]+\.py)` \(`([\w.]+)`\)", TEXT)
    assert len(pairs) > 10
    for path, name in pairs:
        last = name.rsplit(".", 1)[-1]
        assert re.search(rf"\b{last}\b", (ROOT / path).read_text()), f"{path} has no {name}"


def test_every_recipe_exists() -> None:
    named = {c for c in CODE if re.fullmatch(r"[a-z]+(-[a-z]+)?\d+-[a-z0-9-]+", c)}
    assert len(named) > 6
    assert named <= set(RECIPES)
    paper = {name for name in RECIPES if name.startswith("paper-")}
    assert len(paper) >= 10
    assert paper <= set(re.findall(r"paper-[\w-]+", TEXT)), "a recipe of the paper's hyper-parameters is on the page"


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target


@pytest.mark.parametrize(("word", "last"), [("Eq.", 20), ("Table", 8), ("Fig.", 10)])
def test_nothing_of_the_paper_is_left_out(word: str, last: int) -> None:
    first_cells = " ".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| "))
    named: set[int] = set()
    for run in re.findall(rf"{re.escape(word)} (\d+(?:, \d+)*(?: and \d+)?)", first_cells):
        named |= {int(n) for n in re.findall(r"\d+", run)}
    assert set(range(1, last + 1)) <= named, sorted(set(range(1, last + 1)) - named)


@pytest.mark.parametrize(
    "section", ["3.1", "3.2", "3.3", "3.4.1", "3.4.2", "3.4.3", "3.4.4", "4.1", "4.2", "4.3", "4.4.1", "4.4.2", "4.5"]
)
def test_every_section_is_there(section: str) -> None:
    assert f"Sec. {section}" in TEXT
