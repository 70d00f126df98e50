// Runs CUDA C++ kernels as plain C++: each thread of a block is a fiber, and blocks run one by one.
//
// For tests. It finds faults that would make a GPU hang or return random results: a barrier that
// not all threads reach, an exchange with a lane that does not take part, and shared memory that is
// read before it is written (it starts as NaN); with ASan, accesses out of bounds; with TSan,
// accesses that no barrier orders. docs/gpu.md explains it, and says what it cannot find. It is
// compiled in front of the kernels: g++ -include.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// TSan must not report accesses by the emulation itself.
#define ON_CPU_HIDDEN __attribute__((no_sanitize("thread"), noinline))
#else
#define ON_CPU_HIDDEN
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#define FASTKERAS_ON_CPU 1
#define __global__
#define __device__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define FASTKERAS_TABLE(type) const type&

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace cuda_on_cpu {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 << 10;

enum class Waits { kNothing, kBlock, kWarp, kDone };
enum class Exchange { kSync, kShuffle, kBallot, kMax };  // between the lanes of a warp

struct Fiber {
  dim3 thread;
  int number = 0;
  Waits waits = Waits::kNothing;
  Exchange exchange = Exchange::kSync;
  unsigned mask = 0;  // the lanes that take part
  int source = 0;     // the lane whose value it wants
  uint64_t in = 0, out = 0;
  const char* place = "";  // the name of the call in which it waits
  std::unique_ptr<char[]> stack;
  ucontext_t context;
  void* stack_pointer = nullptr;
  void* tsan = nullptr;
};

struct Shared {  // one __shared__ array
  const void* key = nullptr;
  char* bytes = nullptr;
};
constexpr int kMaxShared = 16;
constexpr size_t kSharedBytes = 48 << 10;  // what a block gets on every GPU by default

struct Block {
  dim3 index, size, grid;
  std::vector<Fiber> fibers;
  Shared shared[kMaxShared];
  size_t shared_bytes = 0;
  std::unique_ptr<char[]> arena;  // with TSan, for which a malloc in a fiber would be a write
  std::vector<char> warps;        // TSan takes their addresses for the barriers of the warps
  Fiber* current = nullptr;
  ucontext_t scheduler;
  void* scheduler_pointer = nullptr;
  void* scheduler_tsan = nullptr;
  const std::function<void()>* kernel = nullptr;
  char barrier = 0;

  ~Block() {
    for (const Shared& made : shared) {
      if (!arena) delete[] made.bytes;
    }
  }
};

inline Block* block = nullptr;
inline std::vector<std::unique_ptr<char[]>> stacks;        // of finished fibers, to be reused
[[maybe_unused]] inline const void* host_stack = nullptr;  // of the thread that launches, for ASan
[[maybe_unused]] inline size_t host_stack_bytes = 0;

[[noreturn]] inline void Fail(const std::string& message) {
  throw std::runtime_error("block " + std::to_string(block->index.x) + "," +
                           std::to_string(block->index.y) + ": " + message);
}

#if defined(__x86_64__)
// Faster than swapcontext, which makes a system call for signals each time: 35 ns against 480. And
// ASan takes swapcontext for the start of a stack, and forgets what it knew of the frames there.
#define ON_CPU_SWITCH 1
extern "C" void fastkeras_switch(void** from, void* to);
asm(R"(
.text
.weak fastkeras_switch
.type fastkeras_switch,@function
fastkeras_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastkeras_switch,.-fastkeras_switch
)");
#endif

ON_CPU_HIDDEN inline void ToScheduler([[maybe_unused]] bool done) {
  Fiber* self = block->current;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(block->scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#elif defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(done ? nullptr : &fake, host_stack, host_stack_bytes);
#endif
#if defined(ON_CPU_SWITCH)
  fastkeras_switch(&self->stack_pointer, block->scheduler_pointer);
#else
  swapcontext(&self->context, &block->scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(done ? nullptr : fake, nullptr, nullptr);
#endif
}

ON_CPU_HIDDEN inline void Resume(Fiber& fiber) {
  block->current = &fiber;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#elif defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStack);
#endif
#if defined(ON_CPU_SWITCH)
  fastkeras_switch(&block->scheduler_pointer, fiber.stack_pointer);
#else
  swapcontext(&block->scheduler, &fiber.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

ON_CPU_HIDDEN inline void RunFiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
  (*block->kernel)();
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&block);
#endif
  block->current->waits = Waits::kDone;
  ToScheduler(true);
  std::abort();
}

// Barriers order memory accesses, exchanges of values do not; TSan has to know which it is.
ON_CPU_HIDDEN inline void WaitFor(Waits what, const char* place,
                                  [[maybe_unused]] bool orders_memory) {
  Fiber& self = *block->current;
  self.waits = what;
  self.place = place;
#if defined(__SANITIZE_THREAD__)
  void* barrier = what == Waits::kBlock ? &block->barrier : &block->warps[self.number / kWarp];
  if (orders_memory) __tsan_release(barrier);
#endif
  ToScheduler(false);
#if defined(__SANITIZE_THREAD__)
  if (orders_memory) __tsan_acquire(barrier);
#endif
}

// Releases the lanes of a warp whose partners have all arrived; returns whether there were any.
ON_CPU_HIDDEN inline bool ReleaseWarp(Fiber* lanes, int count) {
  bool any = false;
  const unsigned all = count == kWarp ? ~0u : (1u << count) - 1;
  for (int first = 0; first < count; ++first) {
    if (lanes[first].waits != Waits::kWarp) continue;
    const unsigned mask = lanes[first].mask;
    const char* place = lanes[first].place;
    if (!(mask >> first & 1)) {
      Fail(std::string(place) + ": lane " + std::to_string(first) + " is not in its mask");
    }
    unsigned arrived = 0, votes = 0;
    uint64_t largest = 0;
    for (int l = 0; l < count; ++l) {
      if (lanes[l].waits != Waits::kWarp || lanes[l].mask != mask) continue;
      if (std::strcmp(place, lanes[l].place) != 0) {
        Fail(std::string(place) + " in lane " + std::to_string(first) + " meets " + lanes[l].place +
             " in lane " + std::to_string(l));
      }
      arrived |= 1u << l;
      votes |= unsigned{lanes[l].in != 0} << l;
      largest = std::max(largest, lanes[l].in);
    }
    if ((mask & all) != arrived) continue;
    for (int l = 0; l < count; ++l) {
      if (!(arrived >> l & 1)) continue;
      Fiber& lane = lanes[l];
      if (lane.exchange == Exchange::kShuffle) {
        if (!(arrived >> lane.source & 1)) {
          Fail(std::string(place) + ": lane " + std::to_string(l) + " reads lane " +
               std::to_string(lane.source) + ", which takes no part");
        }
        lane.out = lanes[lane.source].in;
      } else {
        lane.out = lane.exchange == Exchange::kMax ? largest : votes;
      }
    }
    for (int l = 0; l < count; ++l) {
      if (arrived >> l & 1) lanes[l].waits = Waits::kNothing;
    }
    any = true;
  }
  return any;
}

// When no thread can continue: a message that says which waits for what.
inline std::string Waiting() {
  std::string text = "not all threads reach the same barrier";
  int told = 0;
  for (const Fiber& fiber : block->fibers) {
    if (fiber.waits == Waits::kDone) continue;
    if (++told > 8) return text + "; ...";
    text += "; thread " + std::to_string(fiber.number) + " waits at " + fiber.place;
  }
  return text;
}

ON_CPU_HIDDEN inline void Prepare(Fiber& fiber, int number) {
  fiber.number = number;
  fiber.thread = {number % block->size.x, number / block->size.x % block->size.y,
                  number / block->size.x / block->size.y};
  if (stacks.empty()) stacks.emplace_back(new char[kStack]);
  fiber.stack = std::move(stacks.back());
  stacks.pop_back();
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack.get(), kStack);  // RunFiber has not left its frame
#endif
#if defined(ON_CPU_SWITCH)
  const auto end = reinterpret_cast<uintptr_t>(fiber.stack.get()) + kStack - 64;
  void** top = reinterpret_cast<void**>(end & ~uintptr_t{15});
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&RunFiber);
  fiber.stack_pointer = top - 6;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &RunFiber, 0);
#endif
#if defined(__SANITIZE_THREAD__)
  fiber.tsan = __tsan_create_fiber(0);
#endif
}

