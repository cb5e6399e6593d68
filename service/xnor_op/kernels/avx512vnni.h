// The real-valued parts of the AVX-512 kernel sets with VNNI: avx512vnni_stem.cc,
// avx512vnni_stem_pairs.cc and avx512vnni_pointwise.cc.
#pragma once

#include "kernel.h"

namespace bireal {

constexpr int kAvx512StemBlock = 32;  // output channels

extern const StemKernel kAvx512StemF32;
extern const StemKernel kAvx512StemI16;
extern const StemKernel kAvx512StemI8;
extern const StemKernel kAvx512StemPairs;

extern const PointwiseKernel kAvx512PointwiseF32;
extern const PointwiseKernel kAvx512PointwiseF16;
extern const PointwiseKernel kAvx512PointwiseI8;
void avx512_leaky_clip(const float* x, int64_t count, float slope, float* out);

void avx512_max_pool_row(const float* const* rows, int count, int width, int channels, float* out);
void avx512_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out);

}  // namespace bireal
