"""Health, readiness, metrics, models and the OpenAPI document."""

import asyncio
import json
import shutil

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.build import revision
from service.errors import error_classes
from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import running
from tests.pictures import encode, photo
from tests.waiting import until

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")


async def test_healthz(client):
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


async def test_readyz(client):
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["state"] == "ready"
    assert response.json()["reasons"] == []


async def test_an_empty_model_folder_is_alive_and_not_ready(anyio_backend, tmp_path):
    async with running(tmp_path) as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["state"] == "failed"
        assert "holds no model" in response.json()["reasons"][0]
        assert (await client.get("/healthz")).status_code == 200
        refused = await client.post("/classify", content=PICTURE)
        assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")


async def test_a_task_without_a_model_is_not_found_on_a_service_that_is_ready(anyio_backend, tmp_path, zoo):
    for name in ("tiny-bireal", "tiny-colours"):
        shutil.copytree(zoo / name, tmp_path / name)
    async with running(tmp_path) as client:
        assert (await client.get("/readyz")).status_code == 200
        for path in ("/depth", "/compare/depth"):
            refused = await client.post(path, content=PICTURE)
            assert (refused.status_code, refused.json()["code"]) == (404, "no-model")
            assert (refused.json()["title"], refused.json()["task"]) == ("No model for this task is served.", "depth")
            assert "GET /models" in refused.json()["help"]
            assert "retry-after" not in refused.headers
        assert (await client.post("/classify", content=PICTURE)).status_code == 200


async def test_loading_that_is_broken_off_is_reported(anyio_backend, zoo, monkeypatch, caplog):
    def fail(_):
        raise ZeroDivisionError

    monkeypatch.setattr(Registry, "scan", fail)
    async with running(zoo) as client:  # waits until it is no longer starting
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["state"]) == (503, "failed")
        assert "ZeroDivisionError; see the service's log" in response.json()["reasons"][0]
        assert (await client.post("/classify", content=PICTURE)).status_code == 503
    assert any(record.exc_info for record in caplog.records if record.message == "the models could not be loaded")


async def test_the_watch_of_the_folder_goes_on_after_any_failure(anyio_backend, zoo, monkeypatch, caplog):
    def fail():
        raise PermissionError(13, "Permission denied")  # of a folder that cannot be looked into any more

    async with running(zoo, model_poll_s=0.01) as client:
        monkeypatch.setattr(client.app.state.services.registry, "readiness", fail)
        await until(lambda: sum("could not be checked" in record.message for record in caplog.records) >= 2)
        assert (await client.get("/healthz")).status_code == 200


async def test_draining_is_not_ready_and_still_answers(anyio_backend, zoo):
    async with running(zoo) as client:
        services = client.app.state.services
        # read where another exporter than `/metrics` would, such as Ray's
        assert services.metrics.registry.get_sample_value("bireal_ready") == 1
        services.lifecycle.draining = True
        assert services.metrics.registry.get_sample_value("bireal_ready") == 0
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["state"]) == (503, "draining")
        answer = await client.post("/classify?variant=full", content=PICTURE)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"


async def test_metrics_are_what_prometheus_reads(client):
    await client.post("/classify?variant=full", content=PICTURE)
    await client.post("/classify", content=b"text")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    described = {doc.name.removesuffix("_total") for doc in client.app.state.services.metrics.documentation()}
    # families that nothing has been counted in yet are there too, so that dashboards find them
    assert described <= families.keys()
    samples = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert samples["bireal_ready"] == 1
    assert samples["bireal_queue_depth"] == 0
    assert samples["bireal_in_flight"] == 1  # this one
    assert samples["bireal_process_resident_memory_bytes"] > 10e6


async def test_models_are_in_the_metrics(client):
    families = {family.name: family for family in text_string_to_metric_families((await client.get("/metrics")).text)}

    def values(name: str, *labels: str) -> dict[tuple[str, ...], float]:
        return {tuple(s.labels[label] for label in labels): s.value for s in families[name].samples}

    weights = values("bireal_model_weight_bytes", "model", "variant", "precision")
    assert weights["tiny-bireal", "reference", "binary"] == 0
    assert weights["tiny-bireal", "reference", "real"] > 100_000
    accuracy = values("bireal_model_accuracy", "model", "variant", "dataset", "metric")
    assert accuracy["tiny-colours", "full", "tiny-dev", "top1"] == 0.75
    assert accuracy["tiny-bireal-depth", "binary", "tiny-dev", "delta1"] == 0.625
    ready = values("bireal_model_ready", "model", "variant")
    assert ready["tiny-ramp", "full"] == 1
    assert ("tiny-colours", "full") in values("bireal_model_session_bytes", "model", "variant")
    (build,) = families["bireal_build_info"].samples
    assert build.labels["onnxruntime"].count(".") == 2
    health = (await client.get("/healthz")).json()
    assert (build.labels["version"], build.labels["revision"]) == (health["version"], health["revision"])
    assert health["revision"] == revision()


