#include "stem.h"

#include <algorithm>
#include <atomic>

namespace bireal {
namespace {

constexpr int kColors = 3;
constexpr int kLargestKernel = 7;
constexpr int kPoolRows = 3;
// Minimum pooled rows per task. A task computes the convolution row above its first pooled row again, unless the same
// thread has just computed it.
constexpr int kFewestPooledRows = 4;

// Number of filter taps at output index i that lie outside the image, before its first and behind its last pixel:
// 0..pad.
struct Reach {
  int before;
  int behind;
};

Reach reach(int i, int stride, int pad, int size) {
  return {std::max(0, pad - i * stride), std::max(0, i * stride + pad - (size - 1))};
}

}  // namespace

// Sizes of one run and of the row buffers in a task's scratch memory.
struct Stem::Geometry {
  int height, width;            // image
  int conv_height, conv_width;  // before pooling
  size_t input_row_bytes;       // one input row as the kernel reads it
  size_t conv_row_bytes;        // one convolution row
  size_t class_bytes;           // border class of each column

  Geometry(const MapShape& image, const Stem& stem)
      : height(image.height),
        width(image.width),
        conv_height((image.height - 1) / stem.stride_ + 1),
        conv_width((image.width - 1) / stem.stride_ + 1),
        input_row_bytes(whole_lines(stem.input_row_bytes(image.width, conv_width))),
        conv_row_bytes(whole_lines(static_cast<size_t>(conv_width) * stem.out_channels_ * sizeof(float))),
        class_bytes(whole_lines(conv_width)) {}
};

// Describes the content of a thread's scratch memory. Consecutive tasks on one thread continue with it.
struct Stem::Held {
  uint64_t run = 0;           // the call of Stem::run that wrote it; 0: none
  uint64_t scratch_uses = 0;  // thread_scratch_uses() when it was written
  int64_t image = 0;
  int next_row = 0;                // output row after the last one that was computed
  int conv_row = -1;               // last convolution row in the ring buffer for pooling; row r is at index r % 3
  int input[kLargestKernel] = {};  // input row at each index of the ring buffer for input rows

  // Prepares for the rows from `row` on. Discards the content unless this task continues the previous one.
  void enter(uint64_t this_run, int64_t this_image, int row) {
    const bool goes_on =
        run == this_run && image == this_image && next_row == row && scratch_uses == thread_scratch_uses();
    run = this_run;
    image = this_image;
    if (goes_on) return;
    conv_row = -1;
    std::fill_n(input, kLargestKernel, -1);
  }

  void leave(int row) {
    next_row = row;
    scratch_uses = thread_scratch_uses();
  }
};

// Computes convolution rows on demand. A ring buffer of converted input rows avoids converting a row twice in a task.
class Stem::RowSource {
 public:
  static size_t scratch_bytes(const Geometry& geometry, int kernel) {
    return geometry.class_bytes + kernel * geometry.input_row_bytes;
  }

  // `held` is Held::input of the same scratch memory.
  RowSource(const Stem& stem, const Geometry& geometry, const uint8_t* pixels, char* scratch, int* held)
      : stem_(stem), geometry_(geometry), pixels_(pixels), ring_(scratch + geometry.class_bytes), held_(held) {
    auto* classes = reinterpret_cast<uint8_t*>(scratch);
    const int pad = stem.kernel_ / 2;
    for (int x = 0; x < geometry.conv_width; ++x) {
      const Reach r = reach(x, stem.stride_, pad, geometry.width);
      classes[x] = static_cast<uint8_t>(r.before * (pad + 1) + r.behind);
    }
    job_.column_class = classes;
    job_.weights = stem.weights_.as<void>();
    job_.scale = stem.scale_.as<float>();
    job_.out_width = geometry.conv_width;
    job_.out_channels = stem.out_channels_;
    job_.padded_channels = stem.padded_channels_;
    job_.kernel = stem.kernel_;
    job_.stride = stem.stride_;
  }

  // Computes convolution row `row` into out [conv_width][out_channels].
  void make(int row, float* out) {
    const int pad = stem_.kernel_ / 2;
    const Reach r = reach(row, stem_.stride_, pad, geometry_.height);
    job_.tap_begin = r.before;
    job_.tap_end = stem_.kernel_ - r.behind;
    for (int t = job_.tap_begin; t < job_.tap_end; ++t) job_.rows[t] = input_row(row * stem_.stride_ - pad + t);
    const int classes = stem_.border_distance_classes();
    const size_t row_class = static_cast<size_t>(r.before) * classes + r.behind;
    job_.offset = stem_.offset_.as<float>() + row_class * classes * classes * stem_.padded_channels_;
    job_.out = out;
    stem_.stem_->row(job_);
  }

