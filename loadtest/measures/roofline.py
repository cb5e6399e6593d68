"""The bound of a binary convolution: how many multiply-accumulates a core can do if nothing but them were left.

It is stated twice: as instructions a cycle x clock, and as measured by the operator library's own probe, which runs
the kernel's inner instructions on registers alone. A library without the probe leaves the first, at the clock that
the system states, which in a virtual machine may be the nominal one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtest.machine import cpu_facts
from service import xnor_op

PROBE_SECONDS = 0.002
_PROBE = "bireal_roofline_probe"

# Multiply-accumulates of a core and cycle, from the costs that the kernels' heads derive (uops.info):
#   avx512vpopcnt  xor, vpopcntd, add: 3 instructions for 16 * 32; 2 of them a cycle (Intel, Zen 4)
#   avx512vnni     53 instructions for 16 words of 16 * 32 (its file counts them); 2 of them a cycle (Intel, Zen 4)
#   avx512bw       vpshufb, vpaddb: 2 instructions for 64 * 4; one vpshufb a cycle (Intel, Zen 4)
# Zen 5 has four 512-bit pipes, two of which count bits or shuffle: 4 / 3 vpopcntd a cycle, 2 vpshufb.
# The portable kernel is what a compiler makes of it: nothing to state.
MACS_PER_CYCLE = {"avx512vpopcnt": 512 / 3 * 2, "avx512vnni": 16 * 512 / 53 * 2, "avx512bw": 256.0}
MACS_PER_CYCLE_ZEN5 = {"avx512vpopcnt": 512 / 3 * 4, "avx512vnni": 16 * 512 / 53 * 4, "avx512bw": 512.0}
# avx2: vpshufb, vpaddb: 2 instructions for 32 * 4. Zen 2 to 5: 4 vector instructions a cycle, 2 of them vpshufb. Intel
# has 3, of which 1 is a vpshufb up to Skylake and its kin, 2 since Ice Lake. Not stated: Zen 1, which has registers of
# 128 bits, and Intel's small cores.
_ZEN2_MODEL = 0x30  # family 23; Zen 1 is below
_INTEL_ONE_SHUFFLE = {60, 61, 63, 69, 70, 71, 78, 79, 85, 86, 94, 142, 158, 165, 166}  # Haswell to Comet, Cascade Lake
_INTEL_TWO_SHUFFLES = {106, 108, 125, 126, 140, 141, 143, 167, 207}  # Ice, Tiger, Rocket Lake, Sapphire, Emerald Rapids


def macs_per_cycle(kernel: str, cpu: dict[str, str]) -> float | None:
    """What the instructions of a kernel's inner loop allow.

    Args:
        kernel: its name.
        cpu: as `loadtest.machine.cpu_facts` tells.

    Returns:
        Multiply-accumulates a cycle of one core; None where nothing is stated of the kernel or the CPU.
    """
    vendor = cpu.get("vendor_id")
    if vendor not in ("AuthenticAMD", "GenuineIntel"):
        return None
    family, model = int(cpu["cpu family"]), int(cpu["model"])
    if vendor == "AuthenticAMD":
        if kernel == "avx2":
            return 128 / 2 * 4 if family > 23 or (family == 23 and model >= _ZEN2_MODEL) else None
        return (MACS_PER_CYCLE_ZEN5 if family == 26 else MACS_PER_CYCLE).get(kernel)
    if kernel == "avx2":
        return 128.0 if model in _INTEL_ONE_SHUFFLE else 128 / 2 * 3 if model in _INTEL_TWO_SHUFFLES else None
    return MACS_PER_CYCLE.get(kernel)


@dataclass(frozen=True)
class Bound:
    """Bound of one core.

    Attributes:
        macs_per_cycle: by counted instructions; None where the kernel has no such count.
        clock_hz: the clock; None where nobody tells.
        clock_source: who told it.
        macs_per_s: as the probe measured; None without one.
    """

    macs_per_cycle: float | None
    clock_hz: float | None
    clock_source: str
    macs_per_s: float | None

    @property
    def bound_macs_per_s(self) -> float | None:
        """Instructions a cycle x clock."""
        return self.macs_per_cycle * self.clock_hz if self.macs_per_cycle and self.clock_hz else None

    def sentence(self) -> str:
        """The bound in words, for a report."""
        parts = []
        if self.macs_per_s is not None:
            parts.append(f"probe {self.macs_per_s / 1e9:.0f} GMAC/s a core")
        else:
            parts.append(f"the operator library has no {_PROBE}: no measured roofline")
        if self.bound_macs_per_s is not None and self.clock_hz and self.macs_per_cycle:
            parts.append(
                f"{self.macs_per_cycle:.1f} MAC a cycle x {self.clock_hz / 1e9:.2f} GHz ({self.clock_source}) = "
                f"{self.bound_macs_per_s / 1e9:.0f} GMAC/s a core"
            )
        else:
            parts.append("no count of instructions for this kernel or no clock")
        return "; ".join(parts)


class Roofline:
    """Collects the bound while blocks are timed, so that both see the same clock."""

    def __init__(self) -> None:
        self._kernel = xnor_op.kernel_name()
        self._probe = _find_probe(xnor_op.library_path())
        self._rates: list[tuple[float, float]] = []

    def sample(self) -> None:
        """Runs the probe once, for `PROBE_SECONDS`; does nothing without one."""
        if self._probe is None:
            return
        macs_per_s, cycles_per_s = ctypes.c_double(), ctypes.c_double()
        if self._probe(PROBE_SECONDS, ctypes.byref(macs_per_s), ctypes.byref(cycles_per_s)) == 0:
            self._rates.append((macs_per_s.value, cycles_per_s.value))

    def take(self) -> Bound:
        """The bound from the samples since the last call: the highest rate and the highest clock.

        A bound is wanted, and whatever else runs on the core can only slow a probe down.
        """
        per_cycle = macs_per_cycle(self._kernel, cpu_facts())
        rates, self._rates = np.array(self._rates, np.float64), []
        if len(rates):
            macs_per_s, clock = (float(value) for value in rates.max(axis=0))
            return Bound(per_cycle, clock, "measured", macs_per_s)
        stated = cpu_facts().get("cpu MHz")
        return Bound(per_cycle, float(stated) * 1e6 if stated else None, "as the system states it", None)


def highest(bounds: Sequence[Bound]) -> Bound:
    """The bound of a whole run from those of its parts, the highest rate and the highest clock among them.

    A neighbour can take a part of the core for as long as a part lasts, and shares of what was left are no shares.

    Args:
        bounds: of one kernel, at least one.
    """
    rates = [bound.macs_per_s for bound in bounds if bound.macs_per_s is not None]
    fastest = max(bounds, key=lambda bound: bound.clock_hz or 0.0)
    return replace(fastest, macs_per_s=max(rates, default=None))


def spread(bounds: Sequence[Bound]) -> str:
    """Lowest and highest rate of the probe among parts of a run, in words; empty without a probe."""
    rates = [bound.macs_per_s / 1e9 for bound in bounds if bound.macs_per_s is not None]
    return f"best probe beside a shape {min(rates):.0f} to {max(rates):.0f} GMAC/s a core" if rates else ""


def _find_probe(library: Path) -> ctypes._NamedFuncPointer | None:
    """`int bireal_roofline_probe(double seconds, double* macs_per_s, double* cycles_per_s)`, 0 for success."""
    probe: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(str(library)), _PROBE, None)
    if probe is None:
        return None
    number = ctypes.POINTER(ctypes.c_double)
    probe.argtypes = [ctypes.c_double, number, number]
    probe.restype = ctypes.c_int
    return probe
