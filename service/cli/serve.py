"""`serve`: the application on a port of its own, until a signal comes (`service.server.draining`)."""

import argparse
import contextlib
import gc
import json
import logging
import math
import os
import socket

import uvicorn

from service import xnor_op
from service.api.services import Services
from service.app import create_app
from service.cli.engine import check_model_dir
from service.cli.logs import configure_logging
from service.errors import OpUnavailableError, SettingsError
from service.server.draining import DrainingServer
from service.server.protocol import counted_by
from service.settings import Settings, unknown_variables

log = logging.getLogger(__name__)

_BACKLOG = 2048


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
            with contextlib.suppress(OSError):  # nobody reads it any more, or the disk is full
                print(json.dumps({"url": url, "pid": os.getpid(), "model_dir": str(settings.model_dir)}), flush=True)

    def leave() -> None:
        services.lifecycle.draining = True

    server = DrainingServer(config, drain_s=settings.drain_s, announce=announce, leave=leave)
    # What the start has made stays. A full collection of garbage, for which all threads wait, is spared walking it.
    gc.collect()
    gc.freeze()
    server.run(sockets=[listener])
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
    both = settings.host == "::" and socket.has_dualstack_ipv6()  # or it would be all interfaces, but of IPv6 only
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
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
