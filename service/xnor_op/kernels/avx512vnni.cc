// AVX-512 with VNNI, without VPOPCNTDQ (Cascade Lake, Cooper Lake).
//
// Binary convolution: 16 output channels per register. One 32-bit word of activations is broadcast to all of them, as
// in avx512vpopcnt.cc. These CPUs cannot count the bits of a lane in one instruction. So carry-save adders first add
// the words as 1-bit numbers (Harley and Seal: Warren, Hacker's Delight, 5-1). An adder takes two words, keeps the
// parity and returns a carry that counts twice. vpternlogd computes the sum of a full adder in one instruction and its
// carry in another. For 16 words this leaves
//   16 vpxord, 15 * 2 vpternlogd, 1 count of the carry, in which each bit counts 16.
// A count is 7 instructions: two nibble lookups, and vpdpbusd, which multiplies the bytes by this factor and adds them
// to 32-bit sums. The total is 53 instructions for 16 * 512 multiply-accumulates. The two 512-bit ports execute 309 per
// cycle. The lookups of avx512bw.cc are limited to 256 by their single port and to 220 by instruction decoding. At the
// end of a pixel, the four registers of the adders are counted. This takes 28 instructions: a third of the total for 64
// channels and 3x3, and 5 % for 512 channels. Where there are at most 31 words, the counts could be added as bytes and
// widened once, but this was not faster.
//
// Epilogue for 16 outputs without masks: convert, multiply, add, add residual, compare, store: 6 instructions.
#include <immintrin.h>

#include "../epilogue.h"
#include "avx512.h"
#include "avx512vnni.h"

namespace bireal {
namespace {

constexpr int kVectors = kWordVectors;
constexpr int kBlock = kWordBlock;
constexpr int kGroup = 16;  // words per loop iteration

// The bit count of one pixel and 32 channels. In every 32-bit lane the count is
//   sum + ones + 2 * twos + 4 * fours + 8 * eights,
// where ones, twos, fours and eights stand for their number of set bits.
struct Planes {
  __m512i ones[kVectors], twos[kVectors], fours[kVectors], eights[kVectors];
  __m512i sum[kVectors];
};

// Adds bit by bit: total + a + b = parity + 2 * carry. Stores the parity in total and returns the carry.
inline __attribute__((always_inline)) __m512i carry_save(__m512i& total, __m512i a, __m512i b) {
  const __m512i carry = _mm512_ternarylogic_epi32(total, a, b, 0xe8);
  total = _mm512_ternarylogic_epi32(total, a, b, 0x96);
  return carry;
}

// sum += kWorth * (number of set bits of each lane).
template <int kWorth>
inline __attribute__((always_inline)) void count(__m512i& sum, __m512i bits) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(bits, nibble));
  const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bits, 4), nibble));
  sum = _mm512_dpbusd_epi32(sum, _mm512_add_epi8(low, high), _mm512_set1_epi8(kWorth));
}

template <int kValue>
struct Worth {
  constexpr operator int() const { return kValue; }
};

struct Pair {
  __m512i of[kVectors];
};

inline __attribute__((always_inline)) Pair differing(const uint32_t* in, const uint32_t* w) {
  const __m512i activation = _mm512_set1_epi32(static_cast<int>(*in));
  return {{_mm512_xor_si512(activation, _mm512_load_si512(w)),
           _mm512_xor_si512(activation, _mm512_load_si512(w + kLanes))}};
}

// Adds kWords consecutive words to the planes. Each bit of the returned carry counts kWords.
template <int kWords>
inline __attribute__((always_inline)) Pair add(Planes& planes, const uint32_t* in, const uint32_t* w) {
  if constexpr (kWords == 1) {
    return differing(in, w);
  } else {
    constexpr int kHalf = kWords / 2;
    const Pair a = add<kHalf>(planes, in, w);
    const Pair b = add<kHalf>(planes, in + kHalf, w + kHalf * kBlock);
    auto& total = kWords == 2 ? planes.ones : kWords == 4 ? planes.twos : kWords == 8 ? planes.fours : planes.eights;
    Pair carry;
    for (int v = 0; v < kVectors; ++v) carry.of[v] = carry_save(total[v], a.of[v], b.of[v]);
    return carry;
  }
}

template <int kWords>
inline __attribute__((always_inline)) void add_and_count(Planes& planes, const uint32_t* in, const uint32_t* w) {
  const Pair carry = add<kWords>(planes, in, w);
  for (int v = 0; v < kVectors; ++v) count<kWords>(planes.sum[v], carry.of[v]);
}