 private:
  const void* input_row(int y) {
    const int place = y % stem_.kernel_;
    char* row = ring_ + place * geometry_.input_row_bytes;
    if (held_[place] == y) return row;
    held_[place] = y;
    const uint8_t* in = pixels_ + static_cast<size_t>(y) * geometry_.width * kColors;
    const size_t count = static_cast<size_t>(geometry_.width) * kColors;
    switch (stem_.pixels_) {
      case Pixels::kPrepared:
        stem_.stem_->prepare(in, geometry_.width, geometry_.conv_width, row);
        break;
      case Pixels::kUInt8:
        std::copy_n(in, count, margin<uint8_t>(row, count));
        break;
      case Pixels::kInt16:
        std::copy_n(in, count, margin<int16_t>(row, count));
        break;
      case Pixels::kFloat32: {
        auto* out = margin<float>(row, count);
        for (size_t i = 0; i < count; i += kColors) {
          for (int c = 0; c < kColors; ++c) out[i + c] = in[i + c] - stem_.mean_[c];
        }
        break;
      }
    }
    return row;
  }

  // Zeroes the padding before and behind the `count` values of a row. Returns the start of the values. The padding
  // behind extends to the end of the row: kernels read whole steps, and what they read there must be finite.
  template <typename T>
  T* margin(char* row, size_t count) const {
    auto* begin = reinterpret_cast<T*>(row);
    T* values = begin + static_cast<size_t>(stem_.kernel_ / 2) * kColors;
    std::fill(begin, values, T(0));
    std::fill(values + count, begin + geometry_.input_row_bytes / sizeof(T), T(0));
    return values;
  }

