// Products of one step, added to the sums: of floats, of pairs of 16-bit values, of four 8-bit values (unsigned pixels,
// signed weights).
//
// Inline assembly, because with the intrinsics GCC 12 copies the sums between the steps.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

namespace bireal {
namespace {

inline __m512 add_products_f32(__m512 sum, __m512i pixels, __m512i weights) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(pixels), "v"(weights));
  return sum;
}

inline __m512i add_products_i16(__m512i sum, __m512i pixels, __m512i weights) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(pixels), "v"(weights));
  return sum;
}

inline __m512i add_products_i8(__m512i sum, __m512i pixels, __m512i weights) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(pixels), "v"(weights));
  return sum;
}

}  // namespace
}  // namespace bireal
