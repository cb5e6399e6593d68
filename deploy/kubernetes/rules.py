"""Generates the Prometheus operator's PrometheusRule from deploy/prometheus/rules: `python -m deploy.kubernetes.rules`.

`--check` only checks whether the file is up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
TARGET = Path(__file__).with_name("components") / "monitoring" / "prometheusrule.yaml"
HEADER = "# Written by `python -m deploy.kubernetes.rules` from deploy/prometheus/rules: change those.\n"


class _Dumper(yaml.SafeDumper):
    """Writes multi-line strings as block scalars, as people do."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def document() -> dict[str, Any]:
    """The resource: every group of every file, in order."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "bireal-serve", "labels": {"app.kubernetes.io/name": "bireal-serve"}},
        "spec": {"groups": groups},
    }


def text() -> str:
    """The file's content."""
    return HEADER + yaml.dump(document(), Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the file. Returns the exit code: 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.kubernetes.rules", description="Generates the PrometheusRule."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    if parser.parse_args(argv).check:
        if not TARGET.is_file() or TARGET.read_text() != text():
            print(f"{TARGET.name} is out of date: run `python -m deploy.kubernetes.rules`", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
