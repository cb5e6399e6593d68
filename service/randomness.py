"""Random bytes for ids, by the page: the system is asked once for some hundred ids.

A call of the system for each id lets go of Python's lock, and under load a thread waits long until it has it again.
"""

import os
from collections.abc import Callable

_PAGE_BYTES = 4096


def _source() -> Callable[[int], bytes]:
    pages: list[tuple[bytes, int]] = []  # at most a few: a thread takes a page out while it cuts from it

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

    os.register_at_fork(after_in_child=pages.clear)  # parent and child must not give the same ids
    return cut


#: So many random bytes, from the system's generator, none of them given twice. May be called from any thread.
random_bytes: Callable[[int], bytes] = _source()
