// The interface that each ISA implements: the inner loops, on plain pointers.
//
// Rules for the files that implement it (one ISA per file, each compiled with its own -m flags):
//  - External linkage is only for the tables of kernels and the functions that a set shares between its files.
//    Everything else has internal linkage, and no header with inline functions of external linkage is included (no
//    STL). Otherwise the linker may keep the AVX-512 copy of an inline function for the whole library, which then
//    crashes on a CPU without AVX-512.
//  - Floats: the binary operators add and multiply one step at a time: dot * scale, + bias, + residual. Each step is
//    rounded to float32 and never fused, so that every ISA gives the same bits as the float reference.
//  - Jobs are read-only and may be shared by threads. A kernel writes only to the memory that its job names.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bireal {

// A part of the binary convolution of one image: output rows [row_begin, row_end) and the output channels of weight
// blocks [block_begin, block_end). A block has Kernels::block channels.
struct BConvJob {
  const uint32_t* bits;   // [height+2][width+2][words], border of zero words
  const void* weights;    // in the layout of Kernels::bconv_layout
  const int32_t* start;   // [16] by border class (epilogue.h): initial value of the popcount
  const float* half;      // [16] by border class: 0, or 0.5 if N_valid is odd
  const float* scale;     // [padded_channels], -2 * scale: y = (start + popcount - half) * scale + bias
  const float* bias;      // [padded_channels]
  const float* residual;  // [out_height][out_width][out_channels] or null; may be y itself
  float* y;               // [out_height][out_width][out_channels]
  uint32_t* bits_out;     // [out_height+2][out_width+2][out_words] or null; kernels do not write the border
  int height, width, channels, words;
  int kernel, stride;  // kernel 1 or 3, padding kernel / 2
  int out_height, out_width, out_channels, padded_channels, out_words;
  int row_begin, row_end;
  int block_begin, block_end;
  void* scratch;  // Kernels::bconv_scratch_bytes bytes, aligned to 64 bytes, used by this job only
};

// One row of the stem's convolution before pooling. Input rows are already prepared by the kernel, or converted to its
// pixel type and padded with kernel / 2 zero pixels on each side.
struct StemRowJob {
  const void* rows[8];          // input row of each tap in [tap_begin, tap_end); padded: 3 channels per pixel
  int tap_begin, tap_end;       // rows of the filter inside the image
  const void* weights;          // in the layout of StemKernel::layout
  const float* scale;           // [padded_channels]
  const float* offset;          // [class][padded_channels], class = column_class[x]; y = sum * scale + offset
  const uint8_t* column_class;  // [out_width]
  float* out;                   // [out_width][out_channels]
  int out_width, out_channels, padded_channels;
  int kernel, stride;
};

// The stem for one type of weights. The combinations of pixels (rows) and weights are:
//  - float32 pixels, from which the mean is subtracted, and float32 weights;
//  - int16 pixels, or uint8 pixels if byte_pixels is set, and int16 weights;
//  - what `prepare` makes of uint8 pixels, and int16 weights that the kernel takes;
//  - uint8 pixels and int8 weights (stored as int16 in the model, but all within the range of int8).
struct StemKernel {
  size_t (*layout_bytes)(int out_channels, int kernel);
  // weights [out_channels][kernel][kernel][3], float32 or int16 as stored -> this ISA's layout.
  void (*layout)(const void* weights, int out_channels, int kernel, void* out);
  void (*row)(const StemRowJob& job);
  bool byte_pixels = false;  // only for int16 weights

  // For kernels that transform pixels and int16 weights, else null.
  // Whether the kernel can compute with these weights.
  bool (*takes)(const int16_t* weights, int out_channels, int kernel, int stride) = nullptr;
  // Bytes of a prepared row, and a row of `width` pixels of the image -> the prepared row.
  size_t (*row_bytes)(int out_width) = nullptr;
  void (*prepare)(const uint8_t* row, int width, int out_width, void* out) = nullptr;
};

// Pixels times a matrix, which is a real-valued 1x1 convolution on NHWC:
//   y = (sum over c of value * weight) * scale + bias.
// With 8-bit weights the values are integers q (value = q * step of the pixel) and y = (sum * step) * scale + bias.
// Each step of this float part is rounded, so that every ISA gives the same bits. Sums of floats may be computed in any
// order.
struct PointwiseJob {
  const void* pixels;   // [count], `pitch` bytes apart: float32, or the output of PointwiseKernel::prepare
  size_t pitch;         // a multiple of 4
  const float* step;    // [count] for 8-bit values, else null
  const void* weights;  // in the layout of PointwiseKernel::layout
  const float* scale;   // [padded_channels]
  const float* bias;    // [padded_channels]
  float* y;             // [count][out_channels]
  int64_t count;        // pixels
  int channels, out_channels;
  int block_begin, block_end;  // a block is PointwiseKernel::block output channels
};

