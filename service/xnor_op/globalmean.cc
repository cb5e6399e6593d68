#include "globalmean.h"

#include <algorithm>

namespace bireal {
namespace {

constexpr int kFewestChannels = 128;  // per task: whole cache lines, enough of them for the hardware prefetcher

}  // namespace

void GlobalMean::run(const TensorView& x, const MapShape& out, float* y, const Executor& executor) const {
  const MapShape in = map_shape(x, "x");
  const float factor = 1.0f / static_cast<float>(in.pixels());
  // Divided by channels, like the last layer, so that each thread finds the data that it wrote in its own cache.
  const int parts = std::clamp(in.channels / kFewestChannels, 1, tasks_for(static_cast<double>(in.elements())));
  executor.for_each(static_cast<size_t>(out.batch) * parts, [&](size_t task) {
    const size_t image = task / parts;
    const int part = static_cast<int>(task % parts);
    const int begin = static_cast<int>(static_cast<int64_t>(in.channels) * part / parts);
    const int end = static_cast<int>(static_cast<int64_t>(in.channels) * (part + 1) / parts);
    const float* from = x.as<float>() + image * in.elements();
    float* sum = y + image * out.elements();
    std::fill(sum + begin, sum + end, 0.0f);
    for (size_t p = 0; p < in.pixels(); ++p, from += in.channels) {
      for (int c = begin; c < end; ++c) sum[c] += from[c];
    }
    for (int c = begin; c < end; ++c) sum[c] *= factor;
  });
}

}  // namespace bireal
