// The real-valued parts of the AVX2 kernel set: stem and pooling.
//
// Stem: 8 output channels per register, the pixels of a step broadcast to all of them, tiles of pixels x 16 channels
// (avx2_tile.h). int16 is exact (255 * 32768 * 2 < 2^31 per step). There is no int8 kernel, because vpmaddubsw
// saturates.
#include <immintrin.h>

#include "avx2.h"
#include "avx2_tile.h"
#include "stem_layout.h"

namespace bireal {
namespace {

constexpr int kLanes = 8;
constexpr int kBlock = kAvx2StemBlock;

struct F32 : F32Products {
  using Pixel = float;
  using Weight = float;
  static constexpr int kPerStep = 1;
  static constexpr int kTile = 6;  // pixels; of 16 registers: 12 sums, 2 weights, 1 broadcast
  static inline __m256 result(Sum sum) { return sum; }
};

struct I16 : I16Products {
  using Pixel = int16_t;
  using Weight = int16_t;
  static constexpr int kPerStep = 2;
  static constexpr int kTile = 6;  // as for F32, and 1 product
  static inline __m256 result(Sum sum) { return _mm256_cvtepi32_ps(sum); }
};

// kKernel, kStride: the side of the filter and the stride if the compiler knows them (7 and 2), else 0. If they are
// known, all addresses of a tile are constant offsets from one pointer. If not, GCC keeps one pointer per load, on the
// stack.
template <typename Type, int kKernel, int kStride, int P>
inline __attribute__((always_inline)) void stem_tile(const StemRowJob& job, int first, int ox) {
  constexpr int kWeightsPerStep = kBlock * Type::kPerStep;
  const int kernel = kKernel == 0 ? job.kernel : kKernel;
  int steps = stem_steps(kernel, Type::kPerStep);
  // Hides the number from the compiler, which otherwise unrolls the steps and runs out of registers.
  __asm__("" : "+r"(steps));
  const size_t pixel_bytes =
      static_cast<size_t>(kStride == 0 ? job.stride : kStride) * kColors * sizeof(typename Type::Pixel);
  const auto* weights = static_cast<const typename Type::Weight*>(job.weights) +
                        static_cast<size_t>(first) * kernel * steps * Type::kPerStep;
  TileSums<Type, P> sums;
  for (int t = job.tap_begin; t < job.tap_end; ++t) {
    const auto* w = weights + static_cast<size_t>(t) * steps * kWeightsPerStep;
    const char* in = static_cast<const char*>(job.rows[t]) + ox * pixel_bytes;
    // Hides the pointer from the compiler, which otherwise keeps a pointer for each pixel and step instead of one
    // pointer and constant offsets.
    __asm__("" : "+r"(in));
    for (int s = 0; s < steps; ++s) {
      const auto* step = reinterpret_cast<const __m256i*>(w + s * kWeightsPerStep);
      sums.add(in + 4 * s, pixel_bytes, _mm256_load_si256(step), _mm256_load_si256(step + 1));
    }
  }
  const int valid = job.out_channels - first < kBlock ? job.out_channels - first : kBlock;
  const float* const scale = job.scale + first;
  sums.for_each([&](int p, typename Type::Sum low, typename Type::Sum high) {
    const float* offset = job.offset + static_cast<size_t>(job.column_class[ox + p]) * job.padded_channels + first;
    float* out = job.out + static_cast<size_t>(ox + p) * job.out_channels + first;
    const __m256 y_low = _mm256_add_ps(_mm256_mul_ps(Type::result(low), _mm256_load_ps(scale)), _mm256_load_ps(offset));
    const __m256 y_high = _mm256_add_ps(_mm256_mul_ps(Type::result(high), _mm256_load_ps(scale + kLanes)),
                                        _mm256_load_ps(offset + kLanes));
    if (valid == kBlock) {
      _mm256_storeu_ps(out, y_low);
      _mm256_storeu_ps(out + kLanes, y_high);
    } else {
      alignas(32) float y[kBlock];
      _mm256_store_ps(y, y_low);
      _mm256_store_ps(y + kLanes, y_high);
      __builtin_memcpy(out, y, sizeof(float) * valid);
    }
  });
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
    ox = stem_tiles<Type, kKernel, kStride, 4>(job, first, ox);
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
    const float* parts[4];  // in row-major order
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
