#include "params.h"

namespace bireal {

std::string dtype_name(int dtype) {
  static const char* const names[] = {"undefined", "float32", "uint8", "int8",    "uint16",  "int16",  "int32",
                                      "int64",     "string",  "bool",  "float16", "float64", "uint32", "uint64"};
  if (dtype >= 0 && dtype < static_cast<int>(sizeof(names) / sizeof(names[0]))) return names[dtype];
  return "ONNX type " + std::to_string(dtype);
}

size_t element_bytes(int dtype) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat16:
    case DType::kInt16:
      return 2;
    default:
      return 1;
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return text + "]";
}

void require_tensor(const TensorView& tensor, const char* role, DType dtype, const std::vector<int64_t>& shape,
                    const char* layout) {
  // Called for every input of every run, so the text is only built on error.
  const auto wanted = [&] { return dtype_name(static_cast<int>(dtype)) + " " + layout + " = " + shape_text(shape); };
  if (tensor.dtype != static_cast<int>(dtype)) {
    throw OpError(std::string("input '") + role + "' is " + dtype_name(tensor.dtype) + "; give " + wanted());
  }
  bool fits = !tensor.shape_known || tensor.shape.size() == shape.size();
  for (size_t i = 0; fits && i < tensor.shape.size(); ++i) {
    fits = shape[i] < 0 || tensor.shape[i] < 0 || tensor.shape[i] == shape[i];
  }
  if (!fits) {
    throw OpError(std::string("input '") + role + "' has shape " + shape_text(tensor.shape) + "; give " + wanted());
  }
}

void require_range(const char* what, int64_t value, int64_t lowest, int64_t highest) {
  if (value < lowest || value > highest) {
    throw OpError(std::string(what) + " is " + std::to_string(value) + "; give a value from " + std::to_string(lowest) +
                  " to " + std::to_string(highest));
  }
}

namespace {

thread_local uint64_t g_scratch_uses = 0;

}  // namespace

uint64_t thread_scratch_uses() { return g_scratch_uses; }

void* thread_scratch(size_t bytes) {
  static thread_local AlignedBuffer buffer;
  ++g_scratch_uses;
  if (buffer.bytes() < bytes) buffer = AlignedBuffer(bytes);
  return buffer.as<void>();
}

}  // namespace bireal
