// Tests that memory may run out while ONNX Runtime creates a kernel or requests the in-place lists. Creating a kernel
// must then return a status; the lists must not need memory. No exception may cross the C interface, where it would end
// the process. ONNX Runtime is replaced by a stub with almost no functions.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "ort_abi.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);
extern "C" const char* bireal_kernel_name();
extern "C" const char* bireal_kernel_names();

namespace {

using namespace bireal;

#define POSITION(name, position, ...) constexpr size_t k##name = position;
BIREAL_ORT_SLOTS(POSITION)
#undef POSITION

void* g_functions[300];  // by position; only the functions below are called
std::vector<const OrtCustomOp*> g_ops;
int g_left = -1;     // allocations that still succeed; no limit if negative
bool g_out = false;  // whether an allocation was refused
char g_status;       // used for every OrtStatus

OrtStatus* status() { return reinterpret_cast<OrtStatus*>(&g_status); }

template <typename... Arguments>
OrtStatus* accept(Arguments...) {
  return nullptr;
}

template <typename... Arguments>
OrtStatus* refuse(Arguments...) {
  return status();
}

void fill() {
  const auto put = [](size_t position, auto* function) { g_functions[position] = reinterpret_cast<void*>(function); };
  put(kCreateCustomOpDomain, accept<const char*, OrtCustomOpDomain**>);
  put(kAddCustomOpDomain, accept<OrtSessionOptions*, OrtCustomOpDomain*>);
  put(kCustomOpDomain_Add, +[](OrtCustomOpDomain*, const OrtCustomOp* op) -> OrtStatus* {
    g_ops.push_back(op);
    return nullptr;
  });
  put(kCreateStatus, refuse<int, const char*>);
  put(kGetErrorMessage, +[](const OrtStatus*) { return "a message that is longer than a string keeps within itself"; });
  put(kReleaseStatus, +[](OrtStatus*) {});
  put(kKernelInfo_GetNodeName, refuse<const OrtKernelInfo*, char*, size_t*>);
  put(kKernelInfo_GetInputCount, refuse<const OrtKernelInfo*, size_t*>);
}

const OrtApi* api(uint32_t) noexcept { return reinterpret_cast<const OrtApi*>(g_functions); }
const char* version() noexcept { return "stand-in"; }

}  // namespace

void* operator new(size_t bytes) {
  g_out = g_out || g_left == 0;
  if (g_left == 0) throw std::bad_alloc();
  if (g_left > 0) --g_left;
  void* block = std::malloc(bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }

int main() {
  fill();
  g_left = 0;
  if (bireal_kernel_names() != nullptr) return 1;  // if it needed no memory, this test would prove nothing
  bireal_kernel_name();                            // must return, with or without memory
  g_left = -1;
  const OrtApiBase base = {api, version};
  if (RegisterCustomOps(nullptr, &base) != nullptr) return 2;
  int refused = 0;
  for (const OrtCustomOp* op : g_ops) {
    for (int blocks = 0; blocks < 12; ++blocks) {
      void* kernel = nullptr;
      g_left = blocks;
      g_out = false;
      const OrtStatus* said = op->CreateKernelV2(op, api(0), nullptr, &kernel);
      g_left = -1;
      refused += g_out ? 1 : 0;
      if (said != status() || kernel != nullptr) return 3;
    }
    if (op->GetMayInplace == nullptr) continue;
    g_left = 0;
    int *inputs = nullptr, *outputs = nullptr;
    if (op->GetMayInplace(&inputs, &outputs) != 1 || inputs[0] != 4 || outputs[0] != 0) return 4;
    op->ReleaseMayInplace(inputs, outputs);
    g_left = -1;
  }
  std::printf("%zu operators, memory refused %d times\n", g_ops.size(), refused);
  return g_ops.size() == 6 && refused >= 6 ? 0 : 5;
}
