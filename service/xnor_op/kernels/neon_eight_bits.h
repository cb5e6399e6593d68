// 8-bit 1x1 convolutions on AArch64. The instructions that multiply and add registers of 16 bytes are a template
// parameter.
//
// A register holds 16 input channels: of a pixel, or of the weights of one output channel. So no broadcast is needed,
// which would be a separate instruction for bytes. The cost is that each sum consists of 4 partial sums. They are added
// at the end of a tile, in 3 instructions for 4 outputs. A tile of 4 pixels x 4 output channels keeps 16 sums in
// registers. All groups of 4 output channels in a block are computed before the next tile, so that a cache line of the
// output is completed while it is in the cache.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <arm_neon.h>

#include "kernel.h"

namespace bireal {
namespace {

constexpr int kChunk = 16;  // input channels per register
constexpr int kGroup = 4;   // output channels whose sums are in registers at a time
constexpr int kBlock = 16;  // output channels of a weight block
constexpr int kTile = 4;    // pixels

constexpr int chunks_of(int channels) { return (channels + kChunk - 1) / kChunk; }

constexpr size_t pixel_pitch(int channels) { return static_cast<size_t>(chunks_of(channels)) * kChunk; }

size_t layout_bytes(int out_channels, int channels) {
  return pixel_pitch(channels) * kBlock * ((static_cast<size_t>(out_channels) + kBlock - 1) / kBlock);
}

// Layout: [group][chunk][4 output channels][16 input channels]. Channels beyond the last are zero.
void layout(const void* weights, int out_channels, int channels, void* out) {
  const auto* from = static_cast<const int8_t*>(weights);
  auto* to = static_cast<int8_t*>(out);
  const int8_t* const end = to + layout_bytes(out_channels, channels);
  for (int first = 0; to != end; first += kGroup) {
    for (int c0 = 0; c0 < channels; c0 += kChunk) {
      for (int o = first; o < first + kGroup; ++o) {
        for (int c = c0; c < c0 + kChunk; ++c) {
          *to++ = o < out_channels && c < channels ? from[static_cast<size_t>(c) * out_channels + o] : int8_t(0);
        }
      }
    }
  }
}

// Multiplies 16 values by the factor and rounds them. All results are within -127 to 127, so the low byte of each
// integer is enough.
inline int8x16_t round_chunk(const float* x, float factor) {
  int16x8_t halves[2];
  for (int i = 0; i < 2; ++i) {
    const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8 * i), factor));
    const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8 * i + 4), factor));
    halves[i] = vuzp1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
  }
  return vuzp1q_s8(vreinterpretq_s8_s16(halves[0]), vreinterpretq_s8_s16(halves[1]));
}

// Maximum of `most` and of the magnitude bits of a chunk, per lane.
inline int32x4_t most_of_chunk(const float* x, int32x4_t most) {
  const int32x4_t magnitude = vdupq_n_s32(0x7fffffff);
  for (int i = 0; i < kChunk; i += 4) {
    most = vmaxq_s32(most, vandq_s32(vreinterpretq_s32_f32(vld1q_f32(x + i)), magnitude));
  }
  return most;
}

void prepare(const float* x, int64_t count, int channels, void* out, float* step) {
  auto* q = static_cast<int8_t*>(out);
  const int whole = channels / kChunk * kChunk;
  for (int64_t p = 0; p < count; ++p, x += channels, q += pixel_pitch(channels)) {
    float rest[kChunk] = {};  // remaining channels of a pixel, padded with zeros
    __builtin_memcpy(rest, x + whole, sizeof(float) * (channels - whole));
    int32x4_t most = most_of_chunk(rest, vdupq_n_s32(0));
    for (int c = 0; c < whole; c += kChunk) most = most_of_chunk(x + c, most);
    const EightBits scale = eight_bits(vmaxvq_s32(most));
    step[p] = scale.step;
    for (int c = 0; c < whole; c += kChunk) vst1q_s8(q + c, round_chunk(x + c, scale.factor));
    if (whole < channels) vst1q_s8(q + whole, round_chunk(rest, scale.factor));
  }
}

// Stores the first `valid` of 4 lanes. `valid` is at least 1.
inline void store_lanes(float* to, float32x4_t value, int valid) {
  if (valid >= kGroup) {
    vst1q_f32(to, value);
    return;
  }
  vst1q_lane_f32(to, value, 0);
  if (valid > 1) vst1q_lane_f32(to + 1, value, 1);
  if (valid > 2) vst1q_lane_f32(to + 2, value, 2);
}

// Products::add multiplies 16 input channels of P pixels by the weights of one output channel, and adds the products to
// the sums of these pixels.
template <typename Products, int P>
inline __attribute__((always_inline)) void tile(const PointwiseJob& job, const int8_t* w, int first, int64_t pixel) {
  // Local copies of members of the job: after a store to y, the compiler must assume that the job has changed.
  const size_t pitch = job.pitch;
  const size_t y_pitch = job.out_channels;
  const float* const scale = job.scale;
  const float* const bias = job.bias;
  const int last = job.out_channels - first < kBlock ? job.out_channels : first + kBlock;
  const int8_t* const begin = static_cast<const int8_t*>(job.pixels) + static_cast<size_t>(pixel) * pitch;
  float* y = job.y + static_cast<size_t>(pixel) * y_pitch + first;
  float step[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) step[p] = job.step[pixel + p];
  for (int o = first; o < last; o += kGroup, y += kGroup) {
    int32x4_t sum[kGroup][P];
#pragma GCC unroll 4
    for (int i = 0; i < kGroup; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[i][p] = vdupq_n_s32(0);
    }
    for (const int8_t* in = begin; in != begin + pitch; in += kChunk, w += kGroup * kChunk) {
      int8x16_t values[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) values[p] = vld1q_s8(in + p * pitch);
#pragma GCC unroll 4
      for (int i = 0; i < kGroup; ++i) Products::add(sum[i], values, vld1q_s8(w + i * kChunk));
    }
    const float32x4_t group_scale = vld1q_f32(scale + o);
    const float32x4_t group_bias = vld1q_f32(bias + o);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const int32x4_t exact = vpaddq_s32(vpaddq_s32(sum[0][p], sum[1][p]), vpaddq_s32(sum[2][p], sum[3][p]));
      const float32x4_t value = vmulq_n_f32(vcvtq_f32_s32(exact), step[p]);
      store_lanes(y + p * y_pitch, vaddq_f32(vmulq_f32(value, group_scale), group_bias), last - o);
    }
  }
}

template <typename Products, int P>
__attribute__((noinline)) int64_t tiles(const PointwiseJob& job, const int8_t* weights, int first, int64_t pixel) {
  for (; pixel + P <= job.count; pixel += P) tile<Products, P>(job, weights, first, pixel);
  return pixel;
}

template <typename Products>
void run(const PointwiseJob& job) {
  for (int b = job.block_begin; b < job.block_end; ++b) {
    const auto* weights = static_cast<const int8_t*>(job.weights) + b * kBlock * pixel_pitch(job.channels);
    const int64_t pixel = tiles<Products, kTile>(job, weights, b * kBlock, 0);
    tiles<Products, 1>(job, weights, b * kBlock, pixel);
  }
}

template <typename Products>
constexpr PointwiseKernel make_kernel() {
  return {kBlock, pixel_pitch, prepare, layout_bytes, layout, run<Products>};
}

}  // namespace
}  // namespace bireal
