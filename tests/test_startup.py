"""What a start does not pay for: packages that a service may need later, or never."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("scipy.stats", "scipy.special", "torch", "matplotlib", "opentelemetry.sdk", "jinja2")


def test_the_service_imports_nothing_heavy_before_it_listens() -> None:
    code = f"import json, sys, service.cli.serve; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(run.stdout) == []
