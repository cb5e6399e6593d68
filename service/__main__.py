"""Entry point of `python -m service` and of the command `bireal-serve`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from service.prerequisites import missing_package, not_installed


def _end(sig: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's arguments
    os._exit(128 + sig)  # nothing is running yet that needs a clean shutdown


# The kernel delivers to PID 1 of a container only the signals that it handles. Without this handler, a stop during the
# imports, which take seconds, would wait out the whole grace period. The server's own handler replaces this one.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)

# Ctrl-C during the imports would print a long traceback. If SIGINT is ignored, it stays ignored.
_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, _end)

try:
    from service.cli.main import main
except ModuleNotFoundError as error:
    if (package := missing_package(error)) is None:
        raise
    print(f"error: {not_installed(package, '.venv/bin/python -m service')}", file=sys.stderr)
    sys.exit(2)

if _interruptible:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    sys.exit(main())