// Counts any number of consecutive words.
inline __attribute__((always_inline)) void count_words(Planes& planes, const uint32_t* in, const uint32_t* w,
                                                       int words) {
  int k = 0;
  for (; k + kGroup <= words; k += kGroup) add_and_count<kGroup>(planes, in + k, w + k * kBlock);
  if (words & 8) {
    add_and_count<8>(planes, in + k, w + k * kBlock);
    k += 8;
  }
  if (words & 4) {
    add_and_count<4>(planes, in + k, w + k * kBlock);
    k += 4;
  }
  if (words & 2) {
    add_and_count<2>(planes, in + k, w + k * kBlock);
    k += 2;
  }
  if (words & 1) add_and_count<1>(planes, in + k, w + k * kBlock);
}

// Location of the words of a pixel: `parts` runs of `words` words, at a distance of `pitch` words, in the activations
// and in the weights.
struct Taps {
  int first;  // words before the first part
  int parts, words, pitch;
};

// Counts kPixels pixels, at a distance of `step` words, and 32 channels. The counts begin at `start`. With two pixels
// at a time, the adders of one can work while those of the other wait for their inputs.
template <int kPixels>
inline __attribute__((always_inline)) void count_pixels(__m512i (&sum)[kPixels][kVectors], const uint32_t* in,
                                                        size_t step, const uint32_t* w, const Taps& taps, int start) {
  Planes planes[kPixels];
  for (int p = 0; p < kPixels; ++p) {
    Planes& own = planes[p];
    for (int v = 0; v < kVectors; ++v) {
      own.ones[v] = own.twos[v] = own.fours[v] = own.eights[v] = _mm512_setzero_si512();
      own.sum[v] = _mm512_set1_epi32(start);
    }
    const uint32_t* from = in + p * step + taps.first;
    const uint32_t* weights = w + static_cast<size_t>(taps.first) * kBlock;
    for (int t = 0; t < taps.parts; ++t) {
      count_words(own, from, weights, taps.words);
      from += taps.pitch;
      weights += static_cast<size_t>(taps.pitch) * kBlock;
    }
  }
  // A plane is empty if no group of words reached it. Empty planes are skipped.
  const auto add_planes = [&](auto worth, __m512i(Planes::* plane)[kVectors]) __attribute__((always_inline)) {
    for (int p = 0; p < kPixels; ++p) {
      for (int v = 0; v < kVectors; ++v) count<worth>(planes[p].sum[v], (planes[p].*plane)[v]);
    }
  };
  if (taps.words >= 2) add_planes(Worth<1>(), &Planes::ones);
  if (taps.words >= 4) add_planes(Worth<2>(), &Planes::twos);
  if (taps.words >= 8) add_planes(Worth<4>(), &Planes::fours);
  if (taps.words >= kGroup) add_planes(Worth<8>(), &Planes::eights);
  for (int p = 0; p < kPixels; ++p) {
    for (int v = 0; v < kVectors; ++v) sum[p][v] = planes[p].sum[v];
  }
}

// Epilogue: counts -> y and bits. kPlain: the block is complete, there are a residual and output bits, and N_valid is
// even, so no masks and no branches are needed.
template <bool kPlain>
inline __attribute__((always_inline)) void finish(const BConvJob& job, int oy, int ox, int o,
                                                  const __m512i (&sum)[kVectors], float half) {
  const size_t at = (static_cast<size_t>(oy) * job.out_width + ox) * job.out_channels + o;
  const __m512 zero = _mm512_setzero_ps();
  __mmask16 below[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const size_t place = at + v * kLanes;
    __m512 y = _mm512_cvtepi32_ps(sum[v]);
    if (!kPlain) y = _mm512_sub_ps(y, _mm512_set1_ps(half));
    y = _mm512_mul_ps(y, _mm512_load_ps(job.scale + o + v * kLanes));
    y = _mm512_add_ps(y, _mm512_load_ps(job.bias + o + v * kLanes));
    if (kPlain) {
      y = _mm512_add_ps(y, _mm512_loadu_ps(job.residual + place));
      _mm512_storeu_ps(job.y + place, y);
      below[v] = _mm512_cmp_ps_mask(y, zero, _CMP_LT_OQ);
    } else {
      const __mmask16 valid = first_lanes(job.out_channels - o - v * kLanes);
      if (job.residual != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(valid, job.residual + place));
      _mm512_mask_storeu_ps(job.y + place, valid, y);
      below[v] = _mm512_mask_cmp_ps_mask(valid, y, zero, _CMP_LT_OQ);
    }
  }
  if (!kPlain && job.bits_out == nullptr) return;
  const size_t padded = static_cast<size_t>(oy + 1) * (job.out_width + 2) + ox + 1;
  job.bits_out[padded * job.out_words + o / kWordBits] = _cvtmask32_u32(_mm512_kunpackw(below[1], below[0]));
}

