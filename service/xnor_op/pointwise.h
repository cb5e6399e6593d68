// Pointwise: a real-valued 1x1 convolution, or a fully connected layer on [N, 1, 1, C].
#pragma once

#include "pack.h"

namespace bireal {

// Pointwise(x f32 [N,H,W,C], weight f32|f16|i8 [C,O], scale f32 [O], bias f32 [O], slope? f32 [1]) -> y, bits?
//
// With slope: v = slope * x + (1 - slope) * clip(x, -1, 1), each step rounded. Without slope: v = x.
// float32 and float16 weights: y = (sum over c of v * weight) * scale + bias.
// int8 weights: the values of each pixel are rounded to 8 bits, v ~ q * step (see eight_bits() in kernels/kernel.h).
// The sum of q * weight is an exact int32. Then y = (sum * step) * scale + bias, each step rounded, so the result has
// the same bits on every ISA. If a v of a pixel is not finite, all y of that pixel are NaN.
// Bound: 127 * 128 * C < 2^31 for C < 131,072. Some kernels store values of up to 255, so C must be below 65,536.
class Pointwise {
 public:
  // weight, scale, bias and slope are constant and have data.
  Pointwise(const TensorView& x, const TensorView& weight, const TensorView& scale, const TensorView& bias,
            const TensorView* slope, const Kernels& kernels);

  MapShape prepare(const TensorView& x) const;
  void run(const TensorView& x, const MapShape& out, float* y, uint32_t* bits, const Executor& executor) const;

 private:
  struct Cut;

  const Kernels& kernels_;
  const PointwiseKernel* kernel_ = nullptr;
  int channels_ = 0;
  int out_channels_ = 0;
  int blocks_ = 0;
  bool clip_ = false;
  float slope_ = 0;
  AlignedBuffer weights_;  // PointwiseKernel::layout
  AlignedBuffer scale_;    // float, padded to whole blocks
  AlignedBuffer bias_;
};

}  // namespace bireal
