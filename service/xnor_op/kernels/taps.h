// Loop of a tile of pixels over the filter taps, shared by the kernels that count a whole filter row at once.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <stddef.h>

namespace bireal {
namespace {

// Pixels [kFrom, kTo) of a tile, as a type, because their number determines which registers are used.
template <int kFromPixel, int kToPixel>
struct Pixels {
  static constexpr int kFrom = kFromPixel;
  static constexpr int kTo = kToPixel;
};

// Calls count(Pixels<from, to>(), in, w, words) for all taps inside the image, usually for a whole filter row at once.
// At an edge, the first or last pixel of a tile lacks a filter column (3x3 only). Then count is called for each filter
// column, with the pixels that have it. `in` and `w` point to the first pixel of the tile and to the first valid filter
// row. `column` and `weight_column` are the distances from one filter column to the next.
template <int P, typename Row, typename In, typename Weight, typename Count>
inline __attribute__((always_inline)) void for_taps(const Row& row, bool skip_first, bool skip_last, const In* in,
                                                    const Weight* w, size_t column, size_t weight_column,
                                                    const Count& count) {
  const int words = row.job.words;
  for (int t = 0; t < row.filter_rows; ++t, in += row.pitch, w += weight_column * row.job.kernel) {
    if (!skip_first && !skip_last) {
      count(Pixels<0, P>(), in, w, row.run);
      continue;
    }
    if (skip_first) {
      count(Pixels<1, P>(), in, w, words);
    } else {
      count(Pixels<0, P>(), in, w, words);
    }
    count(Pixels<0, P>(), in + column, w + weight_column, words);
    if (skip_last) {
      count(Pixels<0, P - 1>(), in + 2 * column, w + 2 * weight_column, words);
    } else {
      count(Pixels<0, P>(), in + 2 * column, w + 2 * weight_column, words);
    }
  }
}

}  // namespace
}  // namespace bireal
