#include "fuzz_pointwise.h"

#include <algorithm>
#include <cmath>

#include "pointwise.h"

namespace bireal::fuzzing {
namespace {

double weight_value(int8_t weight) { return weight; }
double weight_value(float weight) { return static_cast<double>(weight); }
double weight_value(uint16_t half) { return reference::half_value(half); }

void make_weight(Random& random, int8_t& weight) { weight = static_cast<int8_t>(random.between(-128, 127)); }
void make_weight(Random& random, float& weight) { weight = random.normal(); }
void make_weight(Random& random, uint16_t& half) {  // any magnitude below 2, also subnormal
  half = static_cast<uint16_t>(random.between(0, 0x3fff) | (random.coin() ? 0x8000 : 0));
}

constexpr DType dtype_of(int8_t) { return DType::kInt8; }
constexpr DType dtype_of(float) { return DType::kFloat32; }
constexpr DType dtype_of(uint16_t) { return DType::kFloat16; }

// T: int8_t (results must be exact), or float or uint16_t for half precision (within rounding).
template <typename T>
void check(Random& random, const Kernels& kernels, const MapShape& in, int out_channels, bool clip, bool with_bits) {
  const std::vector<float> x = random.normals(in.elements() * in.batch);
  std::vector<T> weights(static_cast<size_t>(in.channels) * out_channels);
  for (T& weight : weights) make_weight(random, weight);
  const std::vector<float> scale = random.normals(out_channels);
  const std::vector<float> bias = random.normals(out_channels);
  const std::vector<float> slope = {0.125f};
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const TensorView steep = view(DType::kFloat32, {1}, slope);
  const Pointwise op(map, view(dtype_of(T()), {in.channels, out_channels}, weights),
                     view(DType::kFloat32, {out_channels}, scale), view(DType::kFloat32, {out_channels}, bias),
                     clip ? &steep : nullptr, kernels);
  const MapShape out = op.prepare(map);
  std::vector<float> y(out.elements() * out.batch, NAN);
  std::vector<uint32_t> bits(out.bits_words() * out.batch, 0xdeadbeef);
  op.run(map, out, y.data(), with_bits ? bits.data() : nullptr, TwoThreads(random.coin()));
  std::vector<float> v;
  for (size_t pixel = 0; pixel < in.pixels() * in.batch; ++pixel) {
    v.assign(x.begin() + pixel * in.channels, x.begin() + (pixel + 1) * in.channels);
    if (clip) {
      for (float& value : v) value = value * 0.125f + std::min(1.0f, std::max(-1.0f, value)) * 0.875f;
    }
    const reference::EightBits rounded = sizeof(T) == 1 ? reference::to_8_bits(v) : reference::EightBits();
    for (int o = 0; o < out_channels; ++o) {
      double sum = 0;
      double magnitude = 0;
      for (int c = 0; c < in.channels; ++c) {
        const double weight = weight_value(weights[static_cast<size_t>(c) * out_channels + o]);
        sum += weight * (sizeof(T) == 1 ? rounded.q[c] : static_cast<double>(v[c]));
        magnitude += std::fabs(weight * v[c]);
      }
      const float found = y[pixel * out_channels + o];
      if (sizeof(T) == 1) {
        const float stepped = static_cast<float>(sum) * rounded.step;
        const float scaled = stepped * scale[o];
        EXPECT(found == scaled + bias[o], "pointwise %s h %d w %d c %d o %d clip %d", kernels.name, in.height, in.width,
               in.channels, out_channels, clip);
      } else {
        const double limit = (magnitude * std::fabs(scale[o]) + std::fabs(bias[o])) * (in.channels + 4) / (1 << 24);
        EXPECT(std::fabs(found - (sum * scale[o] + bias[o])) <= limit, "pointwise %s h %d w %d c %d o %d clip %d",
               kernels.name, in.height, in.width, in.channels, out_channels, clip);
      }
    }
  }
  for (int64_t n = 0; with_bits && n < in.batch; ++n) {
    const std::vector<float> one(y.begin() + n * out.elements(), y.begin() + (n + 1) * out.elements());
    const auto wanted = bits_of(one, out);
    EXPECT(std::equal(wanted.begin(), wanted.end(), bits.begin() + n * out.bits_words()), "pointwise bits %s",
           kernels.name);
  }
}

template <typename T>
void check_geometries(Random& random, const Kernels& kernels) {
  for (int channels : {1, 3, 4, 15, 16, 17, 64, 65, 130}) {
    for (int out_channels : {1, 2, 15, 16, 17, 32, 33, 64, 100}) {
      check<T>(random, kernels, {1, 3, 5, channels}, out_channels, false, true);
    }
  }
  for (int width = 1; width < 30; ++width) check<T>(random, kernels, {1, 1, width, 20}, 40, false, false);
  for (int channels : {64, 100, 256}) check<T>(random, kernels, {1, 13, 21, channels}, 1, false, true);
  check<T>(random, kernels, {1, 61, 9, 100}, 70, false, true);   // divided into tasks by rows
  check<T>(random, kernels, {1, 7, 7, 256}, 320, false, false);  // few pixels: by output channels
  check<T>(random, kernels, {2, 5, 7, 33}, 20, true, true);
}

// Returns y for pixels x [1][1][count][channels] and 8-bit weights [channels][out_channels], scale 1, bias 0.
std::vector<float> products_of_8_bits(const std::vector<float>& x, const std::vector<int8_t>& weights, int channels,
                                      const Kernels& kernels) {
  const auto count = static_cast<int64_t>(x.size()) / channels;
  const auto out_channels = static_cast<int64_t>(weights.size()) / channels;
  const std::vector<float> ones(out_channels, 1.0f);
  const std::vector<float> zeros(out_channels, 0.0f);
  const TensorView map = view(DType::kFloat32, {1, 1, count, channels}, x);
  const Pointwise op(map, view(DType::kInt8, {channels, out_channels}, weights),
                     view(DType::kFloat32, {out_channels}, ones), view(DType::kFloat32, {out_channels}, zeros), nullptr,
                     kernels);
  std::vector<float> y(count * out_channels, NAN);
  op.run(map, op.prepare(map), y.data(), nullptr, TwoThreads(true));
  return y;
}

// Values are rounded half to even. Pixels of zeros or of tiny values become zeros. There are enough pixels for kernels
// that round several at a time, and some more.
void test_rounding(const Kernels& kernels) {
  constexpr int kChannels = 8;
  constexpr int kCopies = 5;  // of 4 pixels
  const std::vector<float> values = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f, 126.5f};
  const std::vector<float> rounded = {127, 0, 2, 2, 0, -2, -126, 126};
  std::vector<float> x;
  for (int i = 0; i < kCopies; ++i) {
    x.insert(x.end(), values.begin(), values.end());
    x.resize(x.size() + kChannels, 0.0f);
    x.resize(x.size() + kChannels, 1e-31f);
    for (float value : values) x.push_back(-value);
  }
  std::vector<int8_t> identity(kChannels * kChannels);
  for (int i = 0; i < kChannels; ++i) identity[i * kChannels + i] = 1;
  const std::vector<float> y = products_of_8_bits(x, identity, kChannels, kernels);
  for (size_t i = 0; i < y.size(); ++i) {
    const float value = rounded[i % kChannels];
    const size_t kind = i / kChannels % 4;
    EXPECT(y[i] == (kind == 0 ? value : kind == 3 ? -value : 0), "8 bits %s value %zu", kernels.name, i);
  }
}

// Pairs of products that need all of 16 bits, and sums of these that need many more.
void test_largest_sums(const Kernels& kernels) {
  constexpr int kChannels = 1500;
  const std::vector<float> x(kChannels, 3.0f);
  for (int weight : {-128, 127}) {
    const std::vector<int8_t> weights(2 * kChannels, static_cast<int8_t>(weight));
    const float expected = static_cast<float>(127 * weight * kChannels) * (3.0f / 127.0f);
    for (float y : products_of_8_bits(x, weights, kChannels, kernels)) {
      EXPECT(y == expected, "8 bits %s: %g, not %g", kernels.name, static_cast<double>(y),
             static_cast<double>(expected));
    }
  }
}

// A value that is not finite makes all outputs of its pixel NaN and changes no other pixel.
void test_not_finite(Random& random, const Kernels& kernels) {
  constexpr int kOut = 20;
  constexpr int kPixels = 19;
  for (float value : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (int channels : {1, 9, 20, 64}) {
      std::vector<int8_t> weights(static_cast<size_t>(channels) * kOut);
      for (int8_t& weight : weights) make_weight(random, weight);
      for (int pixel : {1, kPixels - 2}) {
        const int place = random.pick({0, channels / 2, channels - 1});
        std::vector<float> x = random.normals(static_cast<size_t>(kPixels) * channels);
        const std::vector<float> finite = products_of_8_bits(x, weights, channels, kernels);
        x[pixel * channels + place] = value;
        const std::vector<float> y = products_of_8_bits(x, weights, channels, kernels);
        for (int i = 0; i < kPixels * kOut; ++i) {
          const bool right = i / kOut == pixel ? std::isnan(y[i]) : y[i] == finite[i];
          EXPECT(right, "8 bits %s: %g in channel %d of %d", kernels.name, static_cast<double>(value), place, channels);
        }
      }
    }
  }
}

}  // namespace

void fuzz_pointwise(Random& random, const Kernels& kernels) {
  const auto once = [&](const auto& check_type) {
    const MapShape in = {random.between(1, 2), some_side(random), some_side(random), some_channels(random)};
    const int out_channels = random.pick({1, 2, 15, 16, 17, 31, 32, 33, 64, 100});
    const bool clip = random.coin();
    check_type(random, kernels, in, out_channels, clip, random.coin());
  };
  once(check<int8_t>);
  once(check<float>);
  once(check<uint16_t>);
}

void test_pointwise(const Kernels& kernels) {
  Random random(1);
  check_geometries<int8_t>(random, kernels);
  check_geometries<float>(random, kernels);
  check_geometries<uint16_t>(random, kernels);
  test_rounding(kernels);
  test_largest_sums(kernels);
  test_not_finite(random, kernels);
}

}  // namespace bireal::fuzzing
