#include "pointwise.h"

#include <algorithm>

#include "kernels/scalar.h"

namespace bireal {
namespace {

constexpr int kMostChannels = 65535;   // 255 * 128 * C stays below 2^31
constexpr int64_t kFewestPixels = 48;  // per task; smaller tasks would read the weights too often
constexpr double kBytesPerStep = 50;
constexpr int kMostChannelTasks = 4;  // each one prepares the pixels again

// Converts IEEE half precision to single precision. The result is exact.
float widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  uint32_t exponent = half >> 10 & 0x1f;
  uint32_t fraction = half & 0x3ff;
  uint32_t bits = sign;
  if (exponent == 0x1f) {
    bits |= 0x7f800000u | fraction << 13;
  } else if (exponent != 0) {
    bits |= (exponent + 112) << 23 | fraction << 13;
  } else if (fraction != 0) {  // subnormal: shift until the leading one is in the implicit position
    exponent = 113;
    while ((fraction & 0x400) == 0) {
      fraction <<= 1;
      --exponent;
    }
    bits |= exponent << 23 | (fraction & 0x3ff) << 13;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

AlignedBuffer padded_copy(const TensorView& values, int count, int padded) {
  AlignedBuffer buffer(sizeof(float) * padded);
  std::copy_n(values.as<float>(), count, buffer.as<float>());
  return buffer;
}

}  // namespace

// How a run is divided into tasks: by rows of the images and, if there are few rows, by blocks of output channels.
struct Pointwise::Cut {
  RowTasks rows;
  int parts = 1;

  Cut(const Pointwise& op, const MapShape& out, bool split_channels)
      : rows(out.batch, out.height, work_per_row(op, out),
             static_cast<int>((kFewestPixels + out.width - 1) / out.width)) {
    if (!split_channels || rows.count() >= kMostChannelTasks) return;
    // With few pixels, most of the time goes into reading the weights.
    const double work = work_per_row(op, out) * out.height * out.batch + op.weights_.bytes() / kBytesPerStep;
    const int most = std::min(kMostChannelTasks / std::max(static_cast<int>(rows.count()), 1), op.blocks_);
    parts = std::clamp(tasks_for(work), 1, most);
  }

