// The real-valued parts of the AVX2 kernel set: stem and pooling.
//
// Stem: 8 output channels a register, the pixels of a step broadcast to all of them, tiles of 6 or 4 pixels x 16
// channels. float32: vfmadd231ps, 8 multiply-accumulates. int16: vpmaddwd and vpaddd, 16
// multiply-accumulates for 2 instructions, exact (255 * 32768 * 2 < 2^31). There is no int8 form: vpmaddubsw saturates.
#include <immintrin.h>

#include "avx2.h"
#include "stem_layout.h"

namespace bireal {
namespace {

constexpr int kLanes = 8;
constexpr int kVectors = 2;
constexpr int kBlock = kAvx2StemBlock;

struct F32 {
  using Pixel = float;
  using Weight = float;
  using Sum = __m256;
  static constexpr int kPerStep = 1;
  static constexpr int kTile = 6;  // pixels: 12 sums, 2 weights, 1 broadcast of 16 registers
  static inline Sum zero() { return _mm256_setzero_ps(); }
  static inline Sum add(Sum sum, __m256i pixels, __m256i weights) {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(pixels), _mm256_castsi256_ps(weights), sum);
  }
  static inline __m256 result(Sum sum) { return sum; }
};

struct I16 {
  using Pixel = int16_t;
  using Weight = int16_t;
  using Sum = __m256i;
  static constexpr int kPerStep = 2;
  static constexpr int kTile = 4;  // pixels: products need registers too
  static inline Sum zero() { return _mm256_setzero_si256(); }
  static inline Sum add(Sum sum, __m256i pixels, __m256i weights) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights));
  }
  static inline __m256 result(Sum sum) { return _mm256_cvtepi32_ps(sum); }
};

// kKernel, kStride: the filter's side and the stride where the compiler is to know them (7 and 2), else 0. Known, all
// addresses of a tile are constants behind one pointer; unknown, GCC keeps one pointer a load, on the stack.
template <typename Type, int kKernel, int kStride, int P>
inline __attribute__((always_inline)) void stem_tile(const StemRowJob& job, int first, int ox) {
  constexpr int kWeightsPerStep = kBlock * Type::kPerStep;
  const int kernel = kKernel == 0 ? job.kernel : kKernel;
  int steps = stem_steps(kernel, Type::kPerStep);
  // Opaque to the compiler, which otherwise unrolls the steps and runs out of registers.
  __asm__("" : "+r"(steps));
  const size_t pixel_bytes =
      static_cast<size_t>(kStride == 0 ? job.stride : kStride) * kColors * sizeof(typename Type::Pixel);
  const auto* weights = static_cast<const typename Type::Weight*>(job.weights) +
                        static_cast<size_t>(first) * kernel * steps * Type::kPerStep;
  typename Type::Sum sum[P][kVectors];
#pragma GCC unroll 6
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::zero();
  }
  for (int t = job.tap_begin; t < job.tap_end; ++t) {
    const auto* w = weights + static_cast<size_t>(t) * steps * kWeightsPerStep;
    const char* in = static_cast<const char*>(job.rows[t]) + ox * pixel_bytes;
    // Opaque to the compiler, which otherwise keeps a pointer for each pixel and step instead of one and constants.
    __asm__("" : "+r"(in));
    for (int s = 0; s < steps; ++s) {
      __m256i weight[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        weight[v] =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(w + s * kWeightsPerStep + v * kLanes * Type::kPerStep));
      }
#pragma GCC unroll 6
      for (int p = 0; p < P; ++p) {
        const __m256i broadcast = _mm256_broadcastd_epi32(_mm_loadu_si32(in + p * pixel_bytes + 4 * s));
        for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::add(sum[p][v], broadcast, weight[v]);
      }
    }
  }
  const int valid = job.out_channels - first < kBlock ? job.out_channels - first : kBlock;
