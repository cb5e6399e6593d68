"""Plots of a load test, as SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.scenarios.queueing import Service, sojourn
from loadtest.scenarios.schema import LoadDocument, RunResult

_COLOURS = {"binary": "#c2410c", "reference": "#78716c", "full": "#0369a1"}


def drawn(document: LoadDocument, scenario: str) -> bool:
    """Whether there is something to plot."""
    return bool(_runs(document, scenario))


def _ramp(document: LoadDocument, path: Path) -> bool:
    """Throughput and 99th percentile against the number of users."""
    runs = _runs(document, "ramp")
    if not runs:
        return False
    figure, (rate, latency) = _figure(2)
    for run in runs:
        users = [step.level for step in run.steps]
        rate.plot(users, [step.groups[0].requests_per_s for step in run.steps], "o-", **_style(run))
        times = [step.groups[0].latency_ms for step in run.steps]
        latency.plot(users, [time.p99 if time else np.nan for time in times], "o-", **_style(run))
    for axes, label in ((rate, "answered requests/s"), (latency, "p99 of the answered, ms")):
        axes.set(xscale="log", yscale="log", xlabel="users without a pause", ylabel=label)
        axes.set_xticks(users, [f"{count:g}" for count in users])
    return _save(figure, path, rate)


def _steady(document: LoadDocument, path: Path) -> bool:
    """Latency against the rate, with the queueing model's prediction."""
    runs = _runs(document, "steady")
    if not runs:
        return False
    kinds = {kind.name: kind for kind in document.capacity}
    tasks = sorted({run.title.split()[0] for run in runs})
    figure, plots = _figure(len(tasks))
    for axes, task in zip(plots, tasks, strict=True):
        for run in runs:
            if not run.title.startswith(task):
                continue
            kind = kinds[run.title]
            taken = Service.measured(kind.idle_ms, kind.requests_per_s)
            rates = np.linspace(0.02, 0.95, 40) * kind.requests_per_s
            style = _style(run)
            for percent, line, mark in ((50, ":", "s"), (99, "-", "o")):
                model = [sojourn(taken, rate).percentile(percent) for rate in rates]
                axes.plot(rates, model, line, color=style["color"], label=f"{run.title} p{percent}, model")
                for step in run.steps:
                    found = step.groups[0].latency_ms
                    if found:
                        axes.plot(step.level, found.p50 if percent == 50 else found.p99, mark, color=style["color"])
        axes.set(xscale="log", yscale="log", xlabel="requests/s at one core", ylabel="ms; marks are measured")
        axes.legend(fontsize=7)
    return _save(figure, path, None)


def _burst(document: LoadDocument, path: Path) -> bool:
    """Requests sent, answered and refused per second, and the latency of the answered ones."""
    runs = _runs(document, "burst")
    if not runs:
        return False
    figure, plots = _figure(len(runs))
    for axes, run in zip(plots, runs, strict=True):
        at = [second.at_s for second in run.seconds]
        axes.step(at, [second.sent for second in run.seconds], where="post", color="#a3a3a3", label="sent")
        axes.step(at, [second.answered for second in run.seconds], where="post", label="answered", **_colour(run))
        refused = [second.refused for second in run.seconds]
        axes.step(at, refused, where="post", color="#dc2626", label="refused (429)")
        axes.set(xlabel="due, seconds", ylabel="requests/s", title=run.title, ylim=(0, None))
        times = axes.twinx()
        p99 = [np.nan if second.p99_ms is None else second.p99_ms for second in run.seconds]
        times.plot(at, p99, "k:", label="p99 of the answered")
        times.set(ylabel="p99, ms (dotted)", ylim=(0, None))
        axes.legend(fontsize=7, loc="upper left")
    return _save(figure, path, None)


#: Names of the plots and their functions, which return whether there was anything to draw.
PLOTS: Mapping[str, Callable[[LoadDocument, Path], bool]] = {"ramp": _ramp, "steady": _steady, "burst": _burst}


def _runs(document: LoadDocument, scenario: str) -> list[RunResult]:
    return [run for run in document.runs if run.scenario == scenario]


def _style(run: RunResult) -> dict[str, Any]:
    return {"label": run.title, **_colour(run)}


def _colour(run: RunResult) -> dict[str, str]:
    return {"color": _COLOURS.get(run.title.split()[-1], "#525252")}


def _figure(columns: int) -> tuple[Any, list[Any]]:
    import matplotlib as mpl  # imported here: most of the load test does not need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "bireal"  # makes files reproducible
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    figure, axes = plt.subplots(1, columns, figsize=(5.2 * columns, 3.6), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path, legend: Any) -> bool:
    from matplotlib import pyplot as plt

    if legend is not None:
        legend.legend(fontsize=8)
    for axes in figure.axes:
        axes.grid(visible=True, alpha=0.25)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True