ON_CPU_HIDDEN inline void RunBlock(const std::vector<int>& order) {
  const int threads = static_cast<int>(order.size());
  for (int i = 0; i < threads; ++i) Prepare(block->fibers[i], i);
  for (;;) {
    bool ran = false;
    for (int i : order) {
      if (block->fibers[i].waits != Waits::kNothing) continue;
      Resume(block->fibers[i]);
      ran = true;
    }
    for (int w = 0; w < threads; w += kWarp) {
      ran |= ReleaseWarp(&block->fibers[w], std::min(kWarp, threads - w));
    }
    int at_barrier = 0, done = 0;
    for (const Fiber& fiber : block->fibers) {
      at_barrier += fiber.waits == Waits::kBlock;
      done += fiber.waits == Waits::kDone;
    }
    if (done == threads) return;
    if (at_barrier > 0 && at_barrier + done == threads) {
      if (done > 0) Fail("__syncthreads after " + std::to_string(done) + " threads have returned");
      for (Fiber& fiber : block->fibers) fiber.waits = Waits::kNothing;
    } else if (!ran) {
      Fail(Waiting());
    }
  }
}

// Runs all blocks. `seed` shuffles the order of blocks and threads; 0 keeps them in order.
ON_CPU_HIDDEN inline void Launch(dim3 grid, dim3 size, unsigned seed,
                                 const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  std::mt19937 random(seed);
  std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
  std::vector<int> threads(size.x * size.y * size.z);
  if (blocks.empty() || threads.empty() || threads.size() > 1024 || grid.y > 65535 ||
      grid.z > 65535) {
    throw std::runtime_error("a grid of " + std::to_string(blocks.size()) + " blocks of " +
                             std::to_string(threads.size()) + " threads: CUDA launches no such");
  }
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::iota(threads.begin(), threads.end(), 0);
  if (seed) std::shuffle(blocks.begin(), blocks.end(), random);
  std::vector<std::unique_ptr<Block>> used;
  for (const unsigned b : blocks) {
    used.emplace_back(new Block());
    block = used.back().get();
    block->size = size;
    block->grid = grid;
    block->kernel = &kernel;
    block->index = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    block->fibers = std::vector<Fiber>(threads.size());
    block->warps.resize(threads.size() / kWarp + 1);
#if defined(__SANITIZE_THREAD__)
    block->scheduler_tsan = __tsan_get_current_fiber();
    block->arena.reset(new char[kSharedBytes]);
    std::memset(block->arena.get(), 0xFF, kSharedBytes);
#endif
    if (seed) std::shuffle(threads.begin(), threads.end(), random);
    RunBlock(threads);
#if !defined(__SANITIZE_THREAD__)
    // TSan would take the next fiber on a stack for the last one, and it forgets freed memory, and
    // so would miss conflicts of blocks.
    for (Fiber& fiber : block->fibers) stacks.push_back(std::move(fiber.stack));
    used.clear();
#endif
  }
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&block);  // the host waits for the kernel
  for (const auto& done : used) {
    for (Fiber& fiber : done->fibers) __tsan_destroy_fiber(fiber.tsan);
  }
