"""OpenTelemetry: spans as a collector receives them, and a service that does not care whether there is one."""

import json
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.live.collector import Collector, collector, values
from tests.live.service_process import ROOT, LiveService, environment, running
from tests.pictures import encode, photo

JPEG = encode(photo(), "JPEG")
STAGES = ["queue", "decode", "preprocess", "queue", "inference", "postprocess"]
# The map is made in a thread, which is waited for; the second network waits for a thread of its own.
DEPTH_STAGES = ["queue", "preprocess", "queue", "inference", "queue", "postprocess"]
OPTIONS = ("--fallback", "reference", "--queue-size", 1000, "--log-format", "json", "--drain-s", 0)
PROMPT = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture(scope="module")
def received() -> Iterator[Collector]:
    with collector() as listening:
        yield listening


@pytest.fixture(scope="module")
def traced(zoo, received, tmp_path_factory) -> Iterator[LiveService]:
    log = tmp_path_factory.mktemp("traced") / "service.log"
    variables = {**PROMPT, "BIREAL_OTLP_ENDPOINT": received.url, "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=roads"}
    with running(zoo, log, *OPTIONS, **variables) as live:
        yield live


def parent(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-{int(sampled):02x}"}


def server_of(spans: list[Span]) -> Span:
    (found,) = (span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
    return found


def test_a_request_is_a_server_span_with_a_child_for_each_stage(traced, received):
    trace_id, span_id, headers = parent()
    with traced.client() as client:
        answer = client.post("/classify?variant=full", content=JPEG, headers={**headers, "x-request-id": "mine-1"})
    assert answer.status_code == 200
    spans = received.wait_trace(trace_id, 1 + len(STAGES))
    server = server_of(spans)
    assert server.name == "POST /classify"
    assert server.parent_span_id.hex() == span_id
    assert server.status.code == 0
    told = values(server)
    expected = {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/classify",
        "bireal.request_id": "mine-1",
        "bireal.model": answer.json()["model"],
        "bireal.version": answer.json()["version"],
        "bireal.variant": "full",
        "bireal.kernel": answer.json()["kernel"],
        "bireal.batch_size": 1,
        "bireal.images": 1,
    }
    assert {name: told.get(name) for name in expected} == expected
    children = sorted((span for span in spans if span is not server), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in children] == STAGES
    assert {span.parent_span_id for span in children} == {server.span_id}
    stages: dict[str, float] = {}
    for child in children:
        assert values(child)["bireal.variant"] == "full"
        milliseconds = (child.end_time_unix_nano - child.start_time_unix_nano) / 1e6
        stages[child.name] = stages.get(child.name, 0.0) + milliseconds
    timings = answer.json()["timings_ms"]
    assert stages == pytest.approx({name: timings[name] for name in stages}, abs=0.003)
    slack_ns = 2_000_000  # the wall clock is read twice
    assert children[0].start_time_unix_nano >= server.start_time_unix_nano - slack_ns
    assert children[-1].end_time_unix_nano <= server.end_time_unix_nano + slack_ns
    for before, after in pairwise(children):
        assert after.start_time_unix_nano >= before.end_time_unix_nano - 1000
    assert received.paths == {"/v1/traces"}
    assert received.resources[0]["service.name"] == "bireal-serve"
    assert received.resources[0]["service.namespace"] == "roads"
    assert "service.version" in received.resources[0]


def test_several_images_and_two_networks(traced, received):
    several, _, headers = parent()
    with traced.client() as client:
        files = [("file", ("a.jpg", JPEG)), ("file", ("b.jpg", JPEG))]
        assert client.post("/classify?variant=full", files=files, headers=headers).status_code == 200
        compared, _, compare_headers = parent()
        assert client.post("/compare/depth", content=JPEG, headers=compare_headers).status_code == 200
    spans = received.wait_trace(several, 1 + 2 * len(STAGES))
    assert values(server_of(spans))["bireal.images"] == 2
    numbers = [values(span)["bireal.image"] for span in spans if span.name == "inference"]
    assert sorted(numbers) == [0, 1]
    expected = ["queue", "decode", *DEPTH_STAGES * 2]
    spans = received.wait_trace(compared, 1 + len(expected))
    assert sorted(span.name for span in spans if span.name in STAGES) == sorted(expected)
    ran = set(values(server_of(spans))["bireal.variant"].split(","))
    assert "full" in ran and len(ran) == 2


def test_the_open_inference_protocol_is_traced_by_its_route(traced, received):
    trace_id, _, headers = parent()
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": ["no picture"]}
    with traced.client() as client:
        model = client.get("/models").json()["models"][0]["name"]
        answer = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers=headers)
    assert answer.status_code in {400, 415, 422}
    server = server_of(received.wait_trace(trace_id, 1))
    assert server.name == "POST /v2/models/{model}/infer"
    assert values(server)["http.response.status_code"] == answer.status_code


def test_a_refused_request_names_its_problem(traced, received):
    trace_id, _, headers = parent()
    with traced.client() as client:
        assert client.post("/classify", content=b"text", headers=headers).status_code == 415
    (server,) = received.wait_trace(trace_id, 1)
    assert values(server)["http.response.status_code"] == 415
    assert values(server)["bireal.problem"] == "unsupported-image"
    assert server.status.code == 0  # the client's mistake is no error of the service


def test_log_lines_carry_the_trace(traced, received):
    trace_id, _, headers = parent()
    with traced.client() as client:
        client.post("/classify?variant=full", content=JPEG, headers={**headers, "x-request-id": "logged-1"})
    server = server_of(received.wait_trace(trace_id, 1 + len(STAGES)))
    (line,) = traced.logged("logged-1")
    lines = [json.loads(line) for line in traced.log.read_text().splitlines()]
    assert (line["trace_id"], line["span_id"]) == (trace_id, server.span_id.hex())
    assert not any("trace_id" in one for one in lines if one["message"].startswith("listening"))


def test_the_callers_flag_decides_and_probes_begin_no_trace(traced, received):
    unsampled, _, headers = parent(sampled=False)
    probed, _, probe_headers = parent()
    last, _, last_headers = parent()
    with traced.client() as client:
        client.post("/classify?variant=full", content=JPEG, headers=headers)
        client.get("/healthz", headers=probe_headers)
        client.get("/models", headers=last_headers)
    (server,) = received.wait_trace(last, 1)  # sent after the others, in order
    assert server.name == "GET /models"
    assert received.of_trace(unsampled) == received.of_trace(probed) == []


def test_a_share_is_traced_and_the_rest_flushed_on_sigterm(zoo, received, tmp_path):
    """The batch is due in an hour: what arrives was sent because of the signal."""
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "BIREAL_OTLP_ENDPOINT": received.url + "/"}
    before = len(received.spans)
    with running(zoo, tmp_path / "log", *OPTIONS, "--trace-sample", 0.5, **variables) as live:
        with live.client() as client:
            for _ in range(40):
                assert client.get("/models").status_code == 200
            trace_id, _, headers = parent()
            assert client.post("/classify?variant=full", content=JPEG, headers=headers).status_code == 200
        assert len(received.spans) == before
        assert live.stop(signal.SIGTERM) == 0, live.log.read_text()
    assert len(received.of_trace(trace_id)) == 1 + len(STAGES)
    share = sum(span.name == "GET /models" for span in received.spans[before:])
    assert 5 <= share <= 35  # of 40 at one half: outside once in 10 million runs


