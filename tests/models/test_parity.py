"""The parity command on a random network and real photographs."""

import json
import subprocess
import sys
from pathlib import Path

import skimage.data

from models.eval.parity import compare, load_images
from models.export.verify import smooth_images
from service.card import Card
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


def test_agreement_is_counted(tmp_path: Path) -> None:
    result = compare(export_to(tmp_path, CASES[0]), smooth_images(4, 64, 64))
    assert 0.5 <= result["top1_agreement"] <= 1.0  # type: ignore[operator]