async def test_metrics_as_openmetrics(client):
    response = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert "bireal_stage_seconds" in {family.name for family in parse_openmetrics(response.text)}


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ["abc", "1.x", "", ".", "9" * 5000])
async def test_metrics_for_a_version_that_is_no_number(client, kind, version):
    answered = await client.get("/metrics", headers={"accept": f"{kind}; version={version}"})
    assert answered.status_code == 200
    parse = parse_openmetrics if "openmetrics" in answered.headers["content-type"] else text_string_to_metric_families
    assert "bireal_ready" in {family.name for family in parse(answered.text)}


async def test_paths_of_scanners_do_not_become_labels(client):
    for path in ("/wp-login.php", "/.env", "/classify/../../etc/passwd", "/classify/1", "/%00", "/models/x"):
        assert (await client.get(path)).status_code in (404, 405)
    await client.request("BREW", "/classify")
    families = {family.name: family for family in text_string_to_metric_families((await client.get("/metrics")).text)}
    samples = families["bireal_http_requests"].samples
    routes = {sample.labels["route"] for sample in samples}
    assert routes <= {route.path for route in client.app.routes if hasattr(route, "path")} | set(
        client.app.openapi()["paths"]
    ) | {"unmatched"}
    assert "unmatched" in routes
    assert {sample.labels["method"] for sample in samples} <= {"GET", "POST", "other"}


async def test_the_openapi_document_is_no_unmatched_path(client):
    assert (await client.get("/openapi.json")).status_code == 200
    metrics = (await client.get("/metrics")).text
    assert 'bireal_http_requests_total{method="GET",route="/openapi.json",status="200"} 1.0' in metrics


async def test_models_describes_every_model(client):
    body = (await client.get("/models")).json()
    models = {model["name"]: model for model in body["models"]}
    assert list(models) == ["tiny-bireal", "tiny-bireal-depth", "tiny-colours", "tiny-ramp"]
    assert models["tiny-bireal"]["full"] == "tiny-colours"
    assert models["tiny-bireal"]["default"] is True
    assert models["tiny-colours"]["default"] is False
    assert [variant["variant"] for variant in models["tiny-bireal"]["variants"]] == ["binary", "reference"]
    assert models["tiny-colours"]["metrics"][0]["values"] == {"top1": 0.75, "top5": 1.0}
    assert models["tiny-colours"]["classes"] == 3
    assert body["broken"] == []


async def test_models_says_what_is_broken(anyio_backend, tmp_path, zoo):
    shutil.copytree(zoo, tmp_path, dirs_exist_ok=True)
    (tmp_path / "damaged" / "1").mkdir(parents=True)
    async with running(tmp_path) as client:
        (broken,) = (await client.get("/models")).json()["broken"]
        assert broken["name"] == "damaged@1"
        assert broken["problem"]["code"] == "card-invalid"
        assert (await client.get("/readyz")).status_code == 200


async def test_nothing_answers_before_the_models_are_loaded(anyio_backend, zoo):
    import httpx

    app = create_app(load_settings({"model_dir": zoo}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["state"]) == (503, "starting")
        refused = await client.post("/classify", content=PICTURE)
        assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/healthz")).status_code == 200
    await asyncio.to_thread(app.state.services.registry.close)


# ---- OpenAPI ---------------------------------------------------------------------------------------------------------


async def test_every_error_that_can_be_answered_is_declared(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    # Those of any request; keys are asked for where they are set only, and declared then: see test_auth.
    modules = {f"service.errors.{name}" for name in ("base", "asked", "upload", "state")}
    sent = {kind.status for kind in error_classes() if kind.__module__ in modules}
    for path in ("/classify", "/depth", "/compare/classify", "/compare/depth"):
        responses = paths[path]["post"]["responses"]
        assert {int(status) for status in responses} - {200} == sent, path
        for status, response in responses.items():
            if status != "200":
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}


async def test_the_document_refers_to_nothing_that_it_lacks(client):
    document = (await client.get("/openapi.json")).json()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    refers = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert refers <= schemas.keys()
    assert "HTTPValidationError" not in text


async def test_bodies_are_described(client):
    document = (await client.get("/openapi.json")).json()
    content = document["paths"]["/classify"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "multipart/form-data"} <= content.keys()
    depth = document["paths"]["/depth"]["post"]["responses"]["200"]["content"]
    assert set(depth) == {"application/json", "image/png", "application/x-npy", "application/x-ply"}
    assert "never stored and never logged" in document["info"]["description"]
