// The parts of the NEON kernel sets that are in neon_stem.cc, neon_pointwise.cc, neon_pointwise_i8.cc and, for CPUs
// with 8-bit dot products, in neondot_stem.cc and neondot_pointwise_i8.cc.
#pragma once

#include "kernel.h"

namespace bireal {

constexpr int kNeonStemBlock = 16;  // output channels

extern const StemKernel kNeonStemF32;
extern const StemKernel kNeonStemI16;
extern const StemKernel kNeonDotStemI16;

extern const PointwiseKernel kNeonPointwiseF32;
extern const PointwiseKernel kNeonPointwiseI8;
extern const PointwiseKernel kNeonDotPointwiseI8;
void neon_leaky_clip(const float* x, int64_t count, float slope, float* out);

void neon_max_pool_row(const float* const* rows, int count, int width, int channels, float* out);
void neon_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out);

}  // namespace bireal
