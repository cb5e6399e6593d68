// AVX2 with FMA (Haswell, Zen and newer).
//
// AVX2 has no vector popcount, but VPSHUFB does 32 lookups at once in a table of 16 bytes, which fits in a register. A
// nibble a of the activation selects one of 16 tables, table[a][i] = popcount(a ^ i). The indices i are the nibbles of
// the weights of 32 output channels, one nibble per byte:
//   acc8 += vpshufb(table[a], w)
// This takes 2 instructions for 32 * 4 = 128 multiply-accumulates. Xor with a nibble table would take 8 for 256. Cost
// (uops.info): vpshufb 2 per cycle on Zen 3/4 and Ice Lake, 1 on Haswell to Skylake; vpaddb 3-4. The tables are read
// through the load ports (vbroadcasti128, no shuffle), which needs their addresses. So once per job, each nibble of the
// map is expanded to a byte that is a table offset. A tile of 4 pixels x 64 channels has 8 accumulators.
//
// Overflow: a step adds at most 4 to a byte, so 56 steps (7 words) stay below 225. The bytes are then added to 16-bit
// sums. These begin at the start value of the counter (epilogue.h) and can therefore hold the counts of 2047 words.
// Pixels with more words (3x3 filters with more than 7,264 channels) are counted one by one, in 32 bits.
#include <immintrin.h>

#include "../epilogue.h"
#include "avx2.h"
#include "nibbles.h"
#include "taps.h"

namespace bireal {
namespace {

constexpr int kLanes = 8;  // floats and int32 per register
constexpr int kWordBits = 32;
constexpr int kVectors = 2;  // byte registers per pixel, with 32 output channels each
constexpr int kBlock = kNibbleBlock;
static_assert(kBlock == 32 * kVectors);
constexpr int kLargestTile = 4;  // pixels
// A register of 32 bytes as uint8_t elements. With __m256i, GCC would copy the sums in every step, because it keeps the
// intrinsics' and the loop's view of them in different registers.
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

// Byte of a block (32 channels per register) that holds channel c. The order is such that widening bytes to 32 bits
// gives the channels in order: first the even bytes of the low and the high half, then the odd bytes of the low and the
// high half.
int byte_of_channel(int c) { return c / 32 * 32 + 2 * (c % 8) + (c / 8 % 2) * 16 + c / 16 % 2; }

void bconv_layout(const uint32_t* weights, int out_channels, int taps, int words, void* out) {
  nibble_layout(weights, out_channels, taps, words, byte_of_channel, out);
}

// 16-bit sums of the 64 channels of a pixel. `odd` sums the odd bytes. `all` sums whole 16-bit lanes, which are even
// bytes + 256 * odd bytes. This saves a mask; the part of the odd bytes is subtracted at the end.
struct Sums {
  __m256i all[kVectors];
  __m256i odd[kVectors];

  inline void start(int count) {
    for (int v = 0; v < kVectors; ++v) {
      all[v] = _mm256_set1_epi16(static_cast<int16_t>(257 * count));
      odd[v] = _mm256_set1_epi16(static_cast<int16_t>(count));
    }
  }
  inline void add(int v, __m256i bytes) {
    all[v] = _mm256_add_epi16(all[v], bytes);
    odd[v] = _mm256_add_epi16(odd[v], _mm256_srli_epi16(bytes, 8));
  }
  // Signed sums of the 8 channels from 32 * v + 8 * g on.
  inline __m256i eight(int v, int g) const {
    const __m256i pairs = g < 2 ? _mm256_sub_epi16(all[v], _mm256_slli_epi16(odd[v], 8)) : odd[v];
    return _mm256_cvtepi16_epi32(g % 2 == 0 ? _mm256_castsi256_si128(pairs) : _mm256_extracti128_si256(pairs, 1));
  }
};

// Byte sums of kCount pixels, in registers. They are members and not an array, because GCC keeps only some elements of
// an array in registers.
template <int kCount>
struct PixelBytes {
  Bytes low{}, high{};  // channels 0 to 31 and 32 to 63 of the block
  PixelBytes<kCount - 1> others;

