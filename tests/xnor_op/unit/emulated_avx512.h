// Portable replacements for the AVX-512 intrinsics that the kernels use. With them the kernels run, under the
// sanitizers, on CPUs that have only AVX2, such as those of CI may be. tests/xnor_op/emulated.py replaces `_mm512_`
// with `emulated::` in a copy of the kernels. Nothing of this is in the shipped build.
//
// Each function does what Intel's manual specifies for the instruction, lane by lane, on the vector types of the
// compiler. Memory is accessed with memcpy, and lane by lane if there is a mask. So AddressSanitizer checks every
// access, which it does not do for masked AVX-512 instructions. A load that must be aligned aborts the process if it is
// not.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

// Not inlined, because the unrolled loops of the kernels would then take minutes to compile.
#define EMULATED [[gnu::noinline, maybe_unused]]

namespace {
namespace emulated {

using I8 = int8_t __attribute__((vector_size(64)));
using U8 = uint8_t __attribute__((vector_size(64)));
using I16 = int16_t __attribute__((vector_size(64)));
using U16 = uint16_t __attribute__((vector_size(64)));
using I32 = int32_t __attribute__((vector_size(64)));
using U32 = uint32_t __attribute__((vector_size(64)));

template <typename To, typename From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// ---------------------------------------------------------------- memory

EMULATED void must_be_aligned(const void* at) {
  if (reinterpret_cast<uintptr_t>(at) % 64 != 0) std::abort();
}

template <typename Vector>
inline Vector read(const void* at) {
  Vector vector;
  std::memcpy(&vector, at, sizeof(vector));
  return vector;
}

EMULATED __m512 loadu_ps(const void* at) { return read<__m512>(at); }
EMULATED __m512i loadu_si512(const void* at) { return read<__m512i>(at); }
EMULATED __m512 load_ps(const void* at) {
  must_be_aligned(at);
  return read<__m512>(at);
}
EMULATED __m512i load_si512(const void* at) {
  must_be_aligned(at);
  return read<__m512i>(at);
}

EMULATED __m512i maskz_loadu_epi32(__mmask16 mask, const void* at) {
  U32 lanes{};
  for (int k = 0; k < 16; ++k) {
    uint32_t lane = 0;
    if ((mask >> k & 1) != 0) std::memcpy(&lane, static_cast<const char*>(at) + 4 * k, 4);
    lanes[k] = lane;
  }
  return as<__m512i>(lanes);
}
EMULATED __m512 maskz_loadu_ps(__mmask16 mask, const void* at) { return as<__m512>(maskz_loadu_epi32(mask, at)); }

EMULATED void storeu_ps(void* at, __m512 value) { std::memcpy(at, &value, sizeof(value)); }

EMULATED void store_si512(void* at, __m512i value) {
  must_be_aligned(at);
  std::memcpy(at, &value, sizeof(value));
}

EMULATED void mask_storeu_epi32(void* at, __mmask16 mask, __m512i value) {
  const auto lanes = as<U32>(value);
  for (int k = 0; k < 16; ++k) {
    const uint32_t lane = lanes[k];
    if ((mask >> k & 1) != 0) std::memcpy(static_cast<char*>(at) + 4 * k, &lane, 4);
  }
}
EMULATED void mask_storeu_ps(void* at, __mmask16 mask, __m512 value) {
  mask_storeu_epi32(at, mask, as<__m512i>(value));
}

EMULATED void mask_storeu_epi8(void* at, __mmask16 mask, __m128i value) {
  uint8_t lanes[16];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int k = 0; k < 16; ++k) {
    if ((mask >> k & 1) != 0) static_cast<uint8_t*>(at)[k] = lanes[k];
  }
}

// ---------------------------------------------------------------- constants, casts, parts

EMULATED __m512 set1_ps(float value) { return __m512{} + value; }
EMULATED __m512i set1_epi32(int value) { return as<__m512i>(I32{} + value); }
EMULATED __m512i set1_epi16(int16_t value) { return as<__m512i>(I16{} + value); }
EMULATED __m512i set1_epi8(char value) { return as<__m512i>(I8{} + static_cast<int8_t>(value)); }
EMULATED __m512 setzero_ps() { return __m512{}; }
EMULATED __m512i setzero_si512() { return __m512i{}; }

EMULATED __m512 castsi512_ps(__m512i value) { return as<__m512>(value); }
EMULATED __m512i castps_si512(__m512 value) { return as<__m512i>(value); }
EMULATED __m256i extracti64x4_epi64(__m512i value, int half) {
  __m256i part;
  std::memcpy(&part, reinterpret_cast<const char*>(&value) + half * sizeof(part), sizeof(part));
  return part;
}
EMULATED __m256i castsi512_si256(__m512i value) { return extracti64x4_epi64(value, 0); }
EMULATED __m512i castsi256_si512(__m256i value) {
  const __m256i parts[2] = {value, __m256i{}};
  return read<__m512i>(parts);
}
EMULATED __m512i inserti64x4(__m512i value, __m256i part, int half) {
  std::memcpy(reinterpret_cast<char*>(&value) + half * sizeof(part), &part, sizeof(part));
  return value;
}
EMULATED __m512i broadcastd_epi32(__m128i value) { return set1_epi32(_mm_cvtsi128_si32(value)); }
EMULATED __m512i broadcast_i32x4(__m128i value) {
  const __m128i parts[4] = {value, value, value, value};
  return read<__m512i>(parts);
}
EMULATED float cvtss_f32(__m512 value) { return value[0]; }

// ---------------------------------------------------------------- arithmetic

EMULATED __m512 add_ps(__m512 a, __m512 b) { return a + b; }
EMULATED __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
EMULATED __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
EMULATED __m512 maskz_div_ps(__mmask16 mask, __m512 a, __m512 b) {
  for (int k = 0; k < 16; ++k) a[k] = (mask >> k & 1) != 0 ? a[k] / b[k] : 0.0f;
  return a;
}
EMULATED __m512 max_ps(__m512 a, __m512 b) { return a > b ? a : b; }  // b if either is NaN, like the instruction
EMULATED __m512 min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  for (int k = 0; k < 16; ++k) c[k] = std::fma(a[k], b[k], c[k]);
  return c;
}

