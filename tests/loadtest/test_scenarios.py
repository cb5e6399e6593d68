"""Load tests: plans, what is made of the recorded requests, the calculator, the recorded page, and short real runs."""

import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtest.capacity import FOLDER, answer, checks
from loadtest.scenarios import page, schema
from loadtest.scenarios.drive import Run, Sample, Usage, drive
from loadtest.scenarios.plan import NAMES, Kind, Plan, Step, arrivals, plans, saturate
from loadtest.scenarios.schema import LoadDocument
from loadtest.scenarios.summary import capacity, median_capacity, summarise
from loadtest.stack import Service
from tests.live.service_process import ROOT, environment
from tests.tiny_zoo import write_zoo

BINARY, FULL, DEPTH = Kind("classify", "binary"), Kind("classify", "full"), Kind("depth", "binary")
RATES = {BINARY: 300.0, FULL: 100.0, DEPTH: 30.0, Kind("depth", "full"): 10.0}


def all_plans(name):
    return list(plans(name, ["classify", "depth"], ["binary", "full"], RATES, 8.0))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "saturate"])
def test_every_scenario_has_plans_whose_shares_are_whole(name):
    found = all_plans(name)
    assert found
    for plan in found:
        assert plan.scenario == name
        assert sum(share for _, share in plan.mix) == 1
        assert all(step.seconds > 0 and step.level > 0 for step in plan.steps)


def test_rates_are_shares_of_what_a_core_can_do():
    steady = all_plans("steady")[0]
    assert [step.level for step in steady.steps] == [150, 240]
    (mixed, _) = all_plans("mixed")
    # three classifications and one depth map take 3/300 + 1/30 s of the core
    assert mixed.steps[0].level == pytest.approx(0.6 * 4 / (3 / 300 + 1 / 30))


def test_arrivals_have_the_rate_of_their_step_from_its_start_on():
    """Gaps that are made up: each as long as the mean. Before the burst, the next request is seconds away."""
    even = SimpleNamespace(expovariate=lambda rate: 1 / rate)
    assert list(arrivals((Step(2, 0.25), Step(1, 4), Step(5, 0.25)), 0.0, even)) == [2.25, 2.5, 2.75, 7.0]
    assert list(arrivals((Step(1, 4),), 0.5, even)) == [-0.25, 0, 0.25, 0.5, 0.75]


def recorded(*samples, usage=()):
    return Run(tuple(Sample(*sample) for sample in samples), tuple(usage), began_s=100.0)


def test_a_step_has_the_latencies_of_what_was_due_in_it_and_the_rate_of_what_ended_in_it():
    plan = Plan("ab", "open", (Step(2, 50), Step(2, 50)), ((BINARY, 0.5), (FULL, 0.5)))
    run = recorded(
        ("classify binary", 10.0, 2.0, 200, 0.5, 0.1),
        ("classify binary", 20.0, 4.0, 200, 1.5, 0.3),
        ("classify full", 140.0, 30.0, 200, 1.9, 0.1),  # its answer came in the next step
        ("classify full", 1.0, None, 429, 2.1, 0.1),
        ("classify full", 1.0, None, 500, 3.1, 0.1),
        usage=[Usage(100 + at / 2, at / 4, 1000 + at) for at in range(9)],
    )
    first, second = summarise(plan, run).steps
    every, binary, full = first.groups
    assert (every.name, every.requests, every.answered, every.requests_per_s) == ("all", 3, 3, 1.0)
    assert (binary.answered, binary.latency_ms.mean, binary.inference_p50_ms) == (2, 15, 3)
    assert (full.answered, full.latency_ms.max, full.requests_per_s) == (1, 140, 0)
    assert [group.requests_per_s for group in second.groups] == [0.5, 0, 0.5]
    assert first.cpu_cores == 0.5
    assert first.cpu_ms_per_request == pytest.approx(1000 / 2, abs=0.001)
    assert second.cpu_ms_per_request == pytest.approx(1000, abs=0.001)
    assert (first.resident_bytes, first.resident_growth_bytes) == (1004, 4)
    assert (second.groups[0].refused, second.groups[0].failed, second.groups[0].latency_ms) == (1, 1, None)
    assert [second.sent for second in summarise(plan, run).seconds] == [1, 2, 1, 1]