#pragma GCC unroll 6
  for (int p = 0; p < P; ++p) {
    const float* offset = job.offset + static_cast<size_t>(job.column_class[ox + p]) * job.padded_channels + first;
    float* out = job.out + static_cast<size_t>(ox + p) * job.out_channels + first;
    alignas(32) float y[kBlock];
    for (int v = 0; v < kVectors; ++v) {
      const __m256 scaled = _mm256_mul_ps(Type::result(sum[p][v]), _mm256_load_ps(job.scale + first + v * kLanes));
      const __m256 value = _mm256_add_ps(scaled, _mm256_load_ps(offset + v * kLanes));
      if (valid == kBlock) {
        _mm256_storeu_ps(out + v * kLanes, value);
      } else {
        _mm256_store_ps(y + v * kLanes, value);
      }
    }
    if (valid != kBlock) __builtin_memcpy(out, y, sizeof(float) * valid);
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
    int ox = stem_tiles<Type, kKernel, kStride, Type::kTile>(job, first, 0);
    ox = stem_tiles<Type, kKernel, kStride, 2>(job, first, ox);
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

template <typename Type>
constexpr StemKernel make_stem_kernel() {
  using Weight = typename Type::Weight;
  return {stem_layout_bytes<Weight, kBlock, Type::kPerStep>, stem_layout<Weight, Weight, kBlock, Type::kPerStep>,
          stem_row<Type>};
}

}  // namespace

const StemKernel kAvx2StemF32 = make_stem_kernel<F32>();
const StemKernel kAvx2StemI16 = make_stem_kernel<I16>();

void avx2_max_pool_row(const float* const* rows, int count, int width, int channels, float* out) {
  const int out_width = (width - 1) / 2 + 1;
  for (int ox = 0; ox < out_width; ++ox, out += channels) {
    const int begin = ox == 0 ? 0 : 2 * ox - 1;
    const int end = 2 * ox + 2 < width ? 2 * ox + 2 : width;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      __m256 best = _mm256_loadu_ps(rows[0] + static_cast<size_t>(begin) * channels + c);
      for (int r = 0; r < count; ++r) {
        for (int x = begin; x < end; ++x) {
          best = _mm256_max_ps(_mm256_loadu_ps(rows[r] + static_cast<size_t>(x) * channels + c), best);
        }
      }
      _mm256_storeu_ps(out + c, best);
    }
    for (; c < channels; ++c) {
      float best = rows[0][static_cast<size_t>(begin) * channels + c];
      for (int r = 0; r < count; ++r) {
        for (int x = begin; x < end; ++x) {
          const float value = rows[r][static_cast<size_t>(x) * channels + c];
          best = value > best ? value : best;
        }
      }
      out[c] = best;
    }
  }
}

void avx2_avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out) {
  for (int x = 0; x < width; x += 2, out += channels) {
    const bool pair = x + 1 < width;
    const float factor = 1.0f / static_cast<float>((pair ? 2 : 1) * (bottom == nullptr ? 1 : 2));
    const float* parts[4];  // in reading order
    int count = 0;
    const size_t at = static_cast<size_t>(x) * channels;
    parts[count++] = top + at;
    if (pair) parts[count++] = top + at + channels;
    if (bottom != nullptr) parts[count++] = bottom + at;
    if (bottom != nullptr && pair) parts[count++] = bottom + at + channels;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      __m256 sum = _mm256_loadu_ps(parts[0] + c);
      for (int i = 1; i < count; ++i) sum = _mm256_add_ps(sum, _mm256_loadu_ps(parts[i] + c));
      _mm256_storeu_ps(out + c, _mm256_mul_ps(sum, _mm256_set1_ps(factor)));
    }
    for (; c < channels; ++c) {
      float sum = parts[0][c];
      for (int i = 1; i < count; ++i) sum = sum + parts[i][c];
      out[c] = sum * factor;
    }
  }
}

}  // namespace bireal
