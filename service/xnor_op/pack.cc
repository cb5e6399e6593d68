#include "pack.h"

#include <algorithm>

namespace bireal {
namespace {

constexpr int64_t kLargestSide = 1 << 20;      // height or width of a map, in pixels
constexpr int64_t kLargestChannels = 1 << 20;  // |dot| <= 9 * C must stay below 2^24 to be exact in float32
constexpr int kMostTasks = 16;                 // per image
constexpr double kStepsPerTask = 8000;         // 3 to 8 us; a thread needs only about 0.1 us to claim a task

}  // namespace

MapShape map_shape(const TensorView& tensor, const char* role) {
  if (tensor.shape.size() != 4) {
    throw OpError(std::string("input '") + role + "' has shape " + shape_text(tensor.shape) +
                  "; give a tensor of rank 4, [N, H, W, C]");
  }
  struct Side {
    const char* name;
    int64_t lowest, highest;
  };
  static constexpr Side kSides[] = {{"batch", 0, INT64_MAX},
                                    {"height", 1, kLargestSide},
                                    {"width", 1, kLargestSide},
                                    {"channels", 1, kLargestChannels}};
  for (size_t i = 0; i < 4; ++i) {
    const Side& side = kSides[i];
    if (tensor.shape[i] >= side.lowest && tensor.shape[i] <= side.highest) continue;  // text is only built on error
    require_range((std::string(side.name) + " of input '" + role + "'").c_str(), tensor.shape[i], side.lowest,
                  side.highest);
  }
  return {tensor.shape[0], static_cast<int>(tensor.shape[1]), static_cast<int>(tensor.shape[2]),
          static_cast<int>(tensor.shape[3])};
}

void clear_border(uint32_t* bits, const MapShape& map, int row_begin, int row_end) {
  const size_t words = words_for(map.channels);
  const size_t pitch = (static_cast<size_t>(map.width) + 2) * words;
  if (row_begin == 0) std::fill_n(bits, pitch, 0u);
  for (int row = row_begin; row < row_end; ++row) {
    uint32_t* line = bits + (static_cast<size_t>(row) + 1) * pitch;
    std::fill_n(line, words, 0u);
    std::fill_n(line + pitch - words, words, 0u);
  }
  if (row_end == map.height) std::fill_n(bits + (static_cast<size_t>(map.height) + 1) * pitch, pitch, 0u);
}

int tasks_for(double steps) {
  int count = 1;
  while (count < kMostTasks && steps > 1.5 * count * kStepsPerTask) count *= 2;
  return count;
}

RowTasks::RowTasks(int64_t batch_size, int row_count, double work_per_row, int fewest_rows, int parts)
    : batch(batch_size), rows(row_count), per_image(tasks_for(work_per_row * row_count)) {
  const int64_t wanted = per_image;
  while (per_image > 1 && (per_image * fewest_rows > rows || per_image * parts > wanted)) per_image /= 2;
}

Pack::Pack(const TensorView& x, const TensorView* threshold) {
  require_tensor(x, "x", DType::kFloat32, {-1, -1, -1, -1}, "[N, H, W, C]");
  if (threshold != nullptr) {
    const int64_t channels = x.shape.size() == 4 ? x.shape[3] : -1;
    require_tensor(*threshold, "threshold", DType::kFloat32, {channels}, "[C]");
  }
}

MapShape Pack::prepare(const TensorView& x, const TensorView* threshold) const {
  const MapShape map = map_shape(x, "x");
  if (threshold != nullptr) require_tensor(*threshold, "threshold", DType::kFloat32, {map.channels}, "[C]");
  return map;
}

void Pack::run(const TensorView& x, const TensorView* threshold, const MapShape& map, uint32_t* bits,
               const Kernels& kernels, const Executor& executor) const {
  const RowTasks tasks(map.batch, map.height, static_cast<double>(map.width) * map.channels / 8);
  const size_t words = words_for(map.channels);
  const float* limits = threshold == nullptr ? nullptr : threshold->as<float>();
  executor.for_each(tasks.count(), [&](size_t task) {
    const int64_t image = tasks.image(task);
    const float* in = x.as<float>() + image * map.elements();
    uint32_t* out = bits + image * map.bits_words();
    clear_border(out, map, tasks.begin(task), tasks.end(task));
    for (int row = tasks.begin(task); row < tasks.end(task); ++row) {
      kernels.pack(in + static_cast<size_t>(row) * map.width * map.channels, limits, map.width, map.channels,
                   out + ((static_cast<size_t>(row) + 1) * (map.width + 2) + 1) * words);
    }
  });
}

}  // namespace bireal
