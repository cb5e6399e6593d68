// Real-valued 1x1 convolutions of the AVX2 kernel set: pixels times a matrix.
//
// 8 output channels per register, tiles of pixels x 16 channels. float32: vfmadd231ps, 8 multiply-accumulates. int8:
// values and weights are widened to int16, with two input channels per step. vpmaddwd and vpaddd do 16
// multiply-accumulates in 2 instructions, which is exact (at most 127 * 128 * 2 per step); vpmaddubsw would saturate.
// For a float32 score map (one output channel), 15 of 16 lanes would be idle, so there the lanes hold input channels.
#include <immintrin.h>

#include "avx2.h"
#include "avx2_tile.h"

namespace bireal {
namespace {

constexpr int kLanes = 8;
constexpr int kVectors = 2;
constexpr int kBlock = kLanes * kVectors;

struct F32 : F32Products {
  using Stored = float;
  using Weight = float;
  static constexpr int kPerStep = 1;
  static constexpr int kTile = 6;  // pixels; of 16 registers: 12 sums, 2 weights, 1 broadcast
  static inline __m256 result(Sum sum, const PointwiseJob&, int64_t) { return sum; }
};

struct I8 : I16Products {
  using Stored = int8_t;
  using Weight = int16_t;
  static constexpr int kPerStep = 2;
  static constexpr int kTile = 6;  // as for F32, and 1 product
  static inline __m256 result(Sum sum, const PointwiseJob& job, int64_t pixel) {
    return _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(job.step[pixel]));
  }
};

constexpr int steps_of(int channels, int per_step) { return (channels + per_step - 1) / per_step; }

template <typename Type>
size_t block_bytes(int channels) {
  return sizeof(typename Type::Weight) * kBlock * Type::kPerStep * steps_of(channels, Type::kPerStep);
}

template <typename Type>
size_t layout_bytes(int out_channels, int channels) {
  return block_bytes<Type>(channels) * ((static_cast<size_t>(out_channels) + kBlock - 1) / kBlock);
}

// Layout: [block][step][16 output channels][input channels of the step].
template <typename Type>
void layout(const void* weights, int out_channels, int channels, void* out) {
  const auto* from = static_cast<const typename Type::Stored*>(weights);
  auto* to = static_cast<typename Type::Weight*>(out);
  for (int first = 0; first < out_channels; first += kBlock) {
    for (int c0 = 0; c0 < channels; c0 += Type::kPerStep) {
      for (int o = first; o < first + kBlock; ++o) {
        for (int c = c0; c < c0 + Type::kPerStep; ++c) {
          const bool real = o < out_channels && c < channels;
          *to++ = real ? static_cast<typename Type::Weight>(from[static_cast<size_t>(c) * out_channels + o]) : 0;
        }
      }
    }
  }
}

size_t pitch_i8(int channels) { return sizeof(int16_t) * I8::kPerStep * steps_of(channels, I8::kPerStep); }

void prepare_i8(const float* x, int64_t count, int channels, void* out, float* step) {
  const size_t pitch = pitch_i8(channels) / sizeof(int16_t);
  auto* q = static_cast<int16_t*>(out);
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int64_t p = 0; p < count; ++p, x += channels, q += pitch) {
    __m256i largest = _mm256_setzero_si256();
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + c));
      largest = _mm256_max_epi32(largest, _mm256_and_si256(value, magnitude));
    }
    __m128i folded = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    folded = _mm_max_epi32(folded, _mm_shuffle_epi32(folded, 0x4e));
    folded = _mm_max_epi32(folded, _mm_shuffle_epi32(folded, 0xb1));
    int32_t most = _mm_cvtsi128_si32(folded);
    for (; c < channels; ++c) {
      const int32_t bits = magnitude_bits(x[c]);
      most = bits > most ? bits : most;
    }
    const EightBits scale = eight_bits(most);
    step[p] = scale.step;
    for (c = 0; c + kLanes <= channels; c += kLanes) {
      const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + c), _mm256_set1_ps(scale.factor)));
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + c), words);
    }
    for (; c < channels; ++c) q[c] = static_cast<int16_t>(_mm_cvtss_si32(_mm_set_ss(x[c] * scale.factor)));
    if (static_cast<size_t>(c) < pitch) q[c] = 0;
  }
}

