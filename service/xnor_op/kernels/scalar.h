// Portable kernels that the operators use if the kernel set in use has none of its own.
#pragma once

#include "kernel.h"

namespace bireal {

extern const PointwiseKernel kScalarPointwiseF32;
extern const PointwiseKernel kScalarPointwiseI8;
void scalar_leaky_clip(const float* x, int64_t count, float slope, float* out);

}  // namespace bireal
