#include "avgpool.h"

namespace bireal {

void AvgPool2::run(const TensorView& x, const MapShape& out, float* y, const Kernels& kernels,
                   const Executor& executor) const {
  const MapShape in = map_shape(x, "x");
  // Most of the time goes into reading memory. At 0.8 steps per value, small maps are also divided into tasks, so that
  // each thread reads what it wrote in the operator before.
  const RowTasks tasks(out.batch, out.height, static_cast<double>(in.width) * in.channels * 0.8);
  const size_t pitch = static_cast<size_t>(in.width) * in.channels;
  executor.for_each(tasks.count(), [&](size_t task) {
    const int64_t image = tasks.image(task);
    for (int row = tasks.begin(task); row < tasks.end(task); ++row) {
      const float* top = x.as<float>() + image * in.elements() + 2 * row * pitch;
      const float* bottom = 2 * row + 1 < in.height ? top + pitch : nullptr;
      kernels.avg_pool_row(top, bottom, in.width, in.channels,
                           y + image * out.elements() + static_cast<size_t>(row) * out.width * out.channels);
    }
  });
}

}  // namespace bireal