#endif
  block = nullptr;
}

// Like cuLaunchKernel, takes the addresses of the arguments.
template <typename... Args, size_t... I>
ON_CPU_HIDDEN void LaunchWith(void (*kernel)(Args...), const unsigned* sizes, unsigned seed,
                              [[maybe_unused]] void** args, std::index_sequence<I...>) {
  Launch({sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]}, seed,
         [&] { kernel(*static_cast<std::decay_t<Args>*>(args[I])...); });
}

template <typename... Args>
void LaunchWith(void (*kernel)(Args...), const unsigned* sizes, unsigned seed, void** args) {
  LaunchWith(kernel, sizes, seed, args, std::index_sequence_for<Args...>());
}

// The block's array for one FASTKERAS_SHARED, allocated by the first thread, with its exact size.
ON_CPU_HIDDEN inline char* SharedArray(const void* key, size_t bytes) {
  int next = 0;
  for (; next < kMaxShared && block->shared[next].key; ++next) {
    if (block->shared[next].key == key) return block->shared[next].bytes;
  }
  if (next == kMaxShared || block->shared_bytes + bytes > kSharedBytes) std::abort();
  char* made = block->arena ? block->arena.get() + block->shared_bytes : new char[bytes];
  if (!block->arena) std::memset(made, 0xFF, bytes);  // NaN, or -1
  block->shared[next].key = key;
  block->shared[next].bytes = made;
  block->shared_bytes += (bytes + 15) / 16 * 16;
  return made;
}

