// Naive versions of the operators: one loop per dimension, no packing tricks, no tables. They implement directly what
// the comments in the headers specify. The unit tests compare every kernel with them. Not part of the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace bireal::reference {

// sign(x): -1 where x < threshold, else +1 (0 and NaN too).
inline int sign_of(float x, float threshold = 0.0f) { return x < threshold ? -1 : 1; }

// Signs [pixels][channels] (+1/-1) -> words [pixels][ceil(channels/32)], bit 1 = -1.
inline std::vector<uint32_t> pack_signs(const std::vector<int>& signs, int channels) {
  const int words = (channels + 31) / 32;
  const size_t pixels = signs.size() / channels;
  std::vector<uint32_t> packed(pixels * words, 0);
  for (size_t p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) {
      if (signs[p * channels + c] < 0) packed[p * words + c / 32] |= 1u << (c % 32);
    }
  }
  return packed;
}

// Packed map [h][w][words] -> [h+2][w+2][words] with a border of zero words.
inline std::vector<uint32_t> add_border(const std::vector<uint32_t>& map, int height, int width, int words) {
  std::vector<uint32_t> padded(static_cast<size_t>(height + 2) * (width + 2) * words, 0);
  for (int y = 0; y < height; ++y) {
    std::copy_n(map.begin() + static_cast<size_t>(y) * width * words, static_cast<size_t>(width) * words,
                padded.begin() + (static_cast<size_t>(y + 1) * (width + 2) + 1) * words);
  }
  return padded;
}

struct Conv {
  int height, width, channels, out_channels, kernel, stride;
  int out_height() const { return (height - 1) / stride + 1; }
  int out_width() const { return (width - 1) / stride + 1; }
};

// Calls visit(tap_y, tap_x, y, x) for each tap of output (oy, ox) that lies inside the image.
template <typename Visit>
void for_valid_taps(const Conv& conv, int oy, int ox, const Visit& visit) {
  const int pad = conv.kernel / 2;
  for (int ky = 0; ky < conv.kernel; ++ky) {
    for (int kx = 0; kx < conv.kernel; ++kx) {
      const int y = oy * conv.stride - pad + ky;
      const int x = ox * conv.stride - pad + kx;
      if (y >= 0 && y < conv.height && x >= 0 && x < conv.width) visit(ky, kx, y, x);
    }
  }
}

// signs [H][W][C], weights [O][K][K][C], all +1 or -1 -> sums [OH][OW][O].
inline std::vector<int> binary_sums(const Conv& conv, const std::vector<int>& signs, const std::vector<int>& weights) {
  std::vector<int> sums;
  for (int oy = 0; oy < conv.out_height(); ++oy) {
    for (int ox = 0; ox < conv.out_width(); ++ox) {
      for (int o = 0; o < conv.out_channels; ++o) {
        int sum = 0;
        for_valid_taps(conv, oy, ox, [&](int ky, int kx, int y, int x) {
          const int* a = &signs[(static_cast<size_t>(y) * conv.width + x) * conv.channels];
          const int* w = &weights[((static_cast<size_t>(o) * conv.kernel + ky) * conv.kernel + kx) * conv.channels];
          for (int c = 0; c < conv.channels; ++c) sum += a[c] * w[c];
        });
        sums.push_back(sum);
      }
    }
  }
  return sums;
}

// sums [pixels][O] -> sum * scale + bias (+ residual), each step rounded.
inline std::vector<float> affine(const std::vector<int>& sums, const std::vector<float>& scale,
                                 const std::vector<float>& bias, const float* residual) {
  std::vector<float> y(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t o = i % scale.size();
    const float scaled = static_cast<float>(sums[i]) * scale[o];
    y[i] = scaled + bias[o];
    if (residual != nullptr) y[i] = y[i] + residual[i];
  }
  return y;
}

// image [H][W][3], weights [O][K][K][3] -> scale * sum w * (pixel - mean) + bias in double, [OH][OW][O].
template <typename T>
std::vector<double> stem(const Conv& conv, const std::vector<uint8_t>& image, const std::vector<T>& weights,
                         const std::vector<float>& scale, const std::vector<float>& bias, const float* mean) {
  std::vector<double> out;
  for (int oy = 0; oy < conv.out_height(); ++oy) {
    for (int ox = 0; ox < conv.out_width(); ++ox) {
      for (int o = 0; o < conv.out_channels; ++o) {
        double sum = 0;
        for_valid_taps(conv, oy, ox, [&](int ky, int kx, int y, int x) {
          for (int c = 0; c < 3; ++c) {
            const double pixel = image[(static_cast<size_t>(y) * conv.width + x) * 3 + c];
            const size_t tap = (static_cast<size_t>(o) * conv.kernel + ky) * conv.kernel + kx;
            sum += static_cast<double>(weights[tap * 3 + c]) * (pixel - static_cast<double>(mean[c]));
          }
        });
        out.push_back(sum * static_cast<double>(scale[o]) + static_cast<double>(bias[o]));
      }
    }
  }
  return out;
}

