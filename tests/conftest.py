"""What every test gets: printed seeds, and a run that fails when a test it depends on was skipped.

Warnings are errors (``filterwarnings`` in pyproject.toml).
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

SEED_VARIABLE = "BIREAL_TEST_SEED"
SEED = pytest.StashKey[int]()


# --- Seeds ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, drawn from the run's seed: it does not depend on which other tests run."""
    return zlib.crc32(request.node.nodeid.encode(), request.config.stash[SEED]) & 0x7FFF_FFFF


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """The generator for a test's random data."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _seed_global_generators(seed: int) -> None:
    """Seed the generators that code under test may use without asking; PyTorch only where it is already imported."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - third-party code still draws from the legacy generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed, and how to use it again, at the top of the run."""
    run_seed = config.stash[SEED]
    return f"seed: {run_seed} (repeat with {SEED_VARIABLE}={run_seed})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the seed beside each failure, where the reader looks."""
    report = yield
    if report.failed:
        run_seed = item.config.stash[SEED]
        report.sections.append(("Seed", f"repeat with {SEED_VARIABLE}={run_seed} pytest '{item.nodeid}'"))
    return report


# --- What a machine may lack ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def op() -> str:
    """The operator's kernel; the test is skipped by name where it cannot run."""
    from service import xnor_op  # here, because tests/test_required.py runs this file where there is no service
    from service.errors import OpUnavailableError

    try:
        return xnor_op.kernel_name()
    except OpUnavailableError as error:
        pytest.skip(f"the bit-packed operator: {error.detail}")


# --- Order ------------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what compiles for minutes: at the end, one process would be left with it."""
    items.sort(key=lambda item: "xnor_op/test_unit" not in item.nodeid)


# --- Required tests ---------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--required``."""
    parser.addoption(
        "--required",
        metavar="FILE",
        help="fail the run if a test that FILE lists (node ids or their beginnings, one a line) did not run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the run's seed, and watch the required tests if the run names them."""
    worker = getattr(config, "workerinput", None)  # of a process to which pytest-xdist gives a share of the tests
    if worker is not None:
        config.stash[SEED] = worker["seed"]
        return
    config.stash[SEED] = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(31))
    listed = config.getoption("--required")
    if listed:
        config.pluginmanager.register(RequiredTests(Path(listed)), "required-tests")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist the run's seed."""
    node.workerinput["seed"] = node.config.stash[SEED]


class RequiredTests:
    """Fails the run when a listed test was skipped or is no longer there.

    A skip says that a machine lacks something. On the machine that decides whether a change lands, that must not
    pass for success: there, the tests in the list have to run.

    Args:
        path: A file with a node id, or the beginning of one, on each line; ``#`` starts a comment.
    """

    def __init__(self, path: Path) -> None:
        lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
        self._path = path
        self._required = [line for line in lines if line]
        self._ran: set[str] = set()
        self._skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what ran and what was skipped."""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._skipped[report.nodeid] = reason
        elif report.when == "call":
            self._ran.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note modules that skipped themselves as a whole."""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._skipped[report.nodeid] = reason

    def complaints(self) -> list[str]:
        """One sentence for each listed test that did not run."""
        found = []
        for entry in self._required:
            skipped = {node: why for node, why in self._skipped.items() if _begins(node, entry) or _begins(entry, node)}
            found += [f"{node} was skipped: {why}" for node, why in skipped.items()]
            if not skipped and not any(_begins(node, entry) for node in self._ran):
                found.append(f"{entry} matches no test that ran: correct {self._path.name} or bring the test back")
        return found

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a green run red if a required test did not run."""
        if session.exitstatus == pytest.ExitCode.OK and self.complaints():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """Say which and why, after pytest's own last line: there, "passed" would have the last word on a red run."""
        for complaint in self.complaints():
            print(f"required test did not run: {complaint}")


def _begins(node: str, entry: str) -> bool:
    """Whether ``entry`` is ``node`` or a whole part of its beginning: a folder, a module, a class, a test, a case."""
    return node == entry or (node.startswith(entry) and (entry.endswith("/") or node[len(entry)] in "/:["))
