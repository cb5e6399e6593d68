// Lists the kernel sets that exist and those that this CPU and operating system can run, and selects one.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace bireal {

// Kernel sets that this CPU can run, fastest first. Never empty, because `scalar` runs on any CPU.
const std::vector<const Kernels*>& usable_kernels();

// Comma-separated names of usable_kernels().
std::string usable_kernel_names();

// The kernel set in use: the fastest usable one, or the one that the environment variable BIREAL_KERNEL names ("auto" or
// nothing: the fastest). The first successful call decides for the whole process. Throws OpError with a list of the
// usable sets if BIREAL_KERNEL names anything else.
const Kernels& active_kernels();

}  // namespace bireal
