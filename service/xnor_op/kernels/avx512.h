// Shared by the AVX-512 kernels: masks, packing, and the number of registers for a block of channels.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

#include "kernel.h"
#include "word_layout.h"

namespace bireal {
namespace {

constexpr int kLanes = 16;  // floats and int32 per register
constexpr int kWordBits = 32;

inline __mmask16 first_lanes(int count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << (count < 0 ? 0 : count)) - 1);
}

// Stores the first `count` lanes. Masked stores are slower, so whole registers are stored without a mask.
inline void store_lanes(float* to, __m512 value, int count) {
  if (count >= kLanes) {
    _mm512_storeu_ps(to, value);
  } else {
    _mm512_mask_storeu_ps(to, first_lanes(count), value);
  }
}

inline void pack(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits) {
  const int words = (channels + kWordBits - 1) / kWordBits;
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    for (int j = 0; j < words; ++j) {
      uint32_t word = 0;
      for (int half = 0; half < kWordBits / kLanes; ++half) {
        const int first = j * kWordBits + half * kLanes;
        const __mmask16 mask = first_lanes(channels - first);
        const __m512 limit = threshold == nullptr ? zero : _mm512_maskz_loadu_ps(mask, threshold + first);
        const __m512 value = _mm512_maskz_loadu_ps(mask, x + first);
        word |= static_cast<uint32_t>(_mm512_mask_cmp_ps_mask(mask, value, limit, _CMP_LT_OQ)) << (half * kLanes);
      }
      bits[j] = word;
    }
  }
}

// Two registers of output channels. Their signs form one word of bits_out.
constexpr int kWordVectors = 2;
static_assert(kLanes * kWordVectors == kWordBlock);

}  // namespace
}  // namespace bireal
