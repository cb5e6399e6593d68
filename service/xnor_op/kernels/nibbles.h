// What the kernels without a vector popcount share: a table of 16 bytes a nibble, and activations as table offsets.
//
// A nibble a of the ACTIVATION picks one of 16 tables, rows[a][i] = popcount(a ^ i); the nibbles of the weights of many
// output channels, one in a byte, are the indices i that a byte shuffle looks up.
//
// Included by files compiled for one ISA: everything here has internal linkage (kernel.h says why).
#pragma once

#include <immintrin.h>

#include "kernel.h"

namespace bireal {
namespace {

constexpr int kNibbles = 8;           // of a word
constexpr int kWordsToBytes = 7;      // words until bytes could overflow: 56 lookups add at most 4 each
constexpr int kWordsTo16Bits = 2047;  // words until 16 bits could overflow: 65535 / 32

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

size_t offsets_bytes(const BConvJob& job) { return rows_read(job).count * (job.width + 2) * job.words * kNibbles + 64; }

// words -> table offsets: 8 bytes a word, nibble << 4, lowest nibble first.
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
