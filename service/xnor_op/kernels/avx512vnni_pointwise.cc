// Real-valued 1x1 convolutions of the AVX-512 kernel sets with VNNI: pixels times a matrix.
//
// 16 output channels per register, the pixels of a step broadcast to all of them. The sums of a tile of pixels x 32
// channels stay in registers over all input channels. Multiply-accumulates per instruction (2 instructions per cycle on
// Zen 5 and on Intel's server cores, 1 on Zen 4):
//   float32, float16 widened  vfmadd231ps  16
//   int8                      vpdpbusd     64, values as uint8: q + 128, so sums start at -128 * (sum of weights)
// A tile of 7 pixels loads 9 registers for 14 such instructions. A tile of 14 pixels loads 16 for 28 and reads the
// weights half as often; it is used for floats, because their weights are larger.
//
// Float weights with one output channel (a score map): the lanes hold the input channels of a pixel instead.
#include <immintrin.h>

#include "avx512.h"
#include "avx512_eight_bits.h"
#include "avx512vnni.h"
#include "avx512vnni_products.h"
#include "load_4_bytes.h"

namespace bireal {
namespace {

constexpr int kVectors = 2;
constexpr int kBlock = kLanes * kVectors;

// Multiply and add of one step, for each type of weights. A step takes 4 bytes of a pixel: kPerStep channels.
struct F32 {
  using Weight = float;
  using Sum = __m512;
  static constexpr int kPerStep = 1;
  static constexpr int kTile = 14;      // pixels; of 32 registers: 28 sums, 2 weights, 1 broadcast
  static constexpr size_t kHeader = 0;  // bytes before the weights of a block
  static inline Sum start(const char*, int) { return _mm512_setzero_ps(); }
  static inline __m512i load(const Weight* w) { return _mm512_loadu_si512(w); }
  static inline Sum add(Sum sum, __m512i pixels, __m512i weights) {
    return add_products_f32(sum, pixels, weights);
  }
  static inline __m512 result(Sum sum, const PointwiseJob&, int64_t) { return sum; }
};

struct F16 : F32 {
  using Weight = uint16_t;
  static inline __m512i load(const Weight* w) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w))));
  }
};

struct I8 {
  using Weight = int8_t;
  using Sum = __m512i;
  static constexpr int kPerStep = kValuesADot;
  static constexpr int kTile = 7;
  static constexpr size_t kHeader = sizeof(int32_t) * kBlock;
  static inline Sum start(const char* header, int v) { return _mm512_loadu_si512(header + v * sizeof(__m512i)); }
  static inline __m512i load(const Weight* w) { return _mm512_loadu_si512(w); }
  static inline Sum add(Sum sum, __m512i pixels, __m512i weights) {
    return add_products_i8(sum, pixels, weights);
  }
  static inline __m512 result(Sum sum, const PointwiseJob& job, int64_t pixel) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(job.step[pixel]));
  }
};

constexpr int steps_of(int channels, int per_step) { return (channels + per_step - 1) / per_step; }

template <typename Type>
size_t block_bytes(int channels) {
  return Type::kHeader + sizeof(typename Type::Weight) * kBlock * Type::kPerStep * steps_of(channels, Type::kPerStep);
}

template <typename Type>
size_t layout_bytes(int out_channels, int channels) {
  return block_bytes<Type>(channels) * ((static_cast<size_t>(out_channels) + kBlock - 1) / kBlock);
}

// Layout: [block]([32] start)[step][32 output channels][input channels of the step].
// Floats with one output channel: [channel].
template <typename Type>
void layout(const void* weights, int out_channels, int channels, void* out) {
  using Weight = typename Type::Weight;
  const auto* from = static_cast<const Weight*>(weights);
  if (out_channels == 1 && Type::kPerStep == 1) {
    __builtin_memcpy(out, from, sizeof(Weight) * channels);
    return;
  }
  auto* to = static_cast<char*>(out);
  for (int first = 0; first < out_channels; first += kBlock, to += block_bytes<Type>(channels)) {
    auto* w = reinterpret_cast<Weight*>(to + Type::kHeader);
    for (int c0 = 0; c0 < Type::kPerStep * steps_of(channels, Type::kPerStep); c0 += Type::kPerStep) {
      for (int o = first; o < first + kBlock; ++o) {
        for (int c = c0; c < c0 + Type::kPerStep; ++c) {
          *w++ = o < out_channels && c < channels ? from[static_cast<size_t>(c) * out_channels + o] : Weight(0);
        }
      }
    }
    if (Type::kHeader == 0) continue;
    auto* start = reinterpret_cast<int32_t*>(to);
    for (int lane = 0; lane < kBlock; ++lane) {
      start[lane] = 0;
      for (int c = 0; first + lane < out_channels && c < channels; ++c) {
        start[lane] -= kOffset * static_cast<int32_t>(from[static_cast<size_t>(c) * out_channels + first + lane]);
      }
    }
  }
}

