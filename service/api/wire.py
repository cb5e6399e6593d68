"""Converts results to the wire types of `service.schemas`."""

from functools import lru_cache

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from service.imaging import ImageReport
from service.pipeline import Answered, RequestContext, Side
from service.registry import Handle
from service.schemas import (
    ClassifyAnswer,
    ClassifyComparison,
    ClassPrediction,
    ComparedWeights,
    CropInfo,
    DepthAnswer,
    DepthComparison,
    ExperimentPart,
    FocalInfo,
    ImageInfo,
    NetworkInput,
    RegionInfo,
    RowPercentiles,
    Timings,
    ValidInfo,
)
from service.tasks import ClassifyResult, DepthResult, depth_agreement
from service.tasks.depth import Box, region_box


def classify_answer(answer: Answered, context: RequestContext) -> ClassifyAnswer:
    """The answer for a classified image."""
    result: ClassifyResult = answer.result
    return ClassifyAnswer(
        **_run(answer, context),
        predictions=[
            ClassPrediction(index=item.index, wnid=item.wnid, name=item.name, probability=item.probability)
            for item in result.predictions
        ],
        uncertain=result.uncertain,
        min_probability=result.min_probability,
    )


def classify_body(answer: Answered, context: RequestContext) -> bytes:
    """`classify_answer` as JSON, without building the wire types, whose validation is not needed here.

    Concatenates pieces that many answers share. Specific to one answer are only numbers, an id and a token; the id and
    the token need no escaping.

    With the wire types, a small picture's `/classify` takes 5 % more CPU (0.08 ms more than 1.80 ms; Zen 4 with
    AVX-512, ADR 0050).
    """
    result, handle, stages = answer.result, answer.handle, answer.stages
    known = _pieces_of(handle)
    best = result.predictions
    # Encode all numbers at once, because the call costs more than the encoding.
    values = [round(1000 * seconds, 3) for seconds in stages.values()]
    values += [result.min_probability, *[item.probability for item in best]]
    numbers = to_json(values)[1:-1].split(b",")
    count = len(stages)
    timings = b",".join([b'"%b":%b' % pair for pair in zip(_encoded_names(tuple(stages)), numbers, strict=False)])
    classes = b"},".join(
        [known.classes[item.index] + number for item, number in zip(best, numbers[count + 1 :], strict=True)]
    )
    return b"".join(
        (
            known.network,
            b',"request_id":"%b","batch_size":%d,"timings_ms":{' % (context.request_id.encode(), answer.batch_size),
            timings,
            b'},"image":',
            _image_json(answer.report),
            b',"experiment":',
            b"null" if answer.experiment is None else to_json(_experiment(*answer.experiment)),
            b',"feedback_token":',
            b"null" if answer.feedback_token is None else b'"%b"' % answer.feedback_token.encode(),
            b',"predictions":[',
            classes,
            b'}],"uncertain":true,"min_probability":'
            if result.uncertain
            else b'}],"uncertain":false,"min_probability":',
            numbers[count],
            b"}",
        )
    )


class _Pieces:
    """The parts that all answers of a classifier share: what ran, and the JSON of each class up to its probability."""

    def __init__(self, handle: Handle) -> None:
        self.network = to_json(_network_members(handle))[:-1]
        named = [{"index": i, "wnid": one.wnid, "name": one.name} for i, one in enumerate(handle.card.classes)]
        self.classes = [to_json(one)[:-1] + b',"probability":' for one in named]


def _pieces_of(handle: Handle) -> _Pieces:
    known: _Pieces | None = handle.kept.get(_Pieces)
    if known is None:
        known = handle.kept[_Pieces] = _Pieces(handle)
    return known


@lru_cache(maxsize=64)
def _encoded_names(stages: tuple[str, ...]) -> list[bytes]:
    return [stage.encode() for stage in stages]


@lru_cache(maxsize=256)
def _image_json(report: ImageReport) -> bytes:
    """Cached, because uploads of one camera or data set have few different reports."""
    return to_json(report._asdict())


def depth_answer(answer: Answered, context: RequestContext) -> DepthAnswer:
    """The depth of one image, as figures."""
    result: DepthResult = answer.result
    height, width = result.map_size
    summary, geometry, focal = result.summary, result.geometry, result.focal
    region = region_box(geometry)
    return DepthAnswer(
        **_run(answer, context),
        width=width,
        height=height,
        valid=ValidInfo(**result.valid._asdict()),
        min_m=summary.min_m,
        median_m=summary.median_m,
        max_m=summary.max_m,
        rows=RowPercentiles(
            percentiles=list(summary.percentiles), values_m=[list(row) for row in summary.row_percentiles_m]
        ),
        region=RegionInfo(left=geometry.left, top=geometry.top, width=geometry.width, height=geometry.height),
        cropped=CropInfo(
            left=region.left,
            top=region.top,
            right=geometry.picture_width - region.left - region.width,
            bottom=geometry.picture_height - region.top - region.height,
        ),
        input=NetworkInput(
            width=geometry.input_width,
            height=geometry.input_height,
            scale_x=round(geometry.scale_x, 6),
            scale_y=round(geometry.scale_y, 6),
        ),
        focal=FocalInfo(
            fx_px=focal.fx_px, assumed=focal.source == "assumed", fx_source=focal.source, reason=focal.reason
        ),
    )