template <typename Type, int P>
inline __attribute__((always_inline)) void tile(const PointwiseJob& job, const char* block, int first, int64_t pixel) {
  const char* w = block;
  const char* in = static_cast<const char*>(job.pixels) + static_cast<size_t>(pixel) * job.pitch;
  const size_t pitch = job.pitch;
  TileSums<Type, P> sums;
  const char* end = in + 4 * static_cast<size_t>(steps_of(job.channels, Type::kPerStep));
  for (; in != end; in += 4, w += kVectors * sizeof(__m256i)) {
    const auto* weights = reinterpret_cast<const __m256i*>(w);
    sums.add(in, pitch, _mm256_load_si256(weights), _mm256_load_si256(weights + 1));
  }
  const float* const scale = job.scale + first;
  const float* const bias = job.bias + first;
  const int left = job.out_channels - first;
  sums.for_each([&](int p, typename Type::Sum low, typename Type::Sum high) {
    float* y = job.y + static_cast<size_t>(pixel + p) * job.out_channels + first;
    const typename Type::Sum halves[kVectors] = {low, high};
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __m256 scaled = _mm256_mul_ps(Type::result(halves[v], job, pixel + p), _mm256_load_ps(scale + v * kLanes));
      const __m256 value = _mm256_add_ps(scaled, _mm256_load_ps(bias + v * kLanes));
      if (left >= (v + 1) * kLanes) {
        _mm256_storeu_ps(y + v * kLanes, value);
      } else {
        float each[kLanes];
        _mm256_storeu_ps(each, value);
        for (int i = 0; i < left - v * kLanes; ++i) y[v * kLanes + i] = each[i];
      }
    }
  });
}

template <typename Type, int P>
__attribute__((noinline)) int64_t tiles(const PointwiseJob& job, const char* block, int first, int64_t pixel) {
  for (; pixel + P <= job.count; pixel += P) tile<Type, P>(job, block, first, pixel);
  return pixel;
}

template <typename Type>
void run(const PointwiseJob& job) {
  for (int b = job.block_begin; b < job.block_end; ++b) {
    const char* block = static_cast<const char*>(job.weights) + b * block_bytes<Type>(job.channels);
    int64_t pixel = tiles<Type, Type::kTile>(job, block, b * kBlock, 0);
    pixel = tiles<Type, 4>(job, block, b * kBlock, pixel);
    pixel = tiles<Type, 2>(job, block, b * kBlock, pixel);
    tiles<Type, 1>(job, block, b * kBlock, pixel);
  }
}

// With one output channel, the weights stay in the order of the input channels.
void layout_f32(const void* weights, int out_channels, int channels, void* out) {
  if (out_channels == 1) {
    __builtin_memcpy(out, weights, sizeof(float) * channels);
  } else {
    layout<F32>(weights, out_channels, channels, out);
  }
}

inline float sum_of_lanes(__m256 lanes) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

void run_scores(const PointwiseJob& job) {
  constexpr int kSums = 4;  // covers the latency of vfmadd231ps, 4 cycles; its 2 loads allow 1 per cycle
  const auto* w = static_cast<const float*>(job.weights);
  const auto* x = static_cast<const float*>(job.pixels);
  for (int64_t p = 0; p < job.count; ++p, x += job.channels) {
    __m256 sums[kSums] = {};
    int c = 0;
    for (; c + kSums * kLanes <= job.channels; c += kSums * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm256_fmadd_ps(_mm256_loadu_ps(x + c + i * kLanes), _mm256_loadu_ps(w + c + i * kLanes), sums[i]);
      }
    }
    float sum = sum_of_lanes(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    for (; c < job.channels; ++c) sum += x[c] * w[c];
    job.y[p] = sum * job.scale[0] + job.bias[0];
  }
}

void run_f32(const PointwiseJob& job) {
  if (job.out_channels == 1) {
    run_scores(job);
  } else {
    run<F32>(job);
  }
}

}  // namespace

void avx2_leaky_clip(const float* x, int64_t count, float slope, float* out) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 minus_one = _mm256_set1_ps(-1.0f);
  const float rest = 1.0f - slope;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256 value = _mm256_loadu_ps(x + i);
    const __m256 inside = _mm256_min_ps(one, _mm256_max_ps(minus_one, value));
    const __m256 outside = _mm256_mul_ps(value, _mm256_set1_ps(slope));
    _mm256_storeu_ps(out + i, _mm256_add_ps(outside, _mm256_mul_ps(inside, _mm256_set1_ps(rest))));
  }
  for (; i < count; ++i) {
    const float low = x[i] < -1.0f ? -1.0f : x[i];
    const float inside = (low > 1.0f ? 1.0f : low) * rest;
    const float outside = x[i] * slope;
    out[i] = outside + inside;
  }
}

const PointwiseKernel kAvx2PointwiseF32 = {kBlock, nullptr, nullptr, layout_bytes<F32>, layout_f32, run_f32};
const PointwiseKernel kAvx2PointwiseI8 = {kBlock, pitch_i8, prepare_i8, layout_bytes<I8>, layout<I8>, run<I8>};

}  // namespace bireal
