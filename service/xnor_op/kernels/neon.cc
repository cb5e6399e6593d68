// AArch64 with Advanced SIMD (NEON), which every AArch64 CPU has.
//
// Binary convolution: 4 output channels per register. One 32-bit word of activations is broadcast to all of them:
//   acc8 += cnt(broadcast(a) ^ w)
// This takes 3 instructions for 4 * 32 = 128 multiply-accumulates (MACs). CNT counts the bits of each byte. Cost (Arm's
// software optimisation guides): EOR, CNT and ADD 2 per cycle on Cortex-A76, 4 on Neoverse V1 and V2 and on Apple's
// cores. So the limit is 85 or 171 MACs per cycle. A tile of 3 pixels x 32 channels keeps 24 accumulators in 32
// registers. A word takes 8 loads of weights, 3 loads with broadcast and 72 arithmetic instructions.
//
// Overflow: a word adds at most 8 to a byte, so 31 words stay below 249. The bytes are then added pairwise to 32-bit
// counts.
//
// Epilogue for 4 outputs: convert, subtract, multiply, add, add residual, store, compare.
#include <arm_neon.h>

#include "../epilogue.h"
#include "neon.h"
#include "taps.h"
#include "word_layout.h"

namespace bireal {
namespace {

constexpr int kLanes = 4;  // floats and int32 per register
constexpr int kWordBits = 32;
constexpr int kBlock = kWordBlock;  // output channels of a tile
constexpr int kVectors = kBlock / kLanes;
constexpr int kLargestTile = 3;    // pixels
constexpr int kWordsToBytes = 31;  // words before bytes could overflow

// One bit per lane: lane i of 32, all ones or all zeros, becomes bit i. Each lane is narrowed to a byte that keeps only
// its bit, and neighbouring bytes are added.
inline uint32_t movemask(const uint32x4_t (&below)[kVectors]) {
  static constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bits = vld1q_u8(kBits);
  uint8x16_t half[2];
  for (int h = 0; h < 2; ++h) {
    const auto* four = below + 4 * h;
    const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(four[0]), vreinterpretq_u16_u32(four[1]));
    const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(four[2]), vreinterpretq_u16_u32(four[3]));
    half[h] = vandq_u8(vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)), bits);
  }
  uint8x16_t sum = vpaddq_u8(half[0], half[1]);  // add neighbours until 8 lanes form a byte
  sum = vpaddq_u8(sum, sum);
  sum = vpaddq_u8(sum, sum);
  return vgetq_lane_u32(vreinterpretq_u32_u8(sum), 0);
}

// ---------------------------------------------------------------- pack

void pack(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits) {
  const int words = (channels + kWordBits - 1) / kWordBits;
  const auto limit = [threshold](int i) { return threshold == nullptr ? vdupq_n_f32(0.0f) : vld1q_f32(threshold + i); };
  for (int64_t p = 0; p < pixels; ++p, x += channels) {
    int i = 0;
    for (; i + kWordBits <= channels; i += kWordBits) {
      uint32x4_t below[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        below[v] = vcltq_f32(vld1q_f32(x + i + v * kLanes), limit(i + v * kLanes));
      }
      bits[i / kWordBits] = movemask(below);
    }
    bits += words;
    if (i == channels) continue;
    uint32_t word = 0;
    for (int bit = 0; i < channels; ++i, ++bit) {
      word |= static_cast<uint32_t>(x[i] < (threshold == nullptr ? 0.0f : threshold[i])) << bit;
    }
    bits[-1] = word;
  }
}

// ---------------------------------------------------------------- binary convolution

struct RowContext {
  const BConvJob& job;
  const uint32_t* weights;  // of the block, from the first valid filter row on
  const uint32_t* corner;   // first valid filter row, first tap of output pixel 0
  size_t pitch;             // words of a row of the map
  size_t step;              // words from one output pixel's taps to the next one's
  int filter_rows;          // number of valid filter rows
  int run;                  // words of a filter row
  int first_channel;
  int row_class;
  int oy;
};

// Counts of a tile. Only the byte sums fit in registers.
template <int P>
struct TileCounts {
  uint8x16_t bytes[P][kVectors];
  int words = 0;  // counted in the byte sums
  int32_t* wide;  // [P][32] 32-bit counts, in memory

