"""The page's drawings are what their program draws, small, and recognised by the shipped networks."""

import asyncio
import io
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtest.samples import SAMPLES, encoded
from service.cli.engine import Engine
from service.settings import Settings
from service.tasks import ClassifyOptions

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {"coffee": "espresso", "ladybird": "ladybug", "fence": "picket fence"}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_file_is_what_the_program_draws(name):
    shipped = resources.files("service.ui").joinpath(name).read_bytes()
    assert len(shipped) < 60_000
    ours, theirs = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (encoded(name), shipped))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 1  # JPEG encoders may round differently


def test_both_networks_name_what_is_drawn():
    """Somebody who tries the page first sees the drawings: one that both get wrong says nothing about 1-bit weights.

    `reference` has the same weights as `binary`, and runs everywhere.
    """
    with Engine(Settings(model_dir=ROOT / "models/zoo")) as engine:
        reference, full = engine.handles("classify", None, "reference", "full")
        for drawn, name in SHOWN.items():
            file = ROOT / f"service/ui/sample-{drawn}.jpg"
            answers, _ = asyncio.run(engine.compare(file, {"a": reference, "b": full}, ClassifyOptions(1)))
            said = [answers[side].result.predictions[0].name for side in ("a", "b")]
            assert said == [name, name], drawn
