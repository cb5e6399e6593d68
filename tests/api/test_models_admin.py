"""Administration of models over HTTP: who may, what it answers, and that no request is dropped meanwhile."""

import asyncio
import gc
import shutil
import weakref

import numpy as np
import pytest

from tests.api.conftest import metric, running
from tests.changing_zoo import refuse_to_list
from tests.pictures import encode, photo
from tests.tiny_zoo import colours_graph, write_model
from tests.waiting import until

pytestmark = pytest.mark.anyio

KEY = "key-of-the-operator-1"
ADMIN = {"x-api-key": KEY}
JPEG = encode(photo(), "JPEG")
NAME = "tiny-colours"
V2 = {"task": "classify", "model": NAME, "version": "2", "variant": "full", "kernel": "onnxruntime"}


@pytest.fixture
async def managed(anyio_backend, zoo, tmp_path):
    folder = shutil.copytree(zoo, tmp_path / "zoo")
    async with running(folder, admin_keys=KEY) as client:
        client.folder = folder
        yield client


def write(client, version: str = "2", **changes) -> None:
    write_model(client.folder, NAME, colours_graph(), version=version, task="classify", **changes)


async def version_of(client, model: str = NAME) -> str:
    return (await client.post(f"/classify?model={model}", content=JPEG)).json()["version"]


async def states(client) -> dict[str, str]:
    versions = (await client.get("/admin/models", headers=ADMIN)).json()["versions"]
    return {f"{each['name']}@{each['version']}": each["state"] for each in versions}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("POST", f"/admin/models/{NAME}/load"),
        ("POST", f"/admin/models/{NAME}/reload"),
        ("POST", f"/admin/models/{NAME}/unload?force=true"),
        ("PUT", f"/admin/models/{NAME}/labels/stable?version=1"),
        ("DELETE", f"/admin/models/{NAME}/labels/stable"),
        ("POST", "/v2/repository/index"),
        ("POST", f"/v2/repository/models/{NAME}/load"),
        ("POST", f"/v2/repository/models/{NAME}/unload"),
    ],
)
async def test_administrators_only(managed, client, method, path):
    assert (await managed.request(method, path)).status_code == 401
    assert (await managed.request(method, path, headers={"x-api-key": KEY + "x"})).status_code == 401
    assert (await client.request(method, path, headers=ADMIN)).status_code == 403, "off without a key"
    assert await version_of(managed) == "1"


async def test_a_version_is_loaded_and_unloaded_and_the_gauges_follow(managed):
    write(managed)
    assert (await states(managed))[f"{NAME}@2"] == "unloaded"
    loaded = await managed.post(f"/admin/models/{NAME}/load", headers=ADMIN)
    assert loaded.status_code == 200
    assert [each["state"] for each in loaded.json()["versions"]] == ["ready", "ready"]
    assert await version_of(managed) == "2"
    assert metric(managed, "bireal_model_ready", **V2) == 1
    unloaded = await managed.post(f"/admin/models/{NAME}/unload?version=2", headers=ADMIN)
    assert unloaded.status_code == 200
    assert await version_of(managed) == "1"
    assert managed.app.state.services.metrics.registry.get_sample_value("bireal_model_ready", V2) is None
    assert metric(managed, "bireal_requests_total", **V2, outcome="ok") == 1, "counters stay"


async def test_labels(managed):
    write(managed)
    await managed.post(f"/admin/models/{NAME}/load", headers=ADMIN)
    for label, version in (("stable", "1"), ("canary", "2"), ("default", "1")):
        path = f"/admin/models/{NAME}/labels/{label}"
        assert (await managed.put(path, params={"version": version}, headers=ADMIN)).status_code == 200
    assert [await version_of(managed, name) for name in (NAME, f"{NAME}@stable", f"{NAME}@canary")] == ["1", "1", "2"]
    assert (await managed.get(f"/v2/models/{NAME}/versions/canary/ready")).json() == {"name": NAME, "ready": True}
    listed = {
        each["version"]: each["labels"]
        for each in (await managed.get("/models")).json()["models"]
        if each["name"] == NAME
    }
    assert listed == {"1": ["default", "stable"], "2": ["canary"]}
    gone = await managed.delete(f"/admin/models/{NAME}/labels/canary", headers=ADMIN)
    assert gone.status_code == 200
    refused = await managed.post(f"/classify?model={NAME}@canary", content=JPEG)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown-model")
    missing = await managed.delete(f"/admin/models/{NAME}/labels/canary", headers=ADMIN)
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown-version-label")


async def test_405_names_every_method_of_a_path(managed):
    refused = await managed.patch(f"/admin/models/{NAME}/labels/stable", headers=ADMIN)
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, PUT")
    assert "Use DELETE, PUT" in refused.json()["help"]


