"""The compute bound of a binary convolution: the multiply-accumulate rate of a core that does nothing else.

It is given twice: as instructions per cycle x clock, and as measured by the operator library's probe, which runs the
kernel's inner instructions on registers only. Without the probe only the first is available, at the clock reported by
the system, which may be the nominal clock in a virtual machine.
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

# Multiply-accumulates per core and cycle, from the costs derived in the kernels' header comments (uops.info):
#   avx512vpopcnt  xor, vpopcntd, add: 3 instructions for 16 * 32; 2 instructions per cycle (Intel, Zen 4)
#   avx512vnni     53 instructions for 16 words of 16 * 32 (counted in its file); 2 per cycle (Intel, Zen 4)
#   avx512bw       vpshufb, vpaddb: 2 instructions for 64 * 4; one vpshufb per cycle (Intel, Zen 4)
# Zen 5 has four 512-bit pipes, two of which count bits or shuffle: 4 / 3 vpopcntd per cycle, or 2 vpshufb.
# The portable kernel depends on the compiler, so no bound is given.
MACS_PER_CYCLE = {"avx512vpopcnt": 512 / 3 * 2, "avx512vnni": 16 * 512 / 53 * 2, "avx512bw": 256.0}
MACS_PER_CYCLE_ZEN5 = {"avx512vpopcnt": 512 / 3 * 4, "avx512vnni": 16 * 512 / 53 * 4, "avx512bw": 512.0}
# avx2: vpshufb, vpaddb: 2 instructions for 32 * 4. Zen 2 to 5: 4 vector instructions per cycle, 2 of them vpshufb.
# Intel: 3 vector instructions, of which 1 is a vpshufb up to the Skylake family and 2 since Ice Lake. No bound is given
# for Zen 1, which has 128-bit units, and for Intel's E-cores.
_ZEN2_MODEL = 0x30  # first Zen 2 model of family 23; lower models are Zen 1
_INTEL_ONE_SHUFFLE = {60, 61, 63, 69, 70, 71, 78, 79, 85, 86, 94, 142, 158, 165, 166}  # Haswell to Comet, Cascade Lake
_INTEL_TWO_SHUFFLES = {106, 108, 125, 126, 140, 141, 143, 167, 207}  # Ice, Tiger, Rocket Lake, Sapphire, Emerald Rapids


def macs_per_cycle(kernel: str, cpu: dict[str, str]) -> float | None:
    """Instruction-throughput bound of a kernel's inner loop.

    Args:
        kernel: name of the kernel.
        cpu: description of the CPU from `loadtest.machine.cpu_facts`.

    Returns:
        Multiply-accumulates per cycle of one core; None if the kernel or the CPU is not covered.
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
        macs_per_cycle: from counted instructions; None if the kernel or CPU is not covered.
        clock_hz: clock frequency; None if unknown.
        clock_source: source of the clock frequency.
        macs_per_s: measured by the probe; None without one.
    """

    macs_per_cycle: float | None
    clock_hz: float | None
    clock_source: str
    macs_per_s: float | None

    @property
    def bound_macs_per_s(self) -> float | None:
        """macs_per_cycle x clock_hz."""
        return self.macs_per_cycle * self.clock_hz if self.macs_per_cycle and self.clock_hz else None

    def sentence(self) -> str:
        """The bound as text for a report."""
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
    """Collects probe samples while blocks are timed, so that both run at the same clock."""

    def __init__(self) -> None:
        self._kernel = xnor_op.kernel_name()
        self._probe = _find_probe(xnor_op.library_path())
        self._rates: list[tuple[float, float]] = []

    def sample(self) -> None:
        """Runs the probe for `PROBE_SECONDS`; does nothing if there is none."""
        if self._probe is None:
            return
        macs_per_s, cycles_per_s = ctypes.c_double(), ctypes.c_double()
        if self._probe(PROBE_SECONDS, ctypes.byref(macs_per_s), ctypes.byref(cycles_per_s)) == 0:
            self._rates.append((macs_per_s.value, cycles_per_s.value))

    def take(self) -> Bound:
        """The bound from the samples since the last call: the highest rate and the highest clock.

        The maximum is used because interference on the core can only slow the probe down.
        """
        per_cycle = macs_per_cycle(self._kernel, cpu_facts())
        rates, self._rates = np.array(self._rates, np.float64), []
        if len(rates):
            macs_per_s, clock = (float(value) for value in rates.max(axis=0))
            return Bound(per_cycle, clock, "measured", macs_per_s)
        stated = cpu_facts().get("cpu MHz")
        return Bound(per_cycle, float(stated) * 1e6 if stated else None, "as the system states it", None)


def highest(bounds: Sequence[Bound]) -> Bound:
    """The bound of a whole run: the highest rate and the highest clock of its parts.

    A busy neighbour may use the core for the whole duration of one part, which would make that part's bound too low.

    Args:
        bounds: at least one bound, all of the same kernel.
    """
    rates = [bound.macs_per_s for bound in bounds if bound.macs_per_s is not None]
    fastest = max(bounds, key=lambda bound: bound.clock_hz or 0.0)
    return replace(fastest, macs_per_s=max(rates, default=None))


def spread(bounds: Sequence[Bound]) -> str:
    """Lowest and highest probe rate over the parts of a run, as text; empty without a probe."""
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
