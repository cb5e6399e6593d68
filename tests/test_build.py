"""The revision of the sources: from the environment, from a checkout, or unknown."""

import os
import subprocess
from pathlib import Path

import pytest

from service import build
from service.build import UNKNOWN, find_revision

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "BIREAL_"))}


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "file").write_text("one")
    who = ("-c", "user.name=somebody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "file"), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, env=PLAIN)
    return tmp_path


def head(folder: Path) -> str:
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True, env=PLAIN).stdout.strip()


def fake_git(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{PLAIN['PATH']}"}


def test_a_checkout_is_its_commit(checkout):
    assert find_revision(PLAIN, checkout) == head(checkout)
    assert find_revision({**PLAIN, "GIT_DIR": "/nowhere"}, checkout) == head(checkout)
    (checkout / "file").write_text("two")
    assert find_revision(PLAIN, checkout) == f"{head(checkout)}-dirty"


def test_the_environment_wins(checkout):
    assert find_revision({**PLAIN, "BIREAL_REVISION": " v1.2+abc "}, checkout) == "v1.2+abc"


@pytest.mark.parametrize("named", ["", " ", 'a"b', "a\nb", "-x", 101 * "a"])
def test_what_could_be_no_revision_is_ignored(checkout, named):
    assert find_revision({**PLAIN, "BIREAL_REVISION": named}, checkout) == head(checkout)


def test_a_package_within_the_checkout_of_something_else_is_not_that_commit(checkout):
    (checkout / "site-packages").mkdir()
    assert find_revision(PLAIN, checkout / "site-packages") == UNKNOWN


def test_without_git(checkout):
    assert find_revision({"PATH": str(checkout / "none")}, checkout) == UNKNOWN


def test_git_that_fails_or_hangs_costs_only_a_moment(checkout, tmp_path_factory, monkeypatch):
    fakes = tmp_path_factory.mktemp("fakes")
    assert find_revision(fake_git(fakes / "failing", "exit 128"), checkout) == UNKNOWN
    monkeypatch.setattr(build, "_GIT_S", 0.2)
    assert find_revision(fake_git(fakes / "hanging", "exec sleep 60"), checkout) == UNKNOWN


def test_it_is_asked_for_once(monkeypatch):
    build.revision.cache_clear()
    monkeypatch.setattr(build, "find_revision", lambda *_: "0abc")
    try:
        assert build.revision() == "0abc"
        monkeypatch.setattr(build, "find_revision", lambda *_: pytest.fail("asked again"))
        assert build.revision() == "0abc"
    finally:
        build.revision.cache_clear()
