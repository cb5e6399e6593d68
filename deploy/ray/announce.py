"""Serves each replica's metrics on its own port, and announces it to the application `targets`.

Serve's proxy routes a request for /metrics to an arbitrary replica. Each replica therefore also serves its metrics on a
free port of its node's address, and announces that address every few seconds while it lives.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import ray
from prometheus_client import CollectorRegistry, start_http_server
from ray import serve
from ray.serve.exceptions import RayServeException

log = logging.getLogger("ray.serve")

#: The application and deployment that collect the addresses; see deploy.ray.targets.
APPLICATION, DEPLOYMENT = "targets", "Targets"
PERIOD_S = 2.0


def announce(registry: CollectorRegistry) -> None:
    """Serves a replica's metrics and announces them in a thread that ends with the process.

    Args:
        registry: the metrics to serve.
    """
    address = ray.util.get_node_ip_address()
    server, _ = start_http_server(0, addr=address, registry=registry)
    context = serve.get_replica_context()
    said = {
        "target": f"{address}:{server.server_port}",
        "labels": {
            "application": context.app_name,
            "replica": context.replica_id.unique_id,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": str(os.getpid()),
        },
    }
    threading.Thread(target=_repeat, args=(said,), daemon=True, name="announce").start()


def _repeat(said: dict[str, Any]) -> None:
    stop = threading.Event()
    silent = False
    while not stop.wait(PERIOD_S):
        try:
            serve.get_deployment_handle(DEPLOYMENT, APPLICATION).note.remote(said).result(timeout_s=PERIOD_S)
            silent = False
        except (RayServeException, ray.exceptions.RayError, TimeoutError) as error:
            if not silent:  # log once, not every time
                log.warning("metrics at %s are not announced: %s", said["target"], error)
            silent = True
