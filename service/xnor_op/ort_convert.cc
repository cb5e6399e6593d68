#include "ort_convert.h"

#include <atomic>
#include <cstdio>
#include <memory>

namespace bireal {
namespace {

std::atomic<const OrtApi*> g_api{nullptr};

TensorView describe(const OrtTensorTypeAndShapeInfo* info) {
  TensorView view;
  size_t rank = 0;
  check(ort::GetTensorElementType(g_api, info, &view.dtype));
  check(ort::GetDimensionsCount(g_api, info, &rank));
  view.shape.resize(rank);
  check(ort::GetDimensions(g_api, info, view.shape.data(), rank));
  return view;
}

TensorView view_of(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(ort::GetTensorTypeAndShape(g_api, value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
      info, [](OrtTensorTypeAndShapeInfo* p) { ort::ReleaseTensorTypeAndShapeInfo(g_api, p); });
  TensorView view = describe(info);
  void* data = nullptr;  // the C API has one accessor for both reading and writing
  check(ort::GetTensorMutableData(g_api, const_cast<OrtValue*>(value), &data));
  if (reinterpret_cast<uintptr_t>(data) % element_bytes(view.dtype) != 0) {  // ONNX Runtime does not align mapped data
    throw OpError("the data of a " + dtype_name(view.dtype) +
                  " tensor start in the middle of an element; store external data at "
                  "offsets that are multiples of 4096, as ONNX advises");
  }
  view.data = data;
  return view;
}

constexpr size_t kLongestName = 200;  // bytes; the rest of a message is for what is wrong

// Length of a text that was cut to `length` bytes, without the character at the cut: Python decodes messages as UTF-8,
// and part of a character would replace the message by an error about its bytes.
size_t whole_characters(const char* text, size_t length) {
  const auto byte = [text](size_t at) { return static_cast<unsigned char>(text[at]); };
  while (length > 0 && (byte(length - 1) & 0xc0) == 0x80) --length;
  return length > 0 && byte(length - 1) >= 0x80 ? length - 1 : length;
}

}  // namespace

const OrtApi* ort_api() noexcept { return g_api; }

void set_ort_api(const OrtApi* api) noexcept { g_api = api; }

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort::GetErrorMessage(g_api, status);
  ort::ReleaseStatus(g_api, status);
  throw std::runtime_error(message);
}

OrtStatus* failure(int code, const char* where, const char* what) noexcept {
  char text[1024];
  const int length = std::snprintf(text, sizeof(text), "%s: %s", where, what);
  if (length >= static_cast<int>(sizeof(text))) text[whole_characters(text, sizeof(text) - 1)] = '\0';
  return ort::CreateStatus(g_api, code, text);
}

NodeInfo::NodeInfo(const OrtKernelInfo* info) : info_(info) {
  check(ort::KernelInfo_GetInputCount(g_api, info, &inputs_));
}

int64_t NodeInfo::attribute(const char* name) const {
  int64_t value = 0;
  OrtStatus* status = ort::KernelInfoGetAttribute_int64(g_api, info_, name, &value);
  if (status != nullptr) {
    ort::ReleaseStatus(g_api, status);
    throw OpError(std::string("attribute '") + name + "' is missing or not an integer; give it as an int");
  }
  return value;
}

TensorView NodeInfo::input(size_t index, const char* role) const {
  std::optional<TensorView> view = optional_input(index);
  if (!view) throw OpError(std::string("input '") + role + "' is missing; connect it");
  return *view;
}

std::optional<TensorView> NodeInfo::optional_input(size_t index) const {
  if (index >= inputs_) return std::nullopt;
  OrtTypeInfo* type = nullptr;
  OrtStatus* status = ort::KernelInfo_GetInputTypeInfo(g_api, info_, index, &type);
  if (status != nullptr) {  // an empty input name has no type
    ort::ReleaseStatus(g_api, status);
    return std::nullopt;
  }
  const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> owner(
      type, [](OrtTypeInfo* p) { ort::ReleaseTypeInfo(g_api, p); });
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(ort::CastTypeInfoToTensorInfo(g_api, type, &tensor));
  if (tensor == nullptr) return std::nullopt;
  TensorView view = describe(tensor);
  // ONNX Runtime reports an undeclared shape as rank 0; no input of these operators is a scalar.
  if (view.shape.empty()) view.shape_known = false;
  return view;
}

TensorView NodeInfo::constant(size_t index, const char* role) const {
  input(index, role);
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(ort::KernelInfoGetConstantInput_tensor(g_api, info_, index, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) {
    throw OpError(std::string("input '") + role + "' is not constant; store it as an initializer");
  }
  return view_of(value);
}

std::string node_label(const OrtKernelInfo* info, const char* op) {
  size_t size = 0;
  std::string name;
  // The first call returns the size (with an error status, because the buffer is too small).
  OrtStatus* status = ort::KernelInfo_GetNodeName(g_api, info, static_cast<char*>(nullptr), &size);
  if (status != nullptr) ort::ReleaseStatus(g_api, status);
  if (size > 0) {
    name.resize(size);
    check(ort::KernelInfo_GetNodeName(g_api, info, name.data(), &size));
    name.resize(size - 1);  // the size includes the terminating zero
  }
  if (name.size() > kLongestName) {
    name.resize(whole_characters(name.data(), kLongestName));
    name += "...";
  }
  return std::string("bireal.") + op + " node '" + name + "'";
}

TensorView Run::input(size_t index) const {
  std::optional<TensorView> view = optional_input(index);
  if (!view) throw OpError("input " + std::to_string(index) + " has no value");
  return *view;
}

std::optional<TensorView> Run::optional_input(size_t index) const {
  const OrtValue* value = nullptr;
  check(ort::KernelContext_GetInput(g_api, context_, index, &value));
  if (value == nullptr) return std::nullopt;
  return view_of(value);
}

void* Run::output(size_t index, const std::vector<int64_t>& shape) const {
  OrtValue* value = nullptr;
  check(ort::KernelContext_GetOutput(g_api, context_, index, shape.data(), shape.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(ort::GetTensorMutableData(g_api, value, &data));
  return data;
}

void Run::run(void (*task)(void*, size_t), void* user, size_t count) const {
  if (count == 0) return;
  if (count == 1) return task(user, 0);
  check(ort::KernelContext_ParallelFor(g_api, context_, task, count, size_t{0}, user));
}

}  // namespace bireal
