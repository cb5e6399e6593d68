#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "params.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bireal {

#define BIREAL_KERNEL(name, needs) extern const Kernels kernels_##name;
#include "kernels/kernels.inc"
#undef BIREAL_KERNEL

namespace {

#if defined(__x86_64__)
// CPUID reports what the CPU supports. XGETBV reports which registers the operating system saves on a context switch.
// Both are needed: if a hypervisor or kernel does not save the ZMM registers, AVX-512 is not usable.
struct X86Features {
  bool avx2 = false;
  bool avx512bw = false;
  bool avx512vnni = false;
  bool avx512vpopcnt = false;
};

X86Features detect() {
  constexpr uint32_t kXcr0Ymm = 0x6;   // XMM and YMM state
  constexpr uint32_t kXcr0Zmm = 0xe6;  // and opmask, ZMM0-15 upper halves, ZMM16-31
  X86Features features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return features;
  const bool osxsave = (c >> 27 & 1) != 0;
  const bool avx = (c >> 28 & 1) != 0;
  const bool fma = (c >> 12 & 1) != 0;
  if (!osxsave || !avx) return features;
  uint32_t xcr0 = 0, xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  const auto in_b = [b](int bit) { return (b >> bit & 1) != 0; };
  const auto in_c = [c](int bit) { return (c >> bit & 1) != 0; };
  features.avx2 = fma && (xcr0 & kXcr0Ymm) == kXcr0Ymm && in_b(5);
  const bool avx512 = (xcr0 & kXcr0Zmm) == kXcr0Zmm && in_b(16) && in_b(17) && in_b(30) && in_b(31);  // F, DQ, BW, VL
  features.avx512bw = features.avx2 && avx512;
  features.avx512vnni = features.avx512bw && in_c(11);
  features.avx512vpopcnt = features.avx512vnni && in_c(14);
  return features;
}

const X86Features& x86() {
  static const X86Features features = detect();
  return features;
}

[[maybe_unused]] bool can_run_avx2() { return x86().avx2; }
[[maybe_unused]] bool can_run_avx512bw() { return x86().avx512bw; }
[[maybe_unused]] bool can_run_avx512vnni() { return x86().avx512vnni; }
[[maybe_unused]] bool can_run_avx512vpopcnt() { return x86().avx512vpopcnt; }
#endif

#if defined(__aarch64__)
[[maybe_unused]] bool can_run_neondot() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP; older headers do not define it
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#elif defined(__APPLE__)
  return true;  // all Macs with an Arm CPU support them
#else
  return false;
#endif
}
#endif

[[maybe_unused]] bool can_run_neon() { return true; }  // NEON kernels are only built for AArch64, which always has NEON

bool can_run_scalar() { return true; }

std::vector<const Kernels*> find_usable() {
  std::vector<const Kernels*> usable;
#define BIREAL_KERNEL(name, needs) \
  if (can_run_##name()) usable.push_back(&kernels_##name);
#include "kernels/kernels.inc"
#undef BIREAL_KERNEL
  return usable;
}

}  // namespace

const std::vector<const Kernels*>& usable_kernels() {
  static const std::vector<const Kernels*> usable = find_usable();
  return usable;
}

std::string usable_kernel_names() {
  std::string names;
  for (const Kernels* kernels : usable_kernels()) {
    if (!names.empty()) names += ",";
    names += kernels->name;
  }
  return names;
}

const Kernels& active_kernels() {
  static const Kernels& active = []() -> const Kernels& {
    const char* wanted = std::getenv("BIREAL_KERNEL");
    // "auto" is a value of the setting (docs/settings.md), which programs other than the service do not translate.
    if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "auto") == 0) return *usable_kernels().front();
    for (const Kernels* kernels : usable_kernels()) {
      if (std::string(wanted) == kernels->name) return *kernels;
    }
    throw OpError("environment variable BIREAL_KERNEL is '" + std::string(wanted) +
                  "', which does not exist or needs instructions that this CPU lacks; unset it or set one of: " +
                  usable_kernel_names());
  }();
  return active;
}

}  // namespace bireal
