// The parts of the AVX2 kernel set that are in avx2_stem.cc and avx2_pointwise.cc.
#pragma once

#include "kernel.h"

namespace bireal {

constexpr int kAvx2StemBlock = 16;  // output channels

extern const StemKernel kAvx2StemF32;
extern const StemKernel kAvx2StemI16;

extern const PointwiseKernel kAvx2PointwiseF32;
extern const PointwiseKernel kAvx2PointwiseI8;
void avx2_leaky_clip(const float* x, int64_t count, float slope, float* out);

void avx2_max_pool_row(const float* const* rows, int count, int width, int channels, float* out);
void avx2_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out);

}  // namespace bireal
