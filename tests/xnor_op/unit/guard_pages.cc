// Replaces operator new: a block of memory ends at a guard page, which must not be accessed; every fourth block instead
// begins after one. Linked into the fuzz test in builds without sanitizers. AddressSanitizer only checks plain loads
// and stores that the compiler generates. It checks neither the masked accesses of AVX-512 nor those in inline
// assembly. With guard pages the processor checks all accesses, in the code that is shipped.
//
// A block that ends at the end of a page is only aligned according to its size. This is enough for arrays and objects,
// but not for the texts of std::runtime_error. libstdc++ stores such a text after an atomic counter of its copies, in
// one block of any size. AArch64 has no atomic instruction for a counter at an odd address and ends the process with
// SIGBUS, if there has been a second thread. So programs with guard pages must not throw such exceptions.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>

namespace {

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr int kStale = 0xcb;  // no test expects this value: reveals reads of uninitialized memory

// Layout: [page with the mapping's size][no access][pages of the block][no access].
void* take(size_t bytes) {
  static std::atomic<unsigned> taken{0};
  bytes = bytes == 0 ? 1 : bytes;
  const size_t block = (bytes + kPage - 1) / kPage * kPage;
  const size_t size = block + 3 * kPage;
  void* mapped = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<char*>(mapped);
  char* pages = begin + 2 * kPage;
  if (mprotect(begin, kPage, PROT_READ | PROT_WRITE) != 0 || mprotect(pages, block, PROT_READ | PROT_WRITE) != 0) {
    throw std::bad_alloc();
  }
  std::memcpy(begin, &size, sizeof(size));
  std::memset(pages, kStale, block);
  // The size of an object is a multiple of its alignment, so a block that ends at the end of a page is correctly
  // aligned.
  return taken++ % 4 == 3 ? pages : pages + block - bytes;
}

void give_back(void* block) noexcept {
  if (block == nullptr) return;
  char* begin = static_cast<char*>(block) - reinterpret_cast<uintptr_t>(block) % kPage - 2 * kPage;
  size_t size;
  std::memcpy(&size, begin, sizeof(size));
  munmap(begin, size);
}

}  // namespace

void* operator new(size_t bytes) { return take(bytes); }
void* operator new[](size_t bytes) { return take(bytes); }
void operator delete(void* block) noexcept { give_back(block); }
void operator delete[](void* block) noexcept { give_back(block); }
void operator delete(void* block, size_t) noexcept { give_back(block); }
void operator delete[](void* block, size_t) noexcept { give_back(block); }
