"""What is shipped and where it comes from: audit, bill of materials, licences, release notes, workflows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pip_audit._dependency_source import RequirementSource

from deploy.supply_chain import audit, licenses, notes
from deploy.supply_chain.locks import OTEL_LOCK, RUNTIME_LOCK, pins

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

LOCK = """\
good==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:00
good==1.1 ; python_full_version >= '3.12' \\
    --hash=sha256:00
bad.one==2.0 \\
    --hash=sha256:00
elsewhere==3.0 ; sys_platform == 'win32' \\
    --hash=sha256:00
"""


# --- Audit ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "small.lock"
    path.write_text(LOCK)
    return path


def answer(name: str, version: str, *holes: str) -> dict:
    vulns = [{"id": hole, "fix_versions": ["9.9"], "aliases": [], "description": ""} for hole in holes]
    return {"name": name, "version": version, "vulns": vulns}


def test_an_audit_names_the_holes(lock: Path) -> None:
    answers = [answer("good", "1.0"), answer("good", "1.1", "X-2"), answer("bad-one", "2.0", "X-1")]
    assert audit.judge(lock, answers) == ["good 1.1: X-2, fixed in 9.9", "bad-one 2.0: X-1, fixed in 9.9"]


def test_an_audit_of_a_part_is_none(lock: Path) -> None:
    skipped = {"name": "bad-one", "skip_reason": "Dependency not found and could not be audited: bad-one (2.0)"}
    both = [answer("good", "1.0"), answer("good", "1.1")]
    for answers in ([], both, [*both, skipped], [*both, answer("bad-one", "1.9")]):
        with pytest.raises(audit.AuditError, match="not audited"):
            audit.judge(lock, answers)
    with pytest.raises(audit.AuditError, match=r"1 of 3 packages were not audited \(good 1\.1\)"):
        audit.judge(lock, [answer("good", "1.0"), answer("bad-one", "2.0")])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pins that pip-audit reads from what it is given, without asking anybody; it finds no holes."""
    found: list[tuple[str, str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip_audit", "--requirement"]
        source = RequirementSource(
            [Path(command[4])], no_deps="--no-deps" in command, disable_pip="--disable-pip" in command
        )
        pinned = [(dependency.canonical_name, str(dependency.version)) for dependency in source.collect()]
        found.extend(pinned)
        said = json.dumps({"dependencies": [answer(*one) for one in pinned], "fixes": []})
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(audit.subprocess, "run", run)
    return found


def test_an_audit_looks_at_what_other_pythons_install(lock: Path, read: list[tuple[str, str]]) -> None:
    assert audit.main([str(lock)]) == 0
    assert read == [("good", "1.0"), ("bad-one", "2.0"), ("good", "1.1")]


def test_the_workflow_audits_every_lock_that_users_install(read: list[tuple[str, str]]) -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["audit"]["steps"]
    (line,) = [step["run"] for step in steps if "make audit" in step.get("run", "")]
    locks = [ROOT / name for name in re.findall(r"requirements/\w+\.lock", line)]
    assert {lock.stem for lock in locks} == {"otel", "build", "load", "ray", "kserve"}
    assert set(pins()) <= set(pins(OTEL_LOCK)), "what everybody installs is audited as a part of otel.lock"
    assert audit.main([str(lock) for lock in locks]) == 0
    assert {pin[:2] for pin in pins() if pin.name in {"numpy", "scipy", "uvloop"}} <= set(read)


@pytest.mark.parametrize("text", ["", "# nothing\n", "good==1.0\nloose>=2\n", "good[extra]==1.0\n", "-r other.lock\n"])
def test_what_is_no_lock_is_not_audited(
    tmp_path: Path, text: str, read: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no.lock"
    path.write_text(text)
    assert audit.main([str(path)]) == audit.NOT_AUDITED
    assert audit.main([str(tmp_path / "absent.lock")]) == audit.NOT_AUDITED
    assert capsys.readouterr().err.count("was not audited") == 2
    assert read == []


def test_an_audit_that_reaches_nobody_fails_and_says_so() -> None:
    """pip-audit itself ends with 0 where it skipped everything; ours is put behind a proxy that does not exist."""
    code = "import sys; from deploy.supply_chain import audit; sys.exit(audit.main())"
    nowhere = dict.fromkeys(("https_proxy", "http_proxy", "all_proxy"), "http://127.0.0.1:9")
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert run.returncode == audit.NOT_AUDITED, run.stdout + run.stderr
    assert "not audited" in run.stderr
    assert "Traceback" not in run.stderr


# --- Bill of materials ------------------------------------------------------------------------------------------------


def test_the_bill_of_materials_lists_every_locked_package(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"^sbom:.*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (options,) = re.findall(r"cyclonedx_py (.*?) --output-file", recipe.replace("\\\n", " "), re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", *options.split()]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for path in (first, second):
        subprocess.run([*command, "--output-file", path], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert first.read_bytes() == second.read_bytes()
    bill = json.loads(first.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "bireal-serve"
    listed = {(one["name"].lower().replace("_", "-"), one["version"]) for one in bill["components"]}
    assert listed == {(pin.name, pin.version) for pin in pins()}
    hashes = [ref for one in bill["components"] for ref in one["externalReferences"] if ref.get("hashes")]
    assert len(hashes) >= len(listed)


# --- Licences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [RUNTIME_LOCK, OTEL_LOCK], ids=lambda lock: lock.stem)
def test_the_licences_of_what_is_installed_were_looked_at(lock: Path) -> None:
    assert licenses.complaints(licenses.installed(lock), lock) == []


def test_a_licence_that_nobody_looked_at_is_told() -> None:
    strange = licenses.Licensed("thing", "1", "AGPL-3.0-only")
    found = licenses.complaints([*licenses.installed(), strange])
    assert len(found) == 1
    assert "thing 1" in found[0]
    assert "AGPL-3.0-only" in found[0]
    assert licenses.spdx("MIT AND AGPL-3.0-only") is None
    assert licenses.spdx("Apache-2.0 OR BSD-2-Clause") == "Apache-2.0 OR BSD-2-Clause"


def test_the_page_lists_every_package_that_is_always_installed() -> None:
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \| [0-9]", licenses.PAGE.read_text(), re.MULTILINE))
    always = {pin.name for pin in pins() if not pin.marker}
    assert always - listed == set(), "run make licenses"


# --- Releases ---------------------------------------------------------------------------------------------------------


def test_release_notes_are_the_section_of_the_version() -> None:
    changelog = (
        "# Changelog\n\n## [Unreleased]\n\n- c\n\n## [1.1.0] - 2026-01-02\n\n### Added\n\n- b\n\n## [1.0.0]\n\n- a\n"
    )
    assert notes.notes(changelog, "1.1.0") == "### Added\n\n- b\n"
    assert notes.notes(changelog, "1.0.0") == "- a\n"
    with pytest.raises(notes.NotesError, match=r"no section 1\.1; it has"):
        notes.notes(changelog, "1.1")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert "### Added" in notes.notes(notes.CHANGELOG.read_text(), version)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_match_the_schema(path: Path) -> None:
    command = [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_workflow_runs_what_decides_here_and_builds_for_both_architectures() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["check"]["steps"]]
    platforms = {entry["platform"] for entry in jobs["image"]["strategy"]["matrix"]["include"]}
    assert platforms == {"linux/amd64", "linux/arm64"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_ask_for_no_more_than_they_need(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    jobs = [job for job in workflow["jobs"].values() if job.get("uses") != "./.github/workflows/ci.yml"]
    for job in jobs:
        assert job["timeout-minutes"] <= 60
    commands = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    named = set(re.findall(r"\bmake ([a-z]+)", commands))
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_of_others_are_named_by_a_commit_and_its_version(path: Path) -> None:
    named = re.findall(r"uses: (\S+)(?: *# *(.*))?$", path.read_text(), re.MULTILINE)
    assert named
    for action, comment in named:
        if action.startswith("actions/"):
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action)
        elif not action.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r"v\d+\.\d+\.\d+", comment), action


def test_the_image_is_pushed_by_a_name_that_registries_take() -> None:
    """They refuse capitals, which the name of a repository may have."""
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["image"]["steps"]
    (naming,) = [step["run"] for step in steps if step.get("id") == "image"]
    (pushing,) = [step["with"] for step in steps if step.get("with", {}).get("push")]
    assert pushing["tags"] == "${{ steps.image.outputs.name }}"
    environment = {"GITHUB_REPOSITORY": "Some-One/BiReal", "GITHUB_REF_NAME": "v1.2.3", "GITHUB_OUTPUT": "/dev/stdout"}
    run = subprocess.run(["bash", "-c", naming], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "name=ghcr.io/some-one/bireal:v1.2.3\n"


def test_nothing_is_released_that_did_not_pass_and_has_no_notes() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert "workflow_call" in ci[True], "YAML takes the key `on` for yes"
    assert set(jobs["wheels"]["needs"]) == set(jobs["image"]["needs"]) == {"check", "notes"}


def test_wheels_are_built_for_both_architectures() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert {name.rpartition("_")[2] for name in config["build"].replace("x86_64", "x86-64").split()} == {
        "x86-64",
        "aarch64",
    }
    machines = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["wheels"]["strategy"][
        "matrix"
    ]
    assert set(machines["machine"]) == {"ubuntu-24.04", "ubuntu-24.04-arm"}


def test_runtime_lock_is_hashed_throughout() -> None:
    text = RUNTIME_LOCK.read_text()
    assert pins()
    for block in re.split(r"\n(?=[A-Za-z0-9])", text[text.index(pins()[0].name + "==") :]):
        assert "--hash=sha256:" in block, block.partition("\n")[0]
