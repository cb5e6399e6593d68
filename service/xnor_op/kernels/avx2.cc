// AVX2 with FMA (Haswell, Zen and newer).
//
// There is no vector popcount, but a table of 16 bytes fits a register and VPSHUFB looks up 32 at once. So the roles
// are turned: a nibble of the ACTIVATION picks one of 16 tables, table[a][i] = popcount(a ^ i), and the nibbles of the
// weights of 32 output channels, one in a byte, are the indices:
//   acc8 += vpshufb(table[a], w)
// is 2 instructions for 32 * 4 = 128 multiply-accumulates, against 8 for 256 with xor and a nibble table. Cost
// (uops.info): vpshufb 2 a cycle on Zen 3/4 and Ice Lake, 1 on Haswell to Skylake; vpaddb 3-4. The tables come through
// the load ports (vbroadcasti128, no shuffle), so their addresses matter: the nibbles of the map are spread out to
// bytes that are table offsets beforehand, once a job. A tile of 4 pixels x 64 channels has 8 accumulators.
//
// Overflow: a step adds at most 4 to a byte, so 56 steps (7 words) stay below 225; bytes are then added into 16 bits,
// which hold 65535 / 32 = 2047 words; at a tile's end into 32 bits.
#include <immintrin.h>

#include "../epilogue.h"
#include "avx2.h"
#include "nibbles.h"

namespace bireal {
namespace {

constexpr int kLanes = 8;  // floats and int32 a register
constexpr int kWordBits = 32;
constexpr int kVectors = 2;  // byte registers of a tile: 32 output channels each
constexpr int kBlock = kNibbleBlock;
static_assert(kBlock == 32 * kVectors);
constexpr int kLargestTile = 4;  // pixels
// 32 bytes with their element type: __m256i sums would be copied once a step, since GCC keeps the intrinsics' and the
// loop's view of them in different registers.
using Bytes = uint8_t __attribute__((vector_size(32)));

// ---------------------------------------------------------------- pack

void pack(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits) {
  const int words = (channels + kWordBits - 1) / kWordBits;
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    for (int j = 0; j < words; ++j) {
      uint32_t word = 0;
      const int first = j * kWordBits;
      const int last = channels < first + kWordBits ? channels : first + kWordBits;
      int i = first;
      for (; i + kLanes <= last; i += kLanes) {
        const __m256 limit = threshold == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(threshold + i);
        const __m256 below = _mm256_cmp_ps(_mm256_loadu_ps(x + i), limit, _CMP_LT_OQ);
        word |= static_cast<uint32_t>(_mm256_movemask_ps(below)) << (i - first);
      }
      for (; i < last; ++i) {
        word |= static_cast<uint32_t>(x[i] < (threshold == nullptr ? 0.0f : threshold[i])) << (i - first);
      }
      bits[j] = word;
    }
  }
}

// ---------------------------------------------------------------- binary convolution

// Byte of a block that holds channel c, 32 a register, so that widening bytes to 32 bits gives channels in order: even
// bytes of the low and the high half, then odd bytes of the low and the high half.
int byte_of_channel(int c) { return c / 32 * 32 + 2 * (c % 8) + (c / 8 % 2) * 16 + c / 16 % 2; }

void bconv_layout(const uint32_t* weights, int out_channels, int taps, int words, void* out) {
  nibble_layout(weights, out_channels, taps, words, byte_of_channel, out);
}

// Counters of a tile. Bytes live in registers, 16-bit sums here, and 32-bit counts take over what 16 bits cannot hold.
template <int P>
struct Counters {
  __m256i even[P][kVectors];  // 16-bit sums of the even and the odd bytes
  __m256i odd[P][kVectors];
  int words = 0;  // in the 16-bit sums
  alignas(32) int32_t counts[P][kBlock];

  // Moves the 16-bit sums into the counts.
  inline void widen() {
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < kVectors; ++v) {
        add(counts[p] + 32 * v, even[p][v]);
        add(counts[p] + 32 * v + 16, odd[p][v]);
        even[p][v] = odd[p][v] = _mm256_setzero_si256();
      }
    }
    words = 0;
  }

  static inline void add(int32_t* to, __m256i sums) {
    const __m256i halves[2] = {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums)),
                               _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sums, 1))};
    for (int h = 0; h < 2; ++h) {
      auto* at = reinterpret_cast<__m256i*>(to + h * kLanes);
      _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), halves[h]));
    }
  }
};