def depth_json(answer: Answered, context: RequestContext, values: bytes | None = None) -> bytes:
    """`depth_answer` as JSON.

    Args:
        answer: The answer.
        context: The request's context.
        values: The map, if it is to be part of it, as JSON: as objects it would take ten times as much memory.
    """
    text = depth_answer(answer, context).model_dump_json().encode()
    if values is None:
        return text
    empty = b'"depth_m":null}'
    if not text.endswith(empty):
        raise AssertionError("DepthAnswer.depth_m is not the last member")
    return b"".join((text.removesuffix(empty), b'"depth_m":', values, b"}"))


def depth_headers(result: DepthResult) -> dict[str, str]:
    """The figures of a map as headers, the only place for them if the response is a file."""
    summary, geometry, focal = result.summary, result.geometry, result.focal
    height, width = result.map_size
    return {
        "x-bireal-depth-m": f"min={summary.min_m:.3f}, median={summary.median_m:.3f}, max={summary.max_m:.3f}",
        "x-bireal-picture": f"width={geometry.picture_width}, height={geometry.picture_height}",
        "x-bireal-region": _box(region_box(geometry)),
        "x-bireal-map": f"width={width}, height={height}",
        "x-bireal-valid": _box(result.valid),
        "x-bireal-focal": f"fx_px={focal.fx_px:.3f}, fx_source={focal.source}",
    }


def _box(box: Box) -> str:
    return ", ".join(f"{name}={value}" for name, value in box._asdict().items())


def classify_comparison(sides: dict[Side, Answered], order: list[Side], context: RequestContext) -> ClassifyComparison:
    """Two classifications of one image."""
    a, b = (classify_answer(sides[side], context) for side in ("a", "b"))
    agree = a.predictions[0].wnid == b.predictions[0].wnid
    return ClassifyComparison(**_comparison(sides, order, context), agree=agree, a=a, b=b)


def depth_comparison(sides: dict[Side, Answered], order: list[Side], context: RequestContext) -> DepthComparison:
    """Two depth maps of one image."""
    result_a, result_b = sides["a"].result, sides["b"].result
    found = depth_agreement(result_a.depth_m, result_b.depth_m)
    return DepthComparison(
        **_comparison(sides, order, context),
        agree=found.agree,
        a=depth_answer(sides["a"], context),
        b=depth_answer(sides["b"], context),
        within_1_25=found.within,
        abs_rel=found.abs_rel,
    )


def json_response(body: BaseModel, status: int = 200) -> Response:
    """A wire type as a response, without FastAPI's second validation."""
    return Response(body.model_dump_json(), status, media_type="application/json")


def run_headers(answer: Answered) -> dict[str, str]:
    """What ran, as headers, the only place for it if the response is an image."""
    headers = network_headers(answer.handle)
    if answer.experiment is not None:
        headers["x-bireal-experiment"], _, headers["x-bireal-arm"] = answer.experiment
    if answer.feedback_token is not None:
        headers["x-bireal-feedback-token"] = answer.feedback_token
    return headers


def network_headers(handle: Handle) -> dict[str, str]:
    """The headers that describe a network; see `run_headers`."""
    headers = {
        "x-bireal-model": handle.card.name,
        "x-bireal-version": handle.card.version,
        "x-bireal-variant": handle.variant,
        "x-bireal-kernel": handle.kernel,
    }
    if handle.fallback is not None:
        headers["x-bireal-fallback"] = _header_safe(handle.fallback)
    return headers


def weight_bytes(handle: Handle) -> int:
    """Bytes of a loaded network's weights in memory."""
    described = handle.model.describe()
    return described["binary_weight_bytes"] + described["real_weight_bytes"]


def _run(answer: Answered, context: RequestContext) -> dict[str, object]:
    """The members that every answer has."""
    return {
        **_network_members(answer.handle),
        "request_id": context.request_id,
        "batch_size": answer.batch_size,
        "experiment": None if answer.experiment is None else _experiment(*answer.experiment),
        "feedback_token": answer.feedback_token,
        "timings_ms": Timings(**{stage: round(1000 * seconds, 3) for stage, seconds in answer.stages.items()}),
        "image": _image(answer.report),
    }


def _network_members(handle: Handle) -> dict[str, object]:
    return {
        "model": handle.card.name,
        "version": handle.card.version,
        "variant": handle.variant,
        "kernel": handle.kernel,
        "fallback": handle.fallback,
    }


def _image(report: ImageReport) -> ImageInfo:
    return ImageInfo(**report._asdict())


def _experiment(name: str, mode: str, arm: str) -> ExperimentPart:
    return ExperimentPart.model_validate({"name": name, "mode": mode, "arm": arm})


def _comparison(sides: dict[Side, Answered], order: list[Side], context: RequestContext) -> dict[str, object]:
    """The members that every comparison has."""
    a, b = sides["a"], sides["b"]
    a_bytes, b_bytes = weight_bytes(a.handle), weight_bytes(b.handle)
    return {
        "request_id": context.request_id,
        "order": order,
        "speedup": round(b.stages["inference"] / max(a.stages["inference"], 1e-9), 3),
        "weights": ComparedWeights(
            a_bytes=a_bytes,
            b_bytes=b_bytes,
            a_artefact_bytes=a.handle.model.describe()["artefact_bytes"],
            b_artefact_bytes=b.handle.model.describe()["artefact_bytes"],
            ratio=round(b_bytes / max(a_bytes, 1), 3),
        ),
        "image": _image(a.report),
    }


def _header_safe(text: str) -> str:
    """Replaces the characters that a header cannot carry."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
