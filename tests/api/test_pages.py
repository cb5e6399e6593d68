"""The pages for people: complete without any other host, and with a policy that a browser can hold them to."""

import re
from importlib import resources

import pytest

from service.api.pages import ASSETS

pytestmark = pytest.mark.anyio

LOADED = re.compile(r"""<(?:script|link|img)\b[^>]*?\b(?:src|href)="([^"]*)\"""")


@pytest.mark.parametrize("page", ["/", "/docs"])
async def test_a_page_loads_only_files_of_this_service(client, page):
    response = await client.get(page)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "://" not in response.text
    loaded = LOADED.findall(response.text)
    assert len(loaded) >= 3
    for address in loaded:
        file = await client.get(f"/{address}")
        assert file.status_code == 200, address
        assert file.headers["content-type"].partition(";")[0] == ASSETS[address.removeprefix("ui/")][1]
        assert len(file.content) > 50


@pytest.mark.parametrize("page", ["/", "/docs"])
async def test_the_policy_allows_what_the_page_has_and_no_more(client, page):
    response = await client.get(page)
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert "http" not in response.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:", response.text)


async def test_the_page_names_the_endpoints(client):
    text = (await client.get("/")).text
    for path in ("/classify", "/depth", "/compare/classify", "/compare/depth", "/models", "/metrics", "/docs"):
        assert path in text


async def test_the_script_finds_what_it_looks_for(client):
    """Ids, names of fields, and the paths and queries that it asks."""
    page, script = (await client.get("/")).text, (await client.get("/ui/page.js")).text
    for name in re.findall(r'byId\("(\w+)"\)', script):
        assert f'id="{name}"' in page, name
    for name in re.findall(r"form\.(\w+)\.(?:value|files)", script):
        assert f'name="{name}"' in page, name
    paths = (await client.get("/openapi.json")).json()["paths"]
    for task in re.findall(r'name="task" value="(\w+)"', page):
        parameters = {parameter["name"] for parameter in paths[f"/compare/{task}"]["post"]["parameters"]}
        assert {"a", "b"} <= parameters
    assert {"format", "variant"} <= {parameter["name"] for parameter in paths["/depth"]["post"]["parameters"]}


async def test_every_field_has_a_label(client):
    page = (await client.get("/")).text
    fields = re.findall(r"<(?:input|select)\b[^>]*>", page)
    assert len(fields) >= 5
    for field in fields:
        name = re.search(r'id="(\w+)"', field)
        labelled = name is not None and f'for="{name[1]}"' in page
        assert labelled or re.search(r"<label>[^<]*" + re.escape(field), page), field


async def test_swagger_ui_is_new_enough_for_the_document(client):
    """OpenAPI 3.1 is understood from Swagger UI 5 on."""
    assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.1")
    script = (await client.get("/ui/swagger-ui-bundle.js")).text
    version = re.search(r'PACKAGE_VERSION:"(\d+)\.', script)
    assert version is not None
    assert int(version[1]) >= 5


async def test_the_scripts_ask_no_other_host():
    for name, ((package, folder), _) in ASSETS.items():
        if package == "service.ui" and name.endswith((".js", ".css")):
            text = resources.files(package).joinpath(folder + name).read_text(encoding="utf-8")
            assert "://" not in text
            assert "url(" not in text


@pytest.mark.parametrize("name", ["index.html", "__init__.py", "..%2Fopenapi.json", "%2e%2e%2f__init__.py", "x"])
async def test_nothing_else_can_be_asked_for(client, name):
    response = await client.get(f"/ui/{name}")
    assert response.status_code == 404
    assert response.json()["code"] == "not-found"


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
async def test_pages_of_the_framework_that_load_from_elsewhere_are_gone(client, path):
    assert (await client.get(path)).status_code == 404