// Same for integer weights, with exactly the bits that the operator guarantees: float(sum w * pixel) * scale + offset,
// each step rounded, with offset = bias - scale * sum over valid taps of w * mean. The means must be such that these
// sums are exact in double.
inline std::vector<double> stem_of_integers(const Conv& conv, const std::vector<uint8_t>& image,
                                            const std::vector<int16_t>& weights, const std::vector<float>& scale,
                                            const std::vector<float>& bias, const float* mean) {
  std::vector<double> out;
  for (int oy = 0; oy < conv.out_height(); ++oy) {
    for (int ox = 0; ox < conv.out_width(); ++ox) {
      for (int o = 0; o < conv.out_channels; ++o) {
        int64_t sum = 0;
        double of_means = 0;
        for_valid_taps(conv, oy, ox, [&](int ky, int kx, int y, int x) {
          for (int c = 0; c < 3; ++c) {
            const size_t tap = (static_cast<size_t>(o) * conv.kernel + ky) * conv.kernel + kx;
            sum += weights[tap * 3 + c] * image[(static_cast<size_t>(y) * conv.width + x) * 3 + c];
            of_means += static_cast<double>(weights[tap * 3 + c]) * mean[c];
          }
        });
        const float scaled = static_cast<float>(sum) * scale[o];
        const float y = scaled + static_cast<float>(bias[o] - scale[o] * of_means);
        out.push_back(y);
      }
    }
  }
  return out;
}

// 3x3, stride 2, pad 1: [H][W][C] -> [(H-1)/2+1][(W-1)/2+1][C].
inline std::vector<double> max_pool(const std::vector<double>& in, int height, int width, int channels) {
  const Conv window = {height, width, channels, channels, 3, 2};
  std::vector<double> out;
  for (int oy = 0; oy < window.out_height(); ++oy) {
    for (int ox = 0; ox < window.out_width(); ++ox) {
      for (int c = 0; c < channels; ++c) {
        double best = -std::numeric_limits<double>::infinity();
        for_valid_taps(window, oy, ox, [&](int, int, int y, int x) {
          best = std::max(best, in[(static_cast<size_t>(y) * width + x) * channels + c]);
        });
        out.push_back(best);
      }
    }
  }
  return out;
}

// 2x2, stride 2, ceil_mode; padding is not counted. Sums in row-major order.
inline std::vector<float> avg_pool(const std::vector<float>& in, int height, int width, int channels) {
  std::vector<float> out;
  for (int oy = 0; oy < (height + 1) / 2; ++oy) {
    for (int ox = 0; ox < (width + 1) / 2; ++ox) {
      for (int c = 0; c < channels; ++c) {
        float sum = 0;
        int count = 0;
        for (int y = 2 * oy; y < std::min(2 * oy + 2, height); ++y) {
          for (int x = 2 * ox; x < std::min(2 * ox + 2, width); ++x, ++count) {
            const float value = in[(static_cast<size_t>(y) * width + x) * channels + c];
            sum = count == 0 ? value : sum + value;
          }
        }
        out.push_back(sum * (1.0f / static_cast<float>(count)));
      }
    }
  }
  return out;
}

// Value of an IEEE half-precision number.
inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  if (exponent == 31) return fraction == 0 ? std::copysign(INFINITY, bits & 0x8000 ? -1.0 : 1.0) : NAN;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Values of a pixel as integers from -127 to 127 times one step, rounded half to even. All are zero if all values are
// tiny.
struct EightBits {
  std::vector<int> q;
  float step = 0;
};

inline EightBits to_8_bits(const std::vector<float>& values) {
  float largest = 0;
  for (float value : values) largest = std::max(largest, std::fabs(value));
  EightBits result;
  if (largest >= 1e-30f) result.step = largest / 127.0f;
  result.q.reserve(values.size());
  for (float value : values) {
    result.q.push_back(largest >= 1e-30f ? static_cast<int>(std::nearbyint(value * (127.0f / largest))) : 0);
  }
  return result;
}

}  // namespace bireal::reference
