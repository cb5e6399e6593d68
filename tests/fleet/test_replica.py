"""A replica of Ray Serve in a process of its own, without Ray: what it makes of its settings, and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.ray.folders import own_folder
from service import xnor_op
from service.errors import OpUnavailableError
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]

# What deploy.ray.app imports of Ray. A replica uses none of it before it is ready.
STUBS = {
    "ray/__init__.py": "",
    "ray/serve/__init__.py": "class Application: ...\n",
    "ray/serve/exceptions.py": "class RayServeException(Exception): ...\n",
}
SCRIPT = """
import json, sys
from pathlib import Path
from deploy.ray import app
from service import xnor_op
app.announce = lambda registry: None
services = app.replica(app.Arguments(**json.loads(sys.argv[1])))._app.state.services
folder = services.settings.model_dir
print(json.dumps({
    "kernel": xnor_op.kernel_name(), "folder": str(folder), "models": sorted(path.name for path in folder.iterdir())
}))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


def replica(zoo: Path, tmp_path: Path, arguments: dict[str, Any], **variables: str) -> dict[str, Any]:
    """What a replica says of itself once it is ready."""
    for name, text in STUBS.items():
        path = tmp_path / "stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "tmp").mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BIREAL_")}
    variables |= {
        "BIREAL_MODEL_DIR": str(zoo),
        "BIREAL_DEFAULT_CLASSIFY_MODEL": "tiny-bireal",
        "BIREAL_DEFAULT_DEPTH_MODEL": "tiny-bireal-depth",
        "PYTHONPATH": f"{tmp_path / 'stubs'}{os.pathsep}{ROOT}",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(arguments)]
    run = subprocess.run(
        command, env=inherited | variables, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    said: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return said


@pytest.fixture
def op() -> str:
    """The kernel that this machine picks; the test is skipped where the operator cannot run."""
    try:
        return xnor_op.kernel_name()
    except OpUnavailableError as error:
        pytest.skip(f"the bit-packed operator: {error.detail}")


@pytest.mark.usefixtures("op")
def test_the_kernel_of_the_arguments_is_the_one_that_runs(zoo: Path, tmp_path: Path) -> None:
    said = replica(zoo, tmp_path, {"settings": {"kernel": "scalar"}})
    assert said["kernel"] == "scalar"
    assert said["folder"] == str(zoo), "all tasks: no copy"


def test_auto_is_no_kernel_but_the_best_one(zoo: Path, tmp_path: Path, op: str) -> None:
    said = replica(zoo, tmp_path, {"tasks": ["classify"]}, BIREAL_KERNEL="auto")
    assert said["kernel"] == op
    assert said["models"] == ["tiny-bireal", "tiny-colours"]
    assert not Path(said["folder"]).exists(), "the copy is gone with its process"


@pytest.mark.usefixtures("op")
def test_a_copy_has_the_files_that_links_stand_for(zoo: Path, tmp_path: Path) -> None:
    """A link within the folder of models, which the registry follows, leads out of the copy."""
    linked = shutil.copytree(zoo, tmp_path / "linked")
    for file in linked.glob("*/*/model.onnx"):
        file.symlink_to(file.rename(file.with_name("weights.onnx")))
    said = replica(linked, tmp_path, {"tasks": ["classify"]})
    assert said["models"] == ["tiny-bireal", "tiny-colours"]


@pytest.mark.usefixtures("op")
def test_a_card_that_cannot_be_read_is_no_reason_not_to_serve_the_other_models(zoo: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(zoo, tmp_path / "damaged")
    (damaged / "tiny-ramp" / "1" / "card.yaml").write_text("torn: [")
    said = replica(damaged, tmp_path, {"tasks": ["classify"]})
    assert said["models"] == ["tiny-bireal", "tiny-colours", "tiny-ramp"], "the registry reports it"


OWN = "import sys; from pathlib import Path; from deploy.ray.folders import own_folder; "
OWN += "folder = own_folder('models-', Path(sys.argv[1])); (folder / 'file').touch(); print(folder, flush=True); "


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "models-file").write_text("not a folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models-link").symlink_to(tmp_path / "elsewhere")
    command = [sys.executable, "-c", OWN + "input()", tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            theirs = Path(process.stdout.readline().strip())
            first = own_folder("models-", tmp_path)
            assert theirs.is_dir(), "its owner lives"
        finally:
            process.kill()
    assert (theirs / "file").exists(), "nobody was there to remove it"
    second = own_folder("models-", tmp_path)
    assert not theirs.exists()
    assert first.is_dir(), "this process owns it, too"
    assert {path.name for path in tmp_path.iterdir()} == {
        "models-file", "models-link", "elsewhere", first.name, second.name,
    }  # fmt: skip