EMULATED __m512i add_epi32(__m512i a, __m512i b) { return as<__m512i>(as<U32>(a) + as<U32>(b)); }
EMULATED __m512i add_epi16(__m512i a, __m512i b) { return as<__m512i>(as<U16>(a) + as<U16>(b)); }
EMULATED __m512i add_epi8(__m512i a, __m512i b) { return as<__m512i>(as<U8>(a) + as<U8>(b)); }
EMULATED __m512i sub_epi32(__m512i a, __m512i b) { return as<__m512i>(as<U32>(a) - as<U32>(b)); }
EMULATED __m512i sub_epi16(__m512i a, __m512i b) { return as<__m512i>(as<U16>(a) - as<U16>(b)); }
EMULATED __m512i mask_add_epi16(__m512i other, __mmask32 mask, __m512i a, __m512i b) {
  auto lanes = as<U16>(other);
  const auto sum = as<U16>(add_epi16(a, b));
  for (int k = 0; k < 32; ++k) lanes[k] = (mask >> k & 1) != 0 ? sum[k] : lanes[k];
  return as<__m512i>(lanes);
}
EMULATED __m512i srai_epi32(__m512i a, int by) { return as<__m512i>(as<I32>(a) >> by); }
EMULATED __m512i srli_epi16(__m512i a, int by) { return as<__m512i>(as<U16>(a) >> by); }
EMULATED __m512i xor_si512(__m512i a, __m512i b) { return a ^ b; }
EMULATED __m512i and_si512(__m512i a, __m512i b) { return a & b; }
EMULATED __m512i max_epi32(__m512i a, __m512i b) {
  const auto x = as<I32>(a), y = as<I32>(b);
  return as<__m512i>(x > y ? x : y);
}

EMULATED __m512i ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  __m512i result{};
  for (int row = 0; row < 8; ++row) {
    if ((table >> row & 1) == 0) continue;
    result |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
  }
  return result;
}

EMULATED __m512i popcnt_epi32(__m512i a) {
  auto lanes = as<U32>(a);
  for (int k = 0; k < 16; ++k) lanes[k] = static_cast<uint32_t>(__builtin_popcount(lanes[k]));
  return as<__m512i>(lanes);
}

EMULATED __m512i shuffle_epi8(__m512i table, __m512i index) {
  const auto from = as<U8>(table), at = as<U8>(index);
  U8 lanes{};
  for (int k = 0; k < 64; ++k) lanes[k] = (at[k] & 0x80) != 0 ? uint8_t{0} : from[k / 16 * 16 + (at[k] & 15)];
  return as<__m512i>(lanes);
}

EMULATED __m512i permutexvar_epi16(__m512i index, __m512i a) {
  const auto from = as<U16>(a), at = as<U16>(index);
  U16 lanes{};
  for (int k = 0; k < 32; ++k) lanes[k] = from[at[k] & 31];
  return as<__m512i>(lanes);
}

EMULATED __m512i dpbusd_epi32(__m512i sum, __m512i pixels, __m512i weights) {
  auto lanes = as<U32>(sum);
  const auto a = as<U8>(pixels);
  const auto b = as<I8>(weights);
  for (int k = 0; k < 64; ++k) lanes[k / 4] += static_cast<uint32_t>(int{a[k]} * int{b[k]});
  return as<__m512i>(lanes);
}

