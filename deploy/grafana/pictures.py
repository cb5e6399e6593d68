"""Draws pictures of the dashboards from Prometheus' responses to their queries.

    python -m deploy.grafana.pictures --prometheus http://localhost:9090   # from a running Prometheus
    python -m deploy.grafana.pictures --data FOLDER                        # start everything, send the folder's images

They are simpler than Grafana's but need no browser. Each panel is shown with its data and unit, or with its text for
missing data. docs/dashboards uses them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from deploy.grafana import traffic
from deploy.grafana.generate import DASHBOARDS
from deploy.grafana.panels import GRID, Json
from loadtest import stack
from loadtest.options import ended_by_sigterm

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "dashboards"
RATE_INTERVAL = "20s"
STEP_S = 2
_GRID_INCHES = (0.78, 0.36)
_ROWS_SHOWN = 14


@dataclass(frozen=True)
class Series:
    """One series of a query result.

    Attributes:
        name: name from the panel's legend.
        labels: its labels.
        at_s: times, in seconds since the epoch.
        values: values at these times.
    """

    name: str
    labels: dict[str, str]
    at_s: list[float]
    values: list[float]

    @property
    def last(self) -> float:
        """The latest finite value; NaN if there is none."""
        return next((value for value in reversed(self.values) if math.isfinite(value)), math.nan)


def ask(prometheus: str, target: Json, span: tuple[float, float]) -> list[Series]:
    """The result of a panel's query over a time span, with variables replaced as by Grafana."""
    expression = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
    for variable in ("task", "model", "experiment"):
        expression = expression.replace(f"${variable}", ".*")
    asked = {"query": expression, "start": f"{span[0]:.3f}", "end": f"{span[1]:.3f}", "step": str(STEP_S)}
    body = stack.get(f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(asked)}", timeout_s=30)
    found = []
    for item in json.loads(body)["data"]["result"]:
        labels = {name: value for name, value in item["metric"].items() if name != "__name__"}
        name = target["legendFormat"]
        for label, value in labels.items():
            name = name.replace(f"{{{{{label}}}}}", value)
        at_s, values = zip(*((float(at), float(value)) for at, value in item["values"]), strict=True)
        found.append(Series(name, labels, list(at_s), list(values)))
    return found


def draw(dashboard: Json, prometheus: str, span: tuple[float, float], path: Path) -> None:
    """Draws one dashboard."""
    import matplotlib as mpl  # imported here: nothing else needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["font.size"] = 8
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(GRID * _GRID_INCHES[0], rows * _GRID_INCHES[1] + 0.6), facecolor="white")
    top = 1 - 0.5 / figure.get_figheight()
    figure.text(0.01, 1 - 0.3 / figure.get_figheight(), dashboard["title"], fontsize=14, weight="bold", va="center")
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        left, width = place["x"] / GRID, place["w"] / GRID
        height = place["h"] / rows * top
        bottom = top - place["y"] / rows * top - height
        if panel["type"] == "row":
            figure.text(0.01, bottom + height * 0.3, panel["title"], fontsize=10, weight="bold", color="#1f2937")
            continue
        legend = 0.22 * height if panel["type"] == "timeseries" else 0.0
        inner = (left + 0.035, bottom + 0.10 * height + legend, width - 0.05, 0.76 * height - legend)
        axes = figure.add_axes(inner)
        axes.set_title(panel["title"], fontsize=9, loc="left")
        series = [one for target in panel["targets"] for one in ask(prometheus, target, span)]
        _PAINTERS[panel["type"]](axes, panel, series, span)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70, metadata={"Software": None})
    plt.close(figure)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(128)  # a third of the size, without a visible difference
    small.save(path, optimize=True)


def shown(value: float, unit: str) -> str:
    """A value with its unit, formatted like Grafana."""
    if not math.isfinite(value):
        return "-"
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return (
            f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
        )
    suffix = {"bytes": "B", "Bps": "B/s", "ops": "/s", "reqps": "/s"}.get(unit, "")
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{suffix}"
    return f"{value:.3g} {suffix}".strip()


def _unit(panel: Json) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _nothing(axes: Any, panel: Json) -> None:
    axes.axis("off")
    text = panel["fieldConfig"]["defaults"]["noValue"]
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#6b7280", wrap=True, transform=axes.transAxes)


def _stat(axes: Any, panel: Json, series: list[Series], _: tuple[float, float]) -> None:
    finite = [one for one in series if math.isfinite(one.last)]
    if not finite:
        _nothing(axes, panel)
        return
    axes.axis("off")
    mapped = {
        float(value): option["text"]
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for value, option in mapping["options"].items()
    }
    for place, one in enumerate(finite):
        y = 1 - (place + 0.5) / len(finite)
        text = mapped.get(one.last, shown(one.last, _unit(panel)))
        size = 16 if len(finite) == 1 and not mapped else 10
        label = f"{one.name}: " if one.name and len(finite) > 1 else ""
        axes.text(0.02, y, label + text, fontsize=size, va="center", color="#111827", transform=axes.transAxes)


