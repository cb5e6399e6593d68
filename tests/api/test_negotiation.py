"""`Accept` headers."""

import pytest

from service.api.negotiation import best_media_type
from service.errors import NotAcceptableError

OFFERED = ["application/json", "image/png", "application/x-npy"]


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("  ", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("image/png, application/json", "application/json"),
        ("image/png;q=1.0, application/json;q=0.9", "image/png"),
        ("application/json;q=0.1, */*;q=0.5", "image/png"),
        ("*/*, application/json;q=0", "image/png"),
        ("application/*;q=0.3, image/*;q=0.2, application/json;q=0", "application/x-npy"),
        ("text/html, application/x-npy;q=0.001", "application/x-npy"),
        ("image/png; charset=utf-8; q=0.4, application/x-npy;q=0.5", "application/x-npy"),
        ("nonsense, image/png", "image/png"),
        ("image/png;q=nonsense", "image/png"),
    ],
)
def test_the_best_of_what_is_accepted(accept, best):
    assert best_media_type(accept, OFFERED) == best


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "*/*;q=0", "nonsense", "image/png;q=0, text/*", ","])
def test_nothing_that_is_accepted(accept):
    with pytest.raises(NotAcceptableError, match="application/json, image/png, application/x-npy"):
        best_media_type(accept, OFFERED)
