// AVX-512 without VPOPCNTDQ and VNNI (Skylake-X): F, DQ, BW, VL.
//
// The table lookup of the AVX2 kernel (nibbles.h) on 64 output channels at once:
//   acc8 += vpshufb(table[a], w)
// This takes 2 instructions for 64 * 4 = 256 multiply-accumulates (MACs). Cost (uops.info): these CPUs have two 512-bit
// ports; vpshufb uses one of them and vpaddb the other. So the limit is one step per cycle: 256 MACs per cycle. A tile
// of 7 pixels x 64 channels keeps 7 accumulators in registers. A step loads one weight vector for 7 pixels, and a table
// and its offset for each pixel: 15 loads and 14 arithmetic instructions. At 2 loads per cycle the loads take 7.5
// cycles; the shuffles take 7.
//
// Stem, 1x1 convolutions and pooling are those of the AVX2 set: vpmaddwd on 256 bits can use two ports.
// Epilogue for 16 outputs: convert, subtract, multiply, add, add residual, store, compare.
#include <immintrin.h>

#include "../epilogue.h"
#include "avx2.h"
#include "avx512.h"
#include "nibbles.h"
#include "taps.h"

namespace bireal {
namespace {

constexpr int kBlock = kNibbleBlock;  // output channels of a tile, one per byte
constexpr int kQuarters = 4;          // registers of 32-bit counts per block
constexpr int kLargestTile = 7;       // pixels
// A register of 64 bytes as uint8_t elements. With __m512i, GCC would copy the sums in every step (see avx2.cc).
using Bytes = uint8_t __attribute__((vector_size(64)));

// ---------------------------------------------------------------- binary convolution

// Byte of a register that holds channel c. The order is such that widening bytes to 32 bits gives the channels in
// order: first the even bytes of the low and the high half, then the odd bytes of the low and the high half.
int byte_of_channel(int c) { return c % 32 * 2 + c / 32; }

void bconv_layout(const uint32_t* weights, int out_channels, int taps, int words, void* out) {
  nibble_layout(weights, out_channels, taps, words, byte_of_channel, out);
}

// Counters of a tile. The byte sums are in registers. This struct holds the 16-bit sums, and the 32-bit counts to which
// they are added before they overflow.
template <int P>
struct Counters {
  __m512i even[P];  // 16-bit sums of the even and the odd bytes
  __m512i odd[P];
  __m512i counts[P][kQuarters];
  int words = 0;  // counted in the 16-bit sums

  // Adds the 16-bit sums to the 32-bit counts and clears them.
  inline void widen() {
#pragma GCC unroll 7
    for (int p = 0; p < P; ++p) {
      add(counts[p], even[p]);
      add(counts[p] + 2, odd[p]);
      even[p] = odd[p] = _mm512_setzero_si512();
    }
    words = 0;
  }

  static inline void add(__m512i* to, __m512i sums) {
    to[0] = _mm512_add_epi32(to[0], _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums)));
    to[1] = _mm512_add_epi32(to[1], _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sums, 1)));
  }
};

// Counts up to kWordsToBytes consecutive words of pixels [kFrom, kTo) of the tile.
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_bytes(Counters<P>& counters, const uint8_t* in, size_t step,
                                                       const uint8_t* w, int words) {
  Bytes acc[P];
#pragma GCC unroll 7
  for (int p = kFrom; p < kTo; ++p) acc[p] = Bytes{};
  for (int s = 0; s < words * kNibbles; ++s) {
    const __m512i weight = _mm512_load_si512(w + static_cast<size_t>(s) * kBlock);
#pragma GCC unroll 7
    for (int p = kFrom; p < kTo; ++p) {
      const uint8_t* row = kTables.rows[0] + in[p * step + s];
      const __m512i table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
      acc[p] += reinterpret_cast<Bytes>(_mm512_shuffle_epi8(table, weight));
    }
  }
  const __m512i low_byte = _mm512_set1_epi16(0xff);
#pragma GCC unroll 7
  for (int p = kFrom; p < kTo; ++p) {
    const auto sums = reinterpret_cast<__m512i>(acc[p]);
    counters.even[p] = _mm512_add_epi16(counters.even[p], _mm512_and_si512(sums, low_byte));
    counters.odd[p] = _mm512_add_epi16(counters.odd[p], _mm512_srli_epi16(sums, 8));
  }
}