// Adds up to kWordsToBytes consecutive words of pixels [kFrom, kTo) of the tile.
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_bytes(Counters<P>& counters, const uint8_t* in, size_t step,
                                                       const uint8_t* w, int words) {
  constexpr int kCount = kTo - kFrom;
  const __m256i low_byte = _mm256_set1_epi16(0xff);
  Bytes acc[kCount][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    for (int v = 0; v < kVectors; ++v) acc[p][v] = Bytes{};
  }
  const uint8_t* from = in + kFrom * step;
  for (int s = 0; s < words * kNibbles; ++s) {
    __m256i weight[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + static_cast<size_t>(s) * kBlock + 32 * v));
    }
#pragma GCC unroll 4
    for (int p = 0; p < kCount; ++p) {
      const uint8_t* row = kTables.rows[0] + from[p * step + s];
      const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
      for (int v = 0; v < kVectors; ++v) {
        acc[p][v] += reinterpret_cast<Bytes>(_mm256_shuffle_epi8(table, weight[v]));
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    for (int v = 0; v < kVectors; ++v) {
      __m256i& even = counters.even[kFrom + p][v];
      __m256i& odd = counters.odd[kFrom + p][v];
      const auto sums = reinterpret_cast<__m256i>(acc[p][v]);
      even = _mm256_add_epi16(even, _mm256_and_si256(sums, low_byte));
      odd = _mm256_add_epi16(odd, _mm256_srli_epi16(sums, 8));
    }
  }
}

// Any number of consecutive words.
template <int kFrom, int kTo, int P>
inline void count_words(Counters<P>& counters, const uint8_t* in, size_t step, const uint8_t* w, int words) {
  if constexpr (kFrom < kTo) {
    // Equal parts of at most kWordsToBytes.
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

// counts [64] of one pixel -> y, bits.
inline void finish(const RowContext& row, int ox, const int32_t* counts, float half) {
  const BConvJob& job = row.job;
  const int o = row.first_channel;
  const size_t at = (static_cast<size_t>(row.oy) * job.out_width + ox) * job.out_channels + o;
  const int valid = job.out_channels - o < kBlock ? job.out_channels - o : kBlock;
  uint32_t signs[kVectors] = {};
  int c = 0;
  for (; c + kLanes <= valid; c += kLanes) {
    __m256 y = _mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(counts + c)));
    y = _mm256_sub_ps(y, _mm256_set1_ps(half));
    y = _mm256_mul_ps(y, _mm256_load_ps(job.scale + o + c));
    y = _mm256_add_ps(y, _mm256_load_ps(job.bias + o + c));
    if (job.residual != nullptr) y = _mm256_add_ps(y, _mm256_loadu_ps(job.residual + at + c));
    _mm256_storeu_ps(job.y + at + c, y);
    const int below = _mm256_movemask_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LT_OQ));
    signs[c / kWordBits] |= static_cast<uint32_t>(below) << (c % kWordBits);
  }
  for (; c < valid; ++c) {
    float y = (static_cast<float>(counts[c]) - half) * job.scale[o + c];
    y = y + job.bias[o + c];
    if (job.residual != nullptr) y = y + job.residual[at + c];
    job.y[at + c] = y;
    signs[c / kWordBits] |= static_cast<uint32_t>(y < 0.0f) << (c % kWordBits);
  }
  if (job.bits_out == nullptr) return;
  const size_t padded = static_cast<size_t>(row.oy + 1) * (job.out_width + 2) + ox + 1;
  for (int j = 0; j * kWordBits < valid; ++j) job.bits_out[padded * job.out_words + o / kWordBits + j] = signs[j];
}

