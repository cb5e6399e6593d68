// Real-valued 1x1 convolutions of the NEON kernel set in float32: pixels times a matrix. The 8-bit ones are in
// neon_pointwise_i8.cc.
//
// 4 output channels per register, tiles of 4 pixels x 16 channels. The registers hold 16 sums, 4 weights, and 4
// channels of each pixel; FMLA takes these channels one at a time from a lane. For a score map (one output channel), 15
// of 16 lanes would be idle, so there the lanes hold input channels.
#include <arm_neon.h>

#include "neon.h"

namespace bireal {
namespace {

constexpr int kLanes = 4;
constexpr int kVectors = 4;
constexpr int kBlock = kLanes * kVectors;
constexpr int kTile = 4;  // pixels

size_t layout_bytes(int out_channels, int channels) {
  return sizeof(float) * channels * kBlock * ((static_cast<size_t>(out_channels) + kBlock - 1) / kBlock);
}

// Layout: [block][channel][16 output channels]. With one output channel: [channel].
void layout(const void* weights, int out_channels, int channels, void* out) {
  if (out_channels == 1) {
    __builtin_memcpy(out, weights, sizeof(float) * channels);
    return;
  }
  const auto* from = static_cast<const float*>(weights);
  auto* to = static_cast<float*>(out);
  for (int first = 0; first < out_channels; first += kBlock) {
    for (int c = 0; c < channels; ++c) {
      for (int o = first; o < first + kBlock; ++o) {
        *to++ = o < out_channels ? from[static_cast<size_t>(c) * out_channels + o] : 0.0f;
      }
    }
  }
}

// Adds one input channel: lane kLane of the values of each pixel.
template <int kLane, int P>
inline __attribute__((always_inline)) void add_channel(float32x4_t (&sum)[P][kVectors], const float32x4_t (&values)[P],
                                                       const float* w) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const float32x4_t weights = vld1q_f32(w + v * kLanes);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p][v] = vfmaq_laneq_f32(sum[p][v], weights, values[p], kLane);
  }
}

template <int P>
inline __attribute__((always_inline)) void tile(const PointwiseJob& job, const float* w, int first, int64_t pixel) {
  const size_t pitch = job.channels;
  const float* in = static_cast<const float*>(job.pixels) + static_cast<size_t>(pixel) * pitch;
  float32x4_t sum[P][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[p][v] = vdupq_n_f32(0.0f);
  }
  float32x4_t values[P];
  int c = 0;
  for (; c + kLanes <= job.channels; c += kLanes, in += kLanes, w += kLanes * kBlock) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) values[p] = vld1q_f32(in + p * pitch);
    add_channel<0>(sum, values, w);
    add_channel<1>(sum, values, w + kBlock);
    add_channel<2>(sum, values, w + 2 * kBlock);
    add_channel<3>(sum, values, w + 3 * kBlock);
  }
  for (; c < job.channels; ++c, ++in, w += kBlock) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) values[p] = vdupq_n_f32(in[p * pitch]);
    add_channel<0>(sum, values, w);
  }
  const int valid = job.out_channels - first < kBlock ? job.out_channels - first : kBlock;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    float y[kBlock];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const float32x4_t scaled = vmulq_f32(sum[p][v], vld1q_f32(job.scale + first + v * kLanes));
      vst1q_f32(y + v * kLanes, vaddq_f32(scaled, vld1q_f32(job.bias + first + v * kLanes)));
    }
    float* to = job.y + static_cast<size_t>(pixel + p) * job.out_channels + first;
    if (valid == kBlock) {
      __builtin_memcpy(to, y, sizeof(y));
    } else {
      __builtin_memcpy(to, y, sizeof(float) * valid);
    }
  }
}

template <int P>
__attribute__((noinline)) int64_t tiles(const PointwiseJob& job, const float* weights, int first, int64_t pixel) {
  for (; pixel + P <= job.count; pixel += P) tile<P>(job, weights, first, pixel);
  return pixel;
}

void run_scores(const PointwiseJob& job) {
  constexpr int kSums = 4;  // covers the latency of FMLA: 2 per cycle, 2 cycles from sum to sum
  const auto* w = static_cast<const float*>(job.weights);
  const auto* x = static_cast<const float*>(job.pixels);
  for (int64_t p = 0; p < job.count; ++p, x += job.channels) {
    float32x4_t sums[kSums];
#pragma GCC unroll 4
    for (float32x4_t& sum : sums) sum = vdupq_n_f32(0.0f);
    int c = 0;
    for (; c + kSums * kLanes <= job.channels; c += kSums * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) {
        sums[i] = vfmaq_f32(sums[i], vld1q_f32(x + c + i * kLanes), vld1q_f32(w + c + i * kLanes));
      }
    }
    float sum = vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
    for (; c < job.channels; ++c) sum += x[c] * w[c];
    job.y[p] = sum * job.scale[0] + job.bias[0];
  }
}

void run(const PointwiseJob& job) {
  if (job.out_channels == 1) {
    run_scores(job);
    return;
  }
  for (int b = job.block_begin; b < job.block_end; ++b) {
    const float* weights = static_cast<const float*>(job.weights) + static_cast<size_t>(b) * kBlock * job.channels;
    const int64_t pixel = tiles<kTile>(job, weights, b * kBlock, 0);
    tiles<1>(job, weights, b * kBlock, pixel);
  }
}

}  // namespace

void neon_leaky_clip(const float* x, int64_t count, float slope, float* out) {
  const float rest = 1.0f - slope;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const float32x4_t value = vld1q_f32(x + i);
    const float32x4_t inside = vminq_f32(vdupq_n_f32(1.0f), vmaxq_f32(vdupq_n_f32(-1.0f), value));
    vst1q_f32(out + i, vaddq_f32(vmulq_n_f32(value, slope), vmulq_n_f32(inside, rest)));
  }
  for (; i < count; ++i) {
    const float low = x[i] < -1.0f ? -1.0f : x[i];
    const float inside = (low > 1.0f ? 1.0f : low) * rest;
    const float outside = x[i] * slope;
    out[i] = outside + inside;
  }
}

const PointwiseKernel kNeonPointwiseF32 = {kBlock, nullptr, nullptr, layout_bytes, layout, run};

}  // namespace bireal
