// Plain types shared by the operators: what a tensor is, how errors are reported, where constants live.
//
// Nothing here knows ONNX Runtime, and no file that is compiled for one ISA may include this one: an inline
// function compiled with AVX-512 flags could be the copy the linker keeps for everyone (see kernels/kernel.h).
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

// Element types the operators accept; the numbers are ONNX's TensorProto.DataType.
enum class DType : int { kFloat32 = 1, kUInt8 = 2, kInt8 = 3, kInt16 = 5, kInt32 = 6, kFloat16 = 10 };

// A tensor's type, shape and (where already known) its data. A dimension of -1 is not known yet; shape_known is
// false while not even the rank is.
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

// Wrong input, attribute or shape. The message says what was given, what is wanted and how to get there;
// the adapter puts the node's name in front.
class OpError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::string dtype_name(int dtype);

// Bytes of an element, for the types that the operators accept; 1 for any other.
size_t element_bytes(int dtype);

std::string shape_text(const std::vector<int64_t>& shape);

// Throws OpError unless `tensor` has this element type and this shape; -1 in `shape` accepts any size and an
// unknown dimension or shape of the tensor passes. `role` and `layout` name the input in the message ("scale", "[O]").
void require_tensor(const TensorView& tensor, const char* role, DType dtype, const std::vector<int64_t>& shape,
                    const char* layout);

// Throws OpError unless lowest <= value <= highest.
void require_range(const char* what, int64_t value, int64_t lowest, int64_t highest);

constexpr size_t kCacheLine = 64;  // bytes

// Whole cache lines, with at least one of slack behind `bytes`.
inline size_t whole_lines(size_t bytes) { return (bytes + 2 * kCacheLine - 1) / kCacheLine * kCacheLine; }

// Memory aligned to a cache line, zero-filled, with a line of slack behind it.
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

// Runs task(user, 0) ... task(user, count - 1) in any order, perhaps on several threads. The adapter passes
// ONNX Runtime's own thread pool; the unit tests pass a plain loop. A task must not throw.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(void (*task)(void*, size_t), void* user, size_t count) const = 0;

  // The same for a callable; an exception in a task is carried to the caller after all tasks have ended.
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

// Scratch memory of the calling thread, kept between calls so that no run pays for fresh pages. It belongs to
// one task at a time, therefore concurrent runs of one session share nothing that is written.
void* thread_scratch(size_t bytes);

// How often the calling thread has been given its scratch memory: while it stays the same, nobody else wrote there.
uint64_t thread_scratch_uses();

}  // namespace bireal
