// Makes a TensorView of the values of a test, as a parameter of an operator.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "params.h"

namespace bireal {

template <typename T>
TensorView view(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  TensorView tensor;
  tensor.dtype = static_cast<int>(dtype);
  tensor.shape = std::move(shape);
  tensor.data = values.data();
  return tensor;
}

}  // namespace bireal
