// The real-valued parts of the NEON kernel set: stem and pooling.
//
// Stem: 4 output channels per register, one pixel value for all of them, tiles of 4 pixels x 16 channels: 16 sums, 4
// weights, 1 broadcast. float32: FMLA, 4 multiply-accumulates. int16: SMLAL and SMLAL2, 4 multiply-accumulates per
// instruction of 16-bit values into 32 bits, which is exact. There is no int8 kernel, because 8-bit dot products are
// not part of the baseline. On CPUs that have them, neondot_stem.cc replaces the int16 kernel.
#include <arm_neon.h>

#include "neon.h"
#include "neon_stem_finish.h"
#include "stem_layout.h"

namespace bireal {
namespace {

constexpr int kTile = 4;  // pixels

struct F32 {
  using Pixel = float;
  using Weight = float;
  using Sum = float32x4_t;
  static inline Sum zero() { return vdupq_n_f32(0.0f); }
  static inline __attribute__((always_inline)) void add(Sum (&sum)[kVectors], float pixel, const float* weights) {
    const float32x4_t value = vdupq_n_f32(pixel);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[v] = vfmaq_f32(sum[v], value, vld1q_f32(weights + v * kLanes));
  }
  static inline float32x4_t result(Sum sum) { return sum; }
};

struct I16 {
  using Pixel = int16_t;
  using Weight = int16_t;
  using Sum = int32x4_t;
  static inline Sum zero() { return vdupq_n_s32(0); }
  static inline __attribute__((always_inline)) void add(Sum (&sum)[kVectors], int16_t pixel, const int16_t* weights) {
    const int16x8_t value = vdupq_n_s16(pixel);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v += 2) {
      const int16x8_t w = vld1q_s16(weights + v * kLanes);
      sum[v] = vmlal_s16(sum[v], vget_low_s16(value), vget_low_s16(w));
      sum[v + 1] = vmlal_high_s16(sum[v + 1], value, w);
    }
  }
  static inline float32x4_t result(Sum sum) { return vcvtq_f32_s32(sum); }
};

template <typename Type, int P>
__attribute__((noinline)) int stem_tiles(const StemRowJob& job, int first, int ox) {
  const int run = job.kernel * kColors;
  const size_t pixel_step = static_cast<size_t>(job.stride) * kColors;
  const auto* weights =
      static_cast<const typename Type::Weight*>(job.weights) + static_cast<size_t>(first) * job.kernel * run;
  for (; ox + P <= job.out_width; ox += P) {
    typename Type::Sum sum[P][kVectors];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::zero();
    }
    for (int t = job.tap_begin; t < job.tap_end; ++t) {
      const auto* in = static_cast<const typename Type::Pixel*>(job.rows[t]) + ox * pixel_step;
      const auto* w = weights + static_cast<size_t>(t) * run * kBlock;
      for (int k = 0; k < run; ++k, ++in, w += kBlock) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) Type::add(sum[p], in[p * pixel_step], w);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      float32x4_t result[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) result[v] = Type::result(sum[p][v]);
      finish_pixel(job, first, ox + p, result);
    }
  }
  return ox;
}

template <typename Type>
void stem_row(const StemRowJob& job) {
  for (int first = 0; first < job.out_channels; first += kBlock) {
    const int ox = stem_tiles<Type, kTile>(job, first, 0);
    stem_tiles<Type, 1>(job, first, ox);
  }
}

template <typename Type>
constexpr StemKernel make_stem_kernel() {
  using Weight = typename Type::Weight;
  return {stem_layout_bytes<Weight, kBlock, 1>, stem_layout<Weight, Weight, kBlock, 1>, stem_row<Type>};
}

}  // namespace

const StemKernel kNeonStemF32 = make_stem_kernel<F32>();
const StemKernel kNeonStemI16 = make_stem_kernel<I16>();

void neon_max_pool_row(const float* const* rows, int count, int width, int channels, float* out) {
  const int out_width = (width - 1) / 2 + 1;
  for (int ox = 0; ox < out_width; ++ox, out += channels) {
    const int begin = ox == 0 ? 0 : 2 * ox - 1;
    const int end = 2 * ox + 2 < width ? 2 * ox + 2 : width;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      float32x4_t best = vld1q_f32(rows[0] + static_cast<size_t>(begin) * channels + c);
      for (int r = 0; r < count; ++r) {
        for (int x = begin; x < end; ++x) {
          // FMAX is not used, because it returns NaN if the value of the row is NaN. As in the other kernels, the value
          // only replaces the maximum if it is larger.
          const float32x4_t value = vld1q_f32(rows[r] + static_cast<size_t>(x) * channels + c);
          best = vbslq_f32(vcgtq_f32(value, best), value, best);
        }
      }
      vst1q_f32(out + c, best);
    }
    for (; c < channels; ++c) {
      float best = rows[0][static_cast<size_t>(begin) * channels + c];
      for (int r = 0; r < count; ++r) {
        for (int x = begin; x < end; ++x) {
          const float value = rows[r][static_cast<size_t>(x) * channels + c];
          best = value > best ? value : best;
        }
      }
      out[c] = best;
    }
  }
}

void neon_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out) {
  for (int x = 0; x < width; x += 2, out += channels) {
    const bool pair = x + 1 < width;
    const float factor = 1.0f / static_cast<float>((pair ? 2 : 1) * (bottom == nullptr ? 1 : 2));
    const float* parts[4];  // in row-major order
    int count = 0;
    const size_t at = static_cast<size_t>(x) * channels;
    parts[count++] = top + at;
    if (pair) parts[count++] = top + at + channels;
    if (bottom != nullptr) parts[count++] = bottom + at;
    if (bottom != nullptr && pair) parts[count++] = bottom + at + channels;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      float32x4_t sum = vld1q_f32(parts[0] + c);
      for (int i = 1; i < count; ++i) sum = vaddq_f32(sum, vld1q_f32(parts[i] + c));
      vst1q_f32(out + c, vmulq_f32(sum, vdupq_n_f32(factor)));
    }
    for (; c < channels; ++c) {
      float sum = parts[0][c];
      for (int i = 1; i < count; ++i) sum = sum + parts[i][c];
      out[c] = sum * factor;
    }
  }
}

}  // namespace bireal
