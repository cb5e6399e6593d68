// 8-bit 1x1 convolutions of the NEON kernel set, for the baseline of AArch64.
//
// 16 products take 3 instructions. SMULL and SMLAL2 multiply 8 bytes each into 16-bit lanes, which can hold the sum of
// two products (127 * 128 * 2 < 2^15). SADALP adds neighbouring lanes to 4 32-bit sums. If the operands were widened to
// 16 bits before, as in the stem, 16 products would take 4 SMLAL and twice the loads. On a Neoverse N1, all 4 would
// need its single multiplier; here only 2 of the 3 instructions need it.
#include "neon_eight_bits.h"

#include "neon.h"

namespace bireal {
namespace {

struct Products {
  template <int P>
  static inline __attribute__((always_inline)) void add(int32x4_t (&sum)[P], const int8x16_t (&values)[P],
                                                        int8x16_t weights) {
    // Each step is done for all pixels before the next step, so that an in-order core does not wait for results.
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
