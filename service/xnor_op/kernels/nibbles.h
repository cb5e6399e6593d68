// Shared by the kernels that count bits with table lookups (avx2.cc, avx512bw.cc): the tables of 16 bytes, one for each
// nibble, and the conversion of activations to table offsets.
//
// A nibble a of the activation selects one of 16 tables, rows[a][i] = popcount(a ^ i). The indices i of the byte
// shuffle are the nibbles of the weights of many output channels, one nibble per byte.
//
// Included by files compiled for one ISA: everything here has internal linkage (see kernel.h).
#pragma once

#include <immintrin.h>

#include "kernel.h"

namespace bireal {
namespace {

constexpr int kNibbles = 8;           // per word
constexpr int kWordsToBytes = 7;      // words before bytes could overflow: 56 lookups add at most 4 each
constexpr int kWordsTo16Bits = 2047;  // words before 16 bits could overflow: 65535 / 32

struct alignas(64) Tables {
  uint8_t rows[16][16];
};

constexpr Tables make_tables() {
  Tables tables = {};
  for (int a = 0; a < 16; ++a) {
    for (int w = 0; w < 16; ++w) {
      for (int bit = 0; bit < 4; ++bit) tables.rows[a][w] += (a ^ w) >> bit & 1;
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

constexpr int kNibbleBlock = 64;  // output channels of a weight block, one per byte

// Layout: [block of 64 channels][tap][word][nibble][64 bytes], one nibble per byte: 2 bits of memory per weight.
size_t nibble_layout_bytes(int out_channels, int taps, int words) {
  const size_t blocks = (static_cast<size_t>(out_channels) + kNibbleBlock - 1) / kNibbleBlock;
  return blocks * taps * words * kNibbles * kNibbleBlock;
}

// byte_of_channel: returns which of the 64 bytes belongs to a channel of the block.
void nibble_layout(const uint32_t* weights, int out_channels, int taps, int words, int (*byte_of_channel)(int),
                   void* out) {
  auto* to = static_cast<uint8_t*>(out);
  const int run = taps * words;
  for (int first = 0; first < out_channels; first += kNibbleBlock) {
    for (int k = 0; k < run; ++k) {
      for (int nibble = 0; nibble < kNibbles; ++nibble, to += kNibbleBlock) {
        for (int c = 0; c < kNibbleBlock; ++c) {
          const uint32_t word = first + c < out_channels ? weights[static_cast<size_t>(first + c) * run + k] : 0;
          to[byte_of_channel(c)] = word >> (4 * nibble) & 15;
        }
      }
    }
  }
}

// Rows of the padded map that a job reads.
struct RowSpan {
  size_t first;
  size_t count;
};

inline RowSpan rows_read(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const size_t first = static_cast<size_t>(job.row_begin) * job.stride + 1 - pad;
  return {first, static_cast<size_t>(job.row_end - 1 - job.row_begin) * job.stride + job.kernel};
}

// One output row of a block of channels, as input of the tiles.
struct RowContext {
  const BConvJob& job;
  const uint8_t* weights;  // of the block, from the first valid filter row on
  const uint8_t* corner;   // table offsets at output pixel 0, first valid filter row
  size_t pitch;            // bytes per row of table offsets
  int filter_rows;
  int run;  // words of a filter row
  int first_channel;
  int row_class;
  int oy;
};

size_t offsets_bytes(const BConvJob& job) { return rows_read(job).count * (job.width + 2) * job.words * kNibbles + 64; }

// Converts words to table offsets: 8 bytes per word, nibble << 4, lowest nibble first.
void spread(const uint32_t* bits, size_t words, uint8_t* out) {
  size_t i = 0;
  const __m128i high = _mm_set1_epi8(static_cast<char>(0xf0));
  for (; i + 4 <= words; i += 4, out += 4 * kNibbles) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits + i));
    const __m128i even = _mm_and_si128(_mm_slli_epi16(x, 4), high);
    const __m128i odd = _mm_and_si128(x, high);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi8(even, odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_unpackhi_epi8(even, odd));
  }
  for (; i < words; ++i) {
    for (int nibble = 0; nibble < kNibbles; ++nibble)
      *out++ = static_cast<uint8_t>((bits[i] >> (4 * nibble) & 15) << 4);
  }
}

}  // namespace
}  // namespace bireal
