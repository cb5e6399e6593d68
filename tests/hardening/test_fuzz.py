"""The image path under arbitrary bytes and mutated real photographs: a picture or a refusal, soon, and nothing else."""

import time

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ServiceError
from service.imaging import ImageLimits, decode
from tests.pictures import ENCODINGS, encode

LIMITS = ImageLimits(max_pixels=1_000_000)
#: Real photographs, small, in every format that is read.
REAL = {
    f"{kind}-{name}": encode(Image.fromarray(pixels).resize((64, 48)), kind, **options)
    for name, pixels in (
        ("cat", skimage.data.chelsea()),
        ("coffee", skimage.data.coffee()),
        ("coins", skimage.data.coins()),
        ("camera", skimage.data.camera()),
    )
    for kind, options in ENCODINGS.items()
}
FUZZ = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.data_too_large])


def judged(data: bytes, content_type: str | None = None) -> bool:
    """Whether bytes are a picture; fails where they are neither that nor refused as the client's mistake, or hang."""
    begun = time.perf_counter()
    refusal = image = None
    try:
        image = decode(data, content_type, LIMITS, hint=(32, 32))
    except ServiceError as error:
        refusal = error
    assert time.perf_counter() - begun < 5
    if image is None:
        assert refusal is not None
        assert 400 <= refusal.status < 500, repr(refusal)
        return False
    pixels = np.asarray(image.image)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels
    return True


@FUZZ
@given(
    st.binary(max_size=2000), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"])
)
def test_arbitrary_bytes(tail, magic):
    judged(magic + tail)


@FUZZ
@given(
    st.sampled_from(sorted(REAL)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=30),
)
def test_photographs_with_changed_bytes(name, changes):
    data = bytearray(REAL[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    judged(bytes(data))


@FUZZ
@given(
    st.sampled_from(sorted(REAL)),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["cut", "drop", "double", "swap"]),
    st.sampled_from(sorted(REAL)),
)
def test_photographs_cut_and_spliced(name, a, b, how, other):
    data = REAL[name]
    first, last = sorted(int(share * len(data)) for share in (a, b))
    mutated = {
        "cut": data[:first],
        "drop": data[:first] + data[last:],
        "double": data[:last] + data[first:last] * 2 + data[last:],
        "swap": data[:first] + REAL[other][first:],
    }[how]
    judged(mutated)


@pytest.mark.parametrize("name", sorted(REAL))
def test_untouched_they_are_pictures(name):
    assert judged(REAL[name])
