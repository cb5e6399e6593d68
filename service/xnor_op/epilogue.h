// Constants that turn popcounts into dot products, shared by all kernels.
//
// Derivation. Activations a and weights w are +1 or -1, stored as bits with 1 = -1. For one tap of C channels
//   sum a*w = (equal bits) - (different bits) = C - 2 * popcount(a xor w).
// Only taps inside the image ("valid" taps) count. The others are zero after the sign and add nothing. The sum is
//   dot = C * T_valid - 2 * sum over valid taps of popcount(a xor w)          (N_valid = C * T_valid).
// Eq. 2 of Bi-Real Net shows only the popcount. The affine part is needed to get the inner product of the signs.
//
// Kernels loop over the valid taps only: they skip filter rows and columns that lie outside the image. They may read
// the border of zero words but never count it. The border is part of the format so that no consumer needs bounds
// checks.
//
// Counters start at -floor(N_valid / 2) instead of 0, so the affine part costs nothing:
//   dot = -2 * (start + popcount - half),  start = -floor(N_valid / 2),  half = 0.5 if N_valid is odd, else 0.
// The kernels multiply by -2 * scale. Both steps are exact: the bracket is a multiple of 1/2 below 2^23, and scaling by
// 2 does not round. So (bracket * (-2 * scale)) rounds exactly as dot * scale does.
//
// N_valid depends on the pixel only through whether the first and the last tap lie outside, in each direction. This
// gives 4 x 4 border classes (inner, first, last, only; "only" is a map of height or width 1).
// Bounds: |dot| <= 9 * C < 2^24 for C < 1.8 million, so the conversion to float32 is exact.
#pragma once

namespace bireal {

constexpr int kBorderClasses = 4;  // per direction: 0 inner, 1 first tap outside, 2 last tap outside, 3 both

// Border class of output index i in a direction with `size` inputs. `pad` = kernel / 2 is 0 or 1.
static inline int border_class(int i, int stride, int pad, int size) {
  const int first_outside = i * stride - pad < 0 ? 1 : 0;
  const int last_outside = i * stride + pad >= size ? 2 : 0;
  return first_outside | last_outside;
}

}  // namespace bireal
