"""What tests of commands share: small models, road scenes, and a command called as a function."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli.main import main
from tests.pictures import encode
from tests.tiny_zoo import DEPTH_SIZE, FAR_M, NEAR_M, write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def tiny_models(zoo, monkeypatch) -> None:
    """Commands serve `zoo` where they are told nothing else."""
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(zoo))


@pytest.fixture
def road(tmp_path) -> Path:
    """Two white pictures whose measured depth is exactly what `tiny-ramp` answers to them."""
    drive = tmp_path / "road" / "drive_0001"
    (drive / "left").mkdir(parents=True)
    (drive / "lidar_depth").mkdir()
    height, width = DEPTH_SIZE
    ramp = np.tile(np.linspace(NEAR_M, FAR_M, width), (height, 1))
    for number in range(2):
        (drive / "left" / f"{number}.JPG").write_bytes(encode(Image.new("RGB", (width, height), "white"), "JPEG"))
        Image.fromarray(np.rint(256 * ramp).astype(np.uint16)).save(drive / "lidar_depth" / f"{number}.png")
    (drive / "calib.json").write_text(json.dumps({"fx": 50.0, "baseline_m": 0.54}))
    return tmp_path / "road"


@pytest.fixture
def run(capsys):
    """Runs a command and returns its exit code, its one JSON document, and what it said on standard error."""

    def call(*arguments: object, code: int = 0):
        assert main([*map(str, arguments), "--json"]) == code
        output = capsys.readouterr()
        return json.loads(output.out), output.err

    return call
