// What the binary convolution could reach if nothing but its inner instructions were left: the benchmarks' roofline.
#pragma once

#include "kernels/kernel.h"

namespace bireal {

struct Roofline {
  double macs_per_s;    // multiply-accumulates of one core, on registers alone
  double cycles_per_s;  // the clock meanwhile
};

// Measures for about 2 * seconds. False if the kernel set has no inner loop to probe.
bool probe_roofline(const Kernels& kernels, double seconds, Roofline* found);

}  // namespace bireal
