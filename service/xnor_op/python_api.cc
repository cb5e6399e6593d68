// Functions that Python calls through ctypes (service/xnor_op/__init__.py, loadtest): kernel names and the roofline.
#include "dispatch.h"
#include "export.h"
#include "params.h"
#include "probe.h"

// Name of the kernel set in use. Null if BIREAL_KERNEL names a set that cannot be used, or if memory has run out.
BIREAL_EXPORT const char* bireal_kernel_name() {
  try {
    return bireal::active_kernels().name;
  } catch (...) {  // exceptions must not cross the C interface
    return nullptr;
  }
}

// Measures the roofline of the kernel set in use, for the benchmarks. Takes about 2 * seconds. Returns 0 on success.
// Returns 1 if the set has no probe, if BIREAL_KERNEL names a set that cannot be used, or if memory has run out.
BIREAL_EXPORT int bireal_roofline_probe(double seconds, double* macs_per_s, double* cycles_per_s) {
  try {
    bireal::Roofline found{};
    if (!bireal::probe_roofline(bireal::active_kernels(), seconds, &found)) return 1;
    *macs_per_s = found.macs_per_s;
    *cycles_per_s = found.cycles_per_s;
    return 0;
  } catch (...) {  // exceptions must not cross the C interface
    return 1;
  }
}

// Comma-separated names of the kernel sets that this CPU can run, fastest first. Null if memory has run out.
BIREAL_EXPORT const char* bireal_kernel_names() {
  try {
    static const std::string names = bireal::usable_kernel_names();
    return names.c_str();
  } catch (...) {
    return nullptr;
  }
}
