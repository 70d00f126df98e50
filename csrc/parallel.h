// The only place that starts a thread. Threads that wait for work sleep: spinning would slow
// whatever else the machine runs, TensorFlow's own pool above all.
//
// A pool serves a process for its whole life. A task may throw; the process may fork while threads
// are at work, and the child then has a pool of its own; it may end while they are; and where no
// thread can be had, the caller's does all.

#ifndef FASTKERAS_PARALLEL_H_
#define FASTKERAS_PARALLEL_H_

#include <atomic>
#include <cstdint>
#include <exception>

namespace fastkeras {

// Processors the calling thread may use.
int NumProcessors();

// How many threads `num_threads` asks for. If it is not positive: what SetNumThreads said, and all
// processors if that was not positive either.
int NumThreads(int num_threads);
void SetNumThreads(int num_threads);

// How many of these pay for work that would take one thread about so long: one, unless each gets
// enough to make up for its being woken.
int ThreadsThatPay(double nanoseconds, int num_threads);
void SetWorthAThread(double nanoseconds);  // 0: all pay, as tests of small problems want it

// What the first of several tasks threw, for the thread that waits for them all.
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
  void Rethrow() const {  // when no task runs any more
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

#endif  // FASTKERAS_PARALLEL_H_
