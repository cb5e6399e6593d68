// Packed sign bits ("bits") and the operator Pack, which makes them from floats.
//
// bits is int32 [N, H+2, W+2, CW], CW = ceil(C / 32). Bit i of word j of a pixel is 1 if and only if channel 32 * j + i
// is negative after the sign (x < threshold). sign(0) = +1 as in Eq. 1 of Bi-Real Net, and NaN counts as +1. A border
// of zero words, one pixel wide, surrounds the map, so that a 3x3 filter needs no bounds checks. Bits beyond channel C
// are also zero. ONNX Runtime reuses buffers, so an operator that writes bits must write the border and the tail bits
// each time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"
#include "params.h"

namespace bireal {

constexpr int kWordBits = 32;

inline int words_for(int channels) { return (channels + kWordBits - 1) / kWordBits; }

// Batch, height, width and channels of a map, all known. All except the batch fit in an int.
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

// Returns the shape [N, H, W, C] of a run-time tensor. Throws OpError if the rank is not 4, if H, W or C is below 1, or
// if a dimension exceeds its limit.
MapShape map_shape(const TensorView& tensor, const char* role);

// Zeroes the border words on both sides of the rows [row_begin, row_end) of one image. Also zeroes the whole border row
// above row 0 or below row height - 1 if that row is in the range.
void clear_border(uint32_t* bits, const MapShape& map, int row_begin, int row_end);

// Number of tasks for work of `steps` elementary steps. One step takes about a nanosecond. The number is a power of
// two, so that two or four threads get equal shares.
int tasks_for(double steps);

// Division of the rows of a batch into tasks. The tasks of one image have consecutive indices.
struct RowTasks {
  // `work_per_row`: in steps, as for tasks_for. `fewest_rows`: minimum rows per task, for operators where each task
  // repeats some work of its neighbour. `parts`: number of channel parts into which the operator also divides each
  // range of rows.
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
  // Checks the types and shapes that are known at session creation. threshold is null if the input is absent.
  Pack(const TensorView& x, const TensorView* threshold);

  MapShape prepare(const TensorView& x, const TensorView* threshold) const;
  void run(const TensorView& x, const TensorView* threshold, const MapShape& map, uint32_t* bits,
           const Kernels& kernels, const Executor& executor) const;
};

}  // namespace bireal
