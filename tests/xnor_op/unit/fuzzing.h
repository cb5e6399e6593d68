// Shared by the unit tests of the arithmetic: random values, an executor with two threads, and the report of a failure.
#pragma once

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "pack.h"
#include "params.h"
#include "reference.h"
#include "view.h"

namespace bireal::fuzzing {

inline int g_failures = 0;

#define EXPECT(condition, ...)                                    \
  do {                                                            \
    if (!(condition)) {                                           \
      ++g_failures;                                               \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      return;                                                     \
    }                                                             \
  } while (0)

// Runs tasks on two threads, so that ThreadSanitizer and AddressSanitizer see memory that is really shared. Either each
// thread runs one half in order, as in ONNX Runtime's pool, or one runs the even tasks and the other the odd ones.
class TwoThreads final : public Executor {
 public:
  explicit TwoThreads(bool halves) : halves_(halves) {}

  void run(void (*task)(void*, size_t), void* user, size_t count) const override {
    const size_t middle = count / 2;
    const auto share = [=](size_t which) {
      if (halves_) {
        for (size_t i = which == 0 ? 0 : middle; i < (which == 0 ? middle : count); ++i) task(user, i);
      } else {
        for (size_t i = which; i < count; i += 2) task(user, i);
      }
    };
    std::thread other(share, 1);
    share(0);
    other.join();
  }

 private:
  bool halves_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  float normal() { return std::normal_distribution<float>()(engine_); }
  bool coin() { return between(0, 1) == 1; }
  int pick(std::initializer_list<int> values) {
    return values.begin()[between(0, static_cast<int>(values.size()) - 1)];
  }

  std::vector<float> normals(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal();
    return values;
  }
  std::vector<int> signs(size_t count) {
    std::vector<int> values(count);
    const int mode = between(0, 9);  // mostly random, sometimes all equal
    for (int& value : values) value = mode == 0 ? 1 : mode == 1 ? -1 : coin() ? 1 : -1;
    return values;
  }

 private:
  std::mt19937 engine_;
};

inline std::vector<int> signs_of(const std::vector<float>& values) {
  std::vector<int> signs;
  for (float value : values) signs.push_back(reference::sign_of(value));
  return signs;
}

inline std::vector<uint32_t> bits_of(const std::vector<float>& map, const MapShape& shape) {
  return reference::add_border(reference::pack_signs(signs_of(map), shape.channels), shape.height, shape.width,
                               words_for(shape.channels));
}

inline int some_channels(Random& random) {
  return random.coin() ? random.pick({1, 3, 31, 32, 33, 63, 64, 65, 96, 100, 128, 256}) : random.between(1, 300);
}

inline int some_side(Random& random) {
  return random.coin() ? random.pick({1, 2, 3, 4, 5, 7, 8, 14, 15}) : random.between(1, 24);
}

}  // namespace bireal::fuzzing
