#include "probe.h"

#include <chrono>

namespace bireal {
namespace {

using Clock = std::chrono::steady_clock;

// Executes `rounds` * 64 additions, each of which depends on the one before: one cycle each on any supported CPU. The
// addend is in a register and not an immediate, because some CPUs resolve additions of small immediates before they
// reach an adder.
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

// Returns the work per second of work(rounds), where one round does `per_round` units of work. It is the best of
// several runs that take about `seconds` in total. The best run is used because the result is an upper bound: other
// load on the core can only make a run slower.
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
