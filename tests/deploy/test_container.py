"""The Dockerfile and the compose file: valid, hardened, and in step with the project."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
DOCKERFILE = ROOT / "Dockerfile"
DOCKERFILES = (DOCKERFILE, ROOT / "deploy/locust/Dockerfile")
COMPOSE = ROOT / "docker-compose.yml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined: (name, arguments)."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), " ".join(arguments.split())) for name, arguments in pairs]


def final_stage() -> list[tuple[str, str]]:
    """The instructions of the image that ships."""
    steps = instructions()
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    return steps[last:]


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file, its anchors resolved."""
    compose = yaml.safe_load(COMPOSE.read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_dockerfile_is_hadolint_clean(path: Path) -> None:
    run = subprocess.run([SCRIPTS / "hadolint", path], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_compose_file_matches_the_schema() -> None:
    run = subprocess.run(
        [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_image_runs_as_a_number_that_is_not_root() -> None:
    users = [arguments for name, arguments in final_stage() if name == "USER"]
    assert len(users) == 1
    user, group = users[0].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_image_has_what_an_operator_expects() -> None:
    stage = final_stage()
    settings = " ".join(arguments for name, arguments in stage if name == "ENV")
    assert "ORT_DISABLE_TELEMETRY=1" in settings
    assert "BIREAL_HOST=0.0.0.0" in settings
    assert 'BIREAL_REVISION="${REVISION}"' in settings
    labels = " ".join(arguments for name, arguments in stage if name == "LABEL")
    assert f'org.opencontainers.image.version="{VERSION}"' in labels
    health = [arguments for name, arguments in stage if name == "HEALTHCHECK"]
    assert len(health) == 1
    assert "/readyz" in health[0]
    assert "curl" not in health[0]
    assert [arguments for name, arguments in stage if name == "CMD"] == ['["python", "-m", "service", "serve"]']


class Healthy(http.server.BaseHTTPRequestHandler):
    """A service that is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def health_checks() -> list[Any]:
    """The command of each health check, named for the test's report."""
    (image,) = [arguments for name, arguments in final_stage() if name == "HEALTHCHECK"]
    found = {"image": json.loads(image.partition("CMD ")[2])}
    found |= {name: service["healthcheck"]["test"][1:] for name, service in services().items()}
    return [pytest.param(command, id=name) for name, command in found.items()]


@pytest.mark.parametrize("command", health_checks())
def test_a_health_check_asks_its_own_container_and_no_proxy(command: list[str]) -> None:
    """Docker sets the proxies of ~/.docker/config.json in every container, and no_proxy to what neither tool reads."""
    if command[0] == "wget":  # BusyBox's
        assert command[command.index("-Y") + 1] == "off"
        return
    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "*.example.org,127.0.0.0/8"}
    environment = os.environ | proxies | {"BIREAL_PORT": str(server.server_port)}
    words = [re.sub(r"(127\.0\.0\.1):\d+", rf"\1:{server.server_port}", word) for word in command]
    try:
        subprocess.run([sys.executable, *words[1:]], env=environment, check=True, capture_output=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()


def test_the_final_stage_installs_nothing_and_leaves_no_pip(tmp_path: Path) -> None:
    (command,) = [arguments for name, arguments in final_stage() if name == "RUN"]
    assert command.startswith("rm -rf /usr/local/")
    names = [name for name, _ in final_stage()]
    assert names.index("RUN") < names.index("USER"), "nobody else may remove them"
    # The base's files, as in the official image, and what has to stay.
    gone = [f"lib/python3.11/site-packages/{name}" for name in ("pip", "pip-24.0.dist-info", "setuptools", "wheel")]
    gone += ["lib/python3.11/ensurepip/_bundled", *(f"bin/{name}" for name in ("pip", "pip3", "pip3.11", "wheel"))]
    kept = ["lib/python3.11/sqlite3", "lib/libpython3.11.so.1.0", "bin/python3", "bin/python3.11"]
    for name in gone + kept:
        (tmp_path / name).mkdir(parents=True)
    assert "$" not in command
    subprocess.run(["sh", "-c", command.replace("/usr/local", str(tmp_path))], check=True, timeout=60)
    assert not [name for name in gone if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in kept)


def test_files_in_the_image_are_readable_whatever_the_checkouts_umask(tmp_path: Path) -> None:
    """COPY keeps modes: with a umask of 027 or 077, models from the context would be for root alone."""
    copies = [arguments.split() for name, arguments in final_stage() if name == "COPY"]
    assert all(words[0].startswith("--from=") for words in copies), "the modes of the context"
    (command,) = [arguments for name, arguments in instructions() if name == "RUN" and "/models" in arguments]
    (model := tmp_path / "name/1").mkdir(parents=True)
    (file := model / "card.yaml").touch(0o600)
    for folder in (tmp_path, model.parent, model):
        folder.chmod(0o700)
    subprocess.run(["sh", "-c", command.replace("/models", str(tmp_path))], check=True, timeout=60)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, model, file)] == [0o755, 0o755, 0o644]


def test_everything_that_the_dockerfile_copies_is_in_the_build_context() -> None:
    allowed = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}: not in the tree"
                assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source


@pytest.mark.parametrize("name", sorted(services()))
def test_every_service_is_hardened_limited_and_checked(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), "logs must not fill the disk"
    assert ":latest" not in service["image"]
    assert ":" in service["image"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "publish to this machine only"


def test_compose_builds_this_version() -> None:
    built = {name: service["image"] for name, service in services().items() if "build" in service}
    assert built.pop("load") == f"bireal-load:{VERSION}"
    assert built.keys() == {"bireal", "bireal-binary", "bireal-full"}
    assert set(built.values()) == {f"bireal-serve:{VERSION}"}


def test_replicas_of_the_profile_ab_differ_in_their_variant_and_nothing_else() -> None:
    replicas = {name: service for name, service in services().items() if service.get("profiles") == ["ab"]}
    variants = [service["environment"].pop("BIREAL_DEFAULT_VARIANT") for service in replicas.values()]
    assert sorted(variants) == ["binary", "full"]
    (_, one), (_, other) = replicas.items()
    assert one.pop("ports") != other.pop("ports")
    assert one == other


def test_what_starts_without_a_profile() -> None:
    always = {name for name, service in services().items() if "profiles" not in service}
    assert always == {"bireal", "prometheus", "alertmanager", "grafana"}
    for service in services().values():
        for needed in service.get("depends_on", []):
            assert needed in always


def test_no_two_services_publish_one_port() -> None:
    ports = [port.split(":")[1] for service in services().values() for port in service["ports"]]
    assert len(ports) == len(set(ports))


def test_mounted_files_exist() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), volume


def test_service_may_stop_in_peace() -> None:
    from service.settings import Settings

    fields = Settings.model_fields
    for service in services().values():
        if service["image"].startswith("bireal-serve:"):
            grace_s = int(service["stop_grace_period"].removesuffix("s"))
            assert grace_s > fields["drain_s"].default + fields["default_timeout_s"].default


def test_environment_names_only_settings_that_exist() -> None:
    from service.settings import Settings

    known = {f"BIREAL_{name.upper()}" for name in Settings.model_fields} | {"BIREAL_REVISION"}
    named = {
        variable
        for service in services().values()
        for variable in service.get("environment", {})
        if variable.startswith("BIREAL_")
    }
    for name, arguments in final_stage():
        if name == "ENV":
            named |= {word.split("=")[0] for word in arguments.split() if word.startswith("BIREAL_")}
    assert named <= known
