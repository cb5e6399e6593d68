"""Limits of containers: cgroup files of both versions, laid out as the kernel does, read for real."""

import mmap
import os
from pathlib import Path

import pytest

from service.host import cpu_quota, memory_limit_bytes, peak_memory_bytes, resident_memory_bytes, usable_cpus


class Machine:
    """A /proc and a /sys/fs/cgroup under a folder."""

    def __init__(self, root: Path, groups: str) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self.put(self.proc / "self" / "cgroup", groups)
        self.cgroup.mkdir(exist_ok=True)

    @staticmethod
    def put(file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="ascii")

    def limit(self, file: str, text: str) -> "Machine":
        self.put(self.cgroup / file, text)
        return self

    def quota(self) -> float | None:
        return cpu_quota(self.proc, self.cgroup)

    def memory(self) -> int | None:
        return memory_limit_bytes(self.proc, self.cgroup)


def test_container_of_version_2(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/").limit("cpu.max", "150000 100000").limit("memory.max", "536870912")
    assert machine.quota() == 1.5
    assert machine.memory() == 512 * 2**20


def test_no_limit_in_version_2(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/").limit("cpu.max", "max 100000").limit("memory.max", "max")
    assert machine.quota() is None
    assert machine.memory() is None


def test_the_tightest_level_above_holds(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/kube/pod/box")
    machine.limit("kube/cpu.max", "400000 100000").limit("kube/pod/cpu.max", "200000 100000")
    machine.limit("kube/pod/box/cpu.max", "max 100000").limit("kube/memory.max", "1000")
    machine.limit("kube/pod/box/memory.max", "5000")
    assert machine.quota() == 2.0
    assert machine.memory() == 1000


def test_a_path_of_the_host_that_is_not_visible_inside(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "0::/../../host/only").limit("cpu.max", "100000 100000")
    assert machine.quota() == 1.0


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
def test_container_of_version_1(tmp_path: Path, mounted: str) -> None:
    machine = Machine(tmp_path, "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/")
    machine.limit(f"{mounted}/cpu.cfs_quota_us", "250000").limit(f"{mounted}/cpu.cfs_period_us", "100000")
    machine.limit("memory/memory.limit_in_bytes", "1048576")
    assert machine.quota() == 2.5
    assert machine.memory() == 2**20


def test_no_limit_in_version_1(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "4:memory:/\n3:cpu:/")
    machine.limit("cpu/cpu.cfs_quota_us", "-1").limit("cpu/cpu.cfs_period_us", "100000")
    machine.limit("memory/memory.limit_in_bytes", "9223372036854771712")
    assert machine.quota() is None
    assert machine.memory() is None


@pytest.mark.parametrize("text", ["", "max", "100000", "a b", "100000 0"])
def test_unreadable_quotas_are_no_limit(tmp_path: Path, text: str) -> None:
    assert Machine(tmp_path, "0::/").limit("cpu.max", text).quota() is None


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "proc", tmp_path / "cgroup") is None
    assert memory_limit_bytes(tmp_path / "proc", tmp_path / "cgroup") is None
    assert usable_cpus(tmp_path / "proc", tmp_path / "cgroup") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "cpus"), [("50000 100000", 1), ("199000 100000", 1), ("99900000 100000", None)])
def test_quota_cuts_the_affinity_to_whole_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    machine = Machine(tmp_path, "0::/").limit("cpu.max", quota)
    assert usable_cpus(machine.proc, machine.cgroup) == (cpus or len(os.sched_getaffinity(0)))


def test_this_process_is_measured() -> None:
    resident, peak = resident_memory_bytes(), peak_memory_bytes()
    assert resident is not None
    assert peak is not None
    assert 2**20 < resident <= peak
    # Mapped, not allocated: an allocator of a large process may hand out pages that are resident already.
    with mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * len(block))
        grown = resident_memory_bytes()
    assert grown is not None
    assert grown - resident > 32 * 2**20


def test_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    assert resident_memory_bytes(tmp_path) is None
    assert peak_memory_bytes(tmp_path) is None
