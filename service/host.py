"""The CPUs and the memory that the machine or the container grants this process, read from /proc and cgroups.

A container's limits do not show in the machine's own figures: `os.cpu_count()` is the host's, and thread pools sized
by it are too large. Both cgroup versions are supported. Every level above the process's own group is read, because
the tightest limit applies.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

#: Version 1 writes "no limit" as a number near 2**63, rounded down to a page; anything above this value means that.
_V1_UNLIMITED = 1 << 60


def usable_cpus(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """CPUs that this process may use: its affinity, limited by the cgroup's quota, at least 1.

    A quota of 1.5 CPUs counts as 1: the kernel throttles a thread pool wider than the quota in the middle of a run,
    and all its threads then wait for the one that was stopped.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    quota = cpu_quota(proc, cgroup)
    return max(1, count if quota is None else min(count, int(quota)))


def cpu_quota(proc: Path = PROC, cgroup: Path = CGROUP) -> float | None:
    """The cgroup's limit on CPU time, in CPUs; None without a limit."""
    quotas = []
    for folder in _group_folders(proc, cgroup, "cpu"):
        words = (_text(folder / "cpu.max") or "").split()  # version 2: "<quota or max> <period>", microseconds
        if not words:  # version 1: two files, with -1 for no limit
            words = [_text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """The cgroup's limit on memory, bytes; None without a limit."""
    limits = []
    for folder in _group_folders(proc, cgroup, "memory"):
        text = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes") or ""
        if text.isdecimal() and int(text) < _V1_UNLIMITED:
            limits.append(int(text))
    return min(limits, default=None)


def resident_memory_bytes(proc: Path = PROC) -> int | None:
    """Resident memory of this process, bytes; None if /proc does not say."""
    return _status_bytes(proc, "VmRSS")


def peak_memory_bytes(proc: Path = PROC) -> int | None:
    """Peak resident memory of this process, bytes; None if /proc does not say."""
    return _status_bytes(proc, "VmHWM")


def _status_bytes(proc: Path, field: str) -> int | None:
    for line in (_text(proc / "self" / "status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024  # "kB" in this file means KiB
    return None


def _group_folders(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    """Yields the folders that may limit this process: its group's, and those above it, up to the root.

    Lines of /proc/self/cgroup are `id:controllers:path`; version 2 has id 0 and no controllers. In a container the
    path may be the host's and not exist inside. The root, which is then the container's own group, is always included.
    """
    for line in (_text(proc / "self" / "cgroup") or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = cgroup
        elif controller in controllers.split(","):
            root = next((r for r in (cgroup / controllers, cgroup / controller) if r.is_dir()), cgroup / controllers)
        else:
            continue
        folder = root / path.lstrip("/")
        if root != folder and root in folder.parents:
            yield from (level for level in (folder, *folder.parents) if root in level.parents)
        yield root


def _text(file: Path) -> str | None:
    """A small file's text, or None if it cannot be read: which of these files exist depends on the kernel version."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def cpu_name(proc: Path = PROC) -> str:
    """The processor's name, for reports; `unknown` if the system does not say."""
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "Hardware"}:
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"