template <typename Value>
ON_CPU_HIDDEN Value Meet(const char* place, Exchange exchange, unsigned mask, Value value,
                         int source) {
  static_assert(sizeof(Value) <= 8);
  Fiber& self = *block->current;
  self.exchange = exchange;
  self.mask = mask;
  self.source = source;
  self.in = 0;
  std::memcpy(&self.in, &value, sizeof(Value));
  WaitFor(Waits::kWarp, place, exchange == Exchange::kSync);
  std::memcpy(&value, &self.out, sizeof(Value));
  return value;
}

ON_CPU_HIDDEN inline int Lane() { return block->current->number % kWarp; }
ON_CPU_HIDDEN inline dim3 Thread() { return block->current->thread; }
ON_CPU_HIDDEN inline dim3 Index() { return block->index; }
ON_CPU_HIDDEN inline dim3 Size() { return block->size; }
ON_CPU_HIDDEN inline dim3 Grid() { return block->grid; }

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::Thread())
#define blockIdx (::cuda_on_cpu::Index())
#define blockDim (::cuda_on_cpu::Size())
#define gridDim (::cuda_on_cpu::Grid())

#define FASTKERAS_SHARED(type, name, count) \
  static const char key_of_##name = 0;      \
  type* const name =                        \
      reinterpret_cast<type*>(::cuda_on_cpu::SharedArray(&key_of_##name, sizeof(type) * (count)))

inline void __syncthreads() {
  cuda_on_cpu::WaitFor(cuda_on_cpu::Waits::kBlock, "__syncthreads", true);
}
inline void __syncwarp(unsigned mask = ~0u) {
  cuda_on_cpu::Meet("__syncwarp", cuda_on_cpu::Exchange::kSync, mask, 0, 0);
}
template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int source) {
  return cuda_on_cpu::Meet("__shfl_sync", cuda_on_cpu::Exchange::kShuffle, mask, value,
                           source & 31);
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits) {
  return cuda_on_cpu::Meet("__shfl_xor_sync", cuda_on_cpu::Exchange::kShuffle, mask, value,
                           cuda_on_cpu::Lane() ^ bits);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  return cuda_on_cpu::Meet("__ballot_sync", cuda_on_cpu::Exchange::kBallot, mask, unsigned{vote},
                           0);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return cuda_on_cpu::Meet("__reduce_max_sync", cuda_on_cpu::Exchange::kMax, mask, value, 0);
}
template <typename Value>
Value atomicAdd(Value* address, Value value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* address, float value) {
  float old, sum;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    sum = old + value;
  } while (
      !__atomic_compare_exchange(address, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
inline int atomicMin(int* address, int value) {
  int old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED,
                                                     __ATOMIC_RELAXED)) {
  }
  return old;
}
template <typename Value>
Value __ldcg(const Value* address) {
  return *address;
}
template <typename Value>
Value atomicOr(Value* address, Value value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Makes kernels callable from ctypes: FASTKERAS_KERNEL(name); comes after each kernel.
namespace cuda_on_cpu {

using Launcher = void (*)(const unsigned* sizes, unsigned seed, void** args);
inline std::vector<std::pair<std::string, Launcher>> kernels;

struct Registered {
  Registered(const char* name, Launcher launcher) { kernels.emplace_back(name, launcher); }
};

}  // namespace cuda_on_cpu

#define FASTKERAS_KERNEL(name)                                       \
  static const ::cuda_on_cpu::Registered registered_##name(          \
      #name, [](const unsigned* sizes, unsigned seed, void** args) { \
        cuda_on_cpu::LaunchWith(&name, sizes, seed, args);           \
      })

// Returns an error message, or null; "" if there is no such kernel. Without `args`, only looks.
extern "C" __attribute__((visibility("default"))) const char* launch_on_cpu(const char* name,
                                                                            const unsigned* sizes,
                                                                            unsigned seed,
                                                                            void** args) {
  static std::string message;
  for (const auto& [known, launcher] : cuda_on_cpu::kernels) {
    if (known != name) continue;
    try {
      if (args) launcher(sizes, seed, args);
    } catch (const std::exception& error) {
      message = error.what();
      return message.c_str();
    }
    return nullptr;
  }
  return "";
}
