// The real-valued parts of the AVX-512 kernel sets with VNNI: stem and pooling.
//
// Stem: 16 output channels per register, the pixels of a step broadcast to all of them, tiles of 7 pixels x 32 channels
// as in avx512vpopcnt.cc. Multiply-accumulates per instruction, and cycles for one register of outputs of a 7x7 filter
// at 1 instruction per cycle (Zen 4; on Intel this is the rate of each port, and there are one or two):
//   float32  vfmadd231ps  16   147 cycles
//   int16    vpdpwssd     32    77 cycles (11 pairs per filter row)
//   int8     vpdpbusd     64    42 cycles (6 groups of 4 per filter row), only if weights fit int8; pixels are uint8
// The integer sums are exact: vpdpwssd and vpdpbusd add products of full precision into int32 and do not saturate.
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
constexpr int kLargestTile = 7;  // pixels

// Multiply and add of one step, for each type of weights.
struct F32 {
  using Pixel = float;
  using Weight = float;
  using Sum = __m512;
  static constexpr int kPerStep = 1;
  static inline Sum zero() { return _mm512_setzero_ps(); }
  static inline Sum add(Sum sum, __m512i pixels, __m512i weights) {
    return add_products_f32(sum, pixels, weights);
  }
  static inline __m512 result(Sum sum) { return sum; }
};

