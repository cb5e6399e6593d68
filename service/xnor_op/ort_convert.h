// Conversions between ONNX Runtime and the operators: OrtValues to TensorViews, the inputs and attributes of a node,
// the thread pool of ONNX Runtime to an Executor, and exceptions to an OrtStatus whose text begins with the name of the
// node.
//
// Only register_op.cc and ort_convert.cc include this file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ort_abi.h"
#include "params.h"

namespace bireal {

// The API table in use. RegisterCustomOps sets it before any other callback can run. Later calls set it again to the
// same value while other sessions run.
const OrtApi* ort_api() noexcept;
void set_ort_api(const OrtApi* api) noexcept;

// ---------------------------------------------------------------- status <-> exception

// Null is success. Any other status is released, and its message is thrown as a std::runtime_error.
void check(OrtStatus* status);

// Creates a status from text on the stack: if memory has run out, a string would throw again. Longer texts are cut, but
// not within a character.
OrtStatus* failure(int code, const char* where, const char* what) noexcept;

// Runs body(label). An exception becomes a status. Its text begins with `label`, or with `where` as long as body has
// not set `label`.
template <typename Body>
OrtStatus* guarded(const char* where, const Body& body) noexcept {
  std::string label;
  const auto named = [&] { return label.empty() ? where : label.c_str(); };
  try {
    body(label);
    return nullptr;
  } catch (const OpError& error) {
    return failure(kOrtInvalidArgument, named(), error.what());
  } catch (const std::exception& error) {
    return failure(kOrtFail, named(), error.what());
  } catch (...) {  // no exception may cross into the C code of ONNX Runtime
    return failure(kOrtFail, named(), "unknown error");
  }
}

// ---------------------------------------------------------------- creating a kernel

// Attributes and inputs of a node while its kernel is created.
class NodeInfo {
 public:
  explicit NodeInfo(const OrtKernelInfo* info);

  int64_t attribute(const char* name) const;

  // Type and shape of an input. If the graph does not declare a shape, shape_known is false.
  TensorView input(size_t index, const char* role) const;
  std::optional<TensorView> optional_input(size_t index) const;
  TensorView constant(size_t index, const char* role) const;
  bool has_input(size_t index) const { return optional_input(index).has_value(); }

 private:
  const OrtKernelInfo* info_;
  size_t inputs_ = 0;
};

// The beginning of a node's error messages: its operator and its name, of which only the beginning if it is long.
std::string node_label(const OrtKernelInfo* info, const char* op);

// ---------------------------------------------------------------- one run

// Inputs and outputs of one run of a node, and the thread pool that executes its tasks.
class Run final : public Executor {
 public:
  explicit Run(OrtKernelContext* context) : context_(context) {}

  TensorView input(size_t index) const;
  std::optional<TensorView> optional_input(size_t index) const;

  // Null for an optional output that the graph does not use.
  void* output(size_t index, const std::vector<int64_t>& shape) const;

  void run(void (*task)(void*, size_t), void* user, size_t count) const override;

 private:
  OrtKernelContext* context_;
};

}  // namespace bireal
