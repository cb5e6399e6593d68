// Portable kernels that stand in where another set has none.
#pragma once

#include "kernel.h"

namespace bireal {

extern const PointwiseKernel kScalarPointwiseF32;
extern const PointwiseKernel kScalarPointwiseI8;
void scalar_leaky_clip(const float* x, int64_t count, float slope, float* out);

}  // namespace bireal
