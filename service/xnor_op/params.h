// Basic types shared by the operators: tensors, errors, aligned memory, the executor of tasks.
//
// This file does not depend on ONNX Runtime. Files compiled for one ISA must not include it: the linker could keep a
// copy of an inline function that was compiled with AVX-512 flags and use it for the whole library (see
// kernels/kernel.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bireal {

// Element types that the operators accept. The numbers are those of ONNX's TensorProto.DataType.
enum class DType : int { kFloat32 = 1, kUInt8 = 2, kInt8 = 3, kInt16 = 5, kInt32 = 6, kFloat16 = 10 };

// Type, shape and (if already known) data of a tensor. A dimension of -1 is not known yet. shape_known is false if the
// rank is not known either.
struct TensorView {
  int dtype = 0;
  std::vector<int64_t> shape;
  bool shape_known = true;
  const void* data = nullptr;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// Error for a wrong input, attribute or shape. The message says what was given, what is expected and how to correct it.
// The ONNX Runtime adapter adds the name of the node in front.
class OpError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::string dtype_name(int dtype);

// Bytes per element for the types that the operators accept; 1 for any other type.
size_t element_bytes(int dtype);

std::string shape_text(const std::vector<int64_t>& shape);

// Throws OpError unless `tensor` has this element type and this shape. -1 in `shape` accepts any size. Unknown
// dimensions and shapes of the tensor are accepted. `role` and `layout` describe the input in the message (for example
// "scale", "[O]").
void require_tensor(const TensorView& tensor, const char* role, DType dtype, const std::vector<int64_t>& shape,
                    const char* layout);

// Throws OpError unless lowest <= value <= highest.
void require_range(const char* what, int64_t value, int64_t lowest, int64_t highest);

constexpr size_t kCacheLine = 64;  // bytes

// Rounds `bytes` up to whole cache lines and adds one more cache line.
inline size_t whole_lines(size_t bytes) { return (bytes + 2 * kCacheLine - 1) / kCacheLine * kCacheLine; }

// Zero-filled memory, aligned to a cache line, with one unused cache line at the end.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes) : bytes_(bytes) {
    const size_t rounded = whole_lines(bytes);
    data_ = std::aligned_alloc(kCacheLine, rounded);
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, rounded);
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { std::free(data_); }

  template <typename T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Runs task(user, 0) ... task(user, count - 1) in any order, possibly on several threads. The adapter uses the thread
// pool of ONNX Runtime; the unit tests use two threads or a plain loop. A task must not throw.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(void (*task)(void*, size_t), void* user, size_t count) const = 0;

  // Same for a callable, which may throw: after all tasks have ended, the first exception is rethrown to the caller.
  template <typename Body>
  void for_each(size_t count, const Body& body) const {
    struct Shared {
      const Body& body;
      std::once_flag once;
      std::exception_ptr error;
    } shared{body, {}, nullptr};
    run(
        [](void* user, size_t index) {
          auto& state = *static_cast<Shared*>(user);
          try {
            state.body(index);
          } catch (...) {
            std::call_once(state.once, [&state] { state.error = std::current_exception(); });
          }
        },
        &shared, count);
    if (shared.error) std::rethrow_exception(shared.error);
  }
};

// Scratch memory of the calling thread. It is kept between calls, so that runs do not pay for new pages. Only one task
// uses it at a time, so concurrent runs of one session do not share memory that is written.
void* thread_scratch(size_t bytes);

// Number of thread_scratch calls of this thread. As long as it is unchanged, no other task has written to the scratch
// memory.
uint64_t thread_scratch_uses();

}  // namespace bireal
