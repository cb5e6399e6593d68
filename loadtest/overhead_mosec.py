"""The work of `loadtest.overhead_peers` behind mosec: one worker process per usable CPU, no batches.

This is a separate file because mosec starts its workers by importing it again.
"""

import sys
from typing import Any

import mosec

from loadtest.overhead_peers import handle, work
from service.host import usable_cpus


class Classify(mosec.Worker):
    """One request at a time."""

    def __init__(self) -> None:
        super().__init__()
        handle()

    def deserialize(self, data: bytes) -> bytes:
        """Returns the body, which is the picture."""
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        """Does the work."""
        return work(data)


if __name__ == "__main__":
    port = sys.argv[2]
    sys.argv = ["mosec", "--address", "127.0.0.1", "--port", port, "--timeout", "60000", "--log-level", "error"]
    server = mosec.Server()
    server.append_worker(Classify, num=usable_cpus())
    server.run()
