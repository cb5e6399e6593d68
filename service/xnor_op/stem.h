// Stem: the real-valued first convolution of the network on 8-bit pixels, with BatchNorm, max-pool and sign.
#pragma once

#include "pack.h"

namespace bireal {

// Stem(image u8 [N,H,W,3], weight f32|i16 [O,K,K,3], scale f32 [O], bias f32 [O], mean f32 [3]) -> y, bits?
//
// v[o] = scale[o] * sum over valid taps of weight[o,t,c] * (pixel - mean[c]) + bias[o]. Padding is K / 2; padded values
// are zero after the subtraction of the mean. If pool is set, a max-pool over 3x3 with stride 2 and pad 1 follows. K is
// odd, at most 7.
//
// int16 weights: the sum over raw pixels is an exact int32. The contribution of the means is a constant of the border
// class:
//   sum w * (pixel - mean) = sum w * pixel - sum over valid taps of w * mean.
// Bound: |sum| <= 255 * sum |w| must be below 2^31. For K = 7, any int16 weights give at most 255 * 32768 * 147 =
// 1.23e9. If all weights fit int8, or a third of int16, a faster kernel is used where the ISA has one; the sums are the
// same integers.
// float32 weights: pixel - mean is computed in float32 and padded with zeros.
class Stem {
 public:
  struct Attributes {
    int64_t stride = 0;  // 1 or 2
    int64_t pool = 0;    // 0 or 1
  };

  // weight, scale, bias and mean are constant and have data.
  Stem(const Attributes& attributes, const TensorView& image, const TensorView& weight, const TensorView& scale,
       const TensorView& bias, const TensorView& mean, const Kernels& kernels);

  MapShape prepare(const TensorView& image) const;
  void run(const TensorView& image, const MapShape& out, float* y, uint32_t* bits, const Executor& executor) const;

 private:
  struct Geometry;
  struct Held;
  class RowSource;

  size_t input_row_bytes(int width, int conv_width) const;
  int border_distance_classes() const { return kernel_ / 2 + 1; }
  template <typename T>
  void make_offsets(const T* weight, const float* scale, const float* bias);

  const Kernels& kernels_;
  enum class Pixels { kFloat32, kInt16, kUInt8, kPrepared };

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
