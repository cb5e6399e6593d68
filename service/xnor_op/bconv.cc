#include "bconv.h"

#include <algorithm>

#include "epilogue.h"

namespace bireal {
namespace {

// Weights of at most this size in bytes stay in the L1 cache from one range of rows to the next.
constexpr size_t kNearWeights = 40 * 1024;
constexpr int kMostPreparedParts = 4;  // if the kernel converts the activations first: each part repeats that

// factor * values, padded with zeros.
AlignedBuffer padded_floats(const TensorView& values, float factor, int count, int padded) {
  AlignedBuffer buffer(sizeof(float) * padded);
  for (int i = 0; i < count; ++i) buffer.as<float>()[i] = factor * values.as<float>()[i];
  return buffer;
}

// The tail bits of the weights must be zero, like those of the activations. Otherwise they would be counted as
// differences.
void require_clear_tails(const uint32_t* weight, int64_t rows, int channels) {
  const int words = words_for(channels);
  if (channels % kWordBits == 0) return;
  const uint32_t tail = ~0u << (channels % kWordBits);
  for (int64_t row = 0; row < rows; ++row) {
    if ((weight[row * words + words - 1] & tail) != 0) {
      throw OpError("input 'weight' has bits set beyond channel " + std::to_string(channels) +
                    " in its last word; set them to 0");
    }
  }
}

}  // namespace

// How a run is divided into tasks: by image, then by part of the output channels, then by range of rows. Large weights
// are divided first. One thread then reads a part of the weights once for many rows, and the same thread reads the same
// part in the next run.
struct BConv::Cut {
  int parts;
  RowTasks rows;

  Cut(const BConv& op, const MapShape& out, double work_per_row, bool prepared)
      : parts(op.weights_.bytes() <= kNearWeights ? 1 : channel_parts(op, work_per_row * out.height, prepared)),
        rows(out.batch, out.height, work_per_row, 1, parts) {}

  static int channel_parts(const BConv& op, double work, bool prepared) {
    const int blocks = op.padded_channels_ / op.kernels_.block;
    int count = tasks_for(work);
    while (count > blocks) count /= 2;
    return prepared ? std::min(count, kMostPreparedParts) : count;
  }

