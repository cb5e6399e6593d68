// The part of ONNX Runtime's C ABI that the custom operators use, declared by hand.
//
// The wheels of ONNX Runtime do not contain its headers, but the C ABI is stable: new versions only append to OrtApi, a
// table of function pointers, and to OrtCustomOp, a struct. So a plugin only needs the position of each function that
// it calls. Each position is written once, in BIREAL_ORT_SLOTS below. tests/xnor_op/test_ort_abi.py compares each
// position, and the layout of OrtCustomOp, with a record of the official headers, and with the headers themselves if
// they are installed (Debian: libonnxruntime-dev).
//
// In the library, only register_op.cc, ort_convert.h and ort_convert.cc depend on this file.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Opaque objects of ONNX Runtime, used only through pointers.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

struct OrtApi;  // a table of function pointers, read through bireal::ort::slot below

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version) noexcept;
  const char* (*GetVersionString)() noexcept;
};

// The callbacks that a custom op passes to ONNX Runtime. The layout is that of API version 18, the first with
// GetMayInplace. `version` tells ONNX Runtime how many of the members it may read.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  int (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  int (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** input_index, int** output_index);
  void (*ReleaseMayInplace)(int* input_index, int* output_index);
  size_t (*GetAliasMap)(int** input_index, int** output_index);
  void (*ReleaseAliasMap)(int* input_index, int* output_index);
};

}  // extern "C"

namespace bireal {

constexpr uint32_t kOrtApiVersion = 18;

// OrtErrorCode
constexpr int kOrtFail = 1;
constexpr int kOrtInvalidArgument = 2;
// OrtCustomOpInputOutputCharacteristic
constexpr int kOrtRequired = 0;
constexpr int kOrtOptional = 1;
// ONNXTensorElementDataType. With kOrtAnyType ("undefined") the op checks the type itself and reports the expected one.
constexpr int kOrtAnyType = 0;
constexpr int kOrtFloat = 1;
constexpr int kOrtInt32 = 6;

// X(function, position in OrtApi, result, parameters...)
#define BIREAL_ORT_SLOTS(X)                                                                                        \
  X(CreateStatus, 0, OrtStatus*, int code, const char* message)                                                    \
  X(GetErrorMessage, 2, const char*, const OrtStatus* status)                                                      \
  X(CreateCustomOpDomain, 26, OrtStatus*, const char* domain, OrtCustomOpDomain** out)                             \
  X(CustomOpDomain_Add, 27, OrtStatus*, OrtCustomOpDomain* domain, const OrtCustomOp* op)                          \
  X(AddCustomOpDomain, 28, OrtStatus*, OrtSessionOptions* options, OrtCustomOpDomain* domain)                      \
  X(GetTensorMutableData, 51, OrtStatus*, OrtValue* value, void** out)                                             \
  X(CastTypeInfoToTensorInfo, 55, OrtStatus*, const OrtTypeInfo* info, const OrtTensorTypeAndShapeInfo** out)      \
  X(GetTensorElementType, 60, OrtStatus*, const OrtTensorTypeAndShapeInfo* info, int* out)                         \
  X(GetDimensionsCount, 61, OrtStatus*, const OrtTensorTypeAndShapeInfo* info, size_t* out)                        \
  X(GetDimensions, 62, OrtStatus*, const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count)             \
  X(GetTensorTypeAndShape, 65, OrtStatus*, const OrtValue* value, OrtTensorTypeAndShapeInfo** out)                 \
  X(KernelInfoGetAttribute_int64, 86, OrtStatus*, const OrtKernelInfo* info, const char* name, int64_t* out)       \
  X(KernelContext_GetInput, 90, OrtStatus*, const OrtKernelContext* context, size_t index, const OrtValue** out)   \
  X(KernelContext_GetOutput, 91, OrtStatus*, OrtKernelContext* context, size_t index, const int64_t* dims,         \
    size_t rank, OrtValue** out)                                                                                   \
  X(ReleaseStatus, 93, void, OrtStatus* status)                                                                    \
  X(ReleaseTypeInfo, 98, void, OrtTypeInfo* info)                                                                  \
  X(ReleaseTensorTypeAndShapeInfo, 99, void, OrtTensorTypeAndShapeInfo* info)                                      \
  X(KernelInfo_GetInputCount, 230, OrtStatus*, const OrtKernelInfo* info, size_t* out)                             \
  X(KernelInfo_GetInputTypeInfo, 234, OrtStatus*, const OrtKernelInfo* info, size_t index, OrtTypeInfo** out)      \
  X(KernelInfo_GetNodeName, 244, OrtStatus*, const OrtKernelInfo* info, char* out, size_t* size)                   \
  X(KernelInfoGetConstantInput_tensor, 249, OrtStatus*, const OrtKernelInfo* info, size_t index, int* is_constant, \
    const OrtValue** out)                                                                                          \
  X(KernelContext_ParallelFor, 274, OrtStatus*, const OrtKernelContext* context, void (*task)(void*, size_t),      \
    size_t total, size_t num_batch, void* user_data)

// Typed calls into the table: ort::CreateStatus(api, code, message) and so on.
namespace ort {

template <typename Function>
Function slot(const OrtApi* api, size_t position) {
  return reinterpret_cast<Function>(reinterpret_cast<void* const*>(api)[position]);
}

#define BIREAL_ORT_CALL(name, position, result, ...)                   \
  template <typename... Arguments>                                     \
  result name(const OrtApi* api, Arguments... arguments) {             \
    return slot<result (*)(__VA_ARGS__)>(api, position)(arguments...); \
  }
BIREAL_ORT_SLOTS(BIREAL_ORT_CALL)
#undef BIREAL_ORT_CALL

}  // namespace ort
}  // namespace bireal