// The product for one type of weights.
struct PointwiseKernel {
  int block;  // output channels of a weight block
  // Bytes from one prepared pixel to the next, a multiple of 4. Null if the kernel reads float32 pixels without
  // preparation.
  size_t (*pixel_pitch)(int channels);
  // Quantizes each pixel separately to symmetric 8-bit values: q = x * factor, rounded half to even, with the step and
  // factor that eight_bits() gives for the pixel. Each kernel has its own format for q in `out`.
  void (*prepare)(const float* x, int64_t count, int channels, void* out, float* step);
  // weights [channels][out_channels] as stored -> this ISA's layout.
  size_t (*layout_bytes)(int out_channels, int channels);
  void (*layout)(const void* weights, int out_channels, int channels, void* out);
  void (*run)(const PointwiseJob& job);
};

// The bits of |x|.
static inline int32_t magnitude_bits(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7fffffff;
}

struct EightBits {
  float step;    // x ~ q * step
  float factor;  // q ~ x * factor
};

constexpr float kSmallestMagnitude = 1e-30f;
constexpr int32_t kInfinityBits = 0x7f800000;

// Step and factor of a pixel from `most`, the bits of m = max |x|: step = m / 127 and factor = 127 / m, both 0 for tiny
// m. Magnitudes and their bits have the same order, and infinity and NaN are above all finite values. So a maximum of
// the bits, unlike a maximum of floats, detects every x that is not finite. Then the step is NaN, and so is y, because
// no q can represent such an x.
static inline EightBits eight_bits(int32_t most) {
  if (most >= kInfinityBits) return {__builtin_nanf(""), 0.0f};
  float magnitude;
  __builtin_memcpy(&magnitude, &most, sizeof(magnitude));
  if (magnitude < kSmallestMagnitude) return {0.0f, 0.0f};
  return {magnitude / 127.0f, 127.0f / magnitude};
}

struct Kernels {
  const char* name;
  int block;       // output channels of a weight block of the binary convolution, a multiple of 32
  int stem_block;  // output channels of a weight block of the stem

  // pixels x channels floats -> packed sign bits, ceil(channels / 32) words per pixel. Tail bits are zero. threshold
  // may be null.
  void (*pack)(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits);

  // Weights [out_channels][taps][words] (bit 1 = -1) -> this ISA's layout.
  size_t (*bconv_layout_bytes)(int out_channels, int taps, int words);
  void (*bconv_layout)(const uint32_t* weights, int out_channels, int taps, int words, void* out);
  size_t (*bconv_scratch_bytes)(const BConvJob& job);
  void (*bconv)(const BConvJob& job);

  const StemKernel* stem_f32;
  const StemKernel* stem_i16;
  const StemKernel* stem_i8;     // null if the set has no int8 kernel
  const StemKernel* stem_pairs;  // int16 weights, faster than stem_i16 if it takes them; null if the set has no such

  // Max-pool of width 3, stride 2, pad 1, over `count` convolution rows [width][channels]: 3 rows, 2 at a border, 1 if
  // the map has only one.
  void (*max_pool_row)(const float* const* rows, int count, int width, int channels, float* out);
  // 2x2 average, stride 2. bottom is null for the last row of an odd height. Sums in row-major order, then multiplies
  // by 1 / count.
  void (*avg_pool_row)(const float* top, const float* bottom, int width, int channels, float* out);

  // Executes the inner instructions of the binary convolution on registers only, `rounds` times for a whole tile.
  // Returns the multiply-accumulates of one round. Null if there is no such loop. Used by probe.cc.
  int64_t (*roofline)(int64_t rounds);

  // Each of these may be null. The operator then uses the kernel of the scalar set. Without pointwise_f16 it first
  // widens the weights to float32 and uses the float32 kernel.
  const PointwiseKernel* pointwise_f32;
  const PointwiseKernel* pointwise_f16;  // weights are stored as float16 and widened when they are read
  const PointwiseKernel* pointwise_i8;
  // slope * x + (1 - slope) * clip(x, -1, 1): two products and their sum, each rounded.
  void (*leaky_clip)(const float* x, int64_t count, float slope, float* out);
};

}  // namespace bireal
