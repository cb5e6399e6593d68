"""Each replica's metrics on a port of its own, told to the application `targets`.

A request for /metrics through Serve's proxy is answered by whichever replica it falls to. So each replica also serves
its metrics itself, on a free port of its node's address, and says so every few seconds for as long as it lives.
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
        registry: what to serve.
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
            if not silent:  # once, not every other second
                log.warning("metrics at %s are not announced: %s", said["target"], error)
            silent = True
