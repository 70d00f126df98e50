// The only place that starts a thread. Waiting threads sleep: spinning would slow whatever else the
// machine runs, TensorFlow's own pool above all.

#ifndef FASTKERAS_PARALLEL_H_
#define FASTKERAS_PARALLEL_H_

#include <cstdint>

namespace fastkeras {

// Processors this process may use.
int NumProcessors();

// How many threads `num_threads` asks for. If it is not positive: what SetNumThreads said, and all
// processors if that was not positive either.
int NumThreads(int num_threads);
void SetNumThreads(int num_threads);

namespace internal {
void RunTasks(int64_t tasks, int num_threads, void (*run)(void*, int64_t), void* context);
}

// Calls fn(task) for each task in 0..tasks-1, the caller's thread included; returns when all are
// done. Tasks are handed out in order, so the longest should come first.
template <typename Function>
void ParallelFor(int64_t tasks, int num_threads, Function&& fn) {
  internal::RunTasks(
      tasks, num_threads,
      [](void* context, int64_t task) { (*static_cast<Function*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace fastkeras

#endif  // FASTKERAS_PARALLEL_H_
