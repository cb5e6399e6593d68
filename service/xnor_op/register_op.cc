// The ONNX Runtime adapter: registers Pack, BConv, Stem, AvgPool2, Pointwise and GlobalMean as custom ops of the domain
// "bireal".
//
// This is the only file that depends on ONNX Runtime. It converts OrtValues to TensorViews, the thread pool of ONNX
// Runtime to an Executor, and exceptions to an OrtStatus whose text begins with the name of the node. The operators do
// the rest. No exception may cross into ONNX Runtime, so guarded() catches all of them.
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "avgpool.h"
#include "bconv.h"
#include "dispatch.h"
#include "export.h"
#include "globalmean.h"
#include "ort_abi.h"
#include "pack.h"
#include "pointwise.h"
#include "stem.h"

namespace bireal {
namespace {

// Set by RegisterCustomOps before any other callback can run. Later calls set it again to the same value while other
// sessions run.
std::atomic<const OrtApi*> g_api{nullptr};

// ---------------------------------------------------------------- status <-> exception

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort::GetErrorMessage(g_api, status);
  ort::ReleaseStatus(g_api, status);
  throw std::runtime_error(message);
}

// Creates a status from text on the stack: if memory has run out, a string would throw again. Longer texts are cut.
OrtStatus* failure(int code, const char* where, const char* what) noexcept {
  char text[1024];
  std::snprintf(text, sizeof(text), "%s: %s", where, what);
  return ort::CreateStatus(g_api, code, text);
}

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

// ---------------------------------------------------------------- tensors

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
                  " tensor begin within an element; store external data at "
                  "offsets that are multiples of 4096, as ONNX advises");
  }
  view.data = data;
  return view;
}

// Attributes and inputs of a node while its kernel is created.
class NodeInfo {
 public:
  explicit NodeInfo(const OrtKernelInfo* info) : info_(info) {
    check(ort::KernelInfo_GetInputCount(g_api, info, &inputs_));
  }

  int64_t attribute(const char* name) const {
    int64_t value = 0;
    OrtStatus* status = ort::KernelInfoGetAttribute_int64(g_api, info_, name, &value);
    if (status != nullptr) {
      ort::ReleaseStatus(g_api, status);
      throw OpError(std::string("attribute '") + name + "' is missing or not an integer; give it as an int");
    }
    return value;
  }

  // Type and shape of an input. If the graph does not declare a shape, shape_known is false.
  TensorView input(size_t index, const char* role) const {
    std::optional<TensorView> view = optional_input(index);
    if (!view) throw OpError(std::string("input '") + role + "' is missing; connect it");
    return *view;
  }

  std::optional<TensorView> optional_input(size_t index) const {
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

  TensorView constant(size_t index, const char* role) const {
    input(index, role);
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(ort::KernelInfoGetConstantInput_tensor(g_api, info_, index, &is_constant, &value));
    if (is_constant == 0 || value == nullptr) {
      throw OpError(std::string("input '") + role + "' is not constant; store it as an initializer");
    }
    return view_of(value);
  }

  bool has_input(size_t index) const { return optional_input(index).has_value(); }

 private:
  const OrtKernelInfo* info_;
  size_t inputs_ = 0;
};

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
  return std::string("bireal.") + op + " node '" + name + "'";
}

// ---------------------------------------------------------------- one run

class Run final : public Executor {
 public:
  explicit Run(OrtKernelContext* context) : context_(context) {}

  TensorView input(size_t index) const {
    std::optional<TensorView> view = optional_input(index);
    if (!view) throw OpError("input " + std::to_string(index) + " has no value");
    return *view;
  }

  std::optional<TensorView> optional_input(size_t index) const {
    const OrtValue* value = nullptr;
    check(ort::KernelContext_GetInput(g_api, context_, index, &value));
    if (value == nullptr) return std::nullopt;
    return view_of(value);
  }

  // Null for an optional output that the graph does not use.
  void* output(size_t index, const std::vector<int64_t>& shape) const {
    OrtValue* value = nullptr;
    check(ort::KernelContext_GetOutput(g_api, context_, index, shape.data(), shape.size(), &value));
    if (value == nullptr) return nullptr;
    void* data = nullptr;
    check(ort::GetTensorMutableData(g_api, value, &data));
    return data;
  }

  void run(void (*task)(void*, size_t), void* user, size_t count) const override {
    if (count == 0) return;
    if (count == 1) return task(user, 0);
    check(ort::KernelContext_ParallelFor(g_api, context_, task, count, size_t{0}, user));
  }

 private:
  OrtKernelContext* context_;
};