// Counts any number of consecutive words.
template <int kFrom, int kTo, int P>
inline void count_words(Counters<P>& counters, const uint8_t* in, size_t step, const uint8_t* w, int words) {
  if constexpr (kFrom < kTo) {
    // Equal parts of at most kWordsToBytes words.
    const int parts = (words + kWordsToBytes - 1) / kWordsToBytes;
    for (int i = 0, k = 0; i < parts; ++i) {
      const int some = words / parts + (i < words % parts ? 1 : 0);
      if (counters.words + some > kWordsTo16Bits) counters.widen();
      const size_t at = static_cast<size_t>(k) * kNibbles;
      count_bytes<kFrom, kTo>(counters, in + at, step, w + at * kBlock, some);
      counters.words += some;
      k += some;
    }
  }
}

// Epilogue of one pixel: counts -> y and bits.
inline void finish(const RowContext& row, int ox, const __m512i* counts, float half) {
  const BConvJob& job = row.job;
  const int o = row.first_channel;
  const size_t at = (static_cast<size_t>(row.oy) * job.out_width + ox) * job.out_channels + o;
  const int valid = job.out_channels - o < kBlock ? job.out_channels - o : kBlock;
  uint64_t signs = 0;
  for (int v = 0; v * kLanes < valid; ++v) {
    const __mmask16 mask = first_lanes(valid - v * kLanes);
    __m512 y = _mm512_sub_ps(_mm512_cvtepi32_ps(counts[v]), _mm512_set1_ps(half));
    y = _mm512_mul_ps(y, _mm512_load_ps(job.scale + o + v * kLanes));
    y = _mm512_add_ps(y, _mm512_load_ps(job.bias + o + v * kLanes));
    if (job.residual != nullptr) {
      y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job.residual + at + v * kLanes));
    }
    _mm512_mask_storeu_ps(job.y + at + v * kLanes, mask, y);
    const __mmask16 below = _mm512_mask_cmp_ps_mask(mask, y, _mm512_setzero_ps(), _CMP_LT_OQ);
    signs |= static_cast<uint64_t>(below) << (v * kLanes);
  }
  if (job.bits_out == nullptr) return;
  const size_t padded = static_cast<size_t>(row.oy + 1) * (job.out_width + 2) + ox + 1;
  uint32_t* bits = job.bits_out + padded * job.out_words + o / kWordBits;
  bits[0] = static_cast<uint32_t>(signs);
  if (valid > kWordBits) bits[1] = static_cast<uint32_t>(signs >> kWordBits);
}

template <int P>
__attribute__((noinline)) void tile(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  Counters<P> counters;
  int pixel_class[P];
  const size_t step = static_cast<size_t>(job.stride) * job.words * kNibbles;
#pragma GCC unroll 7
  for (int p = 0; p < P; ++p) {
    pixel_class[p] = row.row_class * kBorderClasses + border_class(ox + p, job.stride, job.kernel / 2, job.width);
    for (int v = 0; v < kQuarters; ++v) counters.counts[p][v] = _mm512_set1_epi32(job.start[pixel_class[p]]);
    counters.even[p] = counters.odd[p] = _mm512_setzero_si512();
  }
  const bool skip_first = (pixel_class[0] & 1) != 0;
  const bool skip_last = (pixel_class[P - 1] & 2) != 0;
  const uint8_t* in = row.corner + static_cast<size_t>(ox) * step;
  const uint8_t* w = row.weights;
  const size_t column = static_cast<size_t>(job.words) * kNibbles;
  for_taps<P>(row, skip_first, skip_last, in, w, column, column * kBlock,
              [&](auto pixels, const uint8_t* at, const uint8_t* weights, int words) __attribute__((always_inline)) {
                using Range = decltype(pixels);
                count_words<Range::kFrom, Range::kTo>(counters, at, step, weights, words);
              });
  counters.widen();
  for (int p = 0; p < P; ++p) finish(row, ox + p, counters.counts[p], job.half[pixel_class[p]]);
}

