// What Python asks the library through ctypes (service/xnor_op/__init__.py, loadtest): names of kernels, the roofline.
#include "dispatch.h"
#include "export.h"
#include "params.h"
#include "probe.h"

// Name of the kernel set in use, or null if BIREAL_KERNEL names one that cannot be used.
BIREAL_EXPORT const char* bireal_kernel_name() {
  try {
    return bireal::active_kernels().name;
  } catch (...) {  // that, or no memory: nothing may pass into C
    return nullptr;
  }
}

// The roofline of the kernel set in use, for the benchmarks; takes about 2 * seconds. 0 for success, 1 where the set
// has no probe or BIREAL_KERNEL names one that cannot be used.
BIREAL_EXPORT int bireal_roofline_probe(double seconds, double* macs_per_s, double* cycles_per_s) {
  try {
    bireal::Roofline found{};
    if (!bireal::probe_roofline(bireal::active_kernels(), seconds, &found)) return 1;
    *macs_per_s = found.macs_per_s;
    *cycles_per_s = found.cycles_per_s;
    return 0;
  } catch (...) {  // that, or no memory: nothing may pass into C
    return 1;
  }
}

// Comma-separated names of the kernel sets that this CPU can run, fastest first; null where memory has run out.
BIREAL_EXPORT const char* bireal_kernel_names() {
  try {
    static const std::string names = bireal::usable_kernel_names();
    return names.c_str();
  } catch (...) {
    return nullptr;
  }
}