const TensorView* pointer(const std::optional<TensorView>& view) { return view ? &*view : nullptr; }

// ---------------------------------------------------------------- the six ops

struct PackOp {
  static constexpr const char *kName = "Pack", *kLabel = "bireal.Pack";
  static constexpr size_t kRequiredInputs = 1, kInputs = 2, kRequiredOutputs = 1, kOutputs = 1;
  static constexpr int kOutputTypes[] = {kOrtInt32};

  explicit PackOp(const NodeInfo& node)
      : has_threshold(node.has_input(1)), op(node.input(0, "x"), pointer(node.optional_input(1))) {}

  void compute(const Run& run) const {
    const TensorView x = run.input(0);
    const std::optional<TensorView> threshold = has_threshold ? run.optional_input(1) : std::nullopt;
    const MapShape map = op.prepare(x, pointer(threshold));
    auto* bits = static_cast<uint32_t*>(run.output(0, map.bits_shape()));
    op.run(x, pointer(threshold), map, bits, active_kernels(), run);
  }

  bool has_threshold;
  Pack op;
};

struct BConvOp {
  static constexpr const char *kName = "BConv", *kLabel = "bireal.BConv";
  static constexpr size_t kRequiredInputs = 4, kInputs = 5, kRequiredOutputs = 1, kOutputs = 2;
  static constexpr size_t kResidual = 4;
  static constexpr int kOutputTypes[] = {kOrtFloat, kOrtInt32};

  explicit BConvOp(const NodeInfo& node)
      : has_residual(node.has_input(kResidual)),
        op({node.attribute("channels"), node.attribute("kernel"), node.attribute("stride")}, node.input(0, "bits"),
           node.constant(1, "weight"), node.constant(2, "scale"), node.constant(3, "bias"),
           pointer(node.optional_input(kResidual)), active_kernels()) {}

  void compute(const Run& run) const {
    const TensorView bits = run.input(0);
    const std::optional<TensorView> residual = has_residual ? run.optional_input(kResidual) : std::nullopt;
    const MapShape out = op.prepare(bits, pointer(residual));
    auto* y = static_cast<float*>(run.output(0, out.shape()));
    auto* bits_out = static_cast<uint32_t*>(run.output(1, out.bits_shape()));
    op.run(bits, pointer(residual), out, y, bits_out, run);
  }

  bool has_residual;
  BConv op;
};

struct StemOp {
  static constexpr const char *kName = "Stem", *kLabel = "bireal.Stem";
  static constexpr size_t kRequiredInputs = 5, kInputs = 5, kRequiredOutputs = 1, kOutputs = 2;
  static constexpr int kOutputTypes[] = {kOrtFloat, kOrtInt32};

  explicit StemOp(const NodeInfo& node)
      : op({node.attribute("stride"), node.attribute("pool")}, node.input(0, "image"), node.constant(1, "weight"),
           node.constant(2, "scale"), node.constant(3, "bias"), node.constant(4, "mean"), active_kernels()) {}

  void compute(const Run& run) const {
    const TensorView image = run.input(0);
    const MapShape out = op.prepare(image);
    auto* y = static_cast<float*>(run.output(0, out.shape()));
    auto* bits = static_cast<uint32_t*>(run.output(1, out.bits_shape()));
    op.run(image, out, y, bits, run);
  }

  Stem op;
};

struct AvgPool2Op {
  static constexpr const char *kName = "AvgPool2", *kLabel = "bireal.AvgPool2";
  static constexpr size_t kRequiredInputs = 1, kInputs = 1, kRequiredOutputs = 1, kOutputs = 1;
  static constexpr int kOutputTypes[] = {kOrtFloat};

  explicit AvgPool2Op(const NodeInfo& node) : op(node.input(0, "x")) {}

  void compute(const Run& run) const {
    const TensorView x = run.input(0);
    const MapShape out = op.prepare(x);
    op.run(x, out, static_cast<float*>(run.output(0, out.shape())), active_kernels(), run);
  }

  AvgPool2 op;
};

struct PointwiseOp {
  static constexpr const char *kName = "Pointwise", *kLabel = "bireal.Pointwise";
  static constexpr size_t kRequiredInputs = 4, kInputs = 5, kRequiredOutputs = 1, kOutputs = 2;
  static constexpr size_t kSlope = 4;
  static constexpr int kOutputTypes[] = {kOrtFloat, kOrtInt32};

  explicit PointwiseOp(const NodeInfo& node) : op(make(node)) {}

  static Pointwise make(const NodeInfo& node) {
    std::optional<TensorView> slope;
    if (node.has_input(kSlope)) slope = node.constant(kSlope, "slope");
    return {node.input(0, "x"),
            node.constant(1, "weight"),
            node.constant(2, "scale"),
            node.constant(3, "bias"),
            pointer(slope),
            active_kernels()};
  }

