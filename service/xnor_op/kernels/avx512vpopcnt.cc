// AVX-512 with VPOPCNTDQ and VNNI (Ice Lake, Zen 4 and newer).
//
// Binary convolution: 16 output channels per register. One 32-bit word of activations is broadcast to all of them:
//   acc += vpopcntd(broadcast(a) ^ w)
// This takes 3 instructions for 16 * 32 = 512 multiply-accumulates (MACs). Cost (uops.info): vpxord and vpaddd 2 per
// cycle, vpopcntd 1 per cycle (Zen 4: each 512-bit operation occupies two of four 256-bit pipes; Intel: p05, and p5 for
// vpopcntd). So the limit is 3 / 2 cycles per step: 341 MACs per cycle, 1.25 TMAC/s at 3.66 GHz. Zen 5 executes 4
// instructions per cycle: 683 MACs, 2.9 TMAC/s at 4.26 GHz. A tile of 7 pixels x 32 channels keeps 14 accumulators in
// registers. Each weight vector is loaded once for 7 pixels and each broadcast serves 2 vectors, so there are 9 loads
// for 42 arithmetic instructions. 7 divides the widths 56, 28, 14 and 7 of a 224-pixel network. Other widths are
// divided into equal tiles of at most 7.
//
// Epilogue for 16 outputs without masks: convert, multiply, add, add residual, compare, store: 6 instructions.
#include <immintrin.h>

#include "../epilogue.h"
#include "avx512.h"
#include "avx512vnni.h"
#include "taps.h"

namespace bireal {
namespace {

constexpr int kVectors = kWordVectors;  // registers of output channels in a tile
constexpr int kBlock = kWordBlock;
constexpr int kLargestTile = 7;  // pixels

// ---------------------------------------------------------------- binary convolution

// Where the tiles of a row read and write. What changes from tile to tile is passed to tile() as an argument.
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

// Counts one word of the taps of pixels [kFrom, kTo): 3 instructions per register.
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_word(__m512i (&count)[P][kVectors], const uint32_t* in, size_t step,
                                                      const uint32_t* w) {
  __m512i weight[kVectors];
  for (int v = 0; v < kVectors; ++v) weight[v] = _mm512_load_si512(w + v * kLanes);
#pragma GCC unroll 7
  for (int p = kFrom; p < kTo; ++p) {
    const __m512i activation = _mm512_set1_epi32(static_cast<int>(in[p * step]));
    for (int v = 0; v < kVectors; ++v) {
      const __m512i different = _mm512_xor_si512(activation, weight[v]);
      count[p][v] = _mm512_add_epi32(count[p][v], _mm512_popcnt_epi32(different));
    }
  }
}

// Counts `words` consecutive words for pixels [kFrom, kTo). kUnroll: words per loop iteration.
template <int kFrom, int kTo, int kUnroll, int P>
inline __attribute__((always_inline)) void count_words(__m512i (&count)[P][kVectors], const uint32_t* in, size_t step,
                                                       const uint32_t* w, int words) {
  int k = 0;
  for (; k + kUnroll <= words; k += kUnroll) {
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) count_word<kFrom, kTo>(count, in + k + u, step, w + (k + u) * kBlock);
  }
  if constexpr (kUnroll > 1) {
    for (; k < words; ++k) count_word<kFrom, kTo>(count, in + k, step, w + k * kBlock);
  }
}

// Epilogue: counters -> y and bits.
template <bool kPlain, int P>
inline __attribute__((always_inline)) void finish(const RowContext& row, int ox, const __m512i (&count)[P][kVectors],
                                                  const int (&pixel_class)[P]) {
  const BConvJob& job = row.job;
  const int o = row.first_channel;
  const size_t pixel = static_cast<size_t>(row.oy) * job.out_width + ox;
  const size_t at = pixel * job.out_channels + o;
  const __m512 zero = _mm512_setzero_ps();
  __mmask16 valid[kVectors];
  __m512 scale[kVectors];
  __m512 bias[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    valid[v] = kPlain ? 0xffff : first_lanes(job.out_channels - o - v * kLanes);
    scale[v] = _mm512_load_ps(job.scale + o + v * kLanes);
    bias[v] = _mm512_load_ps(job.bias + o + v * kLanes);
  }
  uint32_t* bits = nullptr;
  if (job.bits_out != nullptr) {
    const size_t padded = static_cast<size_t>(row.oy + 1) * (job.out_width + 2) + ox + 1;
    bits = job.bits_out + padded * job.out_words + o / kWordBits;
  }
#pragma GCC unroll 7
  for (int p = 0; p < P; ++p) {
    const size_t place = at + static_cast<size_t>(p) * job.out_channels;
    __mmask16 below[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      __m512 y = _mm512_cvtepi32_ps(count[p][v]);
      if (!kPlain) y = _mm512_sub_ps(y, _mm512_set1_ps(job.half[pixel_class[p]]));
      y = _mm512_add_ps(_mm512_mul_ps(y, scale[v]), bias[v]);
      if (kPlain) {
        y = _mm512_add_ps(y, _mm512_loadu_ps(job.residual + place + v * kLanes));
        _mm512_storeu_ps(job.y + place + v * kLanes, y);
        below[v] = _mm512_cmp_ps_mask(y, zero, _CMP_LT_OQ);
      } else {
        if (job.residual != nullptr) {
          y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(valid[v], job.residual + place + v * kLanes));
        }
        _mm512_mask_storeu_ps(job.y + place + v * kLanes, valid[v], y);
        below[v] = _mm512_mask_cmp_ps_mask(valid[v], y, zero, _CMP_LT_OQ);
      }
    }
    if (kPlain || bits != nullptr) {
      bits[static_cast<size_t>(p) * job.out_words] = _cvtmask32_u32(_mm512_kunpackw(below[1], below[0]));
    }
  }
}

