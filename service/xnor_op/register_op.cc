// The custom ops of the domain "bireal": definitions of Pack, BConv, Stem, AvgPool2, Pointwise and GlobalMean, their
// callbacks, and their registration with ONNX Runtime.
//
// Only this file, ort_convert.h and ort_convert.cc depend on ONNX Runtime. No exception may cross into ONNX Runtime, so
// each callback that can throw runs in guarded().
#include <optional>
#include <string>

#include "avgpool.h"
#include "bconv.h"
#include "dispatch.h"
#include "export.h"
#include "globalmean.h"
#include "ort_abi.h"
#include "ort_convert.h"
#include "pack.h"
#include "pointwise.h"
#include "stem.h"

namespace bireal {
namespace {

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
    check(ort::CreateCustomOpDomain(ort_api(), "bireal", &handle));
    for (const OrtCustomOp& op : ops) check(ort::CustomOpDomain_Add(ort_api(), handle, &op));
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
  set_ort_api(api);
  return guarded("bireal ops", [&](std::string&) {
    active_kernels();  // reports a bad BIREAL_KERNEL here and not while a model runs
    static const Domain domain;
    check(ort::AddCustomOpDomain(ort_api(), options, domain.handle));
  });
}
