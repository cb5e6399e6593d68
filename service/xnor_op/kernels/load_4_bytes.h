// Four bytes in the first lane of a register; GCC folds it into the broadcast that follows.
//
// Included by files compiled for one ISA: everything here has internal linkage (kernel.h says why).
#pragma once

#include <immintrin.h>

namespace bireal {
namespace {

// Not _mm_loadu_si32: GCC has it since 11, whose first releases put the bytes into the last lane (its bug 99754).
inline __m128i load_4_bytes(const void* at) {
  int value;
  __builtin_memcpy(&value, at, sizeof(value));
  return _mm_cvtsi32_si128(value);
}

}  // namespace
}  // namespace bireal
