"""From results to the wire types of `service.schemas`."""

import dataclasses

from pydantic_core import to_json

from service.api.context import RequestContext
from service.api.pipeline import Answered, Side
from service.evaluation import depth_agreement
from service.experiments.trial import DEPTH_AGREEMENT
from service.imaging import ImageReport
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
from service.tasks import ClassifyResult, DepthResult
from service.tasks.depth import Box, region_box
from service.tasks.depth_formats import json_values

_IMAGE_FIELDS = tuple(field.name for field in dataclasses.fields(ImageReport))
_EXPERIMENT_FIELDS = ("name", "mode", "arm")


def classify_answer(answer: Answered, context: RequestContext) -> ClassifyAnswer:
    """The classes of one image."""
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
    """`classify_answer` as JSON, without making its wire types: all that is in it was checked where it was made."""
    result: ClassifyResult = answer.result
    experiment = answer.experiment
    body = {
        **_ran(answer, context),
        "timings_ms": {stage: round(1000 * seconds, 3) for stage, seconds in answer.stages.items()},
        "image": {name: getattr(answer.report, name) for name in _IMAGE_FIELDS},
        "experiment": None if experiment is None else dict(zip(_EXPERIMENT_FIELDS, experiment, strict=True)),
        "feedback_token": answer.feedback_token,
        "predictions": [
            {"index": item.index, "wnid": item.wnid, "name": item.name, "probability": item.probability}
            for item in result.predictions
        ],
        "uncertain": result.uncertain,
        "min_probability": result.min_probability,
    }
    return to_json(body)


def depth_answer(answer: Answered, context: RequestContext) -> DepthAnswer:
    """The depth of one image, in figures."""
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


def depth_json(answer: Answered, context: RequestContext, *, values: bool) -> str:
    """`depth_answer` as text; with the map in it, which as objects would take ten times its memory.

    Raises:
        BadParameterError: The map is too large for JSON.
    """
    text = depth_answer(answer, context).model_dump_json()
    if not values:
        return text
    empty = '"depth_m":null}'
    if not text.endswith(empty):
        raise AssertionError("DepthAnswer.depth_m is not the last member")
    return f'{text.removesuffix(empty)}"depth_m":{json_values(answer.result)}}}'


def depth_headers(result: DepthResult) -> dict[str, str]:
    """What a map shows, as headers: the only place for it beside an answer that is a file."""
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
    within, abs_rel = depth_agreement(result_a.depth_m, result_b.depth_m)
    return DepthComparison(
        **_comparison(sides, order, context),
        agree=within >= DEPTH_AGREEMENT,
        a=depth_answer(sides["a"], context),
        b=depth_answer(sides["b"], context),
        within_1_25=within,
        abs_rel=abs_rel,
    )


def run_headers(answer: Answered) -> dict[str, str]:
    """What ran, as headers: the only place for it beside an answer that is an image."""
    headers = network_headers(answer.handle)
    if answer.experiment is not None:
        headers["x-bireal-experiment"], _, headers["x-bireal-arm"] = answer.experiment
    if answer.feedback_token is not None:
        headers["x-bireal-feedback-token"] = answer.feedback_token
    return headers


def network_headers(handle: Handle) -> dict[str, str]:
    """A network, as headers; see `run_headers`."""
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
    """Bytes that the weights of a loaded network take in memory."""
    described = handle.model.describe()
    return described["binary_weight_bytes"] + described["real_weight_bytes"]


def _run(answer: Answered, context: RequestContext) -> dict[str, object]:
    """The members that every answer has."""
    return {
        **_ran(answer, context),
        "experiment": None if answer.experiment is None else _experiment(*answer.experiment),
        "feedback_token": answer.feedback_token,
        "timings_ms": Timings(**{stage: round(1000 * seconds, 3) for stage, seconds in answer.stages.items()}),
        "image": _image(answer.report),
    }


def _ran(answer: Answered, context: RequestContext) -> dict[str, object]:
    handle = answer.handle
    return {
        "model": handle.card.name,
        "version": handle.card.version,
        "variant": handle.variant,
        "kernel": handle.kernel,
        "fallback": handle.fallback,
        "request_id": context.request_id,
        "batch_size": answer.batch_size,
    }


def _image(report: ImageReport) -> ImageInfo:
    # By hand: dataclasses.asdict copies every value, and takes longer than making the rest of the answer.
    return ImageInfo(**{name: getattr(report, name) for name in _IMAGE_FIELDS})


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
    """Text with what a header cannot hold replaced."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
