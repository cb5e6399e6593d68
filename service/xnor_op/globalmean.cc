#include "globalmean.h"

#include <algorithm>

namespace bireal {

void GlobalMean::run(const TensorView& x, const MapShape& out, float* y, const Executor& executor) const {
  const MapShape in = map_shape(x, "x");
  const float factor = 1.0f / static_cast<float>(in.pixels());
  executor.for_each(static_cast<size_t>(out.batch), [&](size_t image) {
    const float* from = x.as<float>() + image * in.elements();
    float* sum = y + image * out.elements();
    std::fill_n(sum, in.channels, 0.0f);
    for (size_t p = 0; p < in.pixels(); ++p, from += in.channels) {
      for (int c = 0; c < in.channels; ++c) sum[c] += from[c];
    }
    for (int c = 0; c < in.channels; ++c) sum[c] *= factor;
  });
}

}  // namespace bireal