// Computes P pixels x 32 channels. kLeft / kRight: the tile may contain the first / last pixel of the row. The first /
// last filter column of that pixel may lie outside the image and is then skipped. kPlain: the block is complete, there
// are a residual and output bits, and N_valid is even, so no masks and no branches are needed.
template <int P, int kUnroll, bool kLeft, bool kRight, bool kPlain>
__attribute__((noinline)) void tile(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  const int pad = job.kernel / 2;
  __m512i count[P][kVectors];
  int pixel_class[P];
#pragma GCC unroll 7
  for (int p = 0; p < P; ++p) {
    const bool edge = (kLeft && p == 0) || (kRight && p == P - 1);
    pixel_class[p] = row.row_class * kBorderClasses + (edge ? border_class(ox + p, job.stride, pad, job.width) : 0);
    const __m512i start = _mm512_set1_epi32(job.start[pixel_class[p]]);
    for (int v = 0; v < kVectors; ++v) count[p][v] = start;
  }
  if (kPlain) {  // prefetches the residual of the next tile, which follows in memory, while this one is counted
    const float* residual =
        job.residual + (static_cast<size_t>(row.oy) * job.out_width + ox + P) * job.out_channels + row.first_channel;
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < kVectors; ++v) {
        _mm_prefetch(residual + static_cast<size_t>(p) * job.out_channels + v * kLanes, _MM_HINT_T0);
      }
    }
  }
  const bool skip_first = kLeft && (pixel_class[0] & 1) != 0;
  const bool skip_last = kRight && (pixel_class[P - 1] & 2) != 0;
  const uint32_t* in = row.corner + static_cast<size_t>(ox) * row.step;
  const uint32_t* w = row.weights;
  const size_t column = static_cast<size_t>(job.words);
  for_taps<P>(row, skip_first, skip_last, in, w, column, column * kBlock,
              [&](auto pixels, const uint32_t* at, const uint32_t* weights, int words) __attribute__((always_inline)) {
                using Range = decltype(pixels);
                count_words<Range::kFrom, Range::kTo, kUnroll>(count, at, row.step, weights, words);
              });
  finish<kPlain>(row, ox, count, pixel_class);
}

using Tile = void (*)(const RowContext&, int);

// The tile function for this size and position. `left` and `right` tiles work at any position, because they determine
// the class of their pixels at run time. So only the two largest sizes, of which wide maps consist, have variants
// without them.
template <int P>
Tile pick_sized(bool plain, bool left, bool right) {
  if (!plain) return tile<P, 1, true, true, false>;
  if constexpr (P >= kLargestTile - 1) {
    if (!left && !right) return tile<P, 2, false, false, true>;
    if (!right) return tile<P, 2, true, false, true>;
    if (!left) return tile<P, 2, false, true, true>;
  }
  return tile<P, 2, true, true, true>;
}

Tile pick(int size, bool plain, bool left, bool right) {
  using Pick = Tile (*)(bool, bool, bool);
  static constexpr Pick by_size[kLargestTile + 1] = {nullptr,       pick_sized<1>, pick_sized<2>, pick_sized<3>,
                                                     pick_sized<4>, pick_sized<5>, pick_sized<6>, pick_sized<7>};
  return by_size[size](plain, left, right);
}

size_t no_scratch(const BConvJob&) { return 0; }

// Division of a row into equal tiles of at most 7 pixels. The first `wide` tiles have size + 1 pixels.
struct Tiles {
  int count, size, wide;
  Tile by_place[2][2][2][2];  // [plain][wide][left][right]

