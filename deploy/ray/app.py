"""The service on Ray Serve: the same application, one process per replica, with as many replicas as the load needs.

deploy/ray/serve.yaml refers to `build`. Each replica loads its models before Serve sends it requests, and announces the
address of its metrics to the application `targets`; see docs/ray.md.
"""

# No postponed annotations: Serve inspects the annotation of `build`'s argument to parse `args`.

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.ray.announce import announce
from deploy.ray.folders import own_folder
from service.app import create_app
from service.card import CARD_FILE, Card, TaskName
from service.cli.logs import pass_over_damaged_metadata
from service.errors import CardError
from service.registry import Registry
from service.settings import Settings, export_kernel, load_settings

log = logging.getLogger("ray.serve")

#: Extra shutdown time: a request is answered with 504 when its own deadline has passed.
_AFTER_DEADLINE_S = 5.0


class Arguments(BaseModel):
    """The `args` of an application in serve.yaml.

    Attributes:
        tasks: tasks whose models its replicas load; they have no models for other tasks.
        cpus: logical CPUs per replica for Ray's accounting, and number of inference threads.
        settings: settings of the service, by name; all others are taken from the BIREAL_ environment variables.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[TaskName, ...] = ("classify", "depth")
    cpus: int = Field(1, ge=1)
    settings: dict[str, Any] = {}


def build(arguments: Arguments) -> Application:
    """An application with one deployment, `Replica`; serve.yaml overrides its scaling.

    Args:
        arguments: the parsed `args` of serve.yaml.
    """
    settings = _settings(arguments)

    def build_asgi_app() -> ASGIApp:  # runs in each replica
        return replica(arguments)

    @serve.deployment(
        name="Replica",
        ray_actor_options={"num_cpus": arguments.cpus},
        # Requests above this number wait at the proxy, where Serve can still route them to another replica. It is below
        # the number at which the replica itself refuses requests with 429.
        max_ongoing_requests=max(2, min(16, settings.queue_size // 2)),
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 8,
            "target_ongoing_requests": 2,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 120.0,
        },
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=settings.default_timeout_s + _AFTER_DEADLINE_S,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
    )
    @serve.ingress(build_asgi_app)
    class Replica:
        """One process with the service."""

    return Replica.bind()


def replica(arguments: Arguments) -> ASGIApp:
    """The ready application of one replica.

    Raises:
        RuntimeError: it cannot become ready; Serve logs the reason and tries again.
    """
    settings = _settings(arguments)
    settings = settings.model_copy(update={"model_dir": _of_tasks(settings.model_dir, arguments.tasks)})
    export_kernel(settings)  # loading a model loads the operator, which reads it then and never again
    registry = Registry(settings)
    registry.load()
    found = registry.readiness()
    if found.state != "ready":
        raise RuntimeError(" ".join(found.reasons))
    pass_over_damaged_metadata()
    app = create_app(settings, registry)
    announce(app.state.services.metrics.registry)
    log.info("bireal-serve is ready: %s", ", ".join(sorted(found.models)))
    return WholePath(app)


class WholePath:
    """Passes the full request path to an application.

    Serve treats an application's prefix as its root path and removes it. Our application defines full paths, so that
    they are the same wherever it runs.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "root_path": ""}
        await self._app(scope, receive, send)


def _settings(arguments: Arguments) -> Settings:
    """A replica's settings, with as many threads as the replica has CPUs, whatever the machine has."""
    threads = {"intra_op_threads": 1, "workers": arguments.cpus, "decode_threads": arguments.cpus}
    return load_settings(threads | arguments.settings)


def _of_tasks(models: Path, tasks: tuple[str, ...]) -> Path:
    """The folder of models, or a copy with only those of `tasks`; models whose cards cannot be read are kept."""
    if set(tasks) == set(get_args(TaskName)):
        return models
    chosen = own_folder("bireal-models-")
    for name in sorted(path for path in models.iterdir() if path.is_dir()):
        found = _tasks_of(name)
        if not found or not found.isdisjoint(tasks):
            shutil.copytree(name, chosen / name.name, copy_function=_link_or_copy)
    return chosen


def _tasks_of(model: Path) -> set[TaskName]:
    """The tasks of a model's versions whose cards can be read; the registry reports the others."""
    found: set[TaskName] = set()
    for card in model.glob(f"*/{CARD_FILE}"):
        with contextlib.suppress(CardError):
            found.add(Card.load(card.parent).task)
    return found


def _link_or_copy(source: str, destination: str) -> None:
    """Hard-links a file, or copies it if the folders are on different file systems.

    Symbolic links would not work: the registry rejects those that point outside its folder. Nor would hard links to
    them, which are the same links, in another folder.
    """
    try:
        os.link(os.path.realpath(source), destination)
    except OSError:
        shutil.copy2(source, destination)