  inline void clear_bytes() {
    words = 0;
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) bytes[p][v] = vdupq_n_u8(0);
    }
  }

  inline int32x4_t sum(int p, int v) const {
    const int32x4_t before = vld1q_s32(wide + p * kBlock + v * kLanes);
    return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(before), vpaddlq_u8(bytes[p][v])));
  }

  inline void widen_bytes() {
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) vst1q_s32(wide + p * kBlock + v * kLanes, sum(p, v));
    }
    clear_bytes();
  }
};

// Counts consecutive words of pixels [kFrom, kTo).
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_words(TileCounts<P>& counts, const uint32_t* in, size_t step,
                                                       const uint32_t* w, int words) {
  if constexpr (kFrom < kTo) {
    while (words > 0) {
      if (counts.words == kWordsToBytes) counts.widen_bytes();
      const int room = kWordsToBytes - counts.words;
      const int some = words < room ? words : room;
      for (const uint32_t* const end = in + some; in != end; ++in, w += kBlock) {
        uint8x16_t activation[P];
#pragma GCC unroll 3
        for (int p = kFrom; p < kTo; ++p) activation[p] = vreinterpretq_u8_u32(vld1q_dup_u32(in + p * step));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const uint8x16_t weight = vreinterpretq_u8_u32(vld1q_u32(w + v * kLanes));
#pragma GCC unroll 3
          for (int p = kFrom; p < kTo; ++p) {
            counts.bytes[p][v] = vaddq_u8(counts.bytes[p][v], vcntq_u8(veorq_u8(activation[p], weight)));
          }
        }
      }
      counts.words += some;
      words -= some;
    }
  }
}

// Epilogue of one pixel and a complete block: counts -> y. Returns the sign bits.
template <bool kResidual>
inline uint32_t finish_block(const int32x4_t (&count)[kVectors], float half, const float* scale, const float* bias,
                             const float* residual, float* to) {
  uint32x4_t below[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    float32x4_t y = vsubq_f32(vcvtq_f32_s32(count[v]), vdupq_n_f32(half));
    y = vmulq_f32(y, vld1q_f32(scale + v * kLanes));
    y = vaddq_f32(y, vld1q_f32(bias + v * kLanes));
    if (kResidual) y = vaddq_f32(y, vld1q_f32(residual + v * kLanes));
    vst1q_f32(to + v * kLanes, y);
    below[v] = vcltzq_f32(y);
  }
  return movemask(below);
}

// Epilogue of one pixel: counts -> y and bits.
inline void finish(const RowContext& row, int ox, const int32x4_t (&count)[kVectors], float half) {
  const BConvJob& job = row.job;
  const int o = row.first_channel;
  const size_t at = (static_cast<size_t>(row.oy) * job.out_width + ox) * job.out_channels + o;
  const int valid = job.out_channels - o;
  uint32_t signs = 0;
  if (valid >= kBlock && job.residual != nullptr) {
    signs = finish_block<true>(count, half, job.scale + o, job.bias + o, job.residual + at, job.y + at);
  } else if (valid >= kBlock) {
    signs = finish_block<false>(count, half, job.scale + o, job.bias + o, nullptr, job.y + at);
  } else {
    int32_t each[kBlock];
    for (int v = 0; v < kVectors; ++v) vst1q_s32(each + v * kLanes, count[v]);
    for (int c = 0; c < valid; ++c) {
      float y = (static_cast<float>(each[c]) - half) * job.scale[o + c];
      y = y + job.bias[o + c];
      if (job.residual != nullptr) y = y + job.residual[at + c];
      job.y[at + c] = y;
      signs |= static_cast<uint32_t>(y < 0.0f) << c;
    }
  }
  if (job.bits_out == nullptr) return;
  const size_t padded = static_cast<size_t>(row.oy + 1) * (job.out_width + 2) + ox + 1;
  job.bits_out[padded * job.out_words + o / kWordBits] = signs;
}

