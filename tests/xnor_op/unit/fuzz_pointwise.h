// The unit tests of Pointwise, a part of the fuzz test.
#pragma once

#include "fuzzing.h"
#include "kernels/kernel.h"

namespace bireal::fuzzing {

// Each type of weights on one random geometry.
void fuzz_pointwise(Random& random, const Kernels& kernels);

// The geometries and values of tests/xnor_op/test_pointwise.py, where no ONNX Runtime runs: every tail of the tiles,
// and the edges of rounding to 8 bits.
void test_pointwise(const Kernels& kernels);

}  // namespace bireal::fuzzing
