"""Which sources this process runs: the version is the same for many commits, the revision for one."""

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

#: Set in the image by the Dockerfile. Not a setting, because it has no effect besides being reported.
REVISION_VARIABLE = "BIREAL_REVISION"
UNKNOWN = "unknown"

_ROOT = Path(__file__).resolve().parents[1]
_GIT_S = 2.0
# Also a label of a metric, so nothing that would be hard to read there.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")


@cache
def revision() -> str:
    """The revision of the sources, determined once per process; see `find_revision`."""
    return find_revision(os.environ, _ROOT)


def find_revision(environ: Mapping[str, str], root: Path) -> str:
    """The revision that the environment names, else the commit of the checkout, else `unknown`.

    Args:
        environ: Environment variables.
        root: The folder with the package `service`; it is asked for its commit only if it is a checkout itself.

    Returns:
        The commit gets the suffix `-dirty` if tracked files differ from it.
    """
    named = environ.get(REVISION_VARIABLE, "").strip()
    if _NAME.fullmatch(named):
        return named
    if not (root / ".git").exists():  # installed, perhaps inside of another project's checkout
        return UNKNOWN
    inherited = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    try:
        asked = subprocess.run(  # noqa: S603  a fixed command
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],  # noqa: S607
            env={**inherited, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, not our checkout, or too slow
        return UNKNOWN
    found = asked.stdout.strip()
    return found if _NAME.fullmatch(found) else UNKNOWN
