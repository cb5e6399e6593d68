"""Keys: who may ask and who may administer, and that a key never shows."""

import logging
from pathlib import Path

import pytest

from service.api.auth import Auth, KeyRing, surface_of
from service.errors import SettingsError
from service.keys import keys_in_file
from service.settings import load_settings
from tests.api.conftest import running
from tests.pictures import encode, photo

pytestmark = pytest.mark.anyio

OLD, NEW, ADMIN = "old-key-of-the-service", "new-key-of-the-service", "key-of-the-operator-1"
JPEG = encode(photo(), "JPEG")
FULL = "/classify?model=tiny-colours"


@pytest.fixture(scope="module")
async def keyed(anyio_backend, zoo, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "admin"
    file.write_text(f"# operators\n\n{ADMIN}\n")
    async with running(zoo, api_keys=f"{OLD},{NEW}", admin_keys_file=file) as client:
        yield client


@pytest.mark.parametrize("key", [OLD, NEW])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_either_key_in_either_header(keyed, key, header):
    value = f"Bearer {key}" if header == "authorization" else key
    assert (await keyed.post(FULL, content=JPEG, headers={header: value})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-key-of-the-service"},
        {"authorization": f"Basic {OLD}"},
        {"authorization": "Bearer "},
        {"x-api-key": OLD[:-1]},
        {"x-api-key": OLD + " x"},
        {"x-api-key": ADMIN},
        {"x-api-key": "kéy".encode("latin-1")},
    ],
)
async def test_without_a_known_key_it_is_401(keyed, headers):
    refused = await keyed.post(FULL, content=JPEG, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["www-authenticate"] == 'Bearer realm="bireal-serve inference"'
    assert refused.json()["code"] == "unauthorized"
    assert "X-API-Key" in refused.json()["help"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/ui/page.css"])
async def test_probes_scrapers_and_pages_need_none(keyed, path):
    assert (await keyed.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/nothing-here", "/compare/classify", "/healthz/", "/metrics/../models"])
async def test_whatever_is_not_listed_as_open_needs_one(keyed, path):
    assert (await keyed.get(path)).status_code == 401


async def test_administration_takes_admin_keys_only(keyed):
    for headers in ({}, {"x-api-key": OLD}):
        refused = await keyed.post("/admin/nothing-here", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == 'Bearer realm="bireal-serve admin"'
    passed = await keyed.post("/admin/nothing-here", headers={"x-api-key": ADMIN})
    assert passed.status_code == 404


async def test_without_admin_keys_administration_is_off(client):
    for headers in ({}, {"x-api-key": ADMIN}):
        refused = await client.post("/admin/nothing-here", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "admin-disabled")
        assert "BIREAL_ADMIN_KEYS_FILE" in refused.json()["help"]


async def test_the_log_names_a_key_without_telling_it(keyed, caplog):
    with caplog.at_level(logging.DEBUG):
        await keyed.post(FULL, content=JPEG, headers={"x-api-key": OLD})
        await keyed.post(FULL, content=JPEG, headers={"x-api-key": "unknown-key-of-nobody"})
    records = [record for record in caplog.records if record.name == "service.access"]
    assert records[0].fields["key"] == KeyRing([OLD]).name_of(OLD)
    assert "key" not in records[1].fields
    text = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert OLD not in text
    assert "unknown-key-of-nobody" not in text
    assert OLD not in repr(keyed.app.state.services.settings)


async def test_openapi_says_which_operations_need_a_key(keyed, client):
    document = (await keyed.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    assert document["paths"]["/classify"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "401" in document["paths"]["/classify"]["post"]["responses"]
    assert "security" not in document["paths"]["/healthz"]["get"]
    refused = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]["401"]
    assert refused["content"].keys() == {"application/json"}, "the protocol's own shape"
    open_to_all = (await client.get("/openapi.json")).json()
    assert "security" not in open_to_all["paths"]["/classify"]["post"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v2/health/live", "/models", "/classify", "/nowhere"])
async def test_head_answers_as_get_without_the_body(client, path):
    head, get = await client.head(path), await client.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.content == b""


async def test_head_is_counted_under_its_own_name_and_the_route(client):
    def count() -> float:
        labels = {"method": "HEAD", "route": "/readyz", "status": "200"}
        return client.app.state.services.metrics.registry.get_sample_value("bireal_http_requests_total", labels) or 0.0

    before = count()
    await client.head("/readyz")
    assert count() == before + 1


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/classify", "inference"),
        ("/v2", "open"),
        ("/v2/health/ready", "open"),
        ("/v2/models/x/ready", "inference"),
        ("/v2/repository/index", "admin"),
        ("/admin", "admin"),
        ("/admin/models", "admin"),
        ("/administrator", "inference"),
        ("//admin/models", "inference"),
    ],
)
def test_surfaces(path, surface):
    assert surface_of(path) == surface


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"\n# nothing\n", "contains no key"),
        (b"short\n", "key 1 has 5 characters"),
        (b"a-key-that-is-long-enough\nanother key with spaces\n", "key 2 has characters"),
        (b"\xff\xfe\xff" * 9, "not text"),
    ],
)
def test_a_bad_key_file_ends_the_start(tmp_path: Path, content, says):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as caught:
        Auth.of(load_settings({"admin_keys_file": file}))
    assert "spaces" not in str(caught.value)


def test_keys_of_both_sources_count(tmp_path: Path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"{NEW}\n")
    monkeypatch.setenv("BIREAL_API_KEYS", OLD)
    monkeypatch.setenv("BIREAL_API_KEYS_FILE", str(file))
    ring = Auth.of(load_settings()).inference
    assert ring.name_of(OLD)
    assert ring.name_of(NEW)
    assert ring.name_of(ADMIN) is None


def test_a_comment_that_is_indented_is_no_key(tmp_path: Path):
    (tmp_path / "keys").write_text(f"  #{OLD}\n\t# {OLD}\n  {NEW}  \n")
    assert keys_in_file(tmp_path / "keys") == [NEW]


def test_a_weak_key_is_refused_without_being_told():
    with pytest.raises(SettingsError, match="at least 16") as caught:
        load_settings({"api_keys": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
