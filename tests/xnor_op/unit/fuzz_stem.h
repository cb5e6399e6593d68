// Unit tests of Stem, called by fuzz.cc.
#pragma once

#include "dispatch.h"
#include "fuzzing.h"

namespace bireal::fuzzing {

// Checks one random geometry with float32 and with int16 weights.
void fuzz_stem(Random& random, const Kernels& kernels);

// Checks the widths at which tiles end, and weights at the limits of each kernel.
void test_stem(const Kernels& kernels);

}  // namespace bireal::fuzzing
