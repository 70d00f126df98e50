// The only place that starts threads. Threads that wait for work sleep, since spinning would slow
// down other programs, and TensorFlow's own pool above all.
//
// One pool serves a process for its whole life. A task may throw. The process may fork while
// threads are at work, and the child then has a pool of its own; it may also end meanwhile. Where
// no thread can be started, the caller's does all the work.

#ifndef FASTKERAS_MACHINE_PARALLEL_H_
#define FASTKERAS_MACHINE_PARALLEL_H_

#include <atomic>
#include <cstdint>
#include <exception>

namespace fastkeras {

// Processors the calling thread may use.
int NumProcessors();

// How many threads `num_threads` asks for. If it is not positive: the number given to
// SetNumThreads, or all processors if that was not positive either.
int NumThreads(int num_threads);
void SetNumThreads(int num_threads);

// How many of these pay off for work that takes one thread about so many nanoseconds: each has to
// get enough of it to make up for being woken.
int ThreadsThatPay(double nanoseconds, int num_threads);
void SetWorthAThread(double nanoseconds);  // 0, for tests of small problems: all pay off

// The first exception of several tasks, for the thread that waits for them all.
class FirstException {
 public:
  template <typename Task>
  void Catch(Task&& task) {
    try {
      task();
    } catch (...) {
      if (!caught_.exchange(true)) exception_ = std::current_exception();
    }
  }
  bool caught() const { return caught_.load(std::memory_order_relaxed); }
  void Rethrow() const {  // call it when no task runs any more
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  std::atomic<bool> caught_{false};
  std::exception_ptr exception_;
};

namespace internal {
void RunTasks(int64_t tasks, int num_threads, void (*run)(void*, int64_t), void* context);
}

// Calls fn(task) for each task in 0..tasks-1, the caller's thread included; returns when all are
// done. Tasks are handed out in order, so the longest should come first. If one throws, those not
// yet begun are left out, and the caller gets the exception when the others are done.
template <typename Function>
void ParallelFor(int64_t tasks, int num_threads, Function&& fn) {
  internal::RunTasks(
      tasks, num_threads,
      [](void* context, int64_t task) { (*static_cast<Function*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace fastkeras

#endif  // FASTKERAS_MACHINE_PARALLEL_H_
