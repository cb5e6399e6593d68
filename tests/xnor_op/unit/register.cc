// Calls RegisterCustomOps on several threads, as when sessions are opened at the same time, with a stub of ONNX Runtime
// that accepts everything. For ThreadSanitizer, which ends the process with an error on a data race.
#include <thread>
#include <vector>

#include "ort_abi.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace {

using namespace bireal;

template <typename... Arguments>
OrtStatus* accept(Arguments...) {
  return nullptr;
}

#define POSITION(name, position, ...) constexpr size_t k##name = position;
BIREAL_ORT_SLOTS(POSITION)
#undef POSITION

void* g_functions[300];  // by position; only the functions below are called

void fill() {
  const auto put = [](size_t position, auto* function) { g_functions[position] = reinterpret_cast<void*>(function); };
  put(kCreateCustomOpDomain, accept<const char*, OrtCustomOpDomain**>);
  put(kCustomOpDomain_Add, accept<OrtCustomOpDomain*, const OrtCustomOp*>);
  put(kAddCustomOpDomain, accept<OrtSessionOptions*, OrtCustomOpDomain*>);
}

const OrtApi* api(uint32_t) noexcept { return reinterpret_cast<const OrtApi*>(g_functions); }
const char* version() noexcept { return "stand-in"; }

}  // namespace

int main() {
  fill();
  const OrtApiBase base = {api, version};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&base] {
      for (int turn = 0; turn < 100; ++turn) RegisterCustomOps(nullptr, &base);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
