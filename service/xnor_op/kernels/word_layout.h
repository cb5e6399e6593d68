// Weight layout for kernels that count words: one word of each of 32 output channels, side by side.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bireal {
namespace {

constexpr int kWordBlock = 32;  // output channels of a block; their signs form one word of bits_out

// Layout: [block][tap][word][32 channels]; channels beyond the last are zero.
inline size_t word_layout_bytes(int out_channels, int taps, int words) {
  const size_t blocks = (static_cast<size_t>(out_channels) + kWordBlock - 1) / kWordBlock;
  return sizeof(uint32_t) * kWordBlock * taps * words * blocks;
}

inline void word_layout(const uint32_t* weights, int out_channels, int taps, int words, void* out) {
  auto* to = static_cast<uint32_t*>(out);
  const int run = taps * words;
  for (int first = 0; first < out_channels; first += kWordBlock) {
    for (int k = 0; k < run; ++k) {
      for (int lane = 0; lane < kWordBlock; ++lane) {
        *to++ = first + lane < out_channels ? weights[static_cast<size_t>(first + lane) * run + k] : 0;
      }
    }
  }
}

}  // namespace
}  // namespace bireal
