"""`compare`: two variants on one image, or on every image of a folder. Is one good enough to replace the other?"""

import argparse
import asyncio
import contextlib
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from service.api.wire import classify_comparison, depth_comparison
from service.card import TaskName
from service.cli import compare_folder
from service.cli.compare_folder import Comparison, Folder
from service.cli.compare_local import LocalComparison
from service.cli.compare_remote import RemoteComparison, compare_one
from service.cli.data import check_scenes, images_of, is_depth_folder, printable, say_passed_over
from service.cli.engine import Engine
from service.cli.remote import connect, task_of
from service.errors import BadParameterError
from service.experiments.verdict import SAME, Design, counted
from service.pipeline import RequestContext, Side
from service.registry import Handle
from service.report.page import Names, render
from service.report.summary import summarise
from service.request_id import request_id_from
from service.settings import Settings
from service.tasks import ClassifyOptions, DepthOptions
from service.tasks.depth import AGREEMENT

#: Largest loss of accuracy at which one variant is called good enough to replace the other, a fraction.
MARGIN = 0.02
_SHOWN_DISAGREEMENTS = 20


def compare(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints both answers for an image, or a summary of a folder, and writes the report. Returns the exit code.

    The two variants run one after the other, in random order and with nothing else in this process, so that their
    times can be compared.
    """
    path: Path = arguments.path
    images_of(path)  # before anything is loaded
    report: Path | None = arguments.report
    if report is not None:
        _check_report(report, path)
    answer = _remote if arguments.url is not None else _local
    document = answer(settings, arguments)
    if arguments.json:
        print(json.dumps(document))
    elif not path.is_dir():
        print(_line(document))
    else:
        print(_summary(document))
        if report is not None:
            print(f"Wrote the report to {printable(report)}, its figures to {printable(report.with_suffix('.json'))}.")
    return 0


def _task(arguments: argparse.Namespace, of_model: TaskName | None) -> TaskName:
    """The given task, else that of the named model, else the one that the folder's layout suggests.

    Raises:
        BadParameterError: The path or an option does not fit the task.
    """
    path: Path = arguments.path
    known: TaskName | None = arguments.task or of_model
    if path.is_dir() and known != "classify":
        check_scenes(path)
    task = known or ("depth" if path.is_dir() and is_depth_folder(path) else "classify")
    if known is not None or arguments.model is None:  # else the error will be that there is no such model
        _check_fit(arguments, task)
    say_passed_over(path)
    return task


def _named(arguments: argparse.Namespace) -> str | None:
    """The model that determines the task when `--task` is not given."""
    return None if arguments.task is not None else arguments.model


def _check_fit(arguments: argparse.Namespace, task: TaskName) -> None:
    """Rejects options that would have no effect, because whoever sets them expects one.

    Raises:
        BadParameterError: There is such an option.
    """
    if arguments.fx is not None and task != "depth":
        raise BadParameterError("fx", "--fx applies to depth maps only.", remedy="Add --task depth.")
    if arguments.top_k is not None and task != "classify":
        raise BadParameterError("top-k", "--top-k applies to classification only.", remedy="Leave it out.")
    if arguments.top_k is not None and arguments.path.is_dir():
        raise BadParameterError("top-k", "--top-k applies to one image, not to a folder.", remedy="Leave it out.")
    given = {"limit": arguments.limit, "margin": arguments.margin}
    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None and not arguments.path.is_dir():  # a file or a pipe
        raise BadParameterError(name, f"--{name} applies to a folder, not to one image.", remedy="Name a folder.")


def _local(settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares with both networks in this process."""
    path: Path = arguments.path
    with Engine(settings) as engine:
        name = _named(arguments)
        task = _task(arguments, None if name is None else engine.task_of(name))
        a, b = engine.handles(task, arguments.model, arguments.a, arguments.b)
        sides: dict[Side, Handle] = {"a": a, "b": b}
        options = DepthOptions(fx_px=arguments.fx) if task == "depth" else ClassifyOptions(settings.top_k)
        if not path.is_dir():
            return asyncio.run(_one(engine, path, sides, options))
        return asyncio.run(_folder(LocalComparison(engine, sides, options), task, arguments))


def _remote(_: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares with both networks in a running service, whose settings apply."""
    path: Path = arguments.path
    lone = not path.is_dir()

    async def ask() -> dict[str, Any]:
        async with connect(arguments) as service:
            name = _named(arguments)
            task = _task(arguments, None if name is None else task_of(await service.models(), name))
            if lone:
                return await compare_one(service, path, task, arguments)
            return await _folder(await RemoteComparison.open(service, task, arguments), task, arguments)

    return asyncio.run(ask())


async def _one(
    engine: Engine, path: Path, sides: dict[Side, Handle], options: ClassifyOptions | DepthOptions
) -> dict[str, Any]:
    answers, order = await engine.compare(path, sides, options)
    context = RequestContext(request_id_from(None))
    make = classify_comparison if sides["a"].card.task == "classify" else depth_comparison
    return make(answers, order, context).model_dump(mode="json")


async def _folder(comparison: Comparison, task: TaskName, arguments: argparse.Namespace) -> dict[str, Any]:
    root: Path = arguments.path
    if task == "depth":
        folder = compare_folder.depth_folder(root, arguments.limit)
    else:
        folder = compare_folder.classify_folder(root, comparison.classes, arguments.limit)
    await compare_folder.run(comparison, folder, root)
    a, b = comparison.side("a"), comparison.side("b")
    a["inference_ms_median"], b["inference_ms_median"] = (
        round(1000 * median(times_s), 3)
        for times_s in ([pair.a.inference_s for pair in folder.pairs], [pair.b.inference_s for pair in folder.pairs])
    )
    called, same = (a["variant"], b["variant"]), _is_same(a, b)
    names = Names(*called) if called[0] != called[1] else Names(f"a ({called[0]})", f"b ({called[1]})")
    design = Design(*names, task, arguments.margin or MARGIN, same=same)
    document = {
        "task": task,
        "folder": printable(root),
        **summarise(folder.pairs, design),
        "a": a,
        "b": b,
        "speedup_median": round(median(pair.b.inference_s / pair.a.inference_s for pair in folder.pairs), 3),
        "weights": {
            "a_bytes": a["weight_bytes"],
            "b_bytes": b["weight_bytes"],
            "ratio": round(b["weight_bytes"] / max(a["weight_bytes"], 1), 3),
        },
        "machine": comparison.machine(),
        "unlabelled_folders": folder.unlabelled_folders,
        "failed": folder.failed,
        "disagreements": [
            {"file": pair.file, "a": pair.a.says, "b": pair.b.says} for pair in folder.pairs if not pair.agree
        ],
        "differ_most": [pair.as_json() for pair in folder.most],
    }
    if arguments.report is not None:
        _write_report(arguments.report, document, folder, names)
    return document


def _write_report(report: Path, document: dict[str, Any], folder: Folder, names: Names) -> None:
    """Writes the page, and next to it all figures and every image's answers as JSON.

    Both replace older files only once they are complete.
    """
    page = render(document, folder.pairs, folder.most, names)
    figures = json.dumps({**document, "images": [pair.as_json() for pair in folder.pairs]}, indent=1)
    contents = {report.with_suffix(".json"): figures, report: page}
    written: dict[Path, Path] = {}  # temporary file -> final place
    try:
        for place, text in contents.items():
            target = place.resolve()  # replace the target of a symbolic link, not the link
            temporary = target.with_name(f".{os.getpid()}{target.suffix}")
            written[temporary] = target
            temporary.write_bytes(text.encode())
        for temporary, target in written.items():
            temporary.replace(target)
    except OSError as error:
        for temporary in written:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise _unwritable(report, error.strerror) from error


def _check_report(report: Path, path: Path) -> None:
    """Fails if the report cannot be written, before minutes are spent on images."""
    if not path.is_dir():
        raise BadParameterError("report", "--report applies to a folder, not to one image.", remedy="Name a folder.")
    if report.suffix.lower() not in {".html", ".htm"}:
        raise BadParameterError(
            "report", f"The report is a web page, but {report} does not end in .html.", remedy="Add the ending .html."
        )
    if not report.parent.is_dir():
        raise _unwritable(report, "its folder does not exist")
    for place in (report, report.with_suffix(".json")):
        if place.is_dir():
            raise _unwritable(place, "it is a folder")


def _unwritable(report: Path, reason: str | None) -> BadParameterError:
    return BadParameterError(
        "report", f"The report {report} cannot be written: {reason}.", remedy="Name a file in an existing folder."
    )


def _is_same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether one network ran twice; also if `binary` cannot run and `reference` replaces it."""
    return all(a[part] == b[part] for part in ("model", "version", "variant"))


def _line(document: dict[str, Any]) -> str:
    verdict = "agree" if document["agree"] else "disagree"
    lines = [f"The variants {verdict}."]
    if _is_same(document["a"], document["b"]):
        lines = [f"{document['a']['variant']}: {SAME}."]
    for side in ("a", "b"):
        answer = document[side]
        if "predictions" in answer:
            best = answer["predictions"][0]
            found = f"{best['name']} {100 * best['probability']:.1f} %"
        else:
            found = f"median {answer['median_m']:.1f} m"
        lines.append(
            f"  {side}: {found}, {answer['timings_ms']['inference']:.2f} ms, "
            f"{document['weights'][f'{side}_bytes'] / 1e6:.2f} MB of weights  "
            f"[{answer['model']}, {answer['variant']}, {answer['kernel']}]"
        )
    return "\n".join(lines)


def _summary(document: dict[str, Any]) -> str:
    known = document["agreement_interval"]
    agreement = (
        f"{counted(document['n'], 'image')}: the variants agree on {100 * document['agreement']:.1f} % "
        f"(95 % interval {100 * known['lower']:.1f} to {100 * known['upper']:.1f}"
    )
    if "within_1_25" in document:
        # Alone, the share of agreeing images looks like total failure when all maps miss the threshold by a little.
        agreement += (
            f"; they agree where {100 * AGREEMENT:.0f} % of the pixels are within a factor of 1.25, "
            f"and on average {100 * document['within_1_25']:.1f} % are"
        )
    lines = [
        document["verdict"]["summary"],
        f"{agreement}).",
        *(f"  {sentence}" for sentence in document["verdict"]["sentences"][1:]),
    ]
    if "mcnemar_p" in document:
        pairs = document["pairs"]
        lines.append(
            f"  Only a is right on {counted(pairs['only_a'], 'image')}, only b on {pairs['only_b']} "
            f"(McNemar's exact test: p = {document['mcnemar_p']:.2g})."
        )
    for side in ("a", "b"):
        part = document[side]
        lines.append(
            f"  {side}: {part['inference_ms_median']:.2f} ms (median), {part['weight_bytes'] / 1e6:.2f} MB of weights  "
            f"[{part['model']}, {part['variant']}, {part['kernel']}]"
        )
    if document["unlabelled_folders"]:
        names = ", ".join(document["unlabelled_folders"])
        lines.append(f"  folders that name no class of the model, compared without labels: {names}")
    shown = document["disagreements"][:_SHOWN_DISAGREEMENTS]
    lines += [f"  {item['file']}: {item['a']} / {item['b']}" for item in shown]
    rest = len(document["disagreements"]) - len(shown)
    if rest:
        lines.append(f"  and {rest} more; --json and --report list all of them.")
    lines += [f"  not compared: {item['file']}: {item['detail']}" for item in document["failed"]]
    return "\n".join(lines)