template <int P>
__attribute__((noinline)) void tile(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  int32_t wide[P * kBlock];
  TileCounts<P> counts;
  counts.wide = wide;
  // Hides the pointer from the compiler, which otherwise treats the 32-bit counts as registers and spills them.
  __asm__("" : "+r"(counts.wide) : : "memory");
  int pixel_class[P];
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    pixel_class[p] = row.row_class * kBorderClasses + border_class(ox + p, job.stride, job.kernel / 2, job.width);
    const int32x4_t start = vdupq_n_s32(job.start[pixel_class[p]]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) vst1q_s32(counts.wide + p * kBlock + v * kLanes, start);
  }
  counts.clear_bytes();
  const bool skip_first = (pixel_class[0] & 1) != 0;
  const bool skip_last = (pixel_class[P - 1] & 2) != 0;
  const uint32_t* in = row.corner + static_cast<size_t>(ox) * row.step;
  const uint32_t* w = row.weights;
  const size_t column = static_cast<size_t>(job.words);
  for_taps<P>(row, skip_first, skip_last, in, w, column, column * kBlock,
              [&](auto pixels, const uint32_t* at, const uint32_t* weights, int words) __attribute__((always_inline)) {
                using Range = decltype(pixels);
                count_words<Range::kFrom, Range::kTo>(counts, at, row.step, weights, words);
              });
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    int32x4_t count[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) count[v] = counts.sum(p, v);
    finish(row, ox + p, count, job.half[pixel_class[p]]);
  }
}

void row_of_tiles(const RowContext& row) {
  using Tile = void (*)(const RowContext&, int);
  static constexpr Tile by_size[kLargestTile + 1] = {nullptr, tile<1>, tile<2>, tile<3>};
  const int width = row.job.out_width;
  const int count = (width + kLargestTile - 1) / kLargestTile;
  for (int i = 0, ox = 0; i < count; ++i) {  // equal tiles: the first width % count are one pixel wider
    const int size = width / count + (i < width % count ? 1 : 0);
    by_size[size](row, ox);
    ox += size;
  }
}

size_t no_scratch(const BConvJob&) { return 0; }

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const size_t tap_row = static_cast<size_t>(run) * kBlock;
  for (int block = job.block_begin; block < job.block_end; ++block) {
    const uint32_t* weights =
        static_cast<const uint32_t*>(job.weights) + static_cast<size_t>(block) * job.kernel * tap_row;
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      const int row_class = border_class(oy, job.stride, pad, job.height);
      const int first = row_class & 1;  // first valid filter row
      row_of_tiles({job, weights + first * tap_row,
                    job.bits + (static_cast<size_t>(oy) * job.stride + 1 - pad + first) * pitch +
                        static_cast<size_t>(1 - pad) * job.words,
                    pitch, static_cast<size_t>(job.stride) * job.words, job.kernel - (row_class >> 1) - first, run,
                    block * kBlock, row_class, oy});
    }
  }
}

// ---------------------------------------------------------------- roofline

// One word of 3 pixels x 32 channels per round. The byte sums overflow, which does not matter here.
int64_t roofline(int64_t rounds) {
  uint8x16_t acc[kLargestTile][kVectors];
  uint8x16_t activation[kLargestTile];
#pragma GCC unroll 3
  for (int p = 0; p < kLargestTile; ++p) {
    activation[p] = vdupq_n_u8(static_cast<uint8_t>(p));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[p][v] = vdupq_n_u8(0);
  }
  const uint8x16_t weight = vdupq_n_u8(0x55);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 3
    for (int p = 0; p < kLargestTile; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        __asm__ volatile("" : "+w"(activation[p]));  // the compiler must assume a new value
        acc[p][v] = vaddq_u8(acc[p][v], vcntq_u8(veorq_u8(activation[p], weight)));
      }
    }
  }
#pragma GCC unroll 3
  for (int p = 0; p < kLargestTile; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) __asm__ volatile("" : : "w"(acc[p][v]));
  }
  return static_cast<int64_t>(kLargestTile) * kBlock * kWordBits;
}

constexpr Kernels neon_set(const char* name, const StemKernel* stem_i16, const PointwiseKernel* pointwise_i8) {
  return {
      name,
      kBlock,
      kNeonStemBlock,
      pack,
      word_layout_bytes,
      word_layout,
      no_scratch,
      bconv,
      &kNeonStemF32,
      stem_i16,
      nullptr,  // stem_i8
      nullptr,  // stem_pairs
      neon_max_pool_row,
      neon_avg_pool_row,
      roofline,
      &kNeonPointwiseF32,
      nullptr,  // pointwise_f16
      pointwise_i8,
      neon_leaky_clip,
  };
}

}  // namespace

extern const Kernels kernels_neon;
const Kernels kernels_neon = neon_set("neon", &kNeonStemI16, &kNeonPointwiseI8);

#if BIREAL_HAVE_NEONDOT
extern const Kernels kernels_neondot;
const Kernels kernels_neondot = neon_set("neondot", &kNeonDotStemI16, &kNeonDotPointwiseI8);
#endif

}  // namespace bireal