// The input words of the pixels of a row, in the order of the weights: [pixel][tap][word].
struct Row {
  const uint32_t* words;
  size_t step;  // words from one pixel to the next
  int oy;
  int row_class;
};

// Computes pixels [begin, end) of a row for one block of channels.
template <bool kPlain>
__attribute__((noinline)) void pixels(const BConvJob& job, const Row& row, int block, int begin, int end) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;
  const size_t of_block = static_cast<size_t>(job.kernel) * run * kBlock;
  const uint32_t* weights = static_cast<const uint32_t*>(job.weights) + block * of_block;
  const int top = row.row_class & 1;  // 1 if the first filter row lies outside the image
  const int rows = job.kernel - (row.row_class >> 1) - top;
  const Taps inside = {top * run, 1, rows * run, 0};
  for (int ox = begin; ox < end; ++ox) {
    const int column = border_class(ox, job.stride, pad, job.width);
    const int pixel_class = row.row_class * kBorderClasses + column;
    const int start = job.start[pixel_class];
    const float half = job.half[pixel_class];
    const uint32_t* in = row.words + ox * row.step;
    if (column == 0 && ox + 1 < end && border_class(ox + 1, job.stride, pad, job.width) == 0) {
      __m512i sum[2][kVectors];
      count_pixels(sum, in, row.step, weights, inside, start);
      finish<kPlain>(job, row.oy, ox, block * kBlock, sum[0], half);
      finish<kPlain>(job, row.oy, ++ox, block * kBlock, sum[1], half);
      continue;
    }
    const int left = column & 1;
    const int columns = job.kernel - (column >> 1) - left;
    const Taps taps = column == 0 ? inside : Taps{top * run + left * job.words, rows, columns * job.words, run};
    __m512i sum[1][kVectors];
    count_pixels(sum, in, row.step, weights, taps, start);
    finish<kPlain>(job, row.oy, ox, block * kBlock, sum[0], half);
  }
}

inline void copy(const uint32_t* from, int count, uint32_t* to) {
  for (int k = 0; k < count; k += kLanes) {
    const __mmask16 mask = first_lanes(count - k);
    _mm512_mask_storeu_epi32(to + k, mask, _mm512_maskz_loadu_epi32(mask, from + k));
  }
}

// Copies the input words of all taps of each pixel of a row into one contiguous run, so that words are counted in long
// runs.
void gather(const BConvJob& job, int oy, uint32_t* to) {
  const int run = job.kernel * job.words;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const uint32_t* corner = job.bits + static_cast<size_t>(oy) * job.stride * pitch;
  const size_t step = static_cast<size_t>(job.stride) * job.words;
  for (int ox = 0; ox < job.out_width; ++ox, corner += step) {
    for (int t = 0; t < job.kernel; ++t) copy(corner + t * pitch, run, to + t * run);
    to += static_cast<size_t>(job.kernel) * run;
  }
}

constexpr int kTile = 8;                     // pixels
constexpr size_t kNearRows = 16 * 1024;      // half of the L1 cache
constexpr size_t kNearWeights = 256 * 1024;  // a quarter of the L2 cache; 8 pixels take 13 cycles per cache line of it

size_t words_of_row(const BConvJob& job) {
  return static_cast<size_t>(job.out_width) * job.kernel * job.kernel * job.words;
}

// Number of rows that are gathered at a time. Their words stay in the L1 cache for all blocks of weights.
int rows_at_once(const BConvJob& job) {
  const auto fit = static_cast<int>(kNearRows / (sizeof(uint32_t) * words_of_row(job)));
  const int all = job.row_end - job.row_begin;
  return fit < 1 ? 1 : fit < all ? fit : all;
}

