// Pointwise: a real-valued 1x1 convolution, or a fully connected layer on [N, 1, 1, C].
#pragma once

#include "pack.h"

namespace bireal {

// Pointwise(x f32 [N,H,W,C], weight f32|f16|i8 [C,O], scale f32 [O], bias f32 [O], slope? f32 [1]) -> y, bits?
//
// With slope: v = slope * x + (1 - slope) * clip(x, -1, 1), each step rounded; else v = x.
// float32, float16 weights: y = (sum over c of v * weight) * scale + bias.
// int8 weights: each pixel's values are rounded to 8 bits, v ~ q * step (eight_bits() in kernels/kernel.h says how),
// the sum of q * weight is an exact int32, and y = (sum * step) * scale + bias, each step rounded: the same bits on
// every ISA. A pixel with a v that is not finite has a y of NaN. Bound: 127 * 128 * C < 2^31 for C < 131,072; a
// kernel's stored values are up to 255 (C < 65,536).
class Pointwise {
 public:
  // weight, scale, bias and slope are constant and carry data.
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
  AlignedBuffer scale_;    // float, whole blocks
  AlignedBuffer bias_;
};

}  // namespace bireal
