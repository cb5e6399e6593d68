// 8-bit 1x1 convolutions of the kernel set for AArch64 with 8-bit dot products. SDOT adds 4 products to each of 4 sums:
// 16 products in one instruction. This file and neondot_stem.cc are the only differences from the NEON set.
#include "neon_eight_bits.h"

#include "neon.h"

namespace bireal {
namespace {

struct DotProducts {
  template <int P>
  static inline __attribute__((always_inline)) void add(int32x4_t (&sum)[P], const int8x16_t (&values)[P],
                                                        int8x16_t weights) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p] = vdotq_s32(sum[p], values[p], weights);
  }
};

}  // namespace

const PointwiseKernel kNeonDotPointwiseI8 = make_kernel<DotProducts>();

}  // namespace bireal
