// The constants behind the integer sums, in one place for all kernels.
//
// Derivation. Activations a and weights w are +1 or -1, stored as bits with 1 = -1. For one tap of C channels
//   sum a*w = (equal bits) - (different bits) = C - 2 * popcount(a xor w),
// and over the taps that lie inside the image ("valid"; the others are zero after the sign, so they add nothing)
//   dot = C * T_valid - 2 * sum over valid taps of popcount(a xor w)          (N_valid = C * T_valid).
// Bi-Real Net's Eq. 2 prints the popcount alone; the affine part is what makes it the inner product of Eq. 1.
//
// Kernels run over the valid taps alone: filter rows and columns that lie outside are skipped. (They may read the border
// of zero words and never count it; it belongs to the format so that no consumer needs bounds checks.)
//
// Counters start at -floor(N_valid / 2) instead of 0, which makes the affine part free:
//   dot = -2 * (start + popcount - half),  start = -floor(N_valid / 2),  half = 0.5 if N_valid is odd, else 0,
// and the kernels multiply by -2 * scale. Both are exact: the bracket is a multiple of 1/2 below 2^23, and scaling by
// 2 does not round, so (bracket * (-2 * scale)) rounds exactly as dot * scale does.
//
// N_valid depends on the pixel only through which of the first and the last tap are outside, in each direction: 4 x 4
// border classes (inner, first, last, only; "only" is a map of height or width 1).
// Bounds: |dot| <= 9 * C < 2^24 for C < 1.8 million, so the conversion to float32 is exact.
#pragma once

namespace bireal {

constexpr int kBorderClasses = 4;  // a direction: 0 inner, 1 first tap outside, 2 last tap outside, 3 both

// Class of output index i along a side of `size` inputs; `pad` = kernel / 2 is 0 or 1.
static inline int border_class(int i, int stride, int pad, int size) {
  const int first_outside = i * stride - pad < 0 ? 1 : 0;
  const int last_outside = i * stride + pad >= size ? 2 : 0;
  return first_outside | last_outside;
}

}  // namespace bireal