  void compute(const Run& run) const {
    const TensorView x = run.input(0);
    const MapShape out = op.prepare(x);
    auto* y = static_cast<float*>(run.output(0, out.shape()));
    auto* bits = static_cast<uint32_t*>(run.output(1, out.bits_shape()));
    op.run(x, out, y, bits, run);
  }

  Pointwise op;
};

struct GlobalMeanOp {
  static constexpr const char *kName = "GlobalMean", *kLabel = "bireal.GlobalMean";
  static constexpr size_t kRequiredInputs = 1, kInputs = 1, kRequiredOutputs = 1, kOutputs = 1;
  static constexpr int kOutputTypes[] = {kOrtFloat};

  explicit GlobalMeanOp(const NodeInfo& node) : op(node.input(0, "x")) {}

  void compute(const Run& run) const {
    const TensorView x = run.input(0);
    const MapShape out = op.prepare(x);
    op.run(x, out, static_cast<float*>(run.output(0, out.shape())), run);
  }

  GlobalMean op;
};

// ---------------------------------------------------------------- the table of callbacks

// A kernel instance that ONNX Runtime holds: the operator and the label for its error messages.
template <typename Op>
struct Instance {
  std::string label;
  Op op;
};

// BConv may write y in-place over its residual (input kResidual, output 0). ONNX Runtime only does this if nothing else
// reads the residual afterwards and the graph declares both shapes. The two lists are static and only read, because the
// callback cannot report that memory has run out.
size_t bconv_may_inplace(int** inputs, int** outputs) {
  static int residual[] = {static_cast<int>(BConvOp::kResidual)};
  static int y[] = {0};
  *inputs = residual;
  *outputs = y;
  return 1;
}

void release_may_inplace(int*, int*) {}

template <typename Op>
OrtCustomOp make_custom_op() {
  OrtCustomOp op = {};
  op.version = kOrtApiVersion;
  op.GetName = [](const OrtCustomOp*) { return Op::kName; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU provider
  op.GetInputTypeCount = [](const OrtCustomOp*) { return Op::kInputs; };
  // Any type: the operators check types themselves, with a message that names the expected type.
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kOrtAnyType; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return Op::kOutputs; };
  op.GetOutputType = [](const OrtCustomOp*, size_t index) { return Op::kOutputTypes[index]; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < Op::kRequiredInputs ? kOrtRequired : kOrtOptional;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < Op::kRequiredOutputs ? kOrtRequired : kOrtOptional;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };  // OrtMemTypeDefault
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    *kernel = nullptr;
    return guarded(Op::kLabel, [&](std::string& label) {
      label = node_label(info, Op::kName);
      *kernel = new Instance<Op>{label, Op(NodeInfo(info))};
    });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& instance = *static_cast<const Instance<Op>*>(kernel);
    return guarded(instance.label.c_str(), [&](std::string&) { instance.op.compute(Run(context)); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Instance<Op>*>(kernel); };
  return op;
}

// The ops and their domain live as long as the library: sessions refer to them, and the options of all sessions share
// them.
struct Domain {
  OrtCustomOp ops[6] = {make_custom_op<PackOp>(),     make_custom_op<BConvOp>(),     make_custom_op<StemOp>(),
                        make_custom_op<AvgPool2Op>(), make_custom_op<PointwiseOp>(), make_custom_op<GlobalMeanOp>()};
  OrtCustomOpDomain* handle = nullptr;

  Domain() {
    ops[1].GetMayInplace = bconv_may_inplace;
    ops[1].ReleaseMayInplace = release_may_inplace;
    check(ort::CreateCustomOpDomain(g_api, "bireal", &handle));
    for (const OrtCustomOp& op : ops) check(ort::CustomOpDomain_Add(g_api, handle, &op));
  }
};

}  // namespace
}  // namespace bireal

// Called by SessionOptions.register_custom_ops_library.
BIREAL_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace bireal;
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (api == nullptr) {
    // ONNX Runtime is older than 1.18. Creating a status also needs an API; version 1 always exists.
    return ort::CreateStatus(base->GetApi(1), kOrtFail,
                             "the bireal ops need ONNX Runtime 1.18 or newer; upgrade onnxruntime");
  }
  g_api = api;
  return guarded("bireal ops", [&](std::string&) {
    active_kernels();  // reports a bad BIREAL_KERNEL here and not while a model runs
    static const Domain domain;
    check(ort::AddCustomOpDomain(g_api, options, domain.handle));
  });
}
