"""What generated clients take from the OpenAPI document: names of operations, defaults and choices of parameters."""

import pytest

from service.app import create_app
from service.settings import load_settings

pytestmark = pytest.mark.anyio

#: Generated clients name their functions after these, so none may change or go.
NAMES = {
    "POST /classify": "classify",
    "POST /depth": "depth",
    "POST /compare/classify": "compare_classify",
    "POST /feedback/depth": "feedback_depth",
    "GET /experiments/{name}": "experiment",
    "PUT /admin/experiments/{name}": "put_experiment",
    "GET /healthz": "healthz",
    "GET /models": "models",
    "GET /admin/models": "admin_models",
    "POST /admin/models/{name}/load": "admin_load",
    "GET /v2": "v2_server",
    "POST /v2/models/{model}/infer": "v2_infer",
    "POST /v2/models/{model}/versions/{version}/infer": "v2_version_infer",
    "POST /v2/repository/models/{model}/load": "v2_repository_load",
}


async def test_names_of_operations_are_short_and_unique(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    found = {
        f"{method.upper()} {path}": operation["operationId"]
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    assert len(set(found.values())) == len(found)
    assert NAMES.items() <= found.items()


@pytest.mark.parametrize(("top_k", "min_probability"), [(5, 0.0), (3, 0.25)])
def test_parameters_have_the_defaults_of_the_settings(zoo, top_k, min_probability):
    app = create_app(load_settings({"model_dir": zoo, "top_k": top_k, "min_probability": min_probability}))
    paths = app.openapi()["paths"]
    app.state.services.registry.close()
    defaults = {
        (path, parameter["name"]): parameter["schema"].get("default")
        for path in ("/classify", "/compare/classify")
        for parameter in paths[path]["post"]["parameters"]
    }
    assert defaults["/classify", "top_k"] == defaults["/compare/classify", "top_k"] == top_k
    assert defaults["/classify", "min_probability"] == min_probability


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/classify", "/compare/depth"])
async def test_variants_are_a_choice(client, path):
    parameters = (await client.get("/openapi.json")).json()["paths"][path]["post"]["parameters"]
    choices = [each["schema"]["enum"] for each in parameters if each["name"] in ("variant", "a", "b")]
    assert choices
    assert all(choice == ["binary", "reference", "full"] for choice in choices)
