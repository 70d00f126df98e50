// A library that tests/test_pool.py preloads: it refuses memory and threads on demand.

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" {

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_memalign(size_t, size_t);

static std::atomic<long> allocations_left{0};  // the last of these fails; 0: none does
static std::atomic<bool> refused{false}, no_threads{false};

// Makes one allocation fail, after so many that do not.
void refuse_memory(long allocations) {
  refused = false;
  allocations_left = allocations + 1;
}

// Returns whether one has failed since.
bool stop_refusing_memory() {
  allocations_left = 0;
  return refused;
}

void refuse_threads(bool refuse) { no_threads = refuse; }

static bool Fails() {
  if (allocations_left.load(std::memory_order_relaxed) <= 0) return false;
  if (allocations_left.fetch_sub(1) != 1) return false;
  refused = true;
  errno = ENOMEM;
  return true;
}

void* malloc(size_t size) { return Fails() ? nullptr : __libc_malloc(size); }

void* calloc(size_t count, size_t size) { return Fails() ? nullptr : __libc_calloc(count, size); }

void* aligned_alloc(size_t alignment, size_t size) {
  return Fails() ? nullptr : __libc_memalign(alignment, size);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) {
  if (no_threads) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, start, argument);
}

}  // extern "C"