struct I16 {
  using Pixel = int16_t;
  using Weight = int16_t;
  using Sum = __m512i;
  static constexpr int kPerStep = 2;
  static inline Sum zero() { return _mm512_setzero_si512(); }
  static inline Sum add(Sum sum, __m512i pixels, __m512i weights) {
    return add_products_i16(sum, pixels, weights);
  }
  static inline __m512 result(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

struct I8 {
  using Pixel = uint8_t;
  using Weight = int8_t;
  using Sum = __m512i;
  static constexpr int kPerStep = 4;
  static inline Sum zero() { return _mm512_setzero_si512(); }
  static inline Sum add(Sum sum, __m512i pixels, __m512i weights) {
    return add_products_i8(sum, pixels, weights);
  }
  static inline __m512 result(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

// kKernel, kStride: the side of the filter and the stride if the compiler knows them (7 and 2), else 0. If they are
// known, all addresses of a tile are constant offsets from one pointer. If not, GCC keeps one pointer per load, on the
// stack.
template <typename Type, int kKernel, int kStride, int P>
inline __attribute__((always_inline)) void stem_tile(const StemRowJob& job, int first, int ox) {
  constexpr int kWeightsPerStep = kBlock * Type::kPerStep;
  const int kernel = kKernel == 0 ? job.kernel : kKernel;
  const int steps = stem_steps(kernel, Type::kPerStep);
  const size_t pixel_bytes =
      static_cast<size_t>(kStride == 0 ? job.stride : kStride) * kColors * sizeof(typename Type::Pixel);
  const auto* weights = static_cast<const typename Type::Weight*>(job.weights) +
                        static_cast<size_t>(first) * kernel * steps * Type::kPerStep;
  typename Type::Sum sum[P][kVectors];
#pragma GCC unroll 7
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::zero();
  }
  for (int t = job.tap_begin; t < job.tap_end; ++t) {
    const auto* w = weights + static_cast<size_t>(t) * steps * kWeightsPerStep;
    const char* in = static_cast<const char*>(job.rows[t]) + ox * pixel_bytes;
    // Hides the pointer from the compiler, which otherwise keeps a pointer for each pixel and step instead of one
    // pointer and constant offsets.
    __asm__("" : "+r"(in));
#pragma GCC unroll 11
    for (int s = 0; s < steps; ++s) {
      __m512i weight[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        weight[v] = _mm512_load_si512(w + s * kWeightsPerStep + v * kLanes * Type::kPerStep);
      }
#pragma GCC unroll 7
      for (int p = 0; p < P; ++p) {
        const __m512i broadcast = _mm512_broadcastd_epi32(load_4_bytes(in + p * pixel_bytes + 4 * s));
        for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::add(sum[p][v], broadcast, weight[v]);
      }
    }
  }
#pragma GCC unroll 7
  for (int p = 0; p < P; ++p) {
    const float* offset = job.offset + static_cast<size_t>(job.column_class[ox + p]) * job.padded_channels + first;
    float* out = job.out + static_cast<size_t>(ox + p) * job.out_channels + first;
    for (int v = 0; v < kVectors; ++v) {
      const __m512 scaled = _mm512_mul_ps(Type::result(sum[p][v]), _mm512_load_ps(job.scale + first + v * kLanes));
      const __m512 y = _mm512_add_ps(scaled, _mm512_load_ps(offset + v * kLanes));
      store_lanes(out + v * kLanes, y, job.out_channels - first - v * kLanes);
    }
  }
}

template <typename Type, int kKernel, int kStride, int P>
__attribute__((noinline)) int stem_tiles(const StemRowJob& job, int first, int ox) {
  for (; ox + P <= job.out_width; ox += P) stem_tile<Type, kKernel, kStride, P>(job, first, ox);
  return ox;
}

template <typename Type, int kKernel, int kStride>
void stem_row_of(const StemRowJob& job) {
  for (int first = 0; first < job.out_channels; first += kBlock) {
    int ox = stem_tiles<Type, kKernel, kStride, kLargestTile>(job, first, 0);
    ox = stem_tiles<Type, kKernel, kStride, 3>(job, first, ox);
    stem_tiles<Type, kKernel, kStride, 1>(job, first, ox);
  }
}

template <typename Type>
void stem_row(const StemRowJob& job) {
  if (job.kernel == 7 && job.stride == 2) {
    stem_row_of<Type, 7, 2>(job);
  } else {
    stem_row_of<Type, 0, 0>(job);
  }
}

// Computes the maximum of each column first. An odd column belongs to two windows, and both use its maximum. kRows: 3,
// or 0 for `count` rows.
template <int kRows, bool kFull>
inline __attribute__((always_inline)) void max_pool_vector(const float* const* rows, int count, int width, int channels,
                                                           int c, float* out) {
  const __mmask16 mask = first_lanes(channels - c);
  const int out_width = (width - 1) / 2 + 1;
  const auto load = [&](int r, size_t at) {
    return kFull ? _mm512_loadu_ps(rows[r] + at) : _mm512_maskz_loadu_ps(mask, rows[r] + at);
  };
  const auto column = [&](int x) {
    const size_t at = static_cast<size_t>(x) * channels + c;
    __m512 best = load(0, at);
    for (int r = 1; r < (kRows == 0 ? count : kRows); ++r) best = _mm512_max_ps(load(r, at), best);
    return best;
  };
  __m512 before = column(0);  // maximum of the column left of the window; the first window has no such column
  for (int ox = 0; ox < out_width; ++ox) {
    __m512 best = _mm512_max_ps(column(2 * ox), before);
    if (2 * ox + 1 < width) {
      before = column(2 * ox + 1);
      best = _mm512_max_ps(before, best);
    }
    float* to = out + static_cast<size_t>(ox) * channels + c;
    if (kFull) {
      _mm512_storeu_ps(to, best);
    } else {
      _mm512_mask_storeu_ps(to, mask, best);
    }
  }
}

// Stored: the element type of the weight tensor (int8 weights are stored as int16).
template <typename Type, typename Stored>
constexpr StemKernel make_stem_kernel() {
  using Weight = typename Type::Weight;
  return {stem_layout_bytes<Weight, kBlock, Type::kPerStep>, stem_layout<Stored, Weight, kBlock, Type::kPerStep>,
          stem_row<Type>};
}

}  // namespace

const StemKernel kAvx512StemF32 = make_stem_kernel<F32, float>();
const StemKernel kAvx512StemI16 = make_stem_kernel<I16, int16_t>();
const StemKernel kAvx512StemI8 = make_stem_kernel<I8, int16_t>();

void avx512_max_pool_row(const float* const* rows, int count, int width, int channels, float* out) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    if (count == 3) {
      max_pool_vector<3, true>(rows, count, width, channels, c, out);
    } else {
      max_pool_vector<0, true>(rows, count, width, channels, c, out);
    }
  }
  if (c < channels) max_pool_vector<0, false>(rows, count, width, channels, c, out);
}

void avx512_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out) {
  for (int x = 0; x < width; x += 2, out += channels) {
    const bool pair = x + 1 < width;
    const __m512 factor = _mm512_set1_ps(1.0f / static_cast<float>((pair ? 2 : 1) * (bottom == nullptr ? 1 : 2)));
    const size_t at = static_cast<size_t>(x) * channels;
    for (int c = 0; c < channels; c += kLanes) {
      const __mmask16 mask = first_lanes(channels - c);
      __m512 sum = _mm512_maskz_loadu_ps(mask, top + at + c);
      if (pair) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, top + at + channels + c));
      if (bottom != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bottom + at + c));
        if (pair) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bottom + at + channels + c));
      }
      _mm512_mask_storeu_ps(out + c, mask, _mm512_mul_ps(sum, factor));
    }
  }
}

}  // namespace bireal
