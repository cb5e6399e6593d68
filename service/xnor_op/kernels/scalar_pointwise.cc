// Portable products of pixels and a matrix, for the kernel sets that have none of their own.
#include <math.h>

#include "scalar.h"

namespace bireal {
namespace {

constexpr int kChunk = 32;

template <typename T>
size_t layout_bytes(int out_channels, int channels) {
  return sizeof(T) * static_cast<size_t>(out_channels) * channels;
}

template <typename T>
void layout(const void* weights, int out_channels, int channels, void* out) {
  __builtin_memcpy(out, weights, layout_bytes<T>(out_channels, channels));
}

size_t pitch_i8(int channels) { return (static_cast<size_t>(channels) + 3) / 4 * 4; }

void prepare_i8(const float* x, int64_t count, int channels, void* out, float* step) {
  auto* q = static_cast<int8_t*>(out);
  for (int64_t p = 0; p < count; ++p, x += channels, q += pitch_i8(channels)) {
    int32_t most = 0;
    for (int c = 0; c < channels; ++c) {
      const int32_t bits = magnitude_bits(x[c]);
      most = bits > most ? bits : most;
    }
    const EightBits scale = eight_bits(most);
    step[p] = scale.step;
    for (int c = 0; c < channels; ++c) {
      const float value = x[c] * scale.factor;
      // The comparison is false for values that are not finite. nearbyintf rounds half to even.
      q[c] = fabsf(value) < 128.0f ? static_cast<int8_t>(nearbyintf(value)) : int8_t(0);
    }
  }
}

// T: element type of weights and pixels. Sum: float or int32.
template <typename T, typename Sum>
void run(const PointwiseJob& job) {
  const auto* weights = static_cast<const T*>(job.weights);
  for (int64_t p = 0; p < job.count; ++p) {
    const auto* in = reinterpret_cast<const T*>(static_cast<const char*>(job.pixels) + p * job.pitch);
    for (int first = job.block_begin * kChunk; first < job.block_end * kChunk; first += kChunk) {
      const int count = job.out_channels - first < kChunk ? job.out_channels - first : kChunk;
      Sum sum[kChunk] = {};
      for (int c = 0; c < job.channels; ++c) {
        const Sum value = in[c];
        const T* w = weights + static_cast<size_t>(c) * job.out_channels + first;
        for (int o = 0; o < count; ++o) sum[o] += value * w[o];
      }
      float* y = job.y + static_cast<size_t>(p) * job.out_channels + first;
      for (int o = 0; o < count; ++o) {
        float value = static_cast<float>(sum[o]);
        if (job.step != nullptr) value = value * job.step[p];
        const float scaled = value * job.scale[first + o];
        y[o] = scaled + job.bias[first + o];
      }
    }
  }
}

}  // namespace

void scalar_leaky_clip(const float* x, int64_t count, float slope, float* out) {
  const float rest = 1.0f - slope;
  for (int64_t i = 0; i < count; ++i) {
    const float low = x[i] < -1.0f ? -1.0f : x[i];
    const float inside = (low > 1.0f ? 1.0f : low) * rest;
    const float outside = x[i] * slope;
    out[i] = outside + inside;
  }
}

const PointwiseKernel kScalarPointwiseF32 = {kChunk,        nullptr,          nullptr, layout_bytes<float>,
                                             layout<float>, run<float, float>};
const PointwiseKernel kScalarPointwiseI8 = {
    kChunk, pitch_i8, prepare_i8, layout_bytes<int8_t>, layout<int8_t>, run<int8_t, int32_t>};

}  // namespace bireal