  inline __attribute__((always_inline)) void look_up(const uint8_t* from, size_t step, __m256i low_weights,
                                                     __m256i high_weights) {
    const uint8_t* row = kTables.rows[0] + *from;
    const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
    Bytes new_low = low + reinterpret_cast<Bytes>(_mm256_shuffle_epi8(table, low_weights));
    Bytes new_high = high + reinterpret_cast<Bytes>(_mm256_shuffle_epi8(table, high_weights));
    // Hides the values from the compiler, which otherwise adds up the steps as a tree and runs out of registers.
    __asm__("" : "+x"(new_low), "+x"(new_high));
    low = new_low;
    high = new_high;
    others.look_up(from + step, step, low_weights, high_weights);
  }
  inline __attribute__((always_inline)) void add_to(Sums* sums) const {
    sums->add(0, reinterpret_cast<__m256i>(low));
    sums->add(1, reinterpret_cast<__m256i>(high));
    others.add_to(sums + 1);
  }
};

template <>
struct PixelBytes<0> {
  inline void look_up(const uint8_t*, size_t, __m256i, __m256i) {}
  inline void add_to(Sums*) const {}
};

// Counts 1 to kWordsToBytes consecutive words of pixels [kFrom, kTo) of the tile.
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_bytes(Sums (&sums)[P], const uint8_t* in, size_t step,
                                                       const uint8_t* w, int words) {
  PixelBytes<kTo - kFrom> bytes;
  const uint8_t* from = in + kFrom * step;
  const uint8_t* const end = from + static_cast<size_t>(words) * kNibbles;
  do {
#pragma GCC unroll 8
    for (int s = 0; s < kNibbles; ++s) {
      const auto* weights = reinterpret_cast<const __m256i*>(w + s * kBlock);
      bytes.look_up(from + s, step, _mm256_load_si256(weights), _mm256_load_si256(weights + 1));
    }
    from += kNibbles;
    w += kNibbles * kBlock;
  } while (from != end);
  bytes.add_to(sums + kFrom);
}

// Counts any number of consecutive words.
template <int kFrom, int kTo, int P>
inline __attribute__((always_inline)) void count_words(Sums (&sums)[P], const uint8_t* in, size_t step,
                                                       const uint8_t* w, int words) {
  if constexpr (kFrom < kTo) {
    for (; words > 0; words -= kWordsToBytes) {
      count_bytes<kFrom, kTo>(sums, in, step, w, words < kWordsToBytes ? words : kWordsToBytes);
      in += static_cast<size_t>(kWordsToBytes) * kNibbles;
      w += static_cast<size_t>(kWordsToBytes) * kNibbles * kBlock;
    }
  }
}

// Epilogue of one pixel: counts -> y and bits. counts(v, g) returns the 32-bit counts of the 8 channels of the block
// from 32 * v + 8 * g on. kPlain: the block is complete, there are a residual and output bits, and N_valid is even, so
// no masks and no branches are needed.
template <bool kPlain, typename Counts>
inline __attribute__((always_inline)) void finish(const RowContext& row, int ox, float half, const Counts& counts) {
  const BConvJob& job = row.job;
  const auto block = static_cast<size_t>(row.first_channel);
  const size_t at = (static_cast<size_t>(row.oy) * job.out_width + ox) * job.out_channels + block;
  const float* const scale = job.scale + block;
  const float* const bias = job.bias + block;
  const float* const residual = job.residual == nullptr ? nullptr : job.residual + at;
  float* const out = job.y + at;
  uint32_t* bits = nullptr;
  if (kPlain || job.bits_out != nullptr) {
    const size_t padded = static_cast<size_t>(row.oy + 1) * (job.out_width + 2) + ox + 1;
    bits = job.bits_out + padded * job.out_words + block / kWordBits;
  }
  const int channels = job.out_channels - row.first_channel;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    if (!kPlain && channels <= 32 * v) break;
    __m256i below[4];
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const int c = 32 * v + kLanes * g;
      __m256 y = _mm256_cvtepi32_ps(counts(v, g));
      if (!kPlain) y = _mm256_sub_ps(y, _mm256_set1_ps(half));
      y = _mm256_mul_ps(y, _mm256_load_ps(scale + c));
      y = _mm256_add_ps(y, _mm256_load_ps(bias + c));
      if (kPlain) {
        y = _mm256_add_ps(y, _mm256_loadu_ps(residual + c));
        _mm256_storeu_ps(out + c, y);
      } else {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(channels - c), lane);
        if (residual != nullptr) y = _mm256_add_ps(y, _mm256_maskload_ps(residual + c, valid));
        _mm256_maskstore_ps(out + c, valid, y);
        y = _mm256_and_ps(y, _mm256_castsi256_ps(valid));  // 0 < 0 is false, so tail bits are zero
      }
      below[g] = _mm256_castps_si256(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LT_OQ));
    }
    if (!kPlain && bits == nullptr) continue;
    // 32-bit masks -> bytes. The pack instructions work on each half of a register separately, so the groups of 4 bytes
    // must be reordered afterwards.
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(below[0], below[1]), _mm256_packs_epi32(below[2], below[3]));
    const __m256i in_order = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    bits[v] = static_cast<uint32_t>(_mm256_movemask_epi8(in_order));
  }
}

