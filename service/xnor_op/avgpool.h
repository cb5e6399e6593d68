// AvgPool2: the average pooling before a real-valued downsampling convolution.
#pragma once

#include "pack.h"

namespace bireal {

// AvgPool2(x f32 [N,H,W,C]) -> f32 [N,ceil(H/2),ceil(W/2),C]: 2x2, stride 2, ceil_mode; padding is not counted.
class AvgPool2 {
 public:
  explicit AvgPool2(const TensorView& x) { require_tensor(x, "x", DType::kFloat32, {-1, -1, -1, -1}, "[N, H, W, C]"); }

  MapShape prepare(const TensorView& x) const {
    const MapShape in = map_shape(x, "x");
    return {in.batch, (in.height + 1) / 2, (in.width + 1) / 2, in.channels};
  }

  void run(const TensorView& x, const MapShape& out, float* y, const Kernels& kernels, const Executor& executor) const;
};

}  // namespace bireal