async def test_a_reload_that_fails_says_why_and_changes_nothing(managed):
    (managed.folder / NAME / "1" / "model.onnx").write_bytes(b"\0")
    refused = await managed.post(f"/admin/models/{NAME}/reload", headers=ADMIN)
    assert (refused.status_code, refused.json()["code"]) == (503, "model-broken")
    assert "sha256" in refused.json()["detail"]
    assert await version_of(managed) == "1"
    (broken,) = (await managed.get("/models")).json()["broken"]
    assert (broken["name"], "sha256" in broken["problem"]["detail"]) == (f"{NAME}@1", True)
    assert (await managed.get("/readyz")).status_code == 200


async def test_what_is_needed_is_unloaded_by_force_only(managed):
    needed = "tiny-ramp"
    await managed.post("/admin/models/tiny-bireal-depth/unload?force=true", headers=ADMIN)
    refused = await managed.post(f"/admin/models/{needed}/unload", headers=ADMIN)
    assert (refused.status_code, refused.json()["code"]) == (409, "model-in-use")
    assert "send force=true" in refused.json()["help"]
    assert (await managed.post("/depth", content=JPEG)).status_code == 200
    assert (await managed.post(f"/admin/models/{needed}/unload?force=true", headers=ADMIN)).status_code == 200
    gone = await managed.post("/depth", content=JPEG)
    assert (gone.status_code, gone.json()["code"]) == (404, "no-model")
    assert (await managed.post("/classify", content=JPEG)).status_code == 200


async def test_unloading_what_is_gone_from_the_folder_succeeds(managed):
    write_model(managed.folder, "tiny-more", colours_graph(), task="classify")
    (managed.folder / "oops" / "1").mkdir(parents=True)
    assert (await managed.post("/admin/models/tiny-more/load", headers=ADMIN)).status_code == 200
    assert (await managed.post("/admin/models/oops/load", headers=ADMIN)).status_code == 503
    for name in ("tiny-more", "oops"):
        shutil.rmtree(managed.folder / name)
        unloaded = await managed.post(f"/admin/models/{name}/unload", headers=ADMIN)
        assert (unloaded.status_code, unloaded.json()) == (200, {"versions": []})
        refused = await managed.post(f"/classify?model={name}", content=JPEG)
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown-model")
        again = await managed.post(f"/admin/models/{name}/unload", headers=ADMIN)
        assert (again.status_code, again.json()["code"]) == (404, "unknown-model")


async def test_what_is_done_is_no_error_though_the_folder_cannot_be_read(managed, monkeypatch):
    """As when a volume fails, which is when labels are moved by hand."""
    write(managed)
    assert (await managed.post(f"/admin/models/{NAME}/load", headers=ADMIN)).status_code == 200
    refuse_to_list(monkeypatch, managed.folder)
    label = f"/admin/models/{NAME}/labels/default"
    answers = [
        await managed.put(f"{label}?version=1", headers=ADMIN),
        await managed.delete(label, headers=ADMIN),
        await managed.post(f"/admin/models/{NAME}/unload?version=2", headers=ADMIN),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    labels = [{each["version"]: each["labels"] for each in answer.json()["versions"]} for answer in answers]
    assert labels == [{"1": ["default"], "2": []}, {"1": [], "2": []}, {"1": []}]
    assert (await managed.get("/admin/models", headers=ADMIN)).status_code == 503


async def test_the_protocols_path_does_not_advise_a_parameter_that_it_does_not_take(managed):
    await managed.post("/admin/models/tiny-bireal-depth/unload?force=true", headers=ADMIN)
    refused = await managed.post("/v2/repository/models/tiny-ramp/unload", headers=ADMIN)
    assert refused.status_code == 409
    assert "tiny-ramp@1 is needed: /depth" in refused.json()["error"]
    assert "send force=true" not in refused.json()["error"]
    advised = refused.json()["error"].partition("POST ")[2].split()[0]
    assert (await managed.post(advised, headers=ADMIN)).status_code == 200
    gone = await managed.post("/depth", content=JPEG)
    assert (gone.status_code, gone.json()["code"]) == (404, "no-model")


@pytest.mark.parametrize(
    ("act", "body", "said"),
    [
        ("load", {"parameters": {"config": "{}"}}, "'config'"),
        ("load", {"parameters": {"file:1/model.onnx": "AAAA"}}, "'file:1/model.onnx'"),
        ("load", {"parameters": {"unload_dependents": True}}, "'unload_dependents'"),
        ("unload", {"parameters": {"force": True}}, "'force'"),
        ("load", [], "not a JSON object"),
        ("unload", {"parameters": 1}, "not a JSON object"),
    ],
)
async def test_what_the_protocols_changes_do_not_do_is_refused(managed, act, body, said):
    write(managed)
    refused = await managed.post(f"/v2/repository/models/{NAME}/{act}", json=body, headers=ADMIN)
    assert (refused.status_code, said in refused.json()["error"]) == (400, True), refused.json()
    assert await version_of(managed) == "1"


async def test_what_tritons_client_sends_with_a_change_is_taken(managed):
    write(managed)
    path = f"/v2/repository/models/{NAME}"
    assert (await managed.post(f"{path}/load", json={}, headers=ADMIN)).status_code == 200
    assert await version_of(managed) == "2"
    body = {"parameters": {"unload_dependents": False}}
    assert (await managed.post(f"{path}/unload", json=body, headers=ADMIN)).status_code == 200


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "tiny-colours%2f1", "tiny-nothing", "x" * 64, "a%00b"]
)
@pytest.mark.parametrize("act", ["load", "reload", "unload"])
async def test_names_are_never_paths(managed, name, act):
    (managed.folder.parent / "1").mkdir()
    before = await states(managed)
    for query in ("", "?version=..", "?version=%2e%2e%2f1", "?version=/etc"):
        assert (await managed.post(f"/admin/models/{name}/{act}{query}", headers=ADMIN)).status_code == 404
    for version in ("..", "%2e%2e%2f1", "%2fetc", "9"):
        refused = await managed.post(f"/admin/models/{NAME}/{act}?version={version}", headers=ADMIN)
        assert refused.status_code == 404
    assert await states(managed) == before