def saturated(status=200):
    """A service that takes 10 ms alone and answers 200 a second to many."""
    plan = saturate(BINARY, 4.0)
    alone = [("classify binary", 10.0, 5.0, 200, at / 100, 0.0) for at in range(390)]
    many = [("classify binary", 40.0, 5.0, status, 4 + at / 200, 0.0) for at in range(790)]
    usage = [Usage(100 + at / 10, at / 20, 5_000_000) for at in range(81)]
    return plan, recorded(*alone, *many, usage=usage)


def test_capacity_is_what_a_saturated_core_answers():
    found = capacity(*saturated(), model="m")
    assert found.requests_per_s == pytest.approx(200, rel=0.02)
    assert found.cpu_ms == pytest.approx(2.5, rel=0.02)
    assert set(found.idle_ms) == {10.0}


def test_the_capacity_of_several_turns_is_their_median_and_has_their_range():
    one = capacity(*saturated(), model="m")
    turns = [one.model_copy(update={"requests_per_s": rate, "resident_bytes": int(rate)}) for rate in (250, 180, 200)]
    found = median_capacity(turns)
    assert (found.requests_per_s, found.turns_per_s, found.resident_bytes) == (200, (250, 180, 200), 250)
    document = the_record().model_copy(update={"capacity": (found,), "runs": ()})
    assert "| 200.0 | 180.0 - 250.0 (3) |" in page.page([document])
    assert "measured each kind once" in page.page([document.model_copy(update={"capacity": (one,)})])


def test_what_was_used_is_seen_next_to_a_step_where_not_within_it():
    plan = Plan("burst", "open", (Step(2, 50), Step(2, 50)), ((BINARY, 1.0),))
    answers = [("classify binary", 10.0, 2.0, 200, at, 0.1) for at in (0.5, 1.5, 2.5, 3.5)]
    sights = [Usage(99, 0, 1), Usage(103, 1, 3), Usage(109, 4, 2)]
    first, second = summarise(plan, recorded(*answers, usage=sights)).steps
    assert (first.cpu_cores, first.resident_bytes) == (0.25, 3)
    assert (second.cpu_cores, second.resident_bytes) == (0.4, 3)
    (alone, _) = summarise(plan, recorded(*answers, usage=[Usage(101, 0, 1)])).steps
    assert (alone.cpu_cores, alone.cpu_ms_per_request) == (None, None)


def test_capacity_of_a_service_that_refuses_is_none():
    with pytest.raises(ValueError, match=r"0 of \d+ requests were answered .*'429'"):
        capacity(*saturated(status=429), model="m")


def test_what_a_rate_and_a_limit_take():
    kind = capacity(*saturated(), model="m")
    found = answer(kind, 1000, 60)
    assert found.cores >= 6
    assert found.p50_ms < found.p99_ms <= 60
    assert found.memory_bytes == found.cores * 5_000_000
    assert answer(kind, 1000, 4).cores is None


def the_record() -> LoadDocument:
    records = schema.recorded(FOLDER)
    assert records, "docs/benchmarks/load records nothing"
    return records[0]


def test_the_recorded_page_is_drawn_from_the_files():
    assert (FOLDER / page.README).read_text() == page.page(schema.recorded(FOLDER))
    for name in page.plots.PLOTS:
        assert (FOLDER / f"{the_record().machine.stem}-{name}.svg").read_text().startswith("<?xml")


def test_the_readme_has_the_rates_of_the_newest_record_of_each_cpu():
    readme = " ".join((ROOT / "README.md").read_text().split())
    newest = {document.machine.cpu_id: document for document in reversed(schema.recorded(FOLDER))}
    for document in newest.values():
        rates = [f"{kind.requests_per_s:.1f}" for kind in document.capacity if kind.variant != "reference"]
        assert f" | {' | '.join(rates)} |" in readme
        for kind in document.capacity:
            if kind.variant == "binary":
                low, high = f"{min(kind.turns_per_s):.0f}", f"{max(kind.turns_per_s):.0f}"
                assert f" {low} and {high} " in readme or f" {low} to {high}" in readme, kind.name


def test_the_page_says_which_records_count_rates_by_due_times():
    older = the_record().model_copy(update={"rates_by": "due"})
    assert "the old way" in page.page([older])
    assert "the old way" not in page.page([older.model_copy(update={"rates_by": "ended"})])


