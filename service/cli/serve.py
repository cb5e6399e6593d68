"""`serve`: uvicorn with a drain that load balancers notice.

The first SIGTERM turns `/readyz` to 503 and closes nothing: for `drain_s` seconds requests are still taken, because
the balancer has not looked yet. Then the port is closed, behind whoever has connected by then; what is in flight, and
what those send at once, is finished, and the process exits with 0.
SIGINT (Ctrl-C) leaves out the wait. A second signal ends the process at once.
"""

import argparse
import asyncio
import gc
import json
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from service import xnor_op
from service.api.services import Services
from service.app import create_app
from service.cli.engine import check_model_dir
from service.cli.logs import configure_logging
from service.cli.protocol import Protocol
from service.errors import OpUnavailableError, SettingsError
from service.settings import Settings, unknown_variables

log = logging.getLogger(__name__)

_BACKLOG = 2048
# The event loop's turns from a connection that waits in the system's queue to one that uvicorn knows of.
_ACCEPT_TURNS = 4
# For the requests of connections that were taken last: they are on their way, or not read yet.
_LAST_REQUESTS_S = 0.25


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a grace period between the first signal and the closing of the port.

    Args:
        config: uvicorn's.
        services: Of the application that is served.
        announce: Called once connections are taken.
    """

    def __init__(self, config: uvicorn.Config, services: Services, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._services, self._announce = services, announce
        self._signals: list[int] = []
        self._noticed = False
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's interface
        """Takes a signal. Runs between any two bytecodes, so it only leaves a note: no locks, no logging."""
        self._signals.append(sig)
        self._services.lifecycle.draining = True
        if len(self._signals) > 1:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells where it listens, once signals are handled and connections are taken."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: acts on the note."""
        if self._signals and not self._noticed:
            self._noticed = True
            grace_s = self._services.settings.drain_s if self._signals[0] == signal.SIGTERM else 0.0
            self._stop_at = time.monotonic() + grace_s
            self._services.metrics.models.set_ready(False)
            log.info("%s: not ready any more; taking requests for %g s", signal.Signals(self._signals[0]).name, grace_s)
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port, then the connections.

        uvicorn closes both at once: whoever waits in the system's queue then is sent a reset, and so is whoever has
        connected and not been read from. Here the queue is emptied first, and requests have a moment to arrive.
        """
        if not self.force_exit:
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            for server in self.servers:
                server.close()
            await asyncio.sleep(_LAST_REQUESTS_S)
        await super().shutdown(sockets)

    @property
    def forced(self) -> int | None:
        """The second signal, if one came."""
        return self._signals[1] if len(self._signals) > 1 else None


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Serves until a signal comes. Returns the exit code.

    Raises:
        SettingsError: The address cannot be listened on, or a setting names what is not there.
    """
    configure_logging(settings)
    _check(settings)
    for sentence in unknown_variables():
        log.warning("%s", sentence)
    listener = _listen(settings)
    url = _url(listener)
    app = create_app(settings)
    services: Services = app.state.services
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",  # uvicorn would hand it over past keys, metrics and log; a request to upgrade is an ordinary GET
        log_config=None,
        access_log=False,  # the application writes its own, with request ids
        server_header=False,
        # No request outlives its deadline; the second on top is for writing the answer.
        timeout_graceful_shutdown=math.ceil(settings.default_timeout_s) + 1,
    )

    def announce() -> None:
        log.info("listening on %s; models come from %s", url, settings.model_dir)
        if arguments.json:
            print(json.dumps({"url": url, "pid": os.getpid(), "model_dir": str(settings.model_dir)}), flush=True)

    server = DrainingServer(config, services, announce)
    # What the start has made stays. A full collection of garbage, for which all threads wait, is spared walking it.
    gc.collect()
    gc.freeze()
    server.run(sockets=[listener])
    if server.forced is not None:
        logging.shutdown()
        os._exit(128 + server.forced)  # threads may be in the middle of a run: nobody wants to wait for them
    log.info("stopped")
    return 0


def _check(settings: Settings) -> None:
    """Ends the start over what no amount of waiting mends, rather than leave a service up that is never ready."""
    check_model_dir(settings)
    if settings.kernel == "auto" or settings.fallback == "reference":
        return  # whoever asked for a fallback wants the service up, whatever this machine can run
    try:
        usable = xnor_op.usable_kernels()
    except OpUnavailableError:
        return  # the operator itself is missing: /readyz tells, and what runs without it is answered
    if settings.kernel not in usable:
        raise SettingsError(
            f"BIREAL_KERNEL={settings.kernel!r} is no kernel that this CPU can run.",
            remedy=f"Leave it out, or set it to one of: {', '.join(usable)}.",
        )


def _listen(settings: Settings) -> socket.socket:
    """Opens the port here and not in uvicorn, whose failure would be a line in a log and an exit code of its own."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # A resolver's errors have numbers of their own; the others' texts repeat the address.
        if error.errno is None or isinstance(error, socket.gaierror):
            reason = error.strerror or str(error)
        else:
            reason = os.strerror(error.errno)
        raise SettingsError(
            f"Cannot listen on {settings.host}, port {settings.port}: {reason}.",
            remedy="Choose another with --host and --port; port 0 takes a free one.",
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
