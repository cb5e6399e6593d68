// 8-bit 1x1 convolutions of the NEON kernel set, for the baseline of AArch64.
//
// 16 products are 3 instructions: SMULL and SMLAL2 multiply 8 bytes each into 16 bits, where a second product still
// fits (127 * 128 * 2 < 2^15), and SADALP adds neighbours to 4 sums of 32 bits. Widened to 16 bits before, as for the
// stem, 16 products would be 4 SMLAL, and twice the loads; all 4 wait for the one multiplier of a Neoverse N1, which
// takes 2 of the 3 here.
#include "neon_eight_bits.h"

#include "neon.h"

namespace bireal {
namespace {

struct Products {
  template <int P>
  static inline __attribute__((always_inline)) void add(int32x4_t (&sum)[P], const int8x16_t (&values)[P],
                                                        int8x16_t weights) {
    // Pixel by pixel in each step: a core that executes in order need not wait for any of them.
    int16x8_t product[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) product[p] = vmull_s8(vget_low_s8(values[p]), vget_low_s8(weights));
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) product[p] = vmlal_high_s8(product[p], values[p], weights);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p] = vpadalq_s16(sum[p], product[p]);
  }
};

}  // namespace

const PointwiseKernel kNeonPointwiseI8 = make_kernel<Products>();

}  // namespace bireal
