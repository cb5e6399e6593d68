"""Building blocks of Grafana's dashboards: functions and classes for panels, rows and variables.

A dashboard is a list of `Row`s of panels. Every panel must have a unit, a description, and a text to show without data.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

GRID = 24  # Grafana's columns
DATA_SOURCE: Json = {"type": "prometheus", "uid": "prometheus"}  # provisioning/datasources/prometheus.yml

NO_TRAFFIC = "No data yet: send an image to /classify or /depth"
NO_MODEL = "No model loaded"
NO_SCRAPE = "Nothing scraped"

_LAST: Json = {"calcs": ["lastNotNull"]}


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL; `$task`, `$model` and `$__rate_interval` are Grafana's.
        legend: legend of its series, with `{{label}}`.
        extra: additional fields of the target.
    """

    expr: str
    legend: str = ""
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One panel, without its position.

    Attributes:
        kind: Grafana's panel type.
        title: its heading.
        description: what it shows and how to read it, for the tooltip.
        unit: Grafana's name of the unit.
        empty: text shown without data.
        queries: its queries.
        width: width in grid columns, of 24.
        defaults: additional field defaults.
        options: options of the panel type.
        transformations: transformations of the query results.
    """

    kind: str
    title: str
    description: str
    unit: str
    empty: str
    queries: tuple[Query, ...]
    width: int
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()

    def document(self, number: int, place: Json) -> Json:
        """The panel as Grafana reads it."""
        targets = [
            {"refId": ref, "datasource": DATA_SOURCE, "expr": query.expr, "legendFormat": query.legend, **query.extra}
            for ref, query in zip(string.ascii_uppercase, self.queries, strict=False)
        ]
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATA_SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": {"unit": self.unit, "noValue": self.empty, **self.defaults}, "overrides": []},
            "options": self.options,
            "targets": targets,
        }
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it, from left to right and with the same height."""

    title: str
    panels: tuple[Panel, ...]
    height: int = 8


@dataclass(frozen=True)
class Variable:
    """A selector at the top of a dashboard: the values of a metric's label."""

    name: str
    label: str
    metric: str

    def document(self) -> Json:
        """The variable as Grafana reads it."""
        return {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": DATA_SOURCE,
            "query": {"query": f"label_values({self.metric}, {self.name})", "refId": "A"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "sort": 1,
            "current": {"text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True)
class Dashboard:
    """A complete dashboard.

    Attributes:
        name: name of its file, and suffix of its uid.
        title: title in Grafana's list.
        description: one sentence on its purpose.
        rows: its rows, from top to bottom.
        variables: the selectors at its top.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...]

    def document(self) -> Json:
        """The dashboard as Grafana reads it."""
        return {
            "uid": f"bireal-{self.name}",
            "title": f"bireal-serve: {self.title}",
            "description": self.description,
            "tags": ["bireal"],
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": 41,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [variable.document() for variable in self.variables]},
            "annotations": {"list": []},
            # Links to the other dashboards that keep the time range and selections.
            "links": [
                {
                    "type": "dashboards",
                    "tags": ["bireal"],
                    "title": "bireal-serve",
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "panels": list(_placed(self.rows)),
        }


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    """The rows' panels with ids and positions; a panel that does not fit starts a new line."""
    number = top = 0
    for row in rows:
        number += 1
        head = {"h": 1, "w": GRID, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": head}
        top += 1
        left = 0
        for panel in row.panels:
            number += 1
            if left + panel.width > GRID:
                left, top = 0, top + row.height
            yield panel.document(number, {"h": row.height, "w": panel.width, "x": left, "y": top})
            left += panel.width
        top += row.height


# --- kinds of panels --------------------------------------------------------------------------------------------------


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    empty: str,
    width: int,
    thresholds: Sequence[tuple[str, float | None]] = (),
    trend: bool = False,
    mappings: Sequence[Json] = (),
    decimals: int | None = None,
) -> Panel:
    """A single value, or one per series.

    Args:
        title: heading.
        description: text of the tooltip.
        queries: its queries.
        unit: Grafana's name of the unit.
        empty: text shown without data.
        width: width in grid columns, of 24.
        thresholds: colours and the values from which they apply; None for the first.
        trend: whether to show a sparkline behind the value.
        mappings: Grafana's value mappings.
        decimals: number of decimals; Grafana's choice by default.
    """
    defaults: Json = {}
    if thresholds:
        steps = [{"color": colour, "value": value} for colour, value in thresholds]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if mappings:
        defaults["mappings"] = list(mappings)
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "reduceOptions": _LAST,
        "colorMode": "background" if thresholds else "value",
        "graphMode": "area" if trend else "none",
        "textMode": "auto",
    }
    return Panel("stat", title, description, unit, empty, queries, width, defaults, options)


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int,
    empty: str = NO_TRAFFIC,
    stacked: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
) -> Panel:
    """Time series; `limits` are the soft minimum and maximum of the axis, None for automatic."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none"},
    }
    low, high = limits
    custom |= {key: value for key, value in (("axisSoftMin", low), ("axisSoftMax", high)) if value is not None}
    options: Json = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, unit, empty, queries, width, {"custom": custom}, options)


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int,
    empty: str = NO_MODEL,
    limits: tuple[float | None, float | None] = (None, None),
) -> Panel:
    """The latest value of each series as a bar; `limits` are the minimum and maximum, None for automatic."""
    low, high = limits
    defaults = {key: value for key, value in (("min", low), ("max", high)) if value is not None}
    options: Json = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "reduceOptions": _LAST,
        "showUnfilled": True,
        "valueMode": "color",
    }
    instant = tuple(Query(query.expr, query.legend, {"instant": True, **query.extra}) for query in queries)
    return Panel("bargauge", title, description, unit, empty, instant, width, defaults, options)


def heatmap(title: str, description: str, expr: str, *, unit: str, width: int, empty: str = NO_TRAFFIC) -> Panel:
    """A histogram's buckets over time."""
    options: Json = {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64},
        "cellGap": 0,
    }
    query = Query(expr, "{{le}}", {"format": "heatmap"})
    return Panel("heatmap", title, description, unit, empty, (query,), width, {}, options)


def table(
    title: str,
    description: str,
    *exprs: str,
    unit: str,
    width: int,
    empty: str,
    columns: Sequence[str],
    values: Sequence[str] = (),
    decimals: int | None = None,
) -> Panel:
    """Labels and values as a table.

    Args:
        title: heading.
        description: text of the tooltip.
        exprs: instant queries; several are joined by their common labels.
        unit: unit of the values.
        width: width in grid columns, of 24.
        empty: text shown without data.
        columns: the labels to show, in order.
        values: heading of each query's value; empty to show only labels.
        decimals: number of decimals.
    """
    queries = tuple(Query(expr, "", {"format": "table", "instant": True}) for expr in exprs)
    # With several queries Grafana names their values after the query's letter.
    names = ["Value"] if len(exprs) == 1 else [f"Value #{ref}" for ref in string.ascii_uppercase[: len(exprs)]]
    renamed = dict(zip(names, values, strict=False))
    shown = [*columns, *renamed]
    transformations: list[Json] = [{"id": "merge", "options": {}}] if len(exprs) > 1 else []
    transformations += [
        {"id": "filterFieldsByName", "options": {"include": {"names": shown}}},
        {
            "id": "organize",
            "options": {
                "indexByName": {name: place for place, name in enumerate(shown)},
                "renameByName": renamed,
            },
        },
    ]
    defaults = {} if decimals is None else {"decimals": decimals}
    return Panel("table", title, description, unit, empty, queries, width, defaults, {}, tuple(transformations))
