"""The service on Ray Serve: the same application, one replica a process, as many as the load asks for.

`build` is what deploy/ray/serve.yaml names. Each replica loads its models before Serve sends it anything, and tells the
application `targets` where Prometheus finds its metrics: see docs/ray.md.
"""

# Without postponed annotations: Serve looks at that of `build`'s argument to parse `args` into it.

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.ray.announce import announce
from service.app import create_app
from service.card import Card, TaskName
from service.cli.logs import pass_over_damaged_metadata
from service.registry import Registry
from service.settings import Settings, load_settings

log = logging.getLogger("ray.serve")

#: Beyond its own deadline a request is answered with 504: nothing is worth waiting for any longer.
_AFTER_DEADLINE_S = 5.0


class Arguments(BaseModel):
    """What an application of serve.yaml may say under `args`.

    Attributes:
        tasks: whose models its replicas hold; requests of other tasks find none there.
        cpus: of a replica: logical ones that Ray counts, and threads that it runs networks with.
        settings: of the service, by their names; the environment's BIREAL_ variables hold for all others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[TaskName, ...] = ("classify", "depth")
    cpus: int = Field(1, ge=1)
    settings: dict[str, Any] = {}


def build(arguments: Arguments) -> Application:
    """An application of one deployment, `Replica`; serve.yaml overrides how it scales.

    Args:
        arguments: parsed from `args` by Serve.
    """
    settings = _settings(arguments)

    def build_asgi_app() -> ASGIApp:  # runs in each replica
        return replica(arguments)

    @serve.deployment(
        name="Replica",
        ray_actor_options={"num_cpus": arguments.cpus},
        # More than this wait at the proxy, where Serve may still give them to another replica; fewer than what the
        # replica itself would refuse with 429.
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
    """The application of one replica, ready to answer.

    Raises:
        RuntimeError: it cannot become ready; Serve then tries again, and says why.
    """
    settings = _settings(arguments)
    settings = settings.model_copy(update={"model_dir": _of_tasks(settings.model_dir, arguments.tasks)})
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
    """Has an application see the path that the client sent.

    Serve takes an application's prefix for the root that it is mounted at; ours names its routes in full, so that they
    are the same wherever it runs.

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
    """A replica's settings: as many threads as it has CPUs, whatever the machine has."""
    threads = {"intra_op_threads": 1, "workers": arguments.cpus, "decode_threads": arguments.cpus}
    return load_settings(threads | arguments.settings)


def _of_tasks(models: Path, tasks: tuple[str, ...]) -> Path:
    """The folder of models, or one with only those of these tasks; broken ones are left to be told of."""
    if set(tasks) == set(get_args(TaskName)):
        return models
    chosen = Path(tempfile.mkdtemp(prefix="bireal-models-"))
    for name in sorted(path for path in models.iterdir() if path.is_dir()):
        cards = [Card.load(version) for version in name.iterdir() if (version / "card.yaml").is_file()]
        if not cards or any(card.task in tasks for card in cards):
            shutil.copytree(name, chosen / name.name, copy_function=_link_or_copy)
    return chosen


def _link_or_copy(source: str, destination: str) -> None:
    """A second name for a file, which takes no room; a copy where the folders lie on different disks.

    Not a symbolic link: the registry takes none that leads out of its folder.
    """
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
