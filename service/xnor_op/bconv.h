// BConv: binary convolution on packed bits, fused with the BatchNorm, the shortcut and the sign that follow it.
#pragma once

#include "pack.h"

namespace bireal {

// BConv(bits, weight int32 [O,K,K,CW], scale f32 [O], bias f32 [O], residual? f32 [N,OH,OW,O]) -> y, bits?
//
// dot = N_valid - 2 * popcount(xor) is exact (derivation in epilogue.h). Then y = dot * scale + bias (+ residual), with
// each step rounded to float32. The output bits are the bits of y < 0. Padding is K / 2; padded values are zero after
// the sign.
// The constructor converts the weights to the layout of the kernels in use. The operator keeps only that copy.
class BConv {
 public:
  struct Attributes {
    int64_t channels = 0;  // C
    int64_t kernel = 0;    // 1 or 3
    int64_t stride = 0;    // 1 or 2
  };

  // weight, scale and bias are constant and have data. bits and residual have a type, and a shape as far as it is
  // known.
  BConv(const Attributes& attributes, const TensorView& bits, const TensorView& weight, const TensorView& scale,
        const TensorView& bias, const TensorView* residual, const Kernels& kernels);

  // Returns the shape of the output for these inputs. Throws OpError if they do not fit.
  MapShape prepare(const TensorView& bits, const TensorView* residual) const;

  // y may be the memory of the residual (in-place). bits_out may be null.
  void run(const TensorView& bits, const TensorView* residual, const MapShape& out, float* y, uint32_t* bits_out,
           const Executor& executor) const;

 private:
  struct Cut;

  MapShape input_map(const TensorView& bits) const;
  void make_starts();

  const Kernels& kernels_;
  int channels_ = 0;
  int out_channels_ = 0;
  int padded_channels_ = 0;  // out_channels_ rounded up to whole weight blocks
  int kernel_ = 0;
  int stride_ = 0;
  AlignedBuffer weights_;   // Kernels::bconv_layout
  int32_t start_[16] = {};  // by border class (epilogue.h)
  float half_[16] = {};
  AlignedBuffer scale_;  // float [padded_channels_], -2 * scale
  AlignedBuffer bias_;   // float [padded_channels_]
};

}  // namespace bireal