  // Steps for the multiply-accumulates and for the values that are read and written.
  static double work_per_row(const Pointwise& op, const MapShape& out) {
    const double channels = op.channels_;
    return out.width * (channels * op.out_channels_ / 200 + 4 * (channels + op.out_channels_) / kBytesPerStep);
  }
};

Pointwise::Pointwise(const TensorView& x, const TensorView& weight, const TensorView& scale, const TensorView& bias,
                     const TensorView* slope, const Kernels& kernels)
    : kernels_(kernels) {
  const auto dtype = static_cast<DType>(weight.dtype);
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kInt8) {
    throw OpError("input 'weight' is " + dtype_name(weight.dtype) + "; give float32, float16 or int8");
  }
  require_tensor(weight, "weight", dtype, {-1, -1}, "[C, O]");
  require_range("number of input channels (first side of input 'weight')", weight.shape[0], 1, kMostChannels);
  require_range("number of output channels (second side of input 'weight')", weight.shape[1], 1, 1 << 20);
  channels_ = static_cast<int>(weight.shape[0]);
  out_channels_ = static_cast<int>(weight.shape[1]);
  require_tensor(x, "x", DType::kFloat32, {-1, -1, -1, channels_}, "[N, H, W, C]");
  require_tensor(scale, "scale", DType::kFloat32, {out_channels_}, "[O]");
  require_tensor(bias, "bias", DType::kFloat32, {out_channels_}, "[O]");
  if (slope != nullptr) {
    require_tensor(*slope, "slope", DType::kFloat32, {1}, "[1]");
    clip_ = true;
    slope_ = *slope->as<float>();
  }
  const void* stored = weight.data;
  std::vector<float> widened;
  if (dtype == DType::kInt8) {
    kernel_ = kernels.pointwise_i8 != nullptr ? kernels.pointwise_i8 : &kScalarPointwiseI8;
  } else if (dtype == DType::kFloat16 && kernels.pointwise_f16 != nullptr) {
    kernel_ = kernels.pointwise_f16;
  } else {
    kernel_ = kernels.pointwise_f32 != nullptr ? kernels.pointwise_f32 : &kScalarPointwiseF32;
    if (dtype == DType::kFloat16) {
      const auto* halves = weight.as<uint16_t>();
      widened.resize(static_cast<size_t>(channels_) * out_channels_);
      std::transform(halves, halves + widened.size(), widened.begin(), widen);
      stored = widened.data();
    }
  }
  blocks_ = (out_channels_ + kernel_->block - 1) / kernel_->block;
  weights_ = AlignedBuffer(kernel_->layout_bytes(out_channels_, channels_));
  kernel_->layout(stored, out_channels_, channels_, weights_.as<void>());
  scale_ = padded_copy(scale, out_channels_, blocks_ * kernel_->block);
  bias_ = padded_copy(bias, out_channels_, blocks_ * kernel_->block);
}

MapShape Pointwise::prepare(const TensorView& x) const {
  const MapShape in = map_shape(x, "x");
  require_tensor(x, "x", DType::kFloat32, {-1, -1, -1, channels_}, "[N, H, W, C]");
  return {in.batch, in.height, in.width, out_channels_};
}

void Pointwise::run(const TensorView& x, const MapShape& out, float* y, uint32_t* bits,
                    const Executor& executor) const {
  const Cut cut(*this, out, bits == nullptr);
  const bool eight_bits = kernel_->pixel_pitch != nullptr;
  executor.for_each(cut.rows.count() * cut.parts, [&](size_t task) {
    const size_t rows_task = task / cut.parts;
    const int part = static_cast<int>(task % cut.parts);
    const int64_t image = cut.rows.image(rows_task);
    const int row_begin = cut.rows.begin(rows_task);
    const int row_end = cut.rows.end(rows_task);
    const int64_t first_pixel = (image * out.height + row_begin) * out.width;
    const float* values = x.as<float>() + first_pixel * channels_;
    PointwiseJob job = {};
    job.count = static_cast<int64_t>(row_end - row_begin) * out.width;
    const size_t elements = static_cast<size_t>(job.count) * channels_;
    const size_t clip_bytes = clip_ ? whole_lines(sizeof(float) * elements) : 0;
    job.pitch = eight_bits ? kernel_->pixel_pitch(channels_) : sizeof(float) * channels_;
    const size_t pixel_bytes = eight_bits ? whole_lines(job.pitch * job.count) : 0;
    const size_t step_bytes = eight_bits ? sizeof(float) * job.count : 0;
    char* scratch = nullptr;
    if (clip_bytes + pixel_bytes + step_bytes > 0) {
      scratch = static_cast<char*>(thread_scratch(clip_bytes + pixel_bytes + step_bytes));
    }
    if (clip_) {
      auto* clipped = reinterpret_cast<float*>(scratch);
      const auto clip = kernels_.leaky_clip != nullptr ? kernels_.leaky_clip : scalar_leaky_clip;
      clip(values, static_cast<int64_t>(elements), slope_, clipped);
      values = clipped;
    }
    job.pixels = values;
    if (eight_bits) {
      auto* step = reinterpret_cast<float*>(scratch + clip_bytes + pixel_bytes);
      kernel_->prepare(values, job.count, channels_, scratch + clip_bytes, step);
      job.pixels = scratch + clip_bytes;
      job.step = step;
    }
    job.weights = weights_.as<void>();
    job.scale = scale_.as<float>();
    job.bias = bias_.as<float>();
    job.y = y + first_pixel * out_channels_;
    job.channels = channels_;
    job.out_channels = out_channels_;
    job.block_begin = blocks_ * part / cut.parts;
    job.block_end = blocks_ * (part + 1) / cut.parts;
    kernel_->run(job);
    if (bits == nullptr) return;
    const size_t words = words_for(out_channels_);
    uint32_t* image_bits = bits + image * out.bits_words();
    clear_border(image_bits, out, row_begin, row_end);
    for (int row = row_begin; row < row_end; ++row) {
      kernels_.pack(job.y + static_cast<size_t>(row - row_begin) * out.width * out_channels_, nullptr, out.width,
                    out_channels_, image_bits + ((static_cast<size_t>(row) + 1) * (out.width + 2) + 1) * words);
    }
  });
}

}  // namespace bireal
