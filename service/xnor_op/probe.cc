#include "probe.h"

#include <chrono>

namespace bireal {
namespace {

using Clock = std::chrono::steady_clock;

// `rounds` times 64 additions of which each needs the one before: one cycle each on any CPU that serves. The addend is
// a register, not a number: some CPUs carry out additions of small numbers before they reach an adder.
void dependent_additions(int64_t rounds) {
  uint64_t sum = 0;
  uint64_t one = 1;
  __asm__ volatile("" : "+r"(sum), "+r"(one));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 64
    for (int k = 0; k < 64; ++k) {
      sum += one;
      __asm__ volatile("" : "+r"(sum));
    }
  }
}

// Work a second of work(rounds), where a round does `per_round`: the best of several runs that last about `seconds`
// together. The best, because a bound is wanted: whatever else runs on the core can only slow a run down.
template <typename Work>
double rate(double seconds, double per_round, Work work) {
  constexpr int kRuns = 8;
  const auto run = [&](int64_t rounds) {
    const auto start = Clock::now();
    work(rounds);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  int64_t rounds = 256;
  while (run(rounds) < seconds / (2 * kRuns)) rounds *= 2;
  double best = run(rounds);
  for (int k = 1; k < kRuns; ++k) {
    const double elapsed = run(rounds);
    if (elapsed < best) best = elapsed;
  }
  return per_round * static_cast<double>(rounds) / best;
}

}  // namespace

bool probe_roofline(const Kernels& kernels, double seconds, Roofline* found) {
  if (kernels.roofline == nullptr) return false;
  const auto per_round = static_cast<double>(kernels.roofline(0));
  found->macs_per_s = rate(seconds, per_round, kernels.roofline);
  found->cycles_per_s = rate(seconds, 64.0, dependent_additions);
  return true;
}

}  // namespace bireal
