// Packed sign bits ("bits") and the operator Pack that makes them from floats.
//
// bits is int32 [N, H+2, W+2, CW], CW = ceil(C / 32): bit i of word j of a pixel is 1 iff channel 32 * j + i is
// negative after the sign (x < threshold; sign(0) = +1 as in Bi-Real Net's Eq. 1, and NaN counts as +1). Around
// the map lies a border of zero words one pixel wide, so that a 3x3 filter needs no bounds checks; bits beyond
// channel C are zero too. ONNX Runtime reuses buffers, so whoever writes bits writes border and tail each time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"
#include "params.h"

namespace bireal {

constexpr int kWordBits = 32;

inline int words_for(int channels) { return (channels + kWordBits - 1) / kWordBits; }

// Height and width of a map, its channels and its batch, all known and all within int.
struct MapShape {
  int64_t batch = 0;
  int height = 0;
  int width = 0;
  int channels = 0;

  size_t pixels() const { return static_cast<size_t>(height) * width; }
  size_t elements() const { return pixels() * channels; }  // of one image
  size_t bits_words() const { return (static_cast<size_t>(height) + 2) * (width + 2) * words_for(channels); }
  std::vector<int64_t> shape() const { return {batch, height, width, channels}; }
  std::vector<int64_t> bits_shape() const { return {batch, height + 2, width + 2, words_for(channels)}; }
};

// Reads [N, H, W, C] of a run-time tensor; throws OpError if H or W is below 1 or anything exceeds the limits.
MapShape map_shape(const TensorView& tensor, const char* role);

// Zeroes the border words beside the rows [row_begin, row_end) of one image's map, and the whole border row
// above row 0 and below row height - 1 when they belong to the range.
void clear_border(uint32_t* bits, const MapShape& map, int row_begin, int row_end);

// Into how many tasks work of `steps` elementary steps, a step being about a nanosecond, is to be cut: a power of two,
// so that two or four threads get equal shares.
int tasks_for(double steps);

// How the rows of a batch are cut into tasks: tasks of one image have consecutive indices.
struct RowTasks {
  // `work_per_row`: steps as in tasks_for. A task has at least `fewest_rows`, for operators where each task repeats
  // some work of its neighbour. `parts`: into how many the operator cuts a range of rows besides, by channels.
  RowTasks(int64_t batch, int rows, double work_per_row, int fewest_rows = 1, int parts = 1);
  size_t count() const { return static_cast<size_t>(batch) * per_image; }
  int64_t image(size_t task) const { return static_cast<int64_t>(task / per_image); }
  int begin(size_t task) const { return static_cast<int>(rows * static_cast<int64_t>(task % per_image) / per_image); }
  int end(size_t task) const { return static_cast<int>(rows * static_cast<int64_t>(task % per_image + 1) / per_image); }
  int64_t batch;
  int rows;
  int64_t per_image;
};

// Pack(x f32 [N,H,W,C], threshold? f32 [C]) -> bits.
class Pack {
 public:
  // Checks what is known when the session is created. threshold is null when the input is absent.
  Pack(const TensorView& x, const TensorView* threshold);

  MapShape prepare(const TensorView& x, const TensorView* threshold) const;
  void run(const TensorView& x, const TensorView* threshold, const MapShape& map, uint32_t* bits,
           const Kernels& kernels, const Executor& executor) const;
};

}  // namespace bireal
