"""Folders that a process needs while it lives. Those that dead processes have left are removed by the next one.

A process that is killed, as replicas may be, cannot tidy up after itself. The system then releases the lock that it
held on its folder: a folder that can be locked has no owner any more. Unlike a process id in the folder's name, that
also holds where containers share a disk.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_NEW = "new-"


def own_folder(prefix: str, parent: Path | None = None) -> Path:
    """Makes a folder that is removed when this process ends, and removes folders that nobody owns any more.

    Args:
        prefix: of the names of all folders for this purpose.
        parent: the folder to make it in; by default the system's for temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{prefix}*"):
        _remove_if_left(left)
    # It gets a name that others look for only once it is locked.
    made = Path(tempfile.mkdtemp(prefix=_NEW + prefix, dir=parent))
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)  # stays open: its end is that of the process
    fcntl.flock(lock, fcntl.LOCK_EX)
    owned = made.rename(parent / made.name.removeprefix(_NEW))
    atexit.register(shutil.rmtree, owned, ignore_errors=True)
    return owned


def _remove_if_left(folder: Path) -> None:
    """Removes a folder that no process has locked; leaves what is not ours alone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # gone, somebody else's, or no folder
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
