#include "machine/memory.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastkeras {

void* Allocate(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  constexpr size_t kNeverReused = size_t{32} << 20;  // malloc maps these anew each time
  const size_t alignment = bytes >= kNeverReused ? kHugePage : 64;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, rounded > 0 ? rounded : alignment);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);  // may fail, without harm
#endif
  return memory;
}

void Release(void* memory) { std::free(memory); }

}  // namespace fastkeras
