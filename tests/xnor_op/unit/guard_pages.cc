// Memory of `new` that ends, or every fourth time begins, at a page that may not be touched. Linked into the fuzz test
// where no sanitizer is: AddressSanitizer checks what the compiler turns into plain loads and stores, and neither the
// masked ones of AVX-512 nor those in assembly, whereas the processor checks all, in the code that is shipped.
//
// A block that ends at the page's end is aligned to its size alone. That is enough for arrays and for objects, but not
// for the texts of std::runtime_error, which libstdc++ keeps behind an atomic counter of their copies in one block of
// any size: AArch64 has no atomic instruction for a counter at an odd address and ends the process with SIGBUS, once
// there has been a second thread. Programs with these pages throw none.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>

namespace {

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr int kStale = 0xcb;  // a value that no test expects, for what is read before it is written

// [page with the mapping's size][no access][pages of the block][no access]
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
  // An object's size is a multiple of its alignment, so that a block that ends on a page is aligned as it must be.
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
