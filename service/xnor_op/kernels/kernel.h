// What one ISA provides: the inner loops, over plain pointers.
//
// Rules for the files that implement this (one ISA a file, each compiled with its own -m flags):
//  - everything but the exported table has internal linkage, and no header with inline functions of external
//    linkage is included (no STL): otherwise the linker may keep the AVX-512 copy of an inline function for
//    the whole library, which then dies on a CPU without it;
//  - floats: the binary operators add and multiply one step at a time, dot * scale, + bias, + residual, each
//    rounded to float32 and never fused, so that every ISA gives the same bits as the float reference does;
//  - jobs are read-only and may be shared by threads; what a kernel writes is named by the job.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bireal {

// A range of one image's binary convolution: output rows [row_begin, row_end) of the output channels of
// weight blocks [block_begin, block_end). A block is Kernels::block channels.
struct BConvJob {
  const uint32_t* bits;   // [height+2][width+2][words], border of zero words
  const void* weights;    // as laid out by Kernels::bconv_layout
  const int32_t* start;   // [16] by border class (epilogue.h): where the popcount starts
  const float* half;      // [16] by border class: 0, or 0.5 where N_valid is odd
  const float* scale;     // [padded_channels], -2 * scale: y = (start + popcount - half) * scale + bias
  const float* bias;      // [padded_channels]
  const float* residual;  // [out_height][out_width][out_channels] or null; may be y itself
  float* y;               // [out_height][out_width][out_channels]
  uint32_t* bits_out;     // [out_height+2][out_width+2][out_words] or null; its border is not touched here
  int height, width, channels, words;
  int kernel, stride;  // kernel 1 or 3, padding kernel / 2
  int out_height, out_width, out_channels, padded_channels, out_words;
  int row_begin, row_end;
  int block_begin, block_end;
  void* scratch;  // Kernels::bconv_scratch_bytes of memory, aligned to 64, this job's alone
};

// One row of the stem's convolution before pooling. Input rows are already converted to the kernel's pixel type and
// padded with kernel / 2 zero pixels on each side.
struct StemRowJob {
  const void* rows[8];          // taps [tap_begin, tap_end): the padded input row of each; 3 channels a pixel
  int tap_begin, tap_end;       // rows of the filter inside the image
  const void* weights;          // as laid out by StemKernel::layout
  const float* scale;           // [padded_channels]
  const float* offset;          // [class][padded_channels], class = column_class[x]; y = sum * scale + offset
  const uint8_t* column_class;  // [out_width]
  float* out;                   // [out_width][out_channels]
  int out_width, out_channels, padded_channels;
  int kernel, stride;
};

// The stem for one type of weights. Rows and weights: float32 (pixel - mean) and float32; int16 or, with byte_pixels,
// uint8 pixels and int16 weights; uint8 pixels and int8 weights (stored as int16 in the model, all of them within int8).
struct StemKernel {
  size_t (*layout_bytes)(int out_channels, int kernel);
  // weights [out_channels][kernel][kernel][3], float32 or int16 as stored -> this ISA's layout.
  void (*layout)(const void* weights, int out_channels, int kernel, void* out);
  void (*row)(const StemRowJob& job);
  bool byte_pixels = false;  // of the kernel for int16 weights
};

// Pixels times a matrix, a real-valued 1x1 convolution on NHWC: y = sum over c of value * weight, * scale + bias. With
// 8-bit weights the values are integers, value = q * step of the pixel; y = (sum * step) * scale + bias, each step of
// the float part rounded, so that every ISA gives the same bits. Sums of floats may be in any order.
struct PointwiseJob {
  const void* pixels;   // [count], `pitch` bytes apart: float32, or as PointwiseKernel::prepare made them
  size_t pitch;         // a multiple of 4
  const float* step;    // [count], of 8-bit values; else null
  const void* weights;  // as laid out by PointwiseKernel::layout
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
  // Bytes between prepared pixels, a multiple of 4; null where pixels are read as they are, float32.
  size_t (*pixel_pitch)(int channels);
  // Symmetric 8-bit values, each pixel by itself: q = x * factor rounded to the nearest integer, halves to even, with
  // the pixel's step and factor of eight_bits(). What `out` holds of a q is the kernel's affair.
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

// Of a pixel, from the bits of m = max |x|: step = m / 127, factor = 127 / m, both 0 for tiny m. Magnitudes are in the
// order of their bits, infinity and NaN above all others: a maximum of the bits, unlike one of the floats, tells of
// every x that is not finite. The step is NaN then, and so is y, as no q could stand for such an x.
static inline EightBits eight_bits(int32_t most) {
  constexpr float kSmallestMagnitude = 1e-30f;
  constexpr int32_t kInfinityBits = 0x7f800000;
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

  // pixels x channels floats -> packed sign bits, words(channels) a pixel; tail bits zero. threshold may be null.
  void (*pack)(const float* x, const float* threshold, int64_t pixels, int channels, uint32_t* bits);

  // Weights [out_channels][taps][words] (bit 1 = -1) -> this ISA's layout.
  size_t (*bconv_layout_bytes)(int out_channels, int taps, int words);
  void (*bconv_layout)(const uint32_t* weights, int out_channels, int taps, int words, void* out);
  size_t (*bconv_scratch_bytes)(const BConvJob& job);
  void (*bconv)(const BConvJob& job);

  const StemKernel* stem_f32;
  const StemKernel* stem_i16;
  const StemKernel* stem_i8;  // null where int16 is as good

  // Max-pool 3 wide, stride 2, pad 1, over `count` (2 or 3, at a border 1) convolution rows [width][channels].
  void (*max_pool_row)(const float* const* rows, int count, int width, int channels, float* out);
  // 2x2 average, stride 2; bottom is null at an odd last row. Sums in reading order, then * 1/count.
  void (*avg_pool_row)(const float* top, const float* bottom, int width, int channels, float* out);

  // The binary convolution's inner instructions on registers alone, `rounds` times a whole tile; returns the
  // multiply-accumulates of one round. Null where there is no such loop. For probe.cc.
  int64_t (*roofline)(int64_t rounds);

  // Each may be null: the operator then takes the scalar set's (and for float16 first widens the weights to float32).
  const PointwiseKernel* pointwise_f32;
  const PointwiseKernel* pointwise_f16;  // weights stored as float16, widened as they are read
  const PointwiseKernel* pointwise_i8;
  // slope * x + (1 - slope) * clip(x, -1, 1): two products and their sum, each rounded.
  void (*leaky_clip)(const float* x, int64_t count, float slope, float* out);
};

}  // namespace bireal