  explicit Tiles(const BConvJob& job)
      : count((job.out_width + kLargestTile - 1) / kLargestTile),
        size(job.out_width / count),
        wide(job.out_width % count),
        by_place() {
    const bool edges = job.kernel > 1;  // a 1x1 filter has no taps outside the image
    for (int i = 0; i < 16; ++i) {
      const bool is_wide = (i >> 2 & 1) != 0;
      if (is_wide && wide == 0) continue;
      by_place[i >> 3][is_wide][i >> 1 & 1][i & 1] =
          pick(size + (is_wide ? 1 : 0), i >> 3 != 0, edges && (i >> 1 & 1) != 0, edges && (i & 1) != 0);
    }
  }

  // Calls body(tile functions of the position, by [plain]; first pixel) for each tile of a row.
  template <typename Body>
  void for_each(const Body& body) const {
    for (int i = 0, ox = 0; i < count; ++i) {
      const bool is_wide = i < wide;
      const bool left = i == 0;
      const bool right = i == count - 1;
      const Tile tiles[2] = {by_place[0][is_wide][left][right], by_place[1][is_wide][left][right]};
      body(tiles, ox);
      ox += size + (is_wide ? 1 : 0);
    }
  }
};

// Weights of a job up to this size in bytes stay in the L1 cache together with the other data. Then all output channels
// of a tile are computed before the next tile, so that y and the residual, which are large in 1x1 expansions, are
// accessed in order. Larger weights: all tiles are computed for a block of weights before the next block. (Software
// prefetch of the next block is slower: the hardware prefetcher detects that weights are read in order.)
constexpr size_t kNearWeights = 40 * 1024;

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const size_t block_bytes = sizeof(uint32_t) * job.kernel * run * kBlock;
  const Tiles tiles(job);
  const bool plain_job = job.channels % 2 == 0 && job.residual != nullptr && job.bits_out != nullptr;
  const auto at_row = [&](int oy) {
    const int row_class = border_class(oy, job.stride, pad, job.height);
    const int first = row_class & 1;  // first valid filter row
    return RowContext{job,
                      nullptr,
                      job.bits + (static_cast<size_t>(oy) * job.stride + 1 - pad + first) * pitch +
                          static_cast<size_t>(1 - pad) * job.words,
                      pitch,
                      static_cast<size_t>(job.stride) * job.words,
                      job.kernel - (row_class >> 1) - first,
                      run,
                      0,
                      row_class,
                      oy};
  };
  const auto enter_block = [&](RowContext& row, int block) {
    row.weights = static_cast<const uint32_t*>(job.weights) +
                  (static_cast<size_t>(block) * job.kernel + (row.row_class & 1)) * run * kBlock;
    row.first_channel = block * kBlock;
    return plain_job && (block + 1) * kBlock <= job.out_channels;
  };
  if (block_bytes * (job.block_end - job.block_begin) <= kNearWeights) {
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      RowContext row = at_row(oy);
      tiles.for_each([&](const Tile(&by_plain)[2], int ox) {
        for (int block = job.block_begin; block < job.block_end; ++block) {
          const bool plain = enter_block(row, block);
          by_plain[plain](row, ox);
        }
      });
    }
    return;
  }
  for (int block = job.block_begin; block < job.block_end; ++block) {
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      RowContext row = at_row(oy);
      const bool plain = enter_block(row, block);
      tiles.for_each([&](const Tile(&by_plain)[2], int ox) { by_plain[plain](row, ox); });
    }
  }
}

// ---------------------------------------------------------------- roofline

int64_t roofline(int64_t rounds) {
  __m512i count[kLargestTile][kVectors];
  __m512i activation[kLargestTile];
  __m512i weight[kVectors];
#pragma GCC unroll 8
  for (int p = 0; p < kLargestTile; ++p) {
    activation[p] = _mm512_set1_epi32(p);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) count[p][v] = _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) weight[v] = _mm512_set1_epi32(0x5555 << v);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kLargestTile; ++p) {
      __asm__ volatile("" : "+v"(activation[p]));  // the compiler must assume a new value
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m512i different = _mm512_xor_si512(activation[p], weight[v]);
        count[p][v] = _mm512_add_epi32(count[p][v], _mm512_popcnt_epi32(different));
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kLargestTile; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) __asm__ volatile("" : : "v"(count[p][v]));
  }
  return static_cast<int64_t>(kLargestTile) * kVectors * kLanes * kWordBits;
}

}  // namespace

extern const Kernels kernels_avx512vpopcnt;
const Kernels kernels_avx512vpopcnt = {
    "avx512vpopcnt",      kBlock,
    kAvx512StemBlock,     pack,
    word_layout_bytes,    word_layout,
    no_scratch,           bconv,
    &kAvx512StemF32,      &kAvx512StemI16,
    &kAvx512StemI8,       &kAvx512StemPairs,
    avx512_max_pool_row,  avx512_avg_pool_row,
    roofline,             &kAvx512PointwiseF32,
    &kAvx512PointwiseF16, &kAvx512PointwiseI8,
    avx512_leaky_clip,
};

}  // namespace bireal
