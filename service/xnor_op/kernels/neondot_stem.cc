// The stem with 16-bit weights for AArch64 with 8-bit dot products.
//
// UDOT adds 4 products of bytes to each of 4 sums. Pixels are bytes. A weight is made positive and split into two
// bytes:
//   w + 2^15 = 2^8 * high + low,   sum w * pixel = 2^8 * sum high * pixel + sum low * pixel - 2^15 * sum pixel
// The products of the high bytes are summed first. These sums are shifted before the products of the low bytes are
// added. All arithmetic is modulo 2^32, so the result is exact if the sum itself fits, which stem.h shows. This gives 8
// multiply-accumulates per instruction, and a Neoverse N1 starts two instructions per cycle. SMLAL gives 4, and one
// starts per cycle.
//
// Tiles of 4 pixels x 16 channels: registers for 16 sums of products, 4 sums of pixels, 4 pixels and 4 weights.
#include <arm_neon.h>

#include "neon.h"
#include "neon_stem_finish.h"
#include "stem_layout.h"

namespace bireal {
namespace {

constexpr int kTile = 4;              // pixels
constexpr int kPerLane = 4;           // values of an input row that a lane multiplies in one instruction
constexpr int kChunk = 2 * kPerLane;  // values of an input row that are loaded at a time
constexpr int kStepBytes = kBlock * kPerLane;

constexpr int chunks_of(int kernel) { return (kernel * kColors + kChunk - 1) / kChunk; }

// Bytes of one half (high or low) of a block's weights in one filter row.
constexpr size_t row_bytes(int kernel) { return static_cast<size_t>(chunks_of(kernel)) * kChunk * kBlock; }

size_t layout_bytes(int out_channels, int kernel) {
  return 2 * kernel * row_bytes(kernel) * ((static_cast<size_t>(out_channels) + kBlock - 1) / kBlock);
}

// Layout: [block][high, low][filter row][step][16 channels][4 values]. The weights beyond a filter row are zero, stored
// in two bytes like all others, so the pixels at these positions do not matter.
void layout(const void* weights, int out_channels, int kernel, void* out) {
  const int run = kernel * kColors;
  const auto* from = static_cast<const int16_t*>(weights);
  auto* to = static_cast<uint8_t*>(out);
  for (int first = 0; first < out_channels; first += kBlock) {
    for (int shift = 8; shift >= 0; shift -= 8) {
      for (int t = 0; t < kernel; ++t) {
        for (int k0 = 0; k0 < chunks_of(kernel) * kChunk; k0 += kPerLane) {
          for (int o = first; o < first + kBlock; ++o) {
            for (int k = k0; k < k0 + kPerLane; ++k) {
              const bool real = k < run && o < out_channels;
              const int weight = real ? from[(static_cast<size_t>(o) * kernel + t) * run + k] : 0;
              *to++ = static_cast<uint8_t>((weight + 0x8000) >> shift);
            }
          }
        }
      }
    }
  }
}

// Adds one step: lane kLane, with 4 values, of each pixel.
template <int kLane, int P>
inline __attribute__((always_inline)) void add_step(uint32x4_t (&sum)[P][kVectors], const uint8x8_t (&values)[P],
                                                    const uint8_t* w) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const uint8x16_t weights = vld1q_u8(w + v * kLanes * kPerLane);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p][v] = vdotq_lane_u32(sum[p][v], weights, values[p], kLane);
  }
}

template <int P>
__attribute__((noinline)) int stem_tiles(const StemRowJob& job, int first, int ox) {
  const size_t pixel_step = static_cast<size_t>(job.stride) * kColors;
  const int chunks = chunks_of(job.kernel);
  const size_t row = row_bytes(job.kernel);
  const auto* high = static_cast<const uint8_t*>(job.weights) + 2 * job.kernel * row * (first / kBlock);
  const auto* low = high + job.kernel * row;
  for (; ox + P <= job.out_width; ox += P) {
    uint32x4_t sum[P][kVectors];
    uint32x2_t pixels[P];  // two partial sums of the values of each pixel
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      pixels[p] = vdup_n_u32(0);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[p][v] = vdupq_n_u32(0);
    }
    const auto add_rows = [&](const uint8_t* part, bool with_pixels) __attribute__((always_inline)) {
      for (int t = job.tap_begin; t < job.tap_end; ++t) {
        const auto* in = static_cast<const uint8_t*>(job.rows[t]) + ox * pixel_step;
        const auto* w = part + t * row;
        for (int i = 0; i < chunks; ++i, in += kChunk, w += 2 * kStepBytes) {
          uint8x8_t values[P];
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) values[p] = vld1_u8(in + p * pixel_step);
          add_step<0>(sum, values, w);
          add_step<1>(sum, values, w + kStepBytes);
          if (!with_pixels) continue;
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) pixels[p] = vdot_u32(pixels[p], values[p], vdup_n_u8(1));
        }
      }
    };
    add_rows(high, false);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[p][v] = vshlq_n_u32(sum[p][v], 8);
    }
    add_rows(low, true);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const uint32x4_t too_much = vdupq_n_u32(vaddv_u32(pixels[p]) << 15);
      float32x4_t result[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        result[v] = vcvtq_f32_s32(vreinterpretq_s32_u32(vsubq_u32(sum[p][v], too_much)));
      }
      finish_pixel(job, first, ox + p, result);
    }
  }
  return ox;
}

void stem_row(const StemRowJob& job) {
  for (int first = 0; first < job.out_channels; first += kBlock) {
    const int ox = stem_tiles<kTile>(job, first, 0);
    stem_tiles<1>(job, first, ox);
  }
}

}  // namespace

const StemKernel kNeonDotStemI16 = {layout_bytes, layout, stem_row, true};

}  // namespace bireal
