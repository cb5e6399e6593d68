#include "fuzz_stem.h"

#include <cmath>

#include "stem.h"

namespace bireal::fuzzing {
namespace {

constexpr int kColors = 3;
constexpr int kThird = INT16_MAX / 3;  // the sum of any three such weights fits int16

constexpr DType dtype_of(int16_t) { return DType::kInt16; }
constexpr DType dtype_of(float) { return DType::kFloat32; }

std::vector<uint8_t> some_pixels(Random& random, size_t count) {
  std::vector<uint8_t> pixels(count);
  const bool extreme = random.between(0, 3) == 0;
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(extreme ? 255 * random.coin() : random.between(0, 255));
  return pixels;
}

// Weights whose magnitudes select different kernels: all of int8, a third of int16, all of int16.
template <typename T>
std::vector<T> some_weights(Random& random, const reference::Conv& conv) {
  std::vector<T> weights(static_cast<size_t>(conv.out_channels) * conv.kernel * conv.kernel * kColors);
  const int limit = random.pick({INT8_MAX, kThird, INT16_MAX});
  const bool extreme = random.between(0, 3) == 0;
  for (T& weight : weights) {
    weight = static_cast<T>(extreme ? (random.coin() ? limit : -limit) : random.between(-limit, limit));
  }
  return weights;
}

// T: int16_t (results must be exact) or float (within rounding).
template <typename T>
void check(Random& random, const Kernels& kernels, int batch, const reference::Conv& conv, bool pool,
           const std::vector<T>& weights) {
  constexpr bool kInteger = sizeof(T) == sizeof(int16_t);
  const MapShape in = {batch, conv.height, conv.width, kColors};
  const std::vector<uint8_t> pixels = some_pixels(random, in.elements() * in.batch);
  std::vector<float> scale = random.normals(conv.out_channels);
  for (float& value : scale) value *= 1e-7f;
  const std::vector<float> bias = random.normals(conv.out_channels);
  const std::vector<float> mean = {123.5f, 116.25f, 103.75f};  // values whose sums are exact
  const TensorView image = view(DType::kUInt8, in.shape(), pixels);
  const Stem op({conv.stride, pool}, image,
                view(dtype_of(T()), {conv.out_channels, conv.kernel, conv.kernel, kColors}, weights),
                view(DType::kFloat32, {conv.out_channels}, scale), view(DType::kFloat32, {conv.out_channels}, bias),
                view(DType::kFloat32, {kColors}, mean), kernels);
  const MapShape out = op.prepare(image);
  std::vector<float> y(out.elements() * out.batch, NAN);
  std::vector<uint32_t> bits(out.bits_words() * out.batch, 0xdeadbeef);
  op.run(image, out, y.data(), bits.data(), TwoThreads(random.coin()));
  for (int64_t n = 0; n < in.batch; ++n) {
    const std::vector<uint8_t> one(pixels.begin() + n * in.elements(), pixels.begin() + (n + 1) * in.elements());
    std::vector<double> expected;
    if constexpr (kInteger) {
      expected = reference::stem_of_integers(conv, one, weights, scale, bias, mean.data());
    } else {
      expected = reference::stem(conv, one, weights, scale, bias, mean.data());
    }
    if (pool) expected = reference::max_pool(expected, conv.out_height(), conv.out_width(), conv.out_channels);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double limit = kInteger ? 0 : std::fabs(scale[i % conv.out_channels]) * 255 * 32768 * 147 * 0x1p-21 + 1e-6;
      EXPECT(std::fabs(y[n * out.elements() + i] - expected[i]) <= limit,
             "stem %s h %d w %d o %d k %d s %d pool %d: %g %g", kernels.name, conv.height, conv.width,
             conv.out_channels, conv.kernel, conv.stride, pool, static_cast<double>(y[n * out.elements() + i]),
             expected[i]);
    }
    const std::vector<float> map(y.begin() + n * out.elements(), y.begin() + (n + 1) * out.elements());
    const auto wanted = bits_of(map, out);
    EXPECT(std::equal(wanted.begin(), wanted.end(), bits.begin() + n * out.bits_words()), "stem bits %s", kernels.name);
  }
}

// Weights of which three taps, two apart, add up to `sum`, in any row, colour and channel. Kernels that add the weights
// of taps must compute with them, or notice that they cannot.
std::vector<int16_t> weights_at(Random& random, const reference::Conv& conv, int sum) {
  std::vector<int16_t> weights = some_weights<int16_t>(random, conv);
  for (int16_t& weight : weights) weight = static_cast<int16_t>(weight % (kThird + 1));
  const int channel = random.between(0, conv.out_channels - 1);
  const int row = random.between(0, conv.kernel - 1);
  const int first = random.between(0, 2 * kColors - 1);
  int16_t* w = weights.data() + (static_cast<size_t>(channel) * conv.kernel + row) * conv.kernel * kColors + first;
  const int middle = random.coin() ? 1 : -1;
  w[0] = static_cast<int16_t>(sum / 2);
  w[2 * kColors] = static_cast<int16_t>(middle * (sum / 4));
  w[4 * kColors] = static_cast<int16_t>(sum - sum / 2 - sum / 4);
  return weights;
}

}  // namespace

void fuzz_stem(Random& random, const Kernels& kernels) {
  const auto some = [&] {
    return reference::Conv{some_side(random),     some_side(random),         kColors,
                           random.between(1, 70), random.pick({1, 3, 5, 7}), random.pick({1, 2})};
  };
  const reference::Conv conv = some();
  check(random, kernels, random.between(1, 2), conv, random.coin(), some_weights<float>(random, conv));
  reference::Conv integers = some();
  if (random.coin()) integers.kernel = 7, integers.stride = 2;  // what networks have, for which some kernels are made
  check(random, kernels, random.between(1, 2), integers, random.coin(), some_weights<int16_t>(random, integers));
}

void test_stem(const Kernels& kernels) {
  Random random(1);
  for (int width = 1; width < 40; ++width) {
    const reference::Conv conv = {3, width, kColors, 33, 7, 2};
    for (int limit : {INT8_MAX, kThird, INT16_MAX}) {
      std::vector<int16_t> weights(static_cast<size_t>(conv.out_channels) * conv.kernel * conv.kernel * kColors);
      for (int16_t& weight : weights) weight = static_cast<int16_t>(random.between(-limit, limit));
      check(random, kernels, 1, conv, false, weights);
    }
  }
  const reference::Conv conv = {9, 9, kColors, 20, 7, 2};
  for (int sum : {INT16_MAX, INT16_MAX + 1, INT16_MIN, INT16_MIN - 1}) {
    for (int i = 0; i < 10; ++i) check(random, kernels, 1, conv, false, weights_at(random, conv, sum));
  }
  for (int outer : {INT16_MIN, INT16_MAX}) {  // sums that fit, or nearly, only by different signs
    std::vector<int16_t> weights(static_cast<size_t>(conv.out_channels) * conv.kernel * conv.kernel * kColors);
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t tap = i / kColors % static_cast<size_t>(conv.kernel);
      weights[i] = static_cast<int16_t>(tap < 4 || tap == 6 ? outer : outer == INT16_MIN ? INT16_MAX : INT16_MIN + 1);
    }
    check(random, kernels, 1, conv, false, weights);
  }
}

}  // namespace bireal::fuzzing
