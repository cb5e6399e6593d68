"""Loads and runs one network in its own process. Started by loadtest.memory and loadtest.measures.instructions.

    python -m loadtest.measures.memory_child GRAPH LIBRARY|- RUNS [SWITCH]

Prints one JSON document: resident memory before loading and after the runs, and its peak, in bytes. Free pages of the
allocator are returned to the system before the first two are read, as for the service's own gauge: a loader frees its
copy of the file, which no session keeps. The peak includes them. SWITCH is a library that
turns instruction counting on and off; with it, one more run follows, which is counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

import numpy as np

from service.backends.session import open_session, release_free_pages
from service.host import peak_memory_bytes, resident_memory_bytes


def main() -> None:
    """Runs the program."""
    graph, library, runs, *switch = sys.argv[1:]
    op_library = None if library == "-" else Path(library)
    gc.collect()
    release_free_pages()
    before = resident_memory_bytes()
    session = open_session(Path(graph), name="network", intra_op_threads=1, op_library=op_library)
    (image,) = session.get_inputs()
    dtype = np.uint8 if image.type == "tensor(uint8)" else np.float32
    feeds = {image.name: np.full((1, *image.shape[1:]), 1, dtype)}
    for _ in range(int(runs)):
        session.run(None, feeds)
    if switch:
        counting = ctypes.CDLL(switch[0])
        counting.counting_on()
        session.run(None, feeds)
        counting.counting_off()
    peak = peak_memory_bytes()
    release_free_pages()
    after = resident_memory_bytes()
    print(json.dumps({"before": before, "after": after, "peak": peak}))


if __name__ == "__main__":
    main()
