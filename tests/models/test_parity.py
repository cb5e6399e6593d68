"""The parity command on a random network and real photographs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data

from models.eval.parity import compare, load_images, main
from models.export.verify import smooth_images
from service.card import Card
from tests.cards import classify_card
from tests.models.test_export import CASES, export_to

PHOTOS = Path(skimage.data.__file__).parent


def test_real_photographs_are_exact(tmp_path: Path) -> None:
    folder = export_to(tmp_path, CASES[0]).directory
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        (photos / name).write_bytes((PHOTOS / name).read_bytes())
    command = [sys.executable, "-m", "models.eval.parity", str(folder), "--data", str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == 3
    assert result["integer_sums_compared"] > 100_000
    assert result["layers_not_exact"] == {}
    assert load_images(Card.load(folder), photos, 2).shape == (2, 64, 64, 3)
    for name in ("left", "right", "disp_noc_0"):
        (photos / "drive" / name).mkdir(parents=True)
        (photos / "drive" / name / "000000.png").write_bytes((PHOTOS / "coffee.png").read_bytes())
    assert len(load_images(Card.load(folder), photos / "drive", 5)) == 1, "of a drive, the left images"


def test_a_damaged_photo_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    folder = classify_card().write(tmp_path / "m" / "1").directory
    photos = tmp_path / "photos"
    (photos / "not-a-photo.jpg").mkdir(parents=True)
    coffee = (PHOTOS / "coffee.png").read_bytes()
    (photos / "whole.png").write_bytes(coffee)
    (photos / "cut.png").write_bytes(coffee[:1000])
    monkeypatch.setattr("sys.argv", ["models.eval.parity", str(folder), "--data", str(photos)])
    assert main() == 2
    assert capsys.readouterr().err.startswith(f"error: {photos / 'cut.png'}: The PNG file is truncated or corrupt")


def test_agreement_is_counted(tmp_path: Path) -> None:
    result = compare(export_to(tmp_path, CASES[0]), smooth_images(4, 64, 64))
    assert 0.5 <= result["top1_agreement"] <= 1.0  # type: ignore[operator]