  size_t count() const { return rows.count() * parts; }
  int64_t image(size_t task) const { return static_cast<int64_t>(task / (rows.per_image * parts)); }
  int part(size_t task) const { return static_cast<int>(task / rows.per_image % parts); }
};

BConv::BConv(const Attributes& attributes, const TensorView& bits, const TensorView& weight, const TensorView& scale,
             const TensorView& bias, const TensorView* residual, const Kernels& kernels)
    : kernels_(kernels) {
  require_range("attribute 'channels'", attributes.channels, 1, 1 << 20);
  if (attributes.kernel != 1 && attributes.kernel != 3) {
    throw OpError("attribute 'kernel' is " + std::to_string(attributes.kernel) + "; give 1 or 3");
  }
  require_range("attribute 'stride'", attributes.stride, 1, 2);
  channels_ = static_cast<int>(attributes.channels);
  kernel_ = static_cast<int>(attributes.kernel);
  stride_ = static_cast<int>(attributes.stride);
  const int words = words_for(channels_);
  require_tensor(bits, "bits", DType::kInt32, {-1, -1, -1, words}, "[N, H+2, W+2, ceil(channels/32)]");
  require_tensor(weight, "weight", DType::kInt32, {-1, kernel_, kernel_, words},
                 "[O, kernel, kernel, ceil(channels/32)]");
  require_range("number of output channels (first side of input 'weight')", weight.shape[0], 1, 1 << 20);
  out_channels_ = static_cast<int>(weight.shape[0]);
  require_tensor(scale, "scale", DType::kFloat32, {out_channels_}, "[O]");
  require_tensor(bias, "bias", DType::kFloat32, {out_channels_}, "[O]");
  if (residual != nullptr) {
    require_tensor(*residual, "residual", DType::kFloat32, {-1, -1, -1, out_channels_}, "[N, OH, OW, O]");
  }
  const int taps = kernel_ * kernel_;
  const auto* packed = weight.as<uint32_t>();
  require_clear_tails(packed, static_cast<int64_t>(out_channels_) * taps, channels_);
  padded_channels_ = (out_channels_ + kernels_.block - 1) / kernels_.block * kernels_.block;
  weights_ = AlignedBuffer(kernels_.bconv_layout_bytes(out_channels_, taps, words));
  kernels_.bconv_layout(packed, out_channels_, taps, words, weights_.as<void>());
  scale_ = padded_floats(scale, -2.0f, out_channels_, padded_channels_);
  bias_ = padded_floats(bias, 1.0f, out_channels_, padded_channels_);
  make_starts();
}

// Sets start_ and half_ of each border class (see epilogue.h).
void BConv::make_starts() {
  const auto valid_taps = [this](int border) { return std::max(0, kernel_ - (border & 1) - (border >> 1)); };
  for (int index = 0; index < kBorderClasses * kBorderClasses; ++index) {
    const int taps = valid_taps(index / kBorderClasses) * valid_taps(index % kBorderClasses);
    start_[index] = -(channels_ * taps / 2);
    half_[index] = channels_ * taps % 2 == 0 ? 0.0f : 0.5f;
  }
}

MapShape BConv::input_map(const TensorView& bits) const {
  MapShape padded = map_shape(bits, "bits");
  const int words = words_for(channels_);
  if (padded.channels != words || padded.height < 3 || padded.width < 3) {
    throw OpError("input 'bits' has shape " + shape_text(bits.shape) + "; give [N, H+2, W+2, " + std::to_string(words) +
                  "] with H and W of at least 1, as Pack makes it for " + std::to_string(channels_) + " channels");
  }
  return {padded.batch, padded.height - 2, padded.width - 2, channels_};
}

MapShape BConv::prepare(const TensorView& bits, const TensorView* residual) const {
  const MapShape in = input_map(bits);
  const MapShape out = {in.batch, (in.height - 1) / stride_ + 1, (in.width - 1) / stride_ + 1, out_channels_};
  if (residual != nullptr) {
    require_tensor(*residual, "residual", DType::kFloat32, out.shape(), "[N, OH, OW, O]");
  }
  return out;
}

void BConv::run(const TensorView& bits, const TensorView* residual, const MapShape& out, float* y, uint32_t* bits_out,
                const Executor& executor) const {
  const MapShape in = input_map(bits);
  const int blocks = padded_channels_ / kernels_.block;
  BConvJob shared = {};
  shared.weights = weights_.as<void>();
  shared.start = start_;
  shared.half = half_;
  shared.scale = scale_.as<float>();
  shared.bias = bias_.as<float>();
  shared.height = in.height;
  shared.width = in.width;
  shared.channels = channels_;
  shared.words = words_for(channels_);
  shared.kernel = kernel_;
  shared.stride = stride_;
  shared.out_height = out.height;
  shared.out_width = out.width;
  shared.out_channels = out_channels_;
  shared.padded_channels = padded_channels_;
  shared.out_words = words_for(out_channels_);
  const double macs_per_row = static_cast<double>(out.width) * out_channels_ * channels_ * kernel_ * kernel_;
  shared.row_end = out.height;
  const bool prepared = kernels_.bconv_scratch_bytes(shared) > 0;
  const Cut cut(*this, out, macs_per_row / 500 + out.width * (out_channels_ / 8.0), prepared);
  executor.for_each(cut.count(), [&](size_t task) {
    const int64_t image = cut.image(task);
    BConvJob job = shared;
    job.bits = bits.as<uint32_t>() + image * in.bits_words();
    job.residual = residual == nullptr ? nullptr : residual->as<float>() + image * out.elements();
    job.y = y + image * out.elements();
    job.row_begin = cut.rows.begin(task);
    job.row_end = cut.rows.end(task);
    job.block_begin = blocks * cut.part(task) / cut.parts;
    job.block_end = blocks * (cut.part(task) + 1) / cut.parts;
    if (bits_out != nullptr) {
      job.bits_out = bits_out + image * out.bits_words();
      if (cut.part(task) == 0) clear_border(job.bits_out, out, job.row_begin, job.row_end);  // for all channels
    }
    job.scratch = thread_scratch(kernels_.bconv_scratch_bytes(job));
    kernels_.bconv(job);
  });
}

}  // namespace bireal
