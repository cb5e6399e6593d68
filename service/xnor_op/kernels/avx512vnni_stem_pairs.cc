// The 7x7 stem of stride 2 with 16-bit weights, two neighbouring outputs of a row at a time: fewer products for the
// same integers.
//
// Outputs 2q and 2q + 1 read the pixels d[0] to d[8] of a padded row. Of these, taps 0, 2 and 4 read the even ones and
// taps 1, 3 and 5 the odd ones, both with stride 1 among themselves. So each of these triples of taps g is a filter of
// three taps on four pixels e, for which Winograd's F(2, 3) needs four products instead of six:
//   m1 = (e0 - e2) g0    m2 = (e1 + e2) (g0 + g1 + g2)    m3 = (e2 - e1) (g0 - g1 + g2)    m4 = (e1 - e3) g2
//   y0 = m1 + (m2 + m3) / 2    y1 = (m2 - m3) / 2 - m4
// Tap 6 is multiplied as it is: w6 d[6] is added to m1, and w6 (-d[8]) to m4. All products of a kind have one sum, so a
// pair needs 10 + 6 + 6 + 10 products per filter row (32 instead of 42): 56 vpdpwssd per register of outputs instead of
// 77. The sums of pixels are computed once per input row, by prepare().
//
// Everything is exact. m2 + m3 = 2 (e1 g1 + e2 (g0 + g2)), and likewise m2 - m3, so halving is exact. The condition of
// takes(), that g0 + g1 + g2 and g0 - g1 + g2 fit 16 bits, means |g1| + |g0 + g2| <= 2^15. So |m2 + m3| is at most
// 2 * 255 * 42 * 2^15 = 7.1e8 for the 42 triples of a filter, which fits int32. All else is arithmetic modulo 2^32, and
// its results fit (stem.h).
#include <immintrin.h>

#include "avx512.h"
#include "avx512vnni.h"
#include "avx512vnni_products.h"
#include "load_4_bytes.h"
#include "stem_layout.h"

