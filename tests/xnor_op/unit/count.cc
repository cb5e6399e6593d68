// Runs each operator on fixed geometries, to count instructions. With valgrind --tool=callgrind
// --toggle-collect=bireal_measured --dump-after=bireal_measured there is one count for each line that this program
// prints. BIREAL_KERNEL selects the kernel. There is one thread, and the memory that operators keep between runs is
// already allocated.
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "avgpool.h"
#include "bconv.h"
#include "dispatch.h"
#include "globalmean.h"
#include "pack.h"
#include "pointwise.h"
#include "stem.h"
#include "view.h"

using namespace bireal;

// Not inlined and with C linkage, so that the profiler finds this name.
extern "C" __attribute__((noinline)) void bireal_measured(const std::function<void()>& work) { work(); }

namespace {

class InTurn final : public Executor {
 public:
  void run(void (*task)(void*, size_t), void* user, size_t count) const override {
    for (size_t i = 0; i < count; ++i) task(user, i);
  }
};

void measure(const char* name, const std::function<void()>& work) {
  work();  // allocates the scratch memory of the thread
  bireal_measured(work);
  std::printf("%s\n", name);
}

void bconv(const char* name, int channels, int out_channels, int side, int kernel, int stride = 1) {
  std::mt19937 engine(1);
  const int words = words_for(channels);
  const MapShape in = {1, side, side, channels};
  const int out_side = (side + stride - 1) / stride;
  const MapShape out = {1, out_side, out_side, out_channels};
  std::vector<uint32_t> bits(in.bits_words());  // values do not affect the count, so the border need not be zero
  std::vector<uint32_t> weights(static_cast<size_t>(out_channels) * kernel * kernel * words);
  for (uint32_t& word : bits) word = static_cast<uint32_t>(engine());
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool last = static_cast<int>(i % words) == words - 1 && channels % kWordBits != 0;
    weights[i] = static_cast<uint32_t>(engine()) & (last ? ~(~0u << (channels % kWordBits)) : ~0u);
  }
  const std::vector<float> ones(out_channels, 1.0f);
  const std::vector<float> shortcut(out.elements(), 0.5f);
  std::vector<float> y(out.elements());
  std::vector<uint32_t> bits_out(out.bits_words());
  const TensorView bits_view = view(DType::kInt32, in.bits_shape(), bits);
  const TensorView residual = view(DType::kFloat32, out.shape(), shortcut);
  const TensorView affine = view(DType::kFloat32, {out_channels}, ones);
  const BConv op({channels, kernel, stride}, bits_view,
                 view(DType::kInt32, {out_channels, kernel, kernel, words}, weights), affine, affine, &residual,
                 active_kernels());
  measure(name,
          [&] { op.run(bits_view, &residual, op.prepare(bits_view, &residual), y.data(), bits_out.data(), InTurn()); });
}

template <typename Weight>
void stem(const char* name, DType dtype, int side) {
  constexpr int kOut = 64;
  const std::vector<uint8_t> pixels(static_cast<size_t>(side) * side * 3, 100);
  const std::vector<Weight> weights(static_cast<size_t>(kOut) * 7 * 7 * 3, 300);  // does not fit int8
  const std::vector<float> ones(kOut, 1.0f);
  const std::vector<float> mean(3, 100.0f);
  const TensorView image = view(DType::kUInt8, {1, side, side, 3}, pixels);
  const TensorView affine = view(DType::kFloat32, {kOut}, ones);
  const Stem op({2, 1}, image, view(dtype, {kOut, 7, 7, 3}, weights), affine, affine, view(DType::kFloat32, {3}, mean),
                active_kernels());
  const MapShape out = op.prepare(image);
  std::vector<float> y(out.elements());
  std::vector<uint32_t> bits(out.bits_words());
  measure(name, [&] { op.run(image, out, y.data(), bits.data(), InTurn()); });
}

void pack_and_pool(const char* pack_name, const char* pool_name, int channels, int side) {
  const MapShape in = {1, side, side, channels};
  const std::vector<float> x(in.elements(), -1.0f);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const Pack pack(map, nullptr);
  std::vector<uint32_t> bits(in.bits_words());
  measure(pack_name,
          [&] { pack.run(map, nullptr, pack.prepare(map, nullptr), bits.data(), active_kernels(), InTurn()); });
  const AvgPool2 pool(map);
  const MapShape out = pool.prepare(map);
  std::vector<float> y(out.elements());
  measure(pool_name, [&] { pool.run(map, out, y.data(), active_kernels(), InTurn()); });
}

// slopes: slope of a leaky clip before the convolution; empty: no clip. In float16, 0x3c00 is 1.
template <typename Weight>
void pointwise(const char* name, DType dtype, Weight weight, int channels, int out_channels, int side,
               const std::vector<float>& slopes = {}) {
  const MapShape in = {1, side, side, channels};
  const std::vector<float> x(in.elements(), 0.5f);
  const std::vector<Weight> weights(static_cast<size_t>(channels) * out_channels, weight);
  const std::vector<float> ones(out_channels, 1.0f);
  const TensorView slope = view(DType::kFloat32, {static_cast<int64_t>(slopes.size())}, slopes);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const TensorView affine = view(DType::kFloat32, {out_channels}, ones);
  const Pointwise op(map, view(dtype, {channels, out_channels}, weights), affine, affine,
                     slopes.empty() ? nullptr : &slope, active_kernels());
  const MapShape out = op.prepare(map);
  std::vector<float> y(out.elements());
  measure(name, [&] { op.run(map, out, y.data(), nullptr, InTurn()); });
}

void global_mean(const char* name, int channels, int side) {
  const MapShape in = {1, side, side, channels};
  const std::vector<float> x(in.elements(), 0.5f);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const GlobalMean op(map);
  std::vector<float> y(channels);
  measure(name, [&] { op.run(map, op.prepare(map), y.data(), InTurn()); });
}

}  // namespace

int main() {
  bconv("bconv 3x3 64>64 14x14", 64, 64, 14, 3);
  bconv("bconv 3x3 256>256 7x7", 256, 256, 7, 3);
  bconv("bconv 1x1 64>256 14x14", 64, 256, 14, 1);
  bconv("bconv 3x3 100>100 9x9", 100, 100, 9, 3);  // incomplete words, blocks and tiles
  bconv("bconv 3x3 64>128 14x14, stride 2", 64, 128, 14, 3, 2);
  stem<int16_t>("stem int16 32x32", DType::kInt16, 32);
  stem<float>("stem float32 32x32", DType::kFloat32, 32);
  pointwise<int8_t>("pointwise int8 64>128 14x14", DType::kInt8, 3, 64, 128, 14);
  pointwise<int8_t>("pointwise int8 64>128 14x14, leaky clip", DType::kInt8, 3, 64, 128, 14, {0.1f});
  pointwise<float>("pointwise float32 64>128 14x14", DType::kFloat32, 3.0f, 64, 128, 14);
  pointwise<uint16_t>("pointwise float16 512>1000", DType::kFloat16, 0x3c00, 512, 1000, 1);
  global_mean("global mean 512 7x7", 512, 7);
  pack_and_pool("pack 64 14x14", "avgpool 64 14x14", 64, 14);
}