EMULATED __m512i dpwssd_epi32(__m512i sum, __m512i pixels, __m512i weights) {
  auto lanes = as<U32>(sum);
  const auto a = as<I16>(pixels), b = as<I16>(weights);
  for (int k = 0; k < 32; ++k) lanes[k / 2] += static_cast<uint32_t>(int{a[k]} * int{b[k]});
  return as<__m512i>(lanes);
}

EMULATED int reduce_max_epi32(__m512i a) {
  const auto lanes = as<I32>(a);
  int most = lanes[0];
  for (int k = 1; k < 16; ++k) most = std::max(most, int{lanes[k]});
  return most;
}

EMULATED float reduce_add_ps(__m512 a) {  // adds one half to the other repeatedly, as compilers expand the intrinsic
  for (int half = 8; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) a[k] = a[k] + a[k + half];
  }
  return a[0];
}

// ---------------------------------------------------------------- comparison, conversion

EMULATED __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) {
  if (how != _CMP_LT_OQ) std::abort();  // the only comparison that the kernels use
  unsigned mask = 0;
  for (int k = 0; k < 16; ++k) mask |= static_cast<unsigned>(a[k] < b[k]) << k;
  return static_cast<__mmask16>(mask);
}
EMULATED __mmask16 mask_cmp_ps_mask(__mmask16 mask, __m512 a, __m512 b, int how) {
  return static_cast<__mmask16>(mask & cmp_ps_mask(a, b, how));
}
EMULATED __mmask16 cmpge_epi32_mask(__m512i a, __m512i b) {
  const auto x = as<I32>(a), y = as<I32>(b);
  unsigned mask = 0;
  for (int k = 0; k < 16; ++k) mask |= static_cast<unsigned>(x[k] >= y[k]) << k;
  return static_cast<__mmask16>(mask);
}
EMULATED __m512 mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {  // b where the mask is set
  for (int k = 0; k < 16; ++k) a[k] = (mask >> k & 1) != 0 ? b[k] : a[k];
  return a;
}
EMULATED __mmask32 kunpackw(__mmask32 high, __mmask32 low) { return (high & 0xffff) << 16 | (low & 0xffff); }

EMULATED __m512 cvtepi32_ps(__m512i a) {
  const auto lanes = as<I32>(a);
  __m512 result{};
  for (int k = 0; k < 16; ++k) result[k] = static_cast<float>(lanes[k]);
  return result;
}

EMULATED __m512i cvtps_epi32(__m512 a) {  // to nearest, ties to even; INT32_MIN if the value does not fit
  I32 lanes{};
  for (int k = 0; k < 16; ++k) {
    const bool fits = a[k] >= -2147483648.0f && a[k] < 2147483648.0f;
    lanes[k] = fits ? static_cast<int32_t>(std::nearbyint(a[k])) : INT32_MIN;
  }
  return as<__m512i>(lanes);
}

EMULATED __m128i cvtsepi32_epi8(__m512i a) {
  const auto lanes = as<I32>(a);
  int8_t bytes[16];
  for (int k = 0; k < 16; ++k) bytes[k] = static_cast<int8_t>(std::clamp(int{lanes[k]}, -128, 127));
  return as<__m128i>(read<__m128i>(bytes));
}

EMULATED __m512i cvtepu16_epi32(__m256i a) {
  uint16_t from[16];
  std::memcpy(from, &a, sizeof(from));
  U32 lanes{};
  for (int k = 0; k < 16; ++k) lanes[k] = from[k];
  return as<__m512i>(lanes);
}

EMULATED __m512i maskz_cvtepu8_epi16(__mmask32 mask, __m256i a) {
  uint8_t from[32];
  std::memcpy(from, &a, sizeof(from));
  U16 lanes{};
  for (int k = 0; k < 32; ++k) lanes[k] = (mask >> k & 1) != 0 ? from[k] : 0;
  return as<__m512i>(lanes);
}

EMULATED __m512 cvtph_ps(__m256i a) {  // CPUs with AVX2 have this conversion for 8 values
  const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                            _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  return read<__m512>(halves);
}

// ---------------------------------------------------------------- inline assembly of the kernels

EMULATED void vfmadd231ps(__m512& sum, __m512i pixels, __m512i weights) {
  sum = fmadd_ps(as<__m512>(pixels), as<__m512>(weights), sum);
}
EMULATED void vpdpbusd(__m512i& sum, __m512i pixels, __m512i weights) { sum = dpbusd_epi32(sum, pixels, weights); }
EMULATED void vpdpwssd(__m512i& sum, __m512i pixels, __m512i weights) { sum = dpwssd_epi32(sum, pixels, weights); }

}  // namespace emulated
}  // namespace

#undef EMULATED
