"""uvicorn with a drain that load balancers notice.

The first SIGTERM turns `/readyz` to 503 and closes nothing: for `drain_s` seconds requests are still accepted, because
the load balancer has not probed yet. Then the port is closed to new connections. Requests in flight, and those that
open connections send right away, are finished, and the process exits with 0. SIGINT (Ctrl-C) skips the wait. A second
signal ends the process at once, with one line in the log and the status 128 + signal of a shell's convention.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Never

import uvicorn

log = logging.getLogger(__name__)

# Turns of the event loop that it takes for a connection in the system's queue to reach uvicorn.
_ACCEPT_TURNS = 4
# Time for requests that are on their way over open connections.
_LAST_REQUESTS_S = 0.25
# Most time for the first request of a connection that was accepted last; a busy client may take so long to send it.
_FIRST_REQUESTS_S = 1.0
_POLL_S = 0.02


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a grace period between the first signal and the closing of the port.

    Args:
        config: uvicorn's configuration.
        drain_s: Length of the grace period after SIGTERM, seconds.
        announce: Called once connections are accepted.
        leave: Called at each signal, between any two bytecodes, so it must not take locks or log.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain_s: float,
        announce: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._announce, self._leave = announce, leave
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals: list[int] = []
        self._noticed = False
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's interface
        """Records a signal for `on_tick`. Runs between any two bytecodes, so it must not take locks or log."""
        self._signals.append(sig)
        self._leave()
        if len(self._signals) == 2:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._end, sig)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal comes."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _end(self, sig: int) -> Never:
        """Ends the process, whatever it waits for: uvicorn would only skip some of the waits.

        A normal exit would cancel the application's own tasks, which log that as errors, and wait for threads in the
        middle of a run.
        """
        name, cut_off = signal.Signals(sig).name, len(self.server_state.tasks)
        log.warning("%s: the second signal; ended at once, requests left unanswered: %d", name, cut_off)
        logging.shutdown()
        os._exit(128 + sig)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces the address, once signals are handled and connections are accepted."""
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Acts on recorded signals; uvicorn calls this ten times per second."""
        if self._signals and not self._noticed:
            self._noticed = True
            grace_s = self._drain_s if self._signals[0] == signal.SIGTERM else 0.0
            self._stop_at = time.monotonic() + grace_s
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
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        give_up = time.monotonic() + _FIRST_REQUESTS_S
        await asyncio.sleep(_LAST_REQUESTS_S)
        # uvicorn's connections have no event for a first request to wait for
        while self._expects_requests() and time.monotonic() < give_up:  # noqa: ASYNC110  no event
            await asyncio.sleep(_POLL_S)
        await super().shutdown(sockets)

    def _expects_requests(self) -> bool:
        """Whether a connection has not sent a request yet: its client connected just before the port was closed."""
        return any(getattr(connection, "cycle", None) is None for connection in self.server_state.connections)