// Calls body(tile function, first pixel) for each tile of a row. The tiles are equal, except that the first (width %
// count) tiles are one pixel wider.
template <typename Body>
inline void for_each_tile(int width, const Body& body) {
  using Tile = void (*)(const RowContext&, int);
  static constexpr Tile by_size[kLargestTile + 1] = {nullptr, tile<1>, tile<2>, tile<3>,
                                                     tile<4>, tile<5>, tile<6>, tile<7>};
  const int count = (width + kLargestTile - 1) / kLargestTile;
  for (int i = 0, ox = 0; i < count; ++i) {
    const int size = width / count + (i < width % count ? 1 : 0);
    body(by_size[size], ox);
    ox += size;
  }
}

// Weights of a job up to this size in bytes stay in the caches together with the other data. Then all output channels
// of a tile are computed before the next tile, so that y and the residual, which are large in 1x1 expansions, are
// accessed in order. Larger weights: all tiles are computed for a block of weights before the next block. The lookups
// read the weights once for 7 pixels, at a quarter of the bandwidth of the L2 cache.
constexpr size_t kNearWeights = 256 * 1024;

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const RowSpan span = rows_read(job);
  auto* offsets = static_cast<uint8_t*>(job.scratch);
  spread(job.bits + span.first * pitch, span.count * pitch, offsets);
  const size_t row_bytes = pitch * kNibbles;
  const size_t tap_row = static_cast<size_t>(run) * kNibbles * kBlock;
  const size_t block_bytes = job.kernel * tap_row;
  const auto at_row = [&](int oy) {
    const int row_class = border_class(oy, job.stride, pad, job.height);
    const int first = row_class & 1;
    const size_t top = static_cast<size_t>(oy) * job.stride + 1 - pad + first - span.first;
    return RowContext{job,
                      nullptr,
                      offsets + top * row_bytes + static_cast<size_t>(1 - pad) * job.words * kNibbles,
                      row_bytes,
                      job.kernel - (row_class >> 1) - first,
                      run,
                      0,
                      row_class,
                      oy};
  };
  const auto enter_block = [&](RowContext& row, int block) {
    row.weights = static_cast<const uint8_t*>(job.weights) + block * block_bytes + (row.row_class & 1) * tap_row;
    row.first_channel = block * kBlock;
  };
  if (block_bytes * (job.block_end - job.block_begin) <= kNearWeights) {
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      RowContext row = at_row(oy);
      for_each_tile(job.out_width, [&](const auto make, int ox) {
        for (int block = job.block_begin; block < job.block_end; ++block) {
          enter_block(row, block);
          make(row, ox);
        }
      });
    }
    return;
  }
  for (int block = job.block_begin; block < job.block_end; ++block) {
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      RowContext row = at_row(oy);
      enter_block(row, block);
      for_each_tile(job.out_width, [&](const auto make, int ox) { make(row, ox); });
    }
  }
}

// ---------------------------------------------------------------- roofline

// One nibble of 7 pixels x 64 channels per round. The tables are in registers here; the convolution loads them.
int64_t roofline(int64_t rounds) {
  __m512i count[kLargestTile];
  __m512i table[kLargestTile];
#pragma GCC unroll 7
  for (int p = 0; p < kLargestTile; ++p) {
    table[p] = _mm512_set1_epi8(static_cast<char>(p));
    count[p] = _mm512_setzero_si512();
  }
  const __m512i weight = _mm512_set1_epi8(5);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 7
    for (int p = 0; p < kLargestTile; ++p) {
      __asm__ volatile("" : "+v"(table[p]));  // the compiler must assume a new value
      count[p] = _mm512_add_epi8(count[p], _mm512_shuffle_epi8(table[p], weight));
    }
  }
#pragma GCC unroll 7
  for (int p = 0; p < kLargestTile; ++p) __asm__ volatile("" : : "v"(count[p]));
  return static_cast<int64_t>(kLargestTile) * kBlock * 4;
}

}  // namespace

extern const Kernels kernels_avx512bw;
const Kernels kernels_avx512bw = {
    "avx512bw",
    kBlock,
    kAvx2StemBlock,
    pack,
    nibble_layout_bytes,
    bconv_layout,
    offsets_bytes,
    bconv,
    &kAvx2StemF32,
    &kAvx2StemI16,
    nullptr,  // stem_i8
    nullptr,  // stem_pairs
    avx2_max_pool_row,
    avx2_avg_pool_row,
    roofline,
    &kAvx2PointwiseF32,
    nullptr,  // pointwise_f16
    &kAvx2PointwiseI8,
    avx2_leaky_clip,
};

}  // namespace bireal
