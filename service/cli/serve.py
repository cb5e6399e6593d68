"""`serve`: uvicorn with a drain that load balancers notice.

The first SIGTERM turns `/readyz` to 503 and closes nothing: for `drain_s` seconds requests are still accepted, because
the load balancer has not probed yet. Then the port is closed to new connections. Requests in flight, and those that
open connections send right away, are finished, and the process exits with 0. SIGINT (Ctrl-C) skips the wait. A second
signal ends the process at once.
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
from service.cli.protocol import counted_by
from service.errors import OpUnavailableError, SettingsError
from service.settings import Settings, unknown_variables

log = logging.getLogger(__name__)

_BACKLOG = 2048
# Turns of the event loop that it takes for a connection in the system's queue to reach uvicorn.
_ACCEPT_TURNS = 4
# Time for the requests of the last accepted connections to arrive.
_LAST_REQUESTS_S = 0.25


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a grace period between the first signal and the closing of the port.

    Args:
        config: uvicorn's configuration.
        services: The services of the application.
        announce: Called once connections are accepted.
    """

    def __init__(self, config: uvicorn.Config, services: Services, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._services, self._announce = services, announce
        self._signals: list[int] = []
        self._noticed = False
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's interface
        """Records a signal for `on_tick`. Runs between any two bytecodes, so it must not take locks or log."""
        self._signals.append(sig)
        self._services.lifecycle.draining = True
        if len(self._signals) > 1:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces the address, once signals are handled and connections are accepted."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Acts on recorded signals; uvicorn calls this ten times per second."""
        if self._signals and not self._noticed:
            self._noticed = True
            grace_s = self._services.settings.drain_s if self._signals[0] == signal.SIGTERM else 0.0
            self._stop_at = time.monotonic() + grace_s
            self._services.metrics.models.set_ready(False)
            name = signal.Signals(self._signals[0]).name
            log.info("%s: no longer ready; still accepting requests for %g s", name, grace_s)
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port, then the connections.

        uvicorn closes both at once, which resets connections that still wait in the system's queue or have not been
        read from. Here the queue is emptied first, and requests have a moment to arrive.
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
        """The second signal, if there was one."""
        return self._signals[1] if len(self._signals) > 1 else None


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Serves until a signal comes. Returns the exit code.

    Raises:
        SettingsError: The server cannot listen on the address, or a setting names something that does not exist.
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
        http=counted_by(services.metrics.requests.count_unread),
        ws="none",  # uvicorn would bypass keys, metrics and log; without it, an upgrade request is an ordinary GET
        log_config=None,
        access_log=False,  # the application writes its own log, with request ids
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        # No request waits past its deadline, for its body, a thread or a worker; one more second allows for what is not
        # given up, which is storing feedback, and for writing the response.
        timeout_graceful_shutdown=math.ceil(settings.default_timeout_s) + 1,
    )

    def announce() -> None:
        log.info("listening on %s, with the models in %s", url, settings.model_dir)
        if arguments.json:
            print(json.dumps({"url": url, "pid": os.getpid(), "model_dir": str(settings.model_dir)}), flush=True)

    server = DrainingServer(config, services, announce)
    # What the start has made stays. A full collection of garbage, for which all threads wait, is spared walking it.
    gc.collect()
    gc.freeze()
    server.run(sockets=[listener])
    if server.forced is not None:
        logging.shutdown()
        os._exit(128 + server.forced)  # a normal exit would wait for threads in the middle of a run
    log.info("stopped")
    return 0


def _check(settings: Settings) -> None:
    """Fails at startup for what waiting cannot fix, instead of running a service that never becomes ready."""
    check_model_dir(settings)
    if settings.kernel == "auto" or settings.fallback == "reference":
        return  # with a fallback, the service shall start whatever this machine can run
    try:
        usable = xnor_op.usable_kernels()
    except OpUnavailableError:
        return  # the operator itself is missing: /readyz says so, and variants without it are still served
    if settings.kernel not in usable:
        raise SettingsError(
            f"BIREAL_KERNEL={settings.kernel!r} is not a kernel that this CPU can run.",
            remedy=f"Remove the setting, or set it to one of: {', '.join(usable)}.",
        )


def _listen(settings: Settings) -> socket.socket:
    """Opens the port here: uvicorn would only log a failure, and exit with a code of its own."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError for a part of a name that is too long
        number = getattr(error, "errno", None)
        # `strerror` repeats the address.
        reason = _why_unresolved(settings.host, family) or (os.strerror(number) if number is not None else str(error))
        raise SettingsError(
            f"Cannot listen on {settings.host}, port {settings.port}: {reason}.",
            remedy="Choose another address with --host and --port; port 0 picks a free port.",
        ) from error


def _why_unresolved(host: str, family: socket.AddressFamily) -> str | None:
    """Why a name stands for no address, or None if it stands for one.

    `create_server` raises the resolver's errors as plain OSErrors, whose numbers mean something else to `os.strerror`.
    """
    try:
        socket.getaddrinfo(host or None, 0, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return f"the name cannot be resolved ({getattr(error, 'strerror', None) or error})"
    return None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