def _lines(axes: Any, panel: Json, series: list[Series], span: tuple[float, float]) -> None:
    finite = [one for one in series if any(map(math.isfinite, one.values))]
    if not finite:
        _nothing(axes, panel)
        return
    custom = panel["fieldConfig"]["defaults"]["custom"]
    if custom["stacking"]["mode"] == "normal":
        moments = sorted({at for one in finite for at in one.at_s})
        floor = [0.0] * len(moments)
        for one in finite:
            known = dict(zip(one.at_s, one.values, strict=True))
            height = [value if math.isfinite(value := known.get(at, 0.0)) else 0.0 for at in moments]
            ceiling = [low + more for low, more in zip(floor, height, strict=True)]
            axes.fill_between([at - span[0] for at in moments], floor, ceiling, alpha=0.6, label=one.name, linewidth=0)
            floor = ceiling
    else:
        for one in finite:
            axes.plot([at - span[0] for at in one.at_s], one.values, label=one.name, linewidth=1.2)
    axes.set_xlim(0, span[1] - span[0])
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, custom.get("axisSoftMin", low)), max(high, custom.get("axisSoftMax", high)))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, _unit(panel)))
    axes.grid(visible=True, alpha=0.3)
    axes.tick_params(labelsize=7)
    columns = 1 if max(len(one.name) for one in finite) > 34 else 2
    handles, names = axes.get_legend_handles_labels()
    most = 4 * columns
    axes.legend(
        handles[:most], names[:most], fontsize=6, ncols=columns, loc="upper left", bbox_to_anchor=(-0.02, -0.12),
        frameon=False, borderaxespad=0, handlelength=1,
    )  # fmt: skip


def _bars(axes: Any, panel: Json, series: list[Series], _: tuple[float, float]) -> None:
    finite = [one for one in series if math.isfinite(one.last)][:_ROWS_SHOWN]
    if not finite:
        _nothing(axes, panel)
        return
    defaults = panel["fieldConfig"]["defaults"]
    highest = defaults.get("max") or max(one.last for one in finite) or 1.0
    for place, one in enumerate(finite):
        y = len(finite) - place
        axes.barh(y, one.last, color="#0369a1", alpha=0.35)
        axes.text(0.01 * highest, y, f"{one.name}  {shown(one.last, _unit(panel))}", va="center", fontsize=7)
    axes.set_xlim(0, highest * 1.05)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(lambda value, _: shown(value, _unit(panel)))
    axes.tick_params(labelsize=7)


def _table(axes: Any, panel: Json, series: list[Series], _: tuple[float, float]) -> None:
    if not series:
        _nothing(axes, panel)
        return
    axes.axis("off")
    organised = panel["transformations"][-1]["options"]
    columns = [name for name in organised["indexByName"] if not name.startswith("Value")]
    values = list(organised["renameByName"].values())
    by_labels: dict[tuple[str, ...], list[float]] = {}
    for one in series:
        by_labels.setdefault(tuple(one.labels.get(column, "") for column in columns), []).append(one.last)
    cells = [
        [*labels, *(f"{number:.4g}" for number in numbers[: len(values)])]
        for labels, numbers in sorted(by_labels.items())
    ]
    cells = [row + [""] * (len(columns) + len(values) - len(row)) for row in cells[:_ROWS_SHOWN]]
    drawn = axes.table(cells, colLabels=[*columns, *values], loc="upper left", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6)
    drawn.auto_set_column_width(range(len(columns) + len(values)))


def _heatmap(axes: Any, panel: Json, series: list[Series], span: tuple[float, float]) -> None:
    ordered = sorted(series, key=lambda one: float(one.labels["le"]))
    moments = sorted({at for one in ordered for at in one.at_s})
    rows, below = [], dict.fromkeys(moments, 0.0)
    for one in ordered:  # buckets are cumulative: subtract the one below
        known = {at: value for at, value in zip(one.at_s, one.values, strict=True) if math.isfinite(value)}
        rows.append([max(0.0, known.get(at, 0.0) - below[at]) for at in moments])
        below = {at: known.get(at, below[at]) for at in moments}
    filled = [place for place, row in enumerate(rows) if any(row)]
    if not filled or len(moments) < 2:
        _nothing(axes, panel)
        return
    first, last = filled[0], filled[-1]
    axes.pcolormesh(
        [at - span[0] for at in moments],
        range(first, last + 1),
        rows[first : last + 1],
        cmap="viridis",
        shading="nearest",
    )
    ticks = range(first, last + 1, max(1, (last - first) // 6))
    axes.set_yticks(list(ticks), [shown(float(ordered[place].labels["le"]), _unit(panel)) for place in ticks])
    axes.tick_params(labelsize=7)


_PAINTERS = {
    "stat": _stat,
    "timeseries": _lines,
    "bargauge": _bars,
    "table": _table,
    "heatmap": _heatmap,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 2 if there is nothing to draw from."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.grafana.pictures", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prometheus", metavar="URL", help="a running Prometheus (default: start everything)")
    parser.add_argument("--data", type=Path, help="images to send, one folder per class (default: synthetic images)")
    parser.add_argument("--seconds", type=float, default=90.0, metavar="S", help="time span to draw (default 90)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="output folder (default docs/dashboards)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.prometheus:
            _draw_all(arguments.prometheus.rstrip("/"), arguments.seconds, arguments.out)
        else:
            with ended_by_sigterm():
                _run_and_draw(arguments)
    except (stack.StackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run_and_draw(arguments: argparse.Namespace) -> None:
    if arguments.data is not None and not traffic.images_of(arguments.data):
        raise stack.StackError(f"{arguments.data} has no JPEG or PNG images: leave out --data for synthetic ones.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = traffic.declare(folder)
        with (
            stack.service(options, log=folder / "service.log") as running,
            stack.prometheus([running.url], folder) as prometheus,
        ):
            sent = traffic.send(running.url, arguments.seconds, arguments.data)
            time.sleep(3)  # the last scrape
            print(f"sent: {sent}", file=sys.stderr)
            _draw_all(prometheus, arguments.seconds, arguments.out)


def _draw_all(prometheus: str, seconds: float, out: Path) -> None:
    now = time.time()
    for dashboard in DASHBOARDS:
        path = out / f"{dashboard.name}.png"
        draw(dashboard.document(), prometheus, (now - seconds, now), path)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