async def test_a_reload_under_load_drops_nothing_and_frees_the_old_network(managed):
    services = managed.app.state.services
    old = weakref.ref(services.registry.resolve("classify", NAME).model)
    stop = asyncio.Event()
    statuses: list[int] = []

    async def ask() -> None:
        while not stop.is_set():
            statuses.append((await managed.post(f"/classify?model={NAME}", content=JPEG)).status_code)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for _ in range(5):
        seen = len(statuses)
        assert (await managed.post(f"/admin/models/{NAME}/reload", headers=ADMIN)).status_code == 200
        await until(lambda seen=seen: len(statuses) > seen + 8)
    stop.set()
    await asyncio.gather(*asking)
    assert set(statuses) == {200}
    await until(lambda: gc.collect() is not None and old() is None)


async def test_a_request_in_flight_keeps_the_network_that_it_found(managed):
    services = managed.app.state.services
    handle = services.registry.resolve("classify", NAME)
    waiting = asyncio.create_task(services.pipeline._scheduler.submit(handle.model, np.zeros((32, 32, 3), np.uint8)))
    await managed.post(f"/admin/models/{NAME}/unload?force=true", headers=ADMIN)
    assert (await waiting).output.shape == (3,)
    assert handle.model.run(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 3)


async def test_the_repository_extension(managed):
    write(managed)
    index = (await managed.post("/v2/repository/index", headers=ADMIN)).json()
    assert {"name": NAME, "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"} in index
    ready = (await managed.post("/v2/repository/index", json={"ready": True}, headers=ADMIN)).json()
    assert {(each["name"], each["version"]) for each in ready} >= {(NAME, "1")}
    assert all(each["state"] == "READY" for each in ready)
    assert (await managed.post(f"/v2/repository/models/{NAME}/load", headers=ADMIN)).status_code == 200
    assert (await managed.get(f"/v2/models/{NAME}")).json()["versions"] == ["2", "1"]
    refused = await managed.post("/v2/repository/models/tiny-nothing/load", headers=ADMIN)
    assert (refused.status_code, refused.json().keys()) == (404, {"error"})
    for path, member in (("index", "ready"), (f"models/{NAME}/load", "parameters")):
        for body in (b"[", b"[]", b"\xff"):
            answer = await managed.post(f"/v2/repository/{path}", content=body, headers=ADMIN)
            said = f"The body is not a JSON object with `{member}`. Send {{}} or nothing."
            assert (answer.status_code, answer.json()) == (400, {"error": said})
    assert (await managed.post(f"/v2/repository/models/{NAME}/unload", headers=ADMIN)).status_code == 200
    assert (await managed.get(f"/v2/models/{NAME}")).status_code == 404


async def test_the_watch_takes_a_new_version_by_itself(anyio_backend, zoo, tmp_path):
    folder = shutil.copytree(zoo, tmp_path / "zoo")
    async with running(folder, model_poll_s=0.05) as client:
        client.folder = folder
        write(client)
        registry = client.app.state.services.registry
        await until(lambda: registry.versions(NAME) == ["2", "1"])
        assert await version_of(client) == "2"


async def test_the_watch_goes_on_after_a_look_that_failed(anyio_backend, zoo, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(zoo, tmp_path / "zoo")
    async with running(folder, model_poll_s=0.05) as client:
        client.folder = folder
        changes = client.app.state.services.changes
        look, failed = changes.refresh, asyncio.Event()

        def fails_once() -> None:
            if not failed.is_set():
                failed.set()
                raise RuntimeError("nobody foresaw this")
            look()

        monkeypatch.setattr(changes, "refresh", fails_once)
        await until(failed.is_set)
        write(client)
        registry = client.app.state.services.registry
        await until(lambda: registry.versions(NAME) == ["2", "1"])
    assert "could not be checked" in caplog.text
