// One run of each operator on a fixed geometry, for counting instructions: valgrind --tool=callgrind
// --toggle-collect=bireal_measured --dump-after=bireal_measured makes one count a line that this program prints.
// The kernel is the one that BIREAL_KERNEL names. One thread; what the operators keep between runs is warm.
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "avgpool.h"
#include "bconv.h"
#include "dispatch.h"
#include "pack.h"
#include "pointwise.h"
#include "stem.h"

using namespace bireal;

// A name that the profiler finds, whatever the compiler does to the rest.
extern "C" __attribute__((noinline)) void bireal_measured(const std::function<void()>& work) { work(); }

namespace {

class InTurn final : public Executor {
 public:
  void run(void (*task)(void*, size_t), void* user, size_t count) const override {
    for (size_t i = 0; i < count; ++i) task(user, i);
  }
};

template <typename T>
TensorView view(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  TensorView tensor;
  tensor.dtype = static_cast<int>(dtype);
  tensor.shape = std::move(shape);
  tensor.data = values.data();
  return tensor;
}

void measure(const char* name, const std::function<void()>& work) {
  work();  // scratch memory is allocated once a thread
  bireal_measured(work);
  std::printf("%s\n", name);
}

void bconv(const char* name, int channels, int out_channels, int side, int kernel) {
  std::mt19937 engine(1);
  const int words = words_for(channels);
  const MapShape in = {1, side, side, channels};
  const MapShape out = {1, side, side, out_channels};
  std::vector<uint32_t> bits(in.bits_words());  // values do not change the count: their border need not be zero
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
  const BConv op({channels, kernel, 1}, bits_view, view(DType::kInt32, {out_channels, kernel, kernel, words}, weights),
                 affine, affine, &residual, active_kernels());
  measure(name,
          [&] { op.run(bits_view, &residual, op.prepare(bits_view, &residual), y.data(), bits_out.data(), InTurn()); });
}

void stem(const char* name, int side) {
  constexpr int kOut = 64;
  const std::vector<uint8_t> pixels(static_cast<size_t>(side) * side * 3, 100);
  const std::vector<int16_t> weights(static_cast<size_t>(kOut) * 7 * 7 * 3, 300);  // beyond int8
  const std::vector<float> ones(kOut, 1.0f);
  const std::vector<float> mean(3, 100.0f);
  const TensorView image = view(DType::kUInt8, {1, side, side, 3}, pixels);
  const TensorView affine = view(DType::kFloat32, {kOut}, ones);
  const Stem op({2, 1}, image, view(DType::kInt16, {kOut, 7, 7, 3}, weights), affine, affine,
                view(DType::kFloat32, {3}, mean), active_kernels());
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

void pointwise(const char* name, int channels, int out_channels, int side) {
  const MapShape in = {1, side, side, channels};
  const std::vector<float> x(in.elements(), 0.5f);
  const std::vector<int8_t> weights(static_cast<size_t>(channels) * out_channels, 3);
  const std::vector<float> ones(out_channels, 1.0f);
  const TensorView map = view(DType::kFloat32, in.shape(), x);
  const TensorView affine = view(DType::kFloat32, {out_channels}, ones);
  const Pointwise op(map, view(DType::kInt8, {channels, out_channels}, weights), affine, affine, nullptr,
                     active_kernels());
  const MapShape out = op.prepare(map);
  std::vector<float> y(out.elements());
  measure(name, [&] { op.run(map, out, y.data(), nullptr, InTurn()); });
}

}  // namespace

int main() {
  bconv("bconv 3x3 64>64 14x14", 64, 64, 14, 3);
  bconv("bconv 3x3 256>256 7x7", 256, 256, 7, 3);
  bconv("bconv 1x1 64>256 14x14", 64, 256, 14, 1);
  bconv("bconv 3x3 100>100 9x9", 100, 100, 9, 3);  // tails of words, of blocks and of tiles
  stem("stem int16 32x32", 32);
  pointwise("pointwise int8 64>128 14x14", 64, 128, 14);
  pack_and_pool("pack 64 14x14", "avgpool 64 14x14", 64, 14);
}
