"""docs/api.md keeps up with the interface."""

import re
from pathlib import Path

import pytest

from service.api.problems import problem_kinds
from service.cli.main import main
from service.errors import ServiceError

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


async def test_every_path_and_parameter_is_described(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert f"`{method.upper()} {path}`" in PAGE
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "path":
                    assert f"`{parameter['name']}`" in PAGE, path


def test_every_error_is_described_with_its_status():
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE, flags=re.MULTILINE)
    described = {(code, int(status)) for status, codes in rows for code in re.findall(r"`([a-z-]+)`", codes)}
    assert described == {(code, kind.status) for code, kind in problem_kinds().items()}


def test_every_error_has_a_remedy_that_helps():
    """Of its own, and not the document that led here, nor the general one: to report a failure of the service."""
    remedies = {code: kind.help for code, kind in problem_kinds().items()}
    assert not [code for code, remedy in remedies.items() if "`help`" in remedy or "/problems" in remedy]
    assert [code for code, remedy in remedies.items() if remedy == ServiceError.default_remedy] == ["internal-error"]
    assert len(set(remedies.values())) == len(remedies)


async def test_the_type_of_a_problem_can_be_looked_up(client):
    problem = (await client.post("/classify", content=b"text")).json()
    kind = await client.get(problem["type"])
    assert kind.status_code == 200
    assert kind.json()["code"] == problem["code"]
    assert kind.json()["title"] == problem["title"]
    unknown = await client.get("/problems/none")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not-found")


def test_every_command_is_described(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(commands) == ["compare", "evaluate", "models", "predict", "serve"]
    for command in commands:
        assert f"python -m service {command}" in PAGE
