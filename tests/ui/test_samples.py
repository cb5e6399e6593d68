"""The page's drawings are what their program draws, and small."""

import io
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from loadtest.samples import SAMPLES, encoded


@pytest.mark.parametrize("name", SAMPLES)
def test_the_file_is_what_the_program_draws(name):
    shipped = resources.files("service.ui").joinpath(name).read_bytes()
    assert len(shipped) < 60_000
    ours, theirs = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (encoded(name), shipped))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 1  # JPEG encoders may round differently
