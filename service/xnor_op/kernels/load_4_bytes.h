// Loads four bytes into the first lane of a register. GCC merges this load with the broadcast that follows.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

namespace bireal {
namespace {

// _mm_loadu_si32 is not used: the first releases of GCC 11, which introduced it, put the bytes into the last lane (GCC
// bug 99754).
inline __m128i load_4_bytes(const void* at) {
  int value;
  __builtin_memcpy(&value, at, sizeof(value));
  return _mm_cvtsi32_si128(value);
}

}  // namespace
}  // namespace bireal