@pytest.mark.parametrize("how", ["refuses", "never answers"])
def test_a_collector_that_is_away_costs_nothing(zoo, service, tmp_path, how):
    """No request fails or waits, though the queue of spans overflows; and the end of the process is not held up."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # kept to the end, so that nobody else answers there
        if how == "never answers":
            deaf.listen(1)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        variables = {
            "BIREAL_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with running(zoo, tmp_path / "log", *OPTIONS, **variables) as live:
            seconds: dict[str, list[float]] = {service.url: [], live.url: []}
            with httpx.Client(timeout=30) as client:
                for _ in range(40):
                    for base, taken in seconds.items():
                        begun = time.perf_counter()
                        assert client.post(f"{base}/classify?variant=full", content=JPEG).status_code == 200
                        taken.append(time.perf_counter() - begun)
            untraced, traced = (statistics.median(taken) for taken in seconds.values())
            # Waiting for a connection would take seconds; a busy machine doubles milliseconds.
            assert traced < 3 * untraced + 0.05
            begun = time.monotonic()
            assert live.stop(signal.SIGTERM) == 0, live.log.read_text()
            assert time.monotonic() - begun < 8
        assert "Queue full, dropping Span" in live.log.read_text()


SERVE = "import sys; from service.cli.main import main; sys.exit(main(['serve', '--port', '0']))"


def run(code: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60
    )


def test_without_the_extra_the_start_ends_with_what_to_install(zoo):
    code = "import sys; sys.modules['opentelemetry.sdk'] = None\n" + SERVE
    ended = run(code, BIREAL_OTLP_ENDPOINT="http://127.0.0.1:4318", BIREAL_MODEL_DIR=str(zoo))
    assert ended.returncode == 2
    assert "BIREAL_OTLP_ENDPOINT is set, but OpenTelemetry is not installed" in ended.stderr
    assert "pip install --require-hashes -r requirements/otel.lock" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_the_setting_nothing_is_loaded_or_added(zoo):
    code = (
        "import json, sys\nfrom service.app import create_app\nfrom service.settings import load_settings\n"
        "app = create_app(load_settings())\n"
        "print(json.dumps([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', "
        "'service.tracing'))]), [m.cls.__name__ for m in app.user_middleware], app._native_telemetry.enabled())"
    )
    printed = run(code, BIREAL_MODEL_DIR=str(zoo))
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("[] [")
    assert "AccessMiddleware" in printed.stdout and "StageSpans" not in printed.stdout
    assert printed.stdout.strip().endswith("False")
