// Unit tests of Pointwise, part of the fuzz test.
#pragma once

#include "fuzzing.h"
#include "kernels/kernel.h"

namespace bireal::fuzzing {

// Tests each type of weights on a random geometry.
void fuzz_pointwise(Random& random, const Kernels& kernels);

// Tests the geometries and values of tests/xnor_op/test_pointwise.py without ONNX Runtime: all incomplete tiles, and
// the edge cases of rounding to 8 bits.
void test_pointwise(const Kernels& kernels);

}  // namespace bireal::fuzzing