// Prefetches the residual of the next tile while this tile is counted.
template <int P>
inline __attribute__((always_inline)) void fetch_residual(const RowContext& row, int ox) {
  constexpr int kFloatsInLine = 16;
  const BConvJob& job = row.job;
  const float* residual =
      job.residual + (static_cast<size_t>(row.oy) * job.out_width + ox + P) * job.out_channels + row.first_channel;
  for (int p = 0; p < P; ++p, residual += job.out_channels) {
    for (int c = 0; c < kBlock; c += kFloatsInLine) _mm_prefetch(residual + c, _MM_HINT_T0);
  }
}

template <int P, bool kPlain>
__attribute__((noinline)) void tile(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  Sums sums[P];
  int pixel_class[P];
  const size_t step = static_cast<size_t>(job.stride) * job.words * kNibbles;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    const bool edge = p == 0 || p == P - 1;
    pixel_class[p] =
        row.row_class * kBorderClasses + (edge ? border_class(ox + p, job.stride, job.kernel / 2, job.width) : 0);
    sums[p].start(job.start[pixel_class[p]]);
  }
  if (kPlain) fetch_residual<P>(row, ox);
  const bool skip_first = (pixel_class[0] & 1) != 0;
  const bool skip_last = (pixel_class[P - 1] & 2) != 0;
  const uint8_t* in = row.corner + static_cast<size_t>(ox) * step;
  const uint8_t* w = row.weights;
  const size_t column = static_cast<size_t>(job.words) * kNibbles;
  for_taps<P>(row, skip_first, skip_last, in, w, column, column * kBlock,
              [&](auto pixels, const uint8_t* at, const uint8_t* weights, int words) __attribute__((always_inline)) {
                using Range = decltype(pixels);
                count_words<Range::kFrom, Range::kTo>(sums, at, step, weights, words);
              });
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    finish<kPlain>(row, ox + p, job.half[pixel_class[p]], [&](int v, int g) { return sums[p].eight(v, g); });
  }
}

// Computes a pixel with more words than 16-bit sums can hold.
__attribute__((noinline)) void long_pixel(const RowContext& row, int ox) {
  const BConvJob& job = row.job;
  const int column_class = border_class(ox, job.stride, job.kernel / 2, job.width);
  const int pixel_class = row.row_class * kBorderClasses + column_class;
  const size_t column = static_cast<size_t>(job.words) * kNibbles;
  __m256i counts[kVectors][4];
  for (auto& four : counts) {
    for (auto& eight : four) eight = _mm256_set1_epi32(job.start[pixel_class]);
  }
  for (int t = 0; t < row.filter_rows; ++t) {
    for (int k = column_class & 1; k < job.kernel - (column_class >> 1); ++k) {
      const uint8_t* in = row.corner + static_cast<size_t>(t) * row.pitch +
                          (static_cast<size_t>(ox) * job.stride + static_cast<size_t>(k)) * column;
      const uint8_t* w = row.weights + (static_cast<size_t>(t) * job.kernel + static_cast<size_t>(k)) * column * kBlock;
      for (int done = 0; done < job.words; done += kWordsTo16Bits / 2) {  // half the limit: these sums are signed
        const int some = job.words - done < kWordsTo16Bits / 2 ? job.words - done : kWordsTo16Bits / 2;
        const size_t at = static_cast<size_t>(done) * kNibbles;
        Sums sums[1];
        sums[0].start(0);
        count_words<0, 1>(sums, in + at, 0, w + at * kBlock, some);
        for (int v = 0; v < kVectors; ++v) {
          for (int g = 0; g < 4; ++g) counts[v][g] = _mm256_add_epi32(counts[v][g], sums[0].eight(v, g));
        }
      }
    }
  }
  finish<false>(row, ox, job.half[pixel_class], [&](int v, int g) { return counts[v][g]; });
}

using Tile = void (*)(const RowContext&, int);

constexpr Tile kTileBySize[2][kLargestTile + 1] = {  // [plain]
    {nullptr, tile<1, false>, tile<2, false>, tile<3, false>, tile<4, false>},
    {nullptr, tile<1, true>, tile<2, true>, tile<3, true>, tile<4, true>}};

void row_of_tiles(const RowContext& row) {
  const BConvJob& job = row.job;
  const int width = job.out_width;
  if (job.kernel * row.run > kWordsTo16Bits) {
    for (int ox = 0; ox < width; ++ox) long_pixel(row, ox);
    return;
  }
  const bool plain = job.channels % 2 == 0 && job.residual != nullptr && job.bits_out != nullptr &&
                     row.first_channel + kBlock <= job.out_channels;
  const int count = (width + kLargestTile - 1) / kLargestTile;
  for (int i = 0, ox = 0; i < count; ++i) {  // equal tiles: the first width % count are one pixel wider
    const int size = width / count + (i < width % count ? 1 : 0);
    kTileBySize[plain][size](row, ox);
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

// One nibble of 4 pixels x 64 channels per round. The tables are in registers here; the convolution loads them.
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
      __asm__ volatile("" : "+x"(table[p]));  // the compiler must assume a new value
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