template <typename Type, int P>
inline __attribute__((always_inline)) void tile(const PointwiseJob& job, const char* block, int first, int64_t pixel) {
  using Weight = typename Type::Weight;
  constexpr int kWeightsPerStep = kBlock * Type::kPerStep;
  const auto* w = reinterpret_cast<const Weight*>(block + Type::kHeader);
  const char* in = static_cast<const char*>(job.pixels) + static_cast<size_t>(pixel) * job.pitch;
  const size_t pitch = job.pitch;
  typename Type::Sum sum[P][kVectors];
#pragma GCC unroll 14
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::start(block, v);
  }
  const char* end = in + 4 * static_cast<size_t>(steps_of(job.channels, Type::kPerStep));
  for (; in != end; in += 4, w += kWeightsPerStep) {
    __m512i weight[kVectors];
    for (int v = 0; v < kVectors; ++v) weight[v] = Type::load(w + v * kLanes * Type::kPerStep);
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) {
      const __m512i broadcast = _mm512_broadcastd_epi32(load_4_bytes(in + p * pitch));
      for (int v = 0; v < kVectors; ++v) sum[p][v] = Type::add(sum[p][v], broadcast, weight[v]);
    }
  }
  __m512 scale[kVectors];
  __m512 bias[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    scale[v] = _mm512_load_ps(job.scale + first + v * kLanes);
    bias[v] = _mm512_load_ps(job.bias + first + v * kLanes);
  }
#pragma GCC unroll 14
  for (int p = 0; p < P; ++p) {
    float* y = job.y + static_cast<size_t>(pixel + p) * job.out_channels + first;
    for (int v = 0; v < kVectors; ++v) {
      const __m512 value = Type::result(sum[p][v], job, pixel + p);
      const __m512 scaled = _mm512_add_ps(_mm512_mul_ps(value, scale[v]), bias[v]);
      store_lanes(y + v * kLanes, scaled, job.out_channels - first - v * kLanes);
    }
  }
}

template <typename Type, int P>
__attribute__((noinline)) int64_t tiles(const PointwiseJob& job, const char* block, int first, int64_t pixel) {
  for (; pixel + P <= job.count; pixel += P) tile<Type, P>(job, block, first, pixel);
  return pixel;
}

// Dot products of the pixels with one column: one output channel.
template <typename Type>
void run_single(const PointwiseJob& job) {
  constexpr int kSums = 4;
  const auto* w = static_cast<const typename Type::Weight*>(job.weights);
  for (int64_t p = 0; p < job.count; ++p) {
    const auto* x = reinterpret_cast<const float*>(static_cast<const char*>(job.pixels) + p * job.pitch);
    __m512 sum[kSums];
    for (__m512& s : sum) s = _mm512_setzero_ps();
    int c = 0;
    for (; c + kSums * kLanes <= job.channels; c += kSums * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) {
        const __m512 weight = _mm512_castsi512_ps(Type::load(w + c + i * kLanes));
        sum[i] = _mm512_fmadd_ps(_mm512_loadu_ps(x + c + i * kLanes), weight, sum[i]);
      }
    }
    float tail = 0.0f;
    for (; c + kLanes <= job.channels; c += kLanes) {
      const __m512 weight = _mm512_castsi512_ps(Type::load(w + c));
      sum[0] = _mm512_fmadd_ps(_mm512_loadu_ps(x + c), weight, sum[0]);
    }
    for (; c < job.channels; ++c) {
      typename Type::Weight last[kLanes] = {w[c]};
      tail += x[c] * _mm512_cvtss_f32(_mm512_castsi512_ps(Type::load(last)));
    }
    const __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    job.y[p] = (_mm512_reduce_add_ps(all) + tail) * job.scale[0] + job.bias[0];
  }
}

template <typename Type>
void run(const PointwiseJob& job) {
  if (job.out_channels == 1 && Type::kPerStep == 1) {
    if constexpr (Type::kPerStep == 1) run_single<Type>(job);
    return;
  }
  for (int b = job.block_begin; b < job.block_end; ++b) {
    const char* block = static_cast<const char*>(job.weights) + b * block_bytes<Type>(job.channels);
    const int first = b * kBlock;
    int64_t pixel = tiles<Type, Type::kTile>(job, block, first, 0);
    if (Type::kTile > 7) pixel = tiles<Type, 7>(job, block, first, pixel);
    pixel = tiles<Type, 4>(job, block, first, pixel);
    pixel = tiles<Type, 2>(job, block, first, pixel);
    tiles<Type, 1>(job, block, first, pixel);
  }
}

}  // namespace

void avx512_leaky_clip(const float* x, int64_t count, float slope, float* out) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 minus_one = _mm512_set1_ps(-1.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = first_lanes(count - i < kLanes ? static_cast<int>(count - i) : kLanes);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 inside = _mm512_min_ps(one, _mm512_max_ps(minus_one, value));
    const __m512 outside = _mm512_mul_ps(value, _mm512_set1_ps(slope));
    _mm512_mask_storeu_ps(out + i, mask, _mm512_add_ps(outside, _mm512_mul_ps(inside, _mm512_set1_ps(1.0f - slope))));
  }
}

const PointwiseKernel kAvx512PointwiseF32 = {kBlock, nullptr, nullptr, layout_bytes<F32>, layout<F32>, run<F32>};
const PointwiseKernel kAvx512PointwiseF16 = {kBlock, nullptr, nullptr, layout_bytes<F16>, layout<F16>, run<F16>};
const PointwiseKernel kAvx512PointwiseI8 = {kBlock, pitch_i8, prepare_i8, layout_bytes<I8>, layout<I8>, run<I8>};

}  // namespace bireal
