// Uninitialised working memory of a call, aligned to cache lines; in huge pages where it is large,
// since the first touch of many small pages would cost more than some kernels.

#ifndef FASTKERAS_MACHINE_MEMORY_H_
#define FASTKERAS_MACHINE_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace fastkeras {

void* Allocate(size_t bytes);  // throws std::bad_alloc
void Release(void* memory);

// Always inlined: else the linker might keep a copy compiled for a wider instruction set for all.
template <typename T>
struct Buffer {
  T* const data;
  inline __attribute__((always_inline)) explicit Buffer(int64_t size)
      : data(static_cast<T*>(Allocate(static_cast<size_t>(size) * sizeof(T)))) {}
  inline __attribute__((always_inline)) ~Buffer() { Release(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

}  // namespace fastkeras

#endif  // FASTKERAS_MACHINE_MEMORY_H_
