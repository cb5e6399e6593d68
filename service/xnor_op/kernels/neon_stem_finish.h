// Epilogue of a stem tile, shared by the kernels for AArch64: sums of a pixel and a block of channels -> outputs.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <arm_neon.h>

#include "neon.h"

namespace bireal {
namespace {

constexpr int kLanes = 4;
constexpr int kBlock = kNeonStemBlock;
constexpr int kVectors = kBlock / kLanes;

// Computes channels [first, first + 16) of pixel ox.
inline void finish_pixel(const StemRowJob& job, int first, int ox, const float32x4_t (&sum)[kVectors]) {
  const float* const scale = job.scale + first;
  const float* const offset = job.offset + static_cast<size_t>(job.column_class[ox]) * job.padded_channels + first;
  float* const out = job.out + static_cast<size_t>(ox) * job.out_channels + first;
  float32x4_t y[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    y[v] = vaddq_f32(vmulq_f32(sum[v], vld1q_f32(scale + v * kLanes)), vld1q_f32(offset + v * kLanes));
  }
  const int valid = job.out_channels - first;
  if (valid >= kBlock) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) vst1q_f32(out + v * kLanes, y[v]);
  } else {
    float each[kBlock];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) vst1q_f32(each + v * kLanes, y[v]);
    __builtin_memcpy(out, each, sizeof(float) * valid);
  }
}

}  // namespace
}  // namespace bireal