  const Stem& stem_;
  const Geometry& geometry_;
  const uint8_t* pixels_;
  char* ring_;
  int* held_;
  StemRowJob job_ = {};
};

Stem::Stem(const Attributes& attributes, const TensorView& image, const TensorView& weight, const TensorView& scale,
           const TensorView& bias, const TensorView& mean, const Kernels& kernels)
    : kernels_(kernels) {
  require_range("attribute 'stride'", attributes.stride, 1, 2);
  require_range("attribute 'pool'", attributes.pool, 0, 1);
  stride_ = static_cast<int>(attributes.stride);
  pool_ = attributes.pool != 0;
  require_tensor(image, "image", DType::kUInt8, {-1, -1, -1, kColors}, "[N, H, W, 3]");
  const bool integer = weight.dtype == static_cast<int>(DType::kInt16);
  if (!integer && weight.dtype != static_cast<int>(DType::kFloat32)) {
    throw OpError("input 'weight' is " + dtype_name(weight.dtype) + "; give float32 or int16");
  }
  require_tensor(weight, "weight", integer ? DType::kInt16 : DType::kFloat32, {-1, -1, -1, kColors}, "[O, K, K, 3]");
  const int64_t side = weight.shape[1];
  if (side != weight.shape[2] || side % 2 == 0 || side < 1 || side > kLargestKernel) {
    throw OpError("input 'weight' has shape " + shape_text(weight.shape) +
                  "; give a square filter of odd side K of at most 7, [O, K, K, 3]");
  }
  require_range("number of output channels (first side of input 'weight')", weight.shape[0], 1, 1 << 16);
  kernel_ = static_cast<int>(side);
  out_channels_ = static_cast<int>(weight.shape[0]);
  require_tensor(scale, "scale", DType::kFloat32, {out_channels_}, "[O]");
  require_tensor(bias, "bias", DType::kFloat32, {out_channels_}, "[O]");
  require_tensor(mean, "mean", DType::kFloat32, {kColors}, "[3]");
  std::copy_n(mean.as<float>(), kColors, mean_);
  padded_channels_ = (out_channels_ + kernels_.stem_block - 1) / kernels_.stem_block * kernels_.stem_block;
  scale_ = AlignedBuffer(sizeof(float) * padded_channels_);
  std::copy_n(scale.as<float>(), out_channels_, scale_.as<float>());
  const auto* integers = weight.as<int16_t>();
  const size_t count = static_cast<size_t>(out_channels_) * kernel_ * kernel_ * kColors;
  const auto fits_int8 = [](int16_t w) { return w >= INT8_MIN && w <= INT8_MAX; };
  if (!integer) {
    pixels_ = Pixels::kFloat32;
    stem_ = kernels_.stem_f32;
  } else if (kernels_.stem_i8 != nullptr && std::all_of(integers, integers + count, fits_int8)) {
    pixels_ = Pixels::kUInt8;
    stem_ = kernels_.stem_i8;
  } else if (kernels_.stem_pairs != nullptr && kernels_.stem_pairs->takes(integers, out_channels_, kernel_, stride_)) {
    pixels_ = Pixels::kPrepared;
    stem_ = kernels_.stem_pairs;
  } else {
    stem_ = kernels_.stem_i16;
    pixels_ = stem_->byte_pixels ? Pixels::kUInt8 : Pixels::kInt16;
  }
  weights_ = AlignedBuffer(stem_->layout_bytes(out_channels_, kernel_));
  stem_->layout(weight.data, out_channels_, kernel_, weights_.as<void>());
  if (integer) {
    make_offsets(integers, scale.as<float>(), bias.as<float>());
  } else {
    make_offsets(weight.as<float>(), scale.as<float>(), bias.as<float>());
  }
}

size_t Stem::input_row_bytes(int width, int conv_width) const {
  const size_t padded = (static_cast<size_t>(width) + 2 * (kernel_ / 2)) * kColors;
  switch (pixels_) {
    case Pixels::kFloat32:
      return padded * sizeof(float);
    case Pixels::kInt16:
      return padded * sizeof(int16_t);
    case Pixels::kPrepared:
      return stem_->row_bytes(conv_width);
    default:
      return padded;
  }
}

// Sets the offset of each border class: bias - scale * (sum over valid taps of w * mean) for int16 weights, bias for
// float32 weights.
template <typename T>
void Stem::make_offsets(const T* weight, const float* scale, const float* bias) {
  const int classes = border_distance_classes();
  const size_t all = static_cast<size_t>(classes) * classes * classes * classes;
  offset_ = AlignedBuffer(sizeof(float) * all * padded_channels_);
  std::vector<double> tap_mean(static_cast<size_t>(kernel_) * kernel_);  // sum over colours of w * mean
  for (int o = 0; o < out_channels_; ++o) {
    for (size_t t = 0; t < tap_mean.size(); ++t) {
      const T* w = weight + (o * tap_mean.size() + t) * kColors;
      tap_mean[t] = 0;
      for (int c = 0; c < kColors && pixels_ != Pixels::kFloat32; ++c)
        tap_mean[t] += static_cast<double>(w[c]) * mean_[c];
    }
    for (size_t index = 0; index < all; ++index) {
      const int row_class = static_cast<int>(index) / (classes * classes);
      const int column_class = static_cast<int>(index) % (classes * classes);
      double sum = 0;
      for (int ky = row_class / classes; ky < kernel_ - row_class % classes; ++ky) {
        for (int kx = column_class / classes; kx < kernel_ - column_class % classes; ++kx) {
          sum += tap_mean[static_cast<size_t>(ky) * kernel_ + kx];
        }
      }
      offset_.as<float>()[index * padded_channels_ + o] = static_cast<float>(bias[o] - scale[o] * sum);
    }
  }
}

MapShape Stem::prepare(const TensorView& image) const {
  const MapShape in = map_shape(image, "image");
  if (in.channels != kColors) {
    throw OpError("input 'image' has shape " + shape_text(image.shape) + "; give RGB pixels, [N, H, W, 3]");
  }
  MapShape out = {in.batch, (in.height - 1) / stride_ + 1, (in.width - 1) / stride_ + 1, out_channels_};
  if (pool_) {
    out.height = (out.height - 1) / 2 + 1;
    out.width = (out.width - 1) / 2 + 1;
  }
  return out;
}

void Stem::run(const TensorView& image, const MapShape& out, float* y, uint32_t* bits, const Executor& executor) const {
  const MapShape in = map_shape(image, "image");
  const Geometry geometry(in, *this);
  const size_t source_bytes = RowSource::scratch_bytes(geometry, kernel_);
  const size_t scratch_bytes = source_bytes + (pool_ ? kPoolRows * geometry.conv_row_bytes : 0);
  const double work = static_cast<double>(geometry.conv_width) * out_channels_ * kernel_ * kernel_ * kColors / 60;
  const RowTasks tasks(out.batch, out.height, pool_ ? 2 * work : work, pool_ ? kFewestPooledRows : 1);
  const size_t row_elements = static_cast<size_t>(out.width) * out.channels;
  static std::atomic<uint64_t> runs{0};
  const uint64_t this_run = ++runs;
  executor.for_each(tasks.count(), [&](size_t task) {
    const int64_t index = tasks.image(task);
    static thread_local Held held;
    held.enter(this_run, index, tasks.begin(task));
    auto* scratch = static_cast<char*>(thread_scratch(scratch_bytes));
    RowSource source(*this, geometry, image.as<uint8_t>() + index * in.elements(), scratch, held.input);
    uint32_t* image_bits = bits == nullptr ? nullptr : bits + index * out.bits_words();
    if (bits != nullptr) clear_border(image_bits, out, tasks.begin(task), tasks.end(task));
    for (int row = tasks.begin(task); row < tasks.end(task); ++row) {
      float* y_row = y + index * out.elements() + row * row_elements;
      if (pool_) {
        const int first = std::max(0, 2 * row - 1);
        const int last = std::min(2 * row + 1, geometry.conv_height - 1);
        const float* rows[kPoolRows];
        for (int r = first; r <= last; ++r) {
          auto* place = reinterpret_cast<float*>(scratch + source_bytes + r % kPoolRows * geometry.conv_row_bytes);
          if (r > held.conv_row) source.make(r, place);
          held.conv_row = std::max(held.conv_row, r);
          rows[r - first] = place;
        }
        kernels_.max_pool_row(rows, last - first + 1, geometry.conv_width, out.channels, y_row);
      } else {
        source.make(row, y_row);
      }
      if (bits != nullptr) {
        const size_t pixel = (static_cast<size_t>(row) + 1) * (out.width + 2) + 1;
        kernels_.pack(y_row, nullptr, out.width, out.channels, image_bits + pixel * words_for(out.channels));
      }
    }
    held.leave(tasks.end(task));
  });
}

}  // namespace bireal
