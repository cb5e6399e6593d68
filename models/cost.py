"""What a network costs by the paper's rule (Sec. 4.4.1), however it was counted."""

from __future__ import annotations

from dataclasses import dataclass

BITS_REAL = 32
BOPS_REAL_MAC = 64


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and its operations for one image.

    Attributes:
        binary_params: number of 1-bit weights.
        real_params: number of 32-bit parameters.
        binary_macs: multiply-accumulates of two binary values.
        real_macs: all other multiply-accumulates.
    """

    binary_params: int
    real_params: int
    binary_macs: int
    real_macs: int

    @property
    def memory_bits(self) -> int:
        """Memory of the parameters in bits (paper Sec. 4.4.1)."""
        return BITS_REAL * self.real_params + self.binary_params

    @property
    def bops(self) -> int:
        """Binary operations; a real multiply-accumulate counts as 64."""
        return BOPS_REAL_MAC * self.real_macs + self.binary_macs
