"""`compare`: two variants on a photo, or on every photo of a folder."""

import argparse
import asyncio
import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tqdm import tqdm

from service.api.context import RequestContext, request_id_from
from service.api.pipeline import Answered, Side
from service.api.wire import classify_comparison, depth_comparison, weight_bytes
from service.cli.data import images_of
from service.cli.engine import Engine, describe
from service.errors import ServiceError
from service.registry import Handle
from service.schemas import ClassifyComparison, DepthComparison
from service.settings import Settings
from service.tasks import ClassifyOptions, DepthOptions

_SHOWN_DISAGREEMENTS = 20


def compare(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints both answers for a photo, or a summary for a folder. Returns the exit code.

    The two variants run one after the other, in random order, with nothing beside them: their times can be compared.
    """
    paths = images_of(arguments.path)
    with Engine(settings) as engine:
        handles = engine.handles(arguments.task, arguments.model, arguments.a, arguments.b)
        sides: dict[Side, Handle] = {"a": handles[0], "b": handles[1]}
        if arguments.path.is_file():
            comparison = asyncio.run(_one(engine, paths[0], sides, arguments))
            document: dict[str, Any] = comparison.model_dump(mode="json")
        else:
            document = asyncio.run(_folder(engine, paths, sides, arguments))
    if arguments.json:
        print(json.dumps(document))
    elif arguments.path.is_file():
        print(_line(document, sides))
    else:
        print(_summary(document))
    return 0


async def _one(
    engine: Engine, path: Path, sides: dict[Side, Handle], arguments: argparse.Namespace
) -> ClassifyComparison | DepthComparison:
    options = DepthOptions(fx_px=arguments.fx) if arguments.task == "depth" else ClassifyOptions(engine.settings.top_k)
    answers, order = await engine.compare(path, sides, options)
    return _wire(answers, order)


def _wire(answers: dict[Side, Answered], order: list[Side]) -> ClassifyComparison | DepthComparison:
    context = RequestContext(request_id_from(None))
    if answers["a"].handle.card.task == "classify":
        return classify_comparison(answers, order, context)
    return depth_comparison(answers, order, context)


async def _folder(
    engine: Engine, paths: list[Path], sides: dict[Side, Handle], arguments: argparse.Namespace
) -> dict[str, Any]:
    comparisons: list[ClassifyComparison | DepthComparison] = []
    disagreements: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for path in tqdm(paths, unit="image"):
        try:
            comparison = await _one(engine, path, sides, arguments)
        except ServiceError as error:
            failed.append({"file": str(path), "detail": error.detail})
            continue
        comparisons.append(comparison)
        if not comparison.agree:
            disagreements.append({"file": str(path), **_difference(comparison)})
    if not comparisons:
        raise ServiceError("None of the images could be compared.", remedy=failed[0]["detail"])
    a, b = sides["a"], sides["b"]
    weights = comparisons[0].weights
    document: dict[str, Any] = {
        "n": len(comparisons),
        "agreement": fmean(comparison.agree for comparison in comparisons),
        "a": _side(a, [comparison.a.timings_ms.inference for comparison in comparisons]),
        "b": _side(b, [comparison.b.timings_ms.inference for comparison in comparisons]),
        "speedup_median": round(median(comparison.speedup for comparison in comparisons), 3),
        "weights": weights.model_dump(),
        "failed": failed,
        "disagreements": disagreements,
    }
    depths = [comparison for comparison in comparisons if isinstance(comparison, DepthComparison)]
    if depths:
        document["within_1_25"] = fmean(comparison.within_1_25 for comparison in depths)
        document["abs_rel"] = fmean(comparison.abs_rel for comparison in depths)
    return document


def _side(handle: Handle, inference_ms: list[float]) -> dict[str, Any]:
    return {
        **describe(handle),
        "inference_ms_median": round(median(inference_ms), 3),
        "weight_bytes": weight_bytes(handle),
    }


def _difference(comparison: ClassifyComparison | DepthComparison) -> dict[str, str]:
    if isinstance(comparison, ClassifyComparison):
        return {"a": comparison.a.predictions[0].name, "b": comparison.b.predictions[0].name}
    return {"a": f"{comparison.a.median_m:.1f} m", "b": f"{comparison.b.median_m:.1f} m"}


def _line(document: dict[str, Any], sides: dict[Side, Handle]) -> str:
    verdict = "agree" if document["agree"] else "disagree"
    lines = [f"The variants {verdict}."]
    for side, handle in sides.items():
        answer = document[side]
        if "predictions" in answer:
            best = answer["predictions"][0]
            found = f"{best['name']} {100 * best['probability']:.1f} %"
        else:
            found = f"median {answer['median_m']:.1f} m"
        lines.append(
            f"  {side}: {found}, {answer['timings_ms']['inference']:.2f} ms, {weight_bytes(handle) / 1e6:.2f} MB of "
            f"weights  [{answer['model']}, {answer['variant']}, {answer['kernel']}]"
        )
    return "\n".join(lines)


def _summary(document: dict[str, Any]) -> str:
    lines = [f"{document['n']} images: the variants agree on {100 * document['agreement']:.1f} %."]
    for side in ("a", "b"):
        part = document[side]
        lines.append(
            f"  {side}: {part['inference_ms_median']:.2f} ms (median), {part['weight_bytes'] / 1e6:.2f} MB of weights  "
            f"[{part['model']}, {part['variant']}, {part['kernel']}]"
        )
    lines.append(f"  a is {document['speedup_median']:.2f} times as fast as b (median).")
    shown = document["disagreements"][:_SHOWN_DISAGREEMENTS]
    lines += [f"  {item['file']}: {item['a']} / {item['b']}" for item in shown]
    rest = len(document["disagreements"]) - len(shown)
    if rest:
        lines.append(f"  and {rest} more; --json lists all.")
    lines += [f"  not compared: {item['file']}: {item['detail']}" for item in document["failed"]]
    return "\n".join(lines)
