// Unit tests of the arithmetic, without ONNX Runtime: compares every kernel that this CPU can run with reference.h, on
// random geometries that favour the edges of tiles. Buffers have exactly the size that the interface specifies. So the
// sanitizers, or the guard pages of guard_pages.cc in a build without sanitizers, detect any access beyond them.
//
//   bireal_op_fuzz [cases] [seed]
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "avgpool.h"
#include "bconv.h"
#include "dispatch.h"
#include "fuzz_pointwise.h"
#include "fuzz_stem.h"
#include "fuzzing.h"
#include "globalmean.h"
#include "pack.h"
#include "reference.h"

namespace {

using namespace bireal;
using namespace bireal::fuzzing;

void fuzz_pack(Random& random, const Kernels& kernels) {
  const MapShape map = {random.between(1, 2), some_side(random), some_side(random), some_channels(random)};
  std::vector<float> x = random.normals(map.elements() * map.batch);
  x[random.between(0, static_cast<int>(x.size()) - 1)] = 0.0f;
  x[random.between(0, static_cast<int>(x.size()) - 1)] = NAN;
  const bool with_threshold = random.coin();
  const std::vector<float> threshold = random.normals(map.channels);
  const TensorView in = view(DType::kFloat32, map.shape(), x);
  const TensorView limits = view(DType::kFloat32, {map.channels}, threshold);
  const TensorView* limit = with_threshold ? &limits : nullptr;
  const Pack pack(in, limit);
  std::vector<uint32_t> bits(map.bits_words() * map.batch, 0xdeadbeef);
  pack.run(in, limit, pack.prepare(in, limit), bits.data(), kernels, TwoThreads(random.coin()));
  for (int64_t n = 0; n < map.batch; ++n) {
    std::vector<int> signs;
    for (size_t i = 0; i < map.elements(); ++i) {
      signs.push_back(
          reference::sign_of(x[n * map.elements() + i], with_threshold ? threshold[i % map.channels] : 0.0f));
    }
    const auto expected = reference::add_border(reference::pack_signs(signs, map.channels), map.height, map.width,
                                                words_for(map.channels));
    const bool same = std::equal(expected.begin(), expected.end(), bits.begin() + n * map.bits_words());
    EXPECT(same, "pack %s h %d w %d c %d", kernels.name, map.height, map.width, map.channels);
  }
}

void fuzz_bconv(Random& random, const Kernels& kernels) {
  reference::Conv conv = {some_side(random),     some_side(random),   some_channels(random),
                          some_channels(random), random.pick({1, 3}), random.pick({1, 2})};
  if (random.between(0, 9) == 0) {  // weights that are divided by channels
    conv = {random.pick({5, 7, 9}), 7, random.pick({256, 300}), random.pick({256, 270, 320}), 3, random.pick({1, 2})};
  }
  const MapShape in = {random.between(1, 2), conv.height, conv.width, conv.channels};
  const MapShape out = {in.batch, conv.out_height(), conv.out_width(), conv.out_channels};
  const int words = words_for(conv.channels);
  const std::vector<int> weights =
      random.signs(static_cast<size_t>(conv.out_channels) * conv.kernel * conv.kernel * conv.channels);
  const std::vector<uint32_t> packed = reference::pack_signs(weights, conv.channels);
  const std::vector<float> scale = random.normals(conv.out_channels);
  const std::vector<float> bias = random.normals(conv.out_channels);
  const std::vector<float> shortcut = random.normals(out.elements() * in.batch);
  const bool with_residual = random.coin();
  const bool in_place = with_residual && random.coin();
  const bool with_bits = random.coin();

  std::vector<uint32_t> bits;
  std::vector<float> expected;
  for (int64_t n = 0; n < in.batch; ++n) {
    const std::vector<int> signs = random.signs(in.elements());
    const auto image = reference::add_border(reference::pack_signs(signs, conv.channels), in.height, in.width, words);
    bits.insert(bits.end(), image.begin(), image.end());
    const float* residual = with_residual ? shortcut.data() + n * out.elements() : nullptr;
    const auto y = reference::affine(reference::binary_sums(conv, signs, weights), scale, bias, residual);
    expected.insert(expected.end(), y.begin(), y.end());
  }
  std::vector<float> y = in_place ? shortcut : std::vector<float>(expected.size(), NAN);
  std::vector<uint32_t> bits_out(with_bits ? out.bits_words() * out.batch : 0, 0xdeadbeef);
  const TensorView bits_view = view(DType::kInt32, in.bits_shape(), bits);
  const TensorView residual_view = view(DType::kFloat32, out.shape(), in_place ? y : shortcut);
  const TensorView* residual = with_residual ? &residual_view : nullptr;
  const BConv op({conv.channels, conv.kernel, conv.stride}, bits_view,
                 view(DType::kInt32, {conv.out_channels, conv.kernel, conv.kernel, words}, packed),
                 view(DType::kFloat32, {conv.out_channels}, scale), view(DType::kFloat32, {conv.out_channels}, bias),
                 residual, kernels);
  op.run(bits_view, residual, op.prepare(bits_view, residual), y.data(), with_bits ? bits_out.data() : nullptr,
         TwoThreads(random.coin()));
#define BCONV_CASE                                                                                         \
  "bconv %s h %d w %d c %d o %d k %d s %d residual %d in place %d", kernels.name, conv.height, conv.width, \
      conv.channels, conv.out_channels, conv.kernel, conv.stride, with_residual, in_place
  for (size_t i = 0; i < y.size(); ++i) EXPECT(y[i] == expected[i], BCONV_CASE);
  for (int64_t n = 0; with_bits && n < out.batch; ++n) {
    const std::vector<float> map(expected.begin() + n * out.elements(), expected.begin() + (n + 1) * out.elements());
    const auto wanted = bits_of(map, out);
    EXPECT(std::equal(wanted.begin(), wanted.end(), bits_out.begin() + n * out.bits_words()), BCONV_CASE);
  }
}

void fuzz_avg_pool(Random& random, const Kernels& kernels) {
  const MapShape in = {random.between(1, 2), some_side(random), some_side(random), some_channels(random)};
  const std::vector<float> x = random.normals(in.elements() * in.batch);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const AvgPool2 op(map);
  const MapShape out = op.prepare(map);
  std::vector<float> y(out.elements() * out.batch, NAN);
  op.run(map, out, y.data(), kernels, TwoThreads(random.coin()));
  for (int64_t n = 0; n < in.batch; ++n) {
    const std::vector<float> one(x.begin() + n * in.elements(), x.begin() + (n + 1) * in.elements());
    const auto expected = reference::avg_pool(one, in.height, in.width, in.channels);
    EXPECT(std::equal(expected.begin(), expected.end(), y.begin() + n * out.elements()), "avg pool %s h %d w %d c %d",
           kernels.name, in.height, in.width, in.channels);
  }
}

void fuzz_global_mean(Random& random) {
  const MapShape in = {random.between(1, 3), some_side(random), some_side(random), some_channels(random)};
  const std::vector<float> x = random.normals(in.elements() * in.batch);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const GlobalMean op(map);
  const MapShape out = op.prepare(map);
  std::vector<float> y(out.elements() * out.batch, NAN);
  op.run(map, out, y.data(), TwoThreads(random.coin()));
  for (int64_t n = 0; n < in.batch; ++n) {
    for (int c = 0; c < in.channels; ++c) {
      float sum = 0;
      for (size_t p = 0; p < in.pixels(); ++p) sum += x[(n * in.pixels() + p) * in.channels + c];
      EXPECT(y[n * in.channels + c] == sum * (1.0f / static_cast<float>(in.pixels())), "global mean h %d w %d c %d",
             in.height, in.width, in.channels);
    }
  }
}

// An exception in a task must reach the caller after all tasks have ended, whatever thread it occurred on. The test
// throws no OpError, because guard_pages.cc does not support the text of an OpError on AArch64.
void test_executor_carries_exceptions() {
  std::atomic<int> ended{0};
  bool caught = false;
  try {
    TwoThreads(false).for_each(10, [&](size_t i) {
      ++ended;
      if (i == 5) throw 5;
    });
  } catch (int thrown) {
    caught = thrown == 5;
  }
  EXPECT(caught && ended == 10, "ended %d", ended.load());
}

// An empty batch takes no memory, so its maps can have the largest size. The sizes must not overflow where work is
// divided into tasks.
void test_empty_batch_of_the_largest_maps(const Kernels& kernels) {
  constexpr int kSide = (1 << 20) - 2;
  constexpr int kOutChannels = 1 << 16;
  const std::vector<uint32_t> weights(kOutChannels);
  const std::vector<float> ones(kOutChannels, 1.0f);
  const TensorView affine = view(DType::kFloat32, {kOutChannels}, ones);
  const TensorView bits = view(DType::kInt32, {0, kSide + 2, kSide + 2, 1}, weights);
  const BConv op({1, 1, 1}, bits, view(DType::kInt32, {kOutChannels, 1, 1, 1}, weights), affine, affine, nullptr,
                 kernels);
  op.run(bits, nullptr, op.prepare(bits, nullptr), nullptr, nullptr, TwoThreads(false));
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 150;
  const uint32_t seed = argc > 2 ? static_cast<uint32_t>(std::atoll(argv[2])) : std::random_device()();
  std::setbuf(stdout, nullptr);  // no output is lost if a kernel ends the process
  std::printf("seed %u, %d cases a kernel and operator\n", seed, cases);
  test_executor_carries_exceptions();
  for (const Kernels* kernels : usable_kernels()) {
    test_empty_batch_of_the_largest_maps(*kernels);
    test_pointwise(*kernels);
    test_stem(*kernels);
    Random random(seed);
    for (int i = 0; i < cases && g_failures == 0; ++i) {
      fuzz_pack(random, *kernels);
      fuzz_bconv(random, *kernels);
      fuzz_stem(random, *kernels);
      fuzz_avg_pool(random, *kernels);
      fuzz_pointwise(random, *kernels);
      fuzz_global_mean(random);
    }
    std::printf("%s: %s\n", kernels->name, g_failures == 0 ? "exact" : "FAILED");
  }
  return g_failures == 0 ? 0 : 1;
}