namespace bireal {
namespace {

constexpr int kVectors = 2;
constexpr int kBlock = kAvx512StemBlock;
constexpr int kLargestTile = 3;  // pairs; of 32 registers: 24 sums, 2 weights, 1 broadcast
constexpr int kKernel = 7;
constexpr int kStride = 2;
constexpr int kPerStep = 2;
constexpr int kProducts = 4;  // m1 to m4
constexpr int kSteps = 16;
// Which product a step adds to.
constexpr int kProductOf[kSteps] = {0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3};
constexpr int kValues = kSteps * kPerStep;         // of a pair and filter row
constexpr int kPairShift = 2 * kStride * kColors;  // values of a row from one pair to the next
constexpr size_t kPairBytes = kValues * sizeof(int16_t);

constexpr int pairs_of(int out_width) { return (out_width + 1) / 2; }

bool fits(int value) { return value >= INT16_MIN && value <= INT16_MAX; }

bool takes(const int16_t* weights, int out_channels, int kernel, int stride) {
  if (kernel != kKernel || stride != kStride) return false;
  for (int row = 0; row < out_channels * kKernel; ++row, weights += kKernel * kColors) {
    for (int first = 0; first < 2 * kColors; ++first) {  // tap 0 or 1, and colour
      const int outer = weights[first] + weights[first + 4 * kColors];
      const int middle = weights[first + 2 * kColors];
      if (!fits(outer + middle) || !fits(outer - middle)) return false;
    }
  }
  return true;
}

size_t layout_bytes(int out_channels, int) {
  return (static_cast<size_t>(out_channels) + kBlock - 1) / kBlock * kBlock * kKernel * kPairBytes;
}

// The factors of a filter row, in the order of prepare().
void transform(const int16_t* w, int16_t (&out)[kValues]) {
  constexpr int kTap = kColors;
  for (int i = 0; i < 2 * kColors; ++i) {
    out[i] = w[i];
    out[10 + i] = static_cast<int16_t>(w[i] + w[2 * kTap + i] + w[4 * kTap + i]);
    out[16 + i] = static_cast<int16_t>(w[i] - w[2 * kTap + i] + w[4 * kTap + i]);
    out[22 + i] = w[4 * kTap + i];
  }
  for (int c = 0; c < kColors; ++c) out[6 + c] = out[28 + c] = w[6 * kTap + c];
  out[9] = out[31] = 0;
}

// Layout: [block][filter row][step][32 output channels][2].
void layout(const void* weights, int out_channels, int, void* out) {
  const auto* from = static_cast<const int16_t*>(weights);
  auto* to = static_cast<int16_t*>(out);
  for (int first = 0; first < out_channels; first += kBlock) {
    for (int t = 0; t < kKernel; ++t, to += kValues * kBlock) {
      for (int lane = 0; lane < kBlock; ++lane) {
        int16_t factors[kValues] = {};
        const size_t row = static_cast<size_t>(first + lane) * kKernel + t;
        if (first + lane < out_channels) transform(from + row * kKernel * kColors, factors);
        for (int i = 0; i < kValues; ++i) to[(i / kPerStep * kBlock + lane) * kPerStep + i % kPerStep] = factors[i];
      }
    }
  }
}

size_t row_bytes(int out_width) { return pairs_of(out_width) * kPairBytes; }

// The sums of pixels of each pair: value i is d[kPlus[i]] - d[kMinus[i]], where d[i] is a value of the row (3 for each
// pixel), or d[kPlus[i]] + d[kMinus[i]] for m2. kNone is a place beyond the pair's pixels that is zero.
constexpr int kNone = 27;
alignas(64) constexpr int16_t kPlus[kValues] = {
    0,  1,  2,  3,  4,  5,  18, 19, 20,    kNone,           // m1, its tap 6
    6,  7,  8,  9,  10, 11, 12, 13, 14,    15,    16, 17,   // m2, m3
    6,  7,  8,  9,  10, 11, kNone, kNone, kNone, kNone,     // m4, its tap 6
};
alignas(64) constexpr int16_t kMinus[kValues] = {
    12, 13, 14, 15, 16, 17, kNone, kNone, kNone, kNone,     // m1, its tap 6
    12, 13, 14, 15, 16, 17, 6,  7,  8,     9,     10, 11,   // m2, m3
    18, 19, 20, 21, 22, 23, 24, 25, 26,    kNone,           // m4, its tap 6
};
constexpr __mmask32 kPairPixels = (1u << kNone) - 1;
constexpr __mmask32 kAdded = 0x3fu << 10;  // values 10 to 15

void prepare(const uint8_t* row, int width, int out_width, void* out) {
  constexpr int kRead = 32;
  const int count = width * kColors;
  const __m512i plus = _mm512_load_si512(kPlus);
  const __m512i minus = _mm512_load_si512(kMinus);
  auto* to = static_cast<char*>(out);
  int begin = -(kKernel / 2) * kColors;  // of the pair's pixels in the row
  for (int pair = 0; pair < pairs_of(out_width); ++pair, begin += kPairShift, to += kPairBytes) {
    uint8_t padded[kRead] = {};
    const uint8_t* from = padded;
    if (begin >= 0 && begin + kRead <= count) {
      from = row + begin;
    } else {
      for (int i = begin < 0 ? -begin : 0; i < kRead && begin + i < count; ++i) padded[i] = row[begin + i];
    }
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m512i pixels = _mm512_maskz_cvtepu8_epi16(kPairPixels, bytes);
    const __m512i a = _mm512_permutexvar_epi16(plus, pixels);
    const __m512i b = _mm512_permutexvar_epi16(minus, pixels);
    _mm512_store_si512(to, _mm512_mask_add_epi16(_mm512_sub_epi16(a, b), kAdded, a, b));
  }
}

inline void finish(const StemRowJob& job, int first, int ox, int v, __m512i sum) {
  const int at = first + v * kLanes;
  const float* offset = job.offset + static_cast<size_t>(job.column_class[ox]) * job.padded_channels;
  const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(job.scale + at));
  const __m512 y = _mm512_add_ps(scaled, _mm512_load_ps(offset + at));
  store_lanes(job.out + static_cast<size_t>(ox) * job.out_channels + at, y, job.out_channels - at);
}

template <int P>
inline __attribute__((always_inline)) void tile(const StemRowJob& job, int first, int pair) {
  const auto* weights = static_cast<const int16_t*>(job.weights) + static_cast<size_t>(first) * kKernel * kValues;
  __m512i sum[P][kProducts][kVectors];
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int m = 0; m < kProducts; ++m) {
      for (int v = 0; v < kVectors; ++v) sum[p][m][v] = _mm512_setzero_si512();
    }
  }
  for (int t = job.tap_begin; t < job.tap_end; ++t) {
    const auto* w = weights + static_cast<size_t>(t) * kValues * kBlock;
    const char* in = static_cast<const char*>(job.rows[t]) + pair * kPairBytes;
    __asm__("" : "+r"(in));  // one pointer with constant offsets, as in avx512vnni_stem.cc
#pragma GCC unroll 16
    for (int s = 0; s < kSteps; ++s) {
      __m512i weight[kVectors];
      for (int v = 0; v < kVectors; ++v) weight[v] = _mm512_load_si512(w + (s * kBlock + v * kLanes) * kPerStep);
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) {
        const __m512i pixels = _mm512_broadcastd_epi32(load_4_bytes(in + p * kPairBytes + 4 * s));
        for (int v = 0; v < kVectors; ++v) {
          __m512i& to = sum[p][kProductOf[s]][v];
          to = add_products_i16(to, pixels, weight[v]);
        }
      }
    }
  }
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    const int ox = 2 * (pair + p);
    for (int v = 0; v < kVectors; ++v) {
      const __m512i(&m)[kProducts][kVectors] = sum[p];
      const __m512i half_sum = _mm512_srai_epi32(_mm512_add_epi32(m[1][v], m[2][v]), 1);
      const __m512i half_difference = _mm512_srai_epi32(_mm512_sub_epi32(m[1][v], m[2][v]), 1);
      finish(job, first, ox, v, _mm512_add_epi32(m[0][v], half_sum));
      if (ox + 1 < job.out_width) finish(job, first, ox + 1, v, _mm512_sub_epi32(half_difference, m[3][v]));
    }
  }
}

template <int P>
__attribute__((noinline)) int tiles(const StemRowJob& job, int first, int pair) {
  for (; pair + P <= pairs_of(job.out_width); pair += P) tile<P>(job, first, pair);
  return pair;
}

void stem_row(const StemRowJob& job) {
  for (int first = 0; first < job.out_channels; first += kBlock) {
    const int pair = tiles<kLargestTile>(job, first, 0);
    tiles<1>(job, first, tiles<2>(job, first, pair));
  }
}

}  // namespace

const StemKernel kAvx512StemPairs = {layout_bytes, layout, stem_row, false, takes, row_bytes, prepare};

}  // namespace bireal
