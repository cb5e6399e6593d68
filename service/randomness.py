"""Random bytes for ids, read from the system in pages of a few hundred ids.

A system call per id would release the GIL each time, and under load a thread waits long to acquire it again.
"""

import os
from collections.abc import Callable

_PAGE_BYTES = 4096


def _source() -> Callable[[int], bytes]:
    pages: list[tuple[bytes, int]] = []  # only a few: a thread removes a page while it uses it

    def cut(count: int) -> bytes:
        try:
            page, at = pages.pop()
        except IndexError:
            page, at = os.urandom(_PAGE_BYTES), 0
        taken = page[at : at + count]
        if len(taken) < count:
            return os.urandom(count)
        pages.append((page, at + count))
        return taken

    os.register_at_fork(after_in_child=pages.clear)  # parent and child must not produce the same ids
    return cut


#: Returns `count` random bytes from the system's generator, never the same ones twice. Thread-safe.
random_bytes: Callable[[int], bytes] = _source()
