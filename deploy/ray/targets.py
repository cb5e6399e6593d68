"""HTTP service discovery for Prometheus, based on the replicas' own announcements."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, HTTPException
from ray import serve
from ray.serve import Application

from deploy.ray.announce import DEPLOYMENT, PERIOD_S

#: A replica without an announcement for this time is considered gone.
EXPIRES_S = 5 * PERIOD_S

api = FastAPI(title="bireal-serve: Prometheus targets", docs_url=None, redoc_url=None)


@serve.deployment(name=DEPLOYMENT, num_replicas=1, ray_actor_options={"num_cpus": 0}, health_check_period_s=2.0)
@serve.ingress(api)
class Targets:
    """The live replicas that have announced themselves."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, dict[str, Any]]] = {}
        self._complete_at = time.monotonic() + 2 * PERIOD_S

    async def note(self, said: dict[str, Any]) -> None:
        """Records an announcement; called by replicas through Serve's handle."""
        self._seen[said["target"]] = (time.monotonic(), said["labels"])

    @api.get("/")
    async def targets(self) -> list[dict[str, Any]]:
        """The replicas in the format of Prometheus' `http_sd_configs`.

        Raises:
            HTTPException: 503 just after a start, when an incomplete list would make Prometheus drop known targets.
        """
        now = time.monotonic()
        if now < self._complete_at:
            raise HTTPException(503, "Not all replicas have announced themselves yet.")
        self._seen = {target: seen for target, seen in self._seen.items() if now - seen[0] < EXPIRES_S}
        return [
            {"targets": [target], "labels": {f"bireal_{name}": value for name, value in labels.items()}}
            for target, (_, labels) in sorted(self._seen.items())
        ]


def build(_: dict[str, Any]) -> Application:
    """The application `targets` of serve.yaml."""
    return Targets.bind()