size_t gathered_bytes(const BConvJob& job) {
  return job.kernel == 1 ? 0 : sizeof(uint32_t) * words_of_row(job) * rows_at_once(job);
}

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const size_t row_words = words_of_row(job);
  const size_t of_block = sizeof(uint32_t) * job.kernel * job.kernel * job.words * kBlock;
  // With few weights, all channels of a few pixels are computed before the next pixels, so that y and the residual,
  // which are large in 1x1 expansions, are accessed in order.
  const bool tile_by_tile = of_block * static_cast<size_t>(job.block_end - job.block_begin) <= kNearWeights;
  const bool plain_job = job.channels % 2 == 0 && job.residual != nullptr && job.bits_out != nullptr;
  const auto make = [&](const Row& row, int block, int begin, int end) {
    const bool plain = plain_job && (block + 1) * kBlock <= job.out_channels;
    (plain ? pixels<true> : pixels<false>)(job, row, block, begin, end);
  };
  auto* gathered = static_cast<uint32_t*>(job.scratch);
  const int at_once = rows_at_once(job);
  for (int first = job.row_begin; first < job.row_end; first += at_once) {
    const int end = first + at_once < job.row_end ? first + at_once : job.row_end;
    if (job.kernel > 1) {
      for (int oy = first; oy < end; ++oy) gather(job, oy, gathered + (oy - first) * row_words);
    }
    const auto row_at = [&](int oy) {
      const int row_class = border_class(oy, job.stride, pad, job.height);
      if (job.kernel > 1) return Row{gathered + (oy - first) * row_words, row_words / job.out_width, oy, row_class};
      const uint32_t* row = job.bits + (static_cast<size_t>(oy) * job.stride + 1) * pitch + job.words;
      return Row{row, static_cast<size_t>(job.stride) * job.words, oy, row_class};
    };
    if (tile_by_tile) {
      for (int oy = first; oy < end; ++oy) {
        const Row row = row_at(oy);
        for (int ox = 0; ox < job.out_width; ox += kTile) {
          const int last = ox + kTile < job.out_width ? ox + kTile : job.out_width;
          for (int block = job.block_begin; block < job.block_end; ++block) make(row, block, ox, last);
        }
      }
      continue;
    }
    for (int block = job.block_begin; block < job.block_end; ++block) {
      for (int oy = first; oy < end; ++oy) make(row_at(oy), block, 0, job.out_width);
    }
  }
}

// ---------------------------------------------------------------- roofline

// One group of words of a pixel and 32 channels per round. The words are in registers here; the convolution loads them.
int64_t roofline(int64_t rounds) {
  Planes planes = {};
  __m512i word[kVectors] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    __m512i eights[kVectors][2];
    for (int v = 0; v < kVectors; ++v) {
      for (int half = 0; half < 2; ++half) {
        __m512i fours[2];
        for (int quarter = 0; quarter < 2; ++quarter) {
          __m512i twos[2];
          for (int pair = 0; pair < 2; ++pair) {
            __asm__ volatile("" : "+v"(word[v]));  // the compiler must assume a new value
            const __m512i a = _mm512_xor_si512(word[v], planes.sum[v]);
            __asm__ volatile("" : "+v"(word[v]));
            const __m512i b = _mm512_xor_si512(word[v], planes.sum[v]);
            twos[pair] = carry_save(planes.ones[v], a, b);
          }
          fours[quarter] = carry_save(planes.twos[v], twos[0], twos[1]);
        }
        eights[v][half] = carry_save(planes.fours[v], fours[0], fours[1]);
      }
      count<kGroup>(planes.sum[v], carry_save(planes.eights[v], eights[v][0], eights[v][1]));
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    __asm__ volatile("" : : "v"(planes.sum[v]), "v"(planes.ones[v]), "v"(planes.twos[v]));
    __asm__ volatile("" : : "v"(planes.fours[v]), "v"(planes.eights[v]));
  }
  return static_cast<int64_t>(kGroup) * kVectors * kLanes * kWordBits;
}

}  // namespace

extern const Kernels kernels_avx512vnni;
const Kernels kernels_avx512vnni = {
    "avx512vnni",         kBlock,
    kAvx512StemBlock,     pack,
    word_layout_bytes,    word_layout,
    gathered_bytes,       bconv,
    &kAvx512StemF32,      &kAvx512StemI16,
    &kAvx512StemI8,       &kAvx512StemPairs,
    avx512_max_pool_row,  avx512_avg_pool_row,
    roofline,             &kAvx512PointwiseF32,
    &kAvx512PointwiseF16, &kAvx512PointwiseI8,
    avx512_leaky_clip,
};

}  // namespace bireal