def test_the_record_holds_every_scenario_by_both_variants_and_nothing_failed():
    document = the_record()
    assert {run.scenario for run in document.runs} == set(NAMES)
    assert {kind.name for kind in document.capacity} >= {
        f"{task} {variant}" for task in ("classify", "depth") for variant in ("binary", "full")
    }
    assert document.service_cpus and document.generator_cpus
    assert not set(document.service_cpus) & set(document.generator_cpus)
    for run in document.runs:
        assert not any(group.failed for step in run.steps for group in step.groups), run.title
    assert len(list(checks(document))) >= 4


def program(module: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_the_calculator():
    ended = program("loadtest.capacity", "--rate", 200, "--p99-ms", 500, "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    cores = {item["name"]: item["cores"] for item in document["answers"]}
    assert 1 <= cores["classify binary"] <= cores["classify full"]
    shown = program("loadtest.capacity", "--rate", 200, "--p99-ms", 500)
    assert "The full-precision network needs" in shown.stdout
    impossible = program("loadtest.capacity", "--rate", 200, "--p99-ms", 0.1)
    assert impossible.returncode == 1
    assert "no number of cores is enough" in impossible.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("loadtest.capacity", ["--rate", "0", "--p99-ms", "5"], "0 is not a finite number above 0"),
        ("loadtest.capacity", ["--rate", "5", "--p99-ms", "5", "--file", "absent.json"], "absent.json"),
    ],
)
def test_arguments_that_are_not_valid(module, arguments, said):
    ended = program(module, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def needs_locust() -> None:
    # Looked for and not imported: Locust patches threads and sockets of whatever process imports it.
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed (extra: bench)")


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers each request after `SLOW_S`, however many there are."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(SLOW_S)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Says nothing."""


SLOW_S = 0.2


def test_the_users_of_a_step_are_there_from_its_start_to_its_end():
    """Locust asks for the number of users once a second: a step that began in between had the users of the last one."""
    needs_locust()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    steps = (Step(1.2, 1), Step(1.2, 6), Step(1.2, 2))
    try:
        run = drive(
            Plan("ramp", "closed", steps, ((BINARY, 1.0),)), Service(f"http://127.0.0.1:{server.server_port}", None)
        )
    finally:
        server.shutdown()
        server.server_close()

    def in_flight(at_s):
        return sum(sample.due_s <= at_s < sample.due_s + sample.ms / 1000 for sample in run.samples)

    # Between two requests of a user there is a moment; a user whose step has ended waits for its last answer.
    for users, begin, end in ((1, 0.5, 1.2), (6, 1.4, 2.4), (2, 3.0, 3.5)):
        found = [in_flight(begin + share / 50 * (end - begin)) for share in range(50)]
        assert max(found) == users
        assert sum(found) / len(found) > 0.7 * users
    assert max(sample.due_s for sample in run.samples) < 3.6


@pytest.mark.slow
def test_scenarios_against_the_real_service(op, tmp_path: Path):
    needs_locust()
    zoo, out = write_zoo(tmp_path / "zoo"), tmp_path / "out"
    arguments = (
        "--seconds",
        0.8,
        "--tasks",
        "classify",
        "--variants",
        "binary,full",
        "--scenarios",
        "ramp,burst,ab",
        "--turns",
        2,
    )
    arguments += ("--json", "--record", "--folder", out)
    ended = program("loadtest.load", *arguments, BIREAL_MODEL_DIR=str(zoo))
    assert ended.returncode == 0, ended.stderr
    document = LoadDocument.model_validate_json(ended.stdout)
    assert {run.scenario for run in document.runs} == {"saturate", "ramp", "burst", "ab"}
    for run in document.runs:
        assert sum(step.groups[0].answered for step in run.steps) > 0, run.title
    assert {kind.model for kind in document.capacity} == {"tiny-bireal", "tiny-colours"}
    assert [len(kind.turns_per_s) for kind in document.capacity] == [2, 2]
    titles = [run.title for run in document.runs if run.scenario == "saturate"]
    assert titles == ["classify binary", "classify full"] * 2  # in turns
    (written,) = out.glob("*.md")
    assert "Capacity of one core" in written.read_text()
