// Which kernels exist, which of them this CPU and this system can run, and which one is used.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace bireal {

// Kernel sets that this CPU can run, fastest first; never empty, since `scalar` runs anywhere.
const std::vector<const Kernels*>& usable_kernels();

// Comma-separated names of usable_kernels().
std::string usable_kernel_names();

// The kernel set in use: the fastest usable one, or the one that the environment variable BIREAL_KERNEL names
// (read once). Throws OpError, naming the usable ones, if it names anything else.
const Kernels& active_kernels();

}  // namespace bireal