template <int P>
__attribute__((noinline)) void tile(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  Counters<P> counters;
  int pixel_class[P];
  const size_t step = static_cast<size_t>(job.stride) * job.words * kNibbles;
  for (int p = 0; p < P; ++p) {
    pixel_class[p] = row.row_class * kBorderClasses + border_class(ox + p, job.stride, job.kernel / 2, job.width);
    for (int c = 0; c < kBlock; ++c) counters.counts[p][c] = job.start[pixel_class[p]];
    for (int v = 0; v < kVectors; ++v) counters.even[p][v] = counters.odd[p][v] = _mm256_setzero_si256();
  }
  const bool skip_first = (pixel_class[0] & 1) != 0;
  const bool skip_last = (pixel_class[P - 1] & 2) != 0;
  const uint8_t* in = row.corner + static_cast<size_t>(ox) * step;
  const uint8_t* w = row.weights;
  for (int t = 0; t < row.filter_rows; ++t, in += row.pitch, w += static_cast<size_t>(row.run) * kNibbles * kBlock) {
    if (!skip_first && !skip_last) {
      count_words<0, P>(counters, in, step, w, row.run);
      continue;
    }
    // 3x3 at an edge: each filter column for the pixels that have it.
    const size_t column = static_cast<size_t>(job.words) * kNibbles;
    if (skip_first) {
      count_words<1, P>(counters, in, step, w, job.words);
    } else {
      count_words<0, P>(counters, in, step, w, job.words);
    }
    count_words<0, P>(counters, in + column, step, w + column * kBlock, job.words);
    if (skip_last) {
      count_words<0, P - 1>(counters, in + 2 * column, step, w + 2 * column * kBlock, job.words);
    } else {
      count_words<0, P>(counters, in + 2 * column, step, w + 2 * column * kBlock, job.words);
    }
  }
  counters.widen();
  for (int p = 0; p < P; ++p) finish(row, ox + p, counters.counts[p], job.half[pixel_class[p]]);
}

void row_of_tiles(const RowContext& row) {
  using Tile = void (*)(const RowContext&, int);
  static constexpr Tile by_size[kLargestTile + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>};
  const int width = row.job.out_width;
  const int count = (width + kLargestTile - 1) / kLargestTile;
  for (int i = 0, ox = 0; i < count; ++i) {  // equal tiles: the first width % count are one pixel wider
    const int size = width / count + (i < width % count ? 1 : 0);
    by_size[size](row, ox);
    ox += size;
  }
}

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const RowSpan span = rows_read(job);
  auto* offsets = static_cast<uint8_t*>(job.scratch);
  spread(job.bits + span.first * pitch, span.count * pitch, offsets);
  const size_t row_bytes = pitch * kNibbles;
  for (int block = job.block_begin; block < job.block_end; ++block) {
    const size_t tap_row = static_cast<size_t>(run) * kNibbles * kBlock;
    const uint8_t* weights =
        static_cast<const uint8_t*>(job.weights) + static_cast<size_t>(block) * job.kernel * tap_row;
    for (int oy = job.row_begin; oy < job.row_end; ++oy) {
      const int row_class = border_class(oy, job.stride, pad, job.height);
      const int first = row_class & 1;
      const size_t top = static_cast<size_t>(oy) * job.stride + 1 - pad + first - span.first;
      row_of_tiles({job, weights + first * tap_row,
                    offsets + top * row_bytes + static_cast<size_t>(1 - pad) * job.words * kNibbles, row_bytes,
                    job.kernel - (row_class >> 1) - first, run, block * kBlock, row_class, oy});
    }
  }
}

// ---------------------------------------------------------------- roofline

// A nibble of 4 pixels x 64 channels a round; the tables are in registers, where the convolution loads them.
int64_t roofline(int64_t rounds) {
  __m256i count[kLargestTile][kVectors];
  __m256i table[kLargestTile];
  __m256i weight[kVectors];
#pragma GCC unroll 8
  for (int p = 0; p < kLargestTile; ++p) {
    table[p] = _mm256_set1_epi8(static_cast<char>(p));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) count[p][v] = _mm256_setzero_si256();
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) weight[v] = _mm256_set1_epi8(static_cast<char>(5 + v));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kLargestTile; ++p) {
      __asm__ volatile("" : "+x"(table[p]));  // a new value, as far as the compiler knows
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        count[p][v] = _mm256_add_epi8(count[p][v], _mm256_shuffle_epi8(table[p], weight[v]));
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kLargestTile; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) __asm__ volatile("" : : "x"(count[p][v]));
  }
  return static_cast<int64_t>(kLargestTile) * kVectors * 32 * 4;
}

}  // namespace

extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = {
    "avx2",
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
    avx2_max_pool_row,
    avx2_avg_pool_row,
    roofline,
    &kAvx2PointwiseF32,
    nullptr,  // pointwise_f16
    &kAvx2PointwiseI8,
    avx2_leaky_clip,
};

}  // namespace bireal
