// Rounds pixels to 8 bits for the 1x1 convolutions of avx512vnni_pointwise.cc, 16 pixels at a time.
//
// One pixel at a time, the maximum across the lanes and the two divisions for its step and factor take longer than the
// reads and conversions of a pixel of 64 channels. For 16 pixels, the maxima are brought into one register, so that
// each division gives 16 results.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

#include "avx512.h"

namespace bireal {
namespace {

constexpr int kOffset = 128;    // added to a stored 8-bit value
constexpr int kValuesADot = 4;   // 8-bit values that an instruction multiplies in a lane

constexpr size_t pitch_i8(int channels) {
  return (static_cast<size_t>(channels) + kValuesADot - 1) / kValuesADot * kValuesADot;
}

// Largest magnitude bits of a pixel, per lane.
inline __m512i largest_by_lane(const float* x, int channels) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + c), magnitude));
  }
  if (c < channels) {
    const __m512i rest = _mm512_maskz_loadu_epi32(first_lanes(channels - c), x + c);
    most = _mm512_max_epi32(most, _mm512_and_si512(rest, magnitude));
  }
  return most;
}

inline __m128i round_to_bytes(__m512 value, __m512 factor) {
  const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(value, factor));
  return _mm_xor_si128(_mm512_cvtsepi32_epi8(rounded), _mm_set1_epi8(static_cast<char>(kOffset)));
}

inline void round_pixel(const float* x, int channels, float factor, uint8_t* q) {
  const __m512 factors = _mm512_set1_ps(factor);
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + c), round_to_bytes(_mm512_loadu_ps(x + c), factors));
  }
  if (c < channels) {
    const __m512 rest = _mm512_maskz_loadu_ps(first_lanes(channels - c), x + c);
    _mm_mask_storeu_epi8(q + c, first_lanes(static_cast<int>(pitch_i8(channels)) - c), round_to_bytes(rest, factors));
  }
}

// Maximum of 4 lanes for each of 4 registers.
inline __m128i maximum_of_each(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i ab = _mm_max_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_max_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  return _mm_max_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

// Largest magnitude bits of each of 16 pixels.
inline __m512i largest_of_16(const float* x, int channels) {
  __m128i quarter[kLanes];
#pragma GCC unroll 16
  for (int p = 0; p < kLanes; ++p) {
    const __m512i most = largest_by_lane(x + static_cast<size_t>(p) * channels, channels);
    const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    quarter[p] = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  }
  const auto four = [&](int p) {
    return maximum_of_each(quarter[p], quarter[p + 1], quarter[p + 2], quarter[p + 3]);
  };
  const __m256i low = _mm256_set_m128i(four(4), four(0));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_set_m128i(four(12), four(8)), 1);
}

// eight_bits() of 16 pixels.
inline void eight_bits_of_16(__m512i most, float* step, float* factor) {
  const __m512i smallest = _mm512_castps_si512(_mm512_set1_ps(kSmallestMagnitude));
  const __mmask16 large = _mm512_cmpge_epi32_mask(most, smallest);
  const __mmask16 not_finite = _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(kInfinityBits));
  const __m512 limit = _mm512_set1_ps(127.0f);
  const __m512 magnitude = _mm512_castsi512_ps(most);
  const __m512 steps = _mm512_maskz_div_ps(large, magnitude, limit);
  _mm512_storeu_ps(step, _mm512_mask_blend_ps(not_finite, steps, _mm512_set1_ps(__builtin_nanf(""))));
  const auto both = static_cast<__mmask16>(large & ~not_finite);
  _mm512_storeu_ps(factor, _mm512_maskz_div_ps(both, limit, magnitude));
}

void prepare_i8(const float* x, int64_t count, int channels, void* out, float* step) {
  const size_t pitch = pitch_i8(channels);
  auto* q = static_cast<uint8_t*>(out);
  int64_t p = 0;
  for (; p + kLanes <= count; p += kLanes) {
    float factor[kLanes];
    eight_bits_of_16(largest_of_16(x, channels), step + p, factor);
    for (int i = 0; i < kLanes; ++i, x += channels, q += pitch) round_pixel(x, channels, factor[i], q);
  }
  for (; p < count; ++p, x += channels, q += pitch) {
    const EightBits scale = eight_bits(_mm512_reduce_max_epi32(largest_by_lane(x, channels)));
    step[p] = scale.step;
    round_pixel(x, channels, scale.factor, q);
  }
}

}  // namespace
}  // namespace bireal
