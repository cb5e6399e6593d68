// Stem: the network's real-valued first convolution, straight from 8-bit pixels, with BatchNorm, max-pool and sign.
#pragma once

#include "pack.h"

namespace bireal {

// Stem(image u8 [N,H,W,3], weight f32|i16 [O,K,K,3], scale f32 [O], bias f32 [O], mean f32 [3]) -> y, bits?
//
// v[o] = scale[o] * sum over valid taps of weight[o,t,c] * (pixel - mean[c]) + bias[o]; padding K / 2, zero in the
// mean-subtracted domain; then, if pool, max over 3x3, stride 2, pad 1. K is odd, at most 7.
//
// int16 weights: the sum over raw pixels is an exact int32, and the means' share is a constant of the border class:
//   sum w * (pixel - mean) = sum w * pixel - sum over valid taps of w * mean.
// Bound: |sum| <= 255 * sum |w| must be below 2^31, which holds for any int16 weights up to K = 7
// (255 * 32768 * 147 = 1.23e9). Weights that all fit int8 take a faster kernel where there is one; the sums are the
// same integers. float32 weights: pixel - mean in float32, padded with zeros.
class Stem {
 public:
  struct Attributes {
    int64_t stride = 0;  // 1 or 2
    int64_t pool = 0;    // 0 or 1
  };

  // weight, scale, bias and mean are constant and carry data.
  Stem(const Attributes& attributes, const TensorView& image, const TensorView& weight, const TensorView& scale,
       const TensorView& bias, const TensorView& mean, const Kernels& kernels);

  MapShape prepare(const TensorView& image) const;
  void run(const TensorView& image, const MapShape& out, float* y, uint32_t* bits, const Executor& executor) const;

 private:
  struct Geometry;
  struct Held;
  class RowSource;

  size_t pixel_bytes() const;
  int border_distance_classes() const { return kernel_ / 2 + 1; }
  template <typename T>
  void make_offsets(const T* weight, const float* scale, const float* bias);

  const Kernels& kernels_;
  enum class Pixels { kFloat32, kInt16, kUInt8 };

  const StemKernel* stem_ = nullptr;
  Pixels pixels_ = Pixels::kFloat32;
  bool pool_ = false;
  int stride_ = 0;
  int kernel_ = 0;
  int out_channels_ = 0;
  int padded_channels_ = 0;
  float mean_[3] = {};
  AlignedBuffer weights_;
  AlignedBuffer scale_;   // float [padded]
  AlignedBuffer offset_;  // float [row class][column class][padded]
};

}  // namespace bireal
