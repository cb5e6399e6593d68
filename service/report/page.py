"""The report as one self-contained HTML file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from service.errors import ServiceError
from service.imaging import ImageLimits, decode
from service.report.pairs import Pair
from service.report.plots import Row, histogram, interval_plot, scatter
from service.tasks import encode_error_map

_THUMBNAIL = (220, 165)
_MOST_POINTS = 2000

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
)


class Names(NamedTuple):
    """Names of the candidate (a) and the baseline (b)."""

    a: str
    b: str


def render(document: dict[str, Any], pairs: Sequence[Pair], most: Sequence[Pair], names: Names) -> str:
    """Renders the report as HTML.

    Args:
        document: The JSON report.
        pairs: Results on every image.
        most: Results on the images on which the variants differ most, worst first.
        names: Names of candidate and baseline.
    """
    depth = document["task"] == "depth"
    template = _ENVIRONMENT.get_template("report.html.j2")
    return template.render(
        d=document,
        names=names,
        depth=depth,
        shares=interval_plot(_rows(document, names), "Agreement and accuracy with 95 % confidence intervals"),
        latency=histogram(
            [
                (names.a, "a", [1000 * pair.a.inference_s for pair in pairs]),
                (names.b, "b", [1000 * pair.b.inference_s for pair in pairs]),
            ],
            "Inference time of each image, milliseconds",
            "ms",
        ),
        points=_points(pairs, names, depth=depth),
        most=[(pair, thumbnail(pair.path), _difference(pair)) for pair in most],
    )


def _rows(document: dict[str, Any], names: Names) -> list[Row]:
    rows = [Row("agreement", "both", **document["agreement_interval"])]
    shares = document.get("accuracy") or document.get("depth", {}).get("delta1")
    if shares:
        what = "delta < 1.25" if "depth" in document else "right"
        rows += [Row(f"{name} {what}", side, **shares[side]) for side, name in (("a", names.a), ("b", names.b))]
    return rows


def _points(pairs: Sequence[Pair], names: Names, *, depth: bool) -> Markup | None:
    """Plots one point per image: both sides' confidence, or their share of points near the truth."""
    step = max(1, len(pairs) // _MOST_POINTS)
    points = []
    for pair in pairs[::step]:
        a, b = ((side.errors or {}).get("delta1") if depth else side.confidence for side in (pair.a, pair.b))
        if a is not None and b is not None:
            points.append((b, a, "agree" if pair.agree else "differ"))
    if not points:
        return None
    what = "share of points within a factor of 1.25 of the truth" if depth else "probability of the best class"
    return scatter(points, f"Each image: {what}", f"{names.b}: {what}", names.a)


def thumbnail(path: Path | None) -> str:
    """Returns a small copy of a picture as a data URI; empty if the path is unknown or cannot be read."""
    if path is None:
        return ""
    try:
        image = decode(path.read_bytes(), None, ImageLimits(max_pixels=178_000_000), hint=_THUMBNAIL).image
    except (ServiceError, OSError):  # the file was readable before, but has been changed or removed
        return ""
    image = image.copy()
    image.thumbnail(_THUMBNAIL, Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=70)
    return _data_uri(stream.getvalue(), "image/jpeg")


def _difference(pair: Pair) -> str:
    return _data_uri(encode_error_map(*pair.maps), "image/png") if pair.maps is not None else ""


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
