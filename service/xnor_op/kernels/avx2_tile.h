// Sums of a tile of pixels x 16 output channels, shared by the AVX2 stem and 1x1 convolutions.
//
// A step broadcasts 4 bytes of a pixel and multiplies them by two registers of weights, 8 output channels each.
// float32: one value, with vfmadd231ps. int16: two values, with vpmaddwd and vpaddd, 16 multiply-accumulates in 2
// instructions.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

#include "kernel.h"
#include "load_4_bytes.h"

namespace bireal {
namespace {

struct F32Products {
  using Sum = __m256;
  static inline Sum zero() { return _mm256_setzero_ps(); }
  static inline Sum add(Sum sum, __m256i pixels, __m256i weights) {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(pixels), _mm256_castsi256_ps(weights), sum);
  }
};

struct I16Products {
  using Sum = __m256i;
  static inline Sum zero() { return _mm256_setzero_si256(); }
  static inline Sum add(Sum sum, __m256i pixels, __m256i weights) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights));
  }
};

// The sums are members and not an array, because GCC keeps only some elements of an array in registers.
template <typename Products, int kPixels>
struct TileSums {
  typename Products::Sum low = Products::zero();  // the first 8 channels
  typename Products::Sum high = Products::zero();
  TileSums<Products, kPixels - 1> others;

  // Adds one step. `in` points to the first pixel; the next pixels follow at a distance of `pitch` bytes.
  inline __attribute__((always_inline)) void add(const char* in, size_t pitch, __m256i low_weights,
                                                 __m256i high_weights) {
    const __m256i values = _mm256_broadcastd_epi32(load_4_bytes(in));
    auto new_low = Products::add(low, values, low_weights);
    auto new_high = Products::add(high, values, high_weights);
    // Hides the sums from the compiler, which otherwise copies them in every step.
    __asm__("" : "+x"(new_low), "+x"(new_high));
    low = new_low;
    high = new_high;
    others.add(in + pitch, pitch, low_weights, high_weights);
  }

  // Calls body(pixel of the tile, low, high) for each pixel.
  template <typename Body>
  inline __attribute__((always_inline)) void for_each(const Body& body, int pixel = 0) const {
    body(pixel, low, high);
    others.for_each(body, pixel + 1);
  }
};

template <typename Products>
struct TileSums<Products, 0> {
  inline void add(const char*, size_t, __m256i, __m256i) {}
  template <typename Body>
  inline void for_each(const Body&, int) const {}
};

}  // namespace
}  // namespace bireal
