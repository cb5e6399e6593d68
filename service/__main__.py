"""Entry point of `python -m service` and of the command `bireal-serve`."""

import os
import signal
import sys
from types import FrameType


def _end(sig: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's arguments
    os._exit(128 + sig)  # nothing is up yet that would have to be ended


# A container's first process gets no signal that it does not handle: a stop during the imports, which take seconds,
# would wait for its grace period to pass. The server's own handler replaces this one.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)

# Ctrl-C meanwhile would be a traceback through whatever was being imported. Where it is ignored it stays so.
_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, _end)

from service.cli.main import main  # noqa: E402  after the handlers

if _interruptible:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    sys.exit(main())
