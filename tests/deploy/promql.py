"""PromQL read as a tree: which metrics a query selects and which labels its result keeps."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import promql_parser


class Found(NamedTuple):
    """What a query mentions."""

    selectors: list[promql_parser.VectorSelector]
    grouped_by: set[str]


def plain(expression: str, interval: str = "5m") -> str:
    """The query with Grafana's variables filled in: everything selected, rates over ``interval``."""
    return re.sub(r"\$\w+", ".*", expression.replace("$__rate_interval", interval))


def selectors_and_labels(tree: promql_parser.Expr) -> Found:
    """Walk a parsed query."""
    found = Found([], set())
    _walk(tree, found)
    return found


def _walk(node: Any, found: Found) -> None:
    if isinstance(node, promql_parser.VectorSelector):
        found.selectors.append(node)
    elif isinstance(node, promql_parser.MatrixSelector):
        found.selectors.append(node.vector_selector)
    elif isinstance(node, promql_parser.AggregateExpr):
        if node.modifier is not None:
            found.grouped_by.update(node.modifier.labels)
        _walk(node.expr, found)
    elif isinstance(node, promql_parser.BinaryExpr):
        _walk(node.lhs, found)
        _walk(node.rhs, found)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            _walk(argument, found)
    elif isinstance(node, (promql_parser.ParenExpr, promql_parser.UnaryExpr, promql_parser.SubqueryExpr)):
        _walk(node.expr, found)
    else:
        assert isinstance(node, (promql_parser.NumberLiteral, promql_parser.StringLiteral)), type(node)
