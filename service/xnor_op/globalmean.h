// GlobalMean: the global average pooling before a classifier.
#pragma once

#include "pack.h"

namespace bireal {

// GlobalMean(x f32 [N,H,W,C]) -> f32 [N,1,1,C]: sums the pixels in row-major order, then multiplies by 1 / (H * W).
class GlobalMean {
 public:
  explicit GlobalMean(const TensorView& x) {
    require_tensor(x, "x", DType::kFloat32, {-1, -1, -1, -1}, "[N, H, W, C]");
  }

  MapShape prepare(const TensorView& x) const {
    const MapShape in = map_shape(x, "x");
    return {in.batch, 1, 1, in.channels};
  }

  void run(const TensorView& x, const MapShape& out, float* y, const Executor& executor) const;
};

}  // namespace bireal
