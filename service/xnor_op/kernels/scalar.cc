// Portable kernels: plain C++, baseline compiler flags, any CPU. They are the fallback and show the structure of the
// fast kernels.
#include "scalar.h"
#include "../epilogue.h"
#include "kernel.h"

namespace bireal {
namespace {

constexpr int kWordBits = 32;

// Number of set bits in a 64-bit word. Baseline x86-64 has no POPCNT instruction, and the compiler would call a
// function, so the bits are added in groups (12 operations). The baseline of AArch64 has CNT.
inline int popcount64(uint64_t x) {
#if defined(__aarch64__) || defined(__POPCNT__)
  return __builtin_popcountll(x);
#else
  x -= (x >> 1) & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<int>((x * 0x0101010101010101u) >> 56);
#endif
}

// popcount(a xor w) over `words` 32-bit words. Pointers are only 4-byte aligned, so pairs of words are read with
// memcpy.
inline int different_bits(const uint32_t* a, const uint32_t* w, int words) {
  int count = 0;
  int i = 0;
  for (; i + 2 <= words; i += 2) {
    uint64_t x;
    uint64_t y;
    __builtin_memcpy(&x, a + i, 8);
    __builtin_memcpy(&y, w + i, 8);
    count += popcount64(x ^ y);
  }
  if (i < words) count += popcount64(a[i] ^ w[i]);
  return count;
}

void pack(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits) {
  const int words = (channels + kWordBits - 1) / kWordBits;
  for (int64_t p = 0; p < pixels; ++p, x += channels, bits += words) {
    for (int j = 0; j < words; ++j) {
      uint32_t word = 0;
      const int first = j * kWordBits;
      const int count = channels - first < kWordBits ? channels - first : kWordBits;
      for (int i = 0; i < count; ++i) {
        const float limit = threshold == nullptr ? 0.0f : threshold[first + i];
        word |= static_cast<uint32_t>(x[first + i] < limit) << i;
      }
      bits[j] = word;
    }
  }
}

size_t bconv_layout_bytes(int out_channels, int taps, int words) {
  return sizeof(uint32_t) * static_cast<size_t>(out_channels) * taps * words;
}

void bconv_layout(const uint32_t* weights, int out_channels, int taps, int words, void* out) {
  __builtin_memcpy(out, weights, bconv_layout_bytes(out_channels, taps, words));
}

size_t no_scratch(const BConvJob&) { return 0; }

void bconv(const BConvJob& job) {
  const int pad = job.kernel / 2;
  const int run = job.kernel * job.words;  // words of one filter row; they are also contiguous in the map
  const size_t pitch = static_cast<size_t>(job.width + 2) * job.words;
  const auto* weights = static_cast<const uint32_t*>(job.weights);
  for (int oy = job.row_begin; oy < job.row_end; ++oy) {
    const int row_class = border_class(oy, job.stride, pad, job.height);
    const int tap_begin = row_class & 1;
    const int tap_end = job.kernel - (row_class >> 1);
    for (int ox = 0; ox < job.out_width; ++ox) {
      const int column_class = border_class(ox, job.stride, pad, job.width);
      const int pixel_class = row_class * kBorderClasses + column_class;
      const int skipped = (column_class & 1) * job.words;  // words of the first filter column if it is outside
      const int valid = run - skipped - (column_class >> 1) * job.words;
      // Row iy of the map is row iy + 1 of bits; tap t of output row oy reads iy = oy * stride - pad + t.
      const uint32_t* corner = job.bits + (static_cast<size_t>(oy) * job.stride + 1 - pad) * pitch +
                               (static_cast<size_t>(ox) * job.stride + 1 - pad) * job.words;
      const size_t pixel = static_cast<size_t>(oy) * job.out_width + ox;
      uint32_t* bits_out =
          job.bits_out == nullptr
              ? nullptr
              : job.bits_out + (static_cast<size_t>(oy + 1) * (job.out_width + 2) + ox + 1) * job.out_words;
      for (int word = job.block_begin; word < job.block_end; ++word) {
        const int first = word * kWordBits;
        const int last = first + kWordBits < job.out_channels ? first + kWordBits : job.out_channels;
        uint32_t signs = 0;
        for (int o = first; o < last; ++o) {
          const uint32_t* w = weights + static_cast<size_t>(o) * job.kernel * run;
          int count = job.start[pixel_class];
          for (int t = tap_begin; t < tap_end; ++t) {
            count += different_bits(corner + t * pitch + skipped, w + t * run + skipped, valid);
          }
          float value = (static_cast<float>(count) - job.half[pixel_class]) * job.scale[o];
          value = value + job.bias[o];
          const size_t index = pixel * job.out_channels + o;
          if (job.residual != nullptr) value = value + job.residual[index];
          job.y[index] = value;
          signs |= static_cast<uint32_t>(value < 0.0f) << (o - first);
        }
        if (bits_out != nullptr) bits_out[word] = signs;
      }
    }
  }
}

// Layout [tap row][tap column * 3 + channel][out_channel]: the innermost loop runs over output channels.
template <typename T>
size_t stem_layout_bytes(int out_channels, int kernel) {
  return static_cast<size_t>(out_channels) * kernel * kernel * 3 * sizeof(T);
}

template <typename T>
void stem_layout(const void* weights, int out_channels, int kernel, void* out) {
  const int taps = kernel * kernel * 3;
  const auto* from = static_cast<const T*>(weights);
  auto* to = static_cast<T*>(out);
  for (int o = 0; o < out_channels; ++o) {
    for (int t = 0; t < taps; ++t)
      to[static_cast<size_t>(t) * out_channels + o] = from[static_cast<size_t>(o) * taps + t];
  }
}

// T: element type of rows and weights. Sum: float, or int32, which holds the sums of any int16 weights (see stem.h).
template <typename T, typename Sum>
void stem_row(const StemRowJob& job) {
  constexpr int kChunk = 32;
  const int run = job.kernel * 3;
  const auto* weights = static_cast<const T*>(job.weights);
  for (int ox = 0; ox < job.out_width; ++ox) {
    const float* offset = job.offset + static_cast<size_t>(job.column_class[ox]) * job.padded_channels;
    for (int first = 0; first < job.out_channels; first += kChunk) {
      const int count = job.out_channels - first < kChunk ? job.out_channels - first : kChunk;
      Sum sum[kChunk] = {};
      for (int t = job.tap_begin; t < job.tap_end; ++t) {
        const T* in = static_cast<const T*>(job.rows[t]) + static_cast<size_t>(ox) * job.stride * 3;
        const T* w = weights + static_cast<size_t>(t) * run * job.out_channels + first;
        for (int k = 0; k < run; ++k, w += job.out_channels) {
          const Sum value = in[k];
          for (int o = 0; o < count; ++o) sum[o] += value * w[o];
        }
      }
      float* out = job.out + static_cast<size_t>(ox) * job.out_channels + first;
      for (int o = 0; o < count; ++o) {
        const float scaled = static_cast<float>(sum[o]) * job.scale[first + o];
        out[o] = scaled + offset[first + o];
      }
    }
  }
}

void max_pool_row(const float* const* rows, int count, int width, int channels, float* out) {
  const int out_width = (width - 1) / 2 + 1;
  for (int ox = 0; ox < out_width; ++ox, out += channels) {
    const int begin = ox == 0 ? 0 : 2 * ox - 1;
    const int end = 2 * ox + 2 < width ? 2 * ox + 2 : width;
    for (int c = 0; c < channels; ++c) out[c] = rows[0][static_cast<size_t>(begin) * channels + c];
    for (int r = 0; r < count; ++r) {
      for (int x = begin; x < end; ++x) {
        const float* in = rows[r] + static_cast<size_t>(x) * channels;
        for (int c = 0; c < channels; ++c) out[c] = in[c] > out[c] ? in[c] : out[c];
      }
    }
  }
}

void avg_pool_row(const float* top, const float* bottom, int width, int channels, float* out) {
  for (int x = 0; x < width; x += 2, out += channels) {
    const bool pair = x + 1 < width;
    const float factor = 1.0f / static_cast<float>((pair ? 2 : 1) * (bottom == nullptr ? 1 : 2));
    const size_t at = static_cast<size_t>(x) * channels;
    for (int c = 0; c < channels; ++c) {
      float sum = top[at + c];
      if (pair) sum = sum + top[at + channels + c];
      if (bottom != nullptr) {
        sum = sum + bottom[at + c];
        if (pair) sum = sum + bottom[at + channels + c];
      }
      out[c] = sum * factor;
    }
  }
}

const StemKernel kStemF32 = {stem_layout_bytes<float>, stem_layout<float>, stem_row<float, float>};
const StemKernel kStemI16 = {stem_layout_bytes<int16_t>, stem_layout<int16_t>, stem_row<int16_t, int32_t>};

}  // namespace

extern const Kernels kernels_scalar;
const Kernels kernels_scalar = {
    "scalar",
    kWordBits,
    kWordBits,
    pack,
    bconv_layout_bytes,
    bconv_layout,
    no_scratch,
    bconv,
    &kStemF32,
    &kStemI16,
    nullptr,  // stem_i8
    nullptr,  // stem_pairs
    max_pool_row,
    avg_pool_row,
    nullptr,  // roofline
    &kScalarPointwiseF32,
    nullptr,  // pointwise_f16
    &kScalarPointwiseI8,
    scalar_leaky_clip,
};

}  // namespace bireal
