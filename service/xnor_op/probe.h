// Roofline for the benchmarks: the speed of the binary convolution if it consisted only of its inner instructions.
#pragma once

#include "kernels/kernel.h"

namespace bireal {

struct Roofline {
  double macs_per_s;    // multiply-accumulates per second on one core, operands in registers
  double cycles_per_s;  // clock frequency of the core, measured directly afterwards
};

// Measures for about 2 * seconds. Returns false if the kernel set has no inner loop to measure.
bool probe_roofline(const Kernels& kernels, double seconds, Roofline* found);

}  // namespace bireal
