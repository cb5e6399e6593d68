// Weight layout of the stem in the vector kernels: [block of channels][filter row][step][channel][tap of the step].
//
// A step is what one instruction multiplies in a lane: 1 float32 value, 2 int16 values or 4 int8 values. The taps and
// colours of a filter row are one run of kernel * 3 values, like the pixels at these positions of the image. If a run
// does not fill its last step, the step ends with zero weights. The pixels there do not matter, but they are allocated
// and finite.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bireal {
namespace {

constexpr int kColors = 3;

constexpr int stem_steps(int kernel, int per_step) { return (kernel * kColors + per_step - 1) / per_step; }

template <typename Out, int kBlock, int kPerStep>
size_t stem_layout_bytes(int out_channels, int kernel) {
  const size_t blocks = (static_cast<size_t>(out_channels) + kBlock - 1) / kBlock;
  return blocks * kBlock * kernel * stem_steps(kernel, kPerStep) * kPerStep * sizeof(Out);
}

// weights [out_channels][kernel][kernel][3] of type In; values must fit Out.
template <typename In, typename Out, int kBlock, int kPerStep>
void stem_layout(const void* weights, int out_channels, int kernel, void* out) {
  const int run = kernel * kColors;
  const auto* from = static_cast<const In*>(weights);
  auto* to = static_cast<Out*>(out);
  for (int first = 0; first < out_channels; first += kBlock) {
    for (int t = 0; t < kernel; ++t) {
      for (int k0 = 0; k0 < run; k0 += kPerStep) {
        for (int lane = 0; lane < kBlock; ++lane) {
          for (int k = k0; k < k0 + kPerStep; ++k) {
            const bool real = k < run && first + lane < out_channels;
            *to++ = real ? static_cast<Out>(from[(static_cast<size_t>(first + lane) * kernel + t) * run + k]) : Out(0);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace bireal
