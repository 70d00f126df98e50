#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace fastkeras {
namespace {

struct Job {
  void (*run)(void*, int64_t);
  void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};
  int helpers_wanted;  // guarded by the pool's mutex, as is all below
  int helpers_active = 0;
  std::condition_variable left;

  void Work() {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      run(context, task);
    }
  }
};

class Pool {
 public:
  void Run(Job& job) {
    const int helpers = job.helpers_wanted;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < helpers) {
        workers_.push_back(std::thread([this] { Serve(); }));
      }
      KeepOffTheCallersProcessor();
      jobs_.push_back(&job);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    job.Work();
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    job.left.wait(lock, [&job] { return job.helpers_active == 0; });
  }

 private:
  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      if (--job.helpers_wanted == 0) jobs_.pop_front();
      ++job.helpers_active;
      lock.unlock();
      job.Work();
      lock.lock();
      if (--job.helpers_active == 0) job.left.notify_one();
    }
  }

  // A worker is woken on the processor of its caller if no other looks idle, and one where a thread
  // of TensorFlow's pool spins does not: both would then share one processor for milliseconds. On a
  // machine with many processors there is an idle one.
  void KeepOffTheCallersProcessor() {
#if defined(__linux__)
    constexpr size_t kFewWorkers = 8;
    const int processor = sched_getcpu();
    if (processor == avoided_ && workers_.size() == placed_) return;
    cpu_set_t allowed;
    if (workers_.size() > kFewWorkers || sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
      return;
    CPU_CLR(processor, &allowed);
    if (CPU_COUNT(&allowed) == 0) return;
    for (std::thread& worker : workers_) {
      pthread_setaffinity_np(worker.native_handle(), sizeof(allowed), &allowed);
    }
    avoided_ = processor;
    placed_ = workers_.size();
#endif
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;
  std::vector<std::thread> workers_;  // never joined
  int avoided_ = -1;                  // the processor that they keep off
  size_t placed_ = 0;                 // how many of them do
};

// Never destroyed, since its threads outlive main; a forked child, which inherits no threads, gets
// a pool of its own.
Pool& ThePool() {
#if defined(__unix__) || defined(__APPLE__)
  static std::mutex mutex;
  static Pool* pool = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (owner != getpid()) {
    pool = new Pool;
    owner = getpid();
  }
#else
  static Pool* pool = new Pool;
#endif
  return *pool;
}

}  // namespace

int NumProcessors() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

namespace {
std::atomic<int> default_num_threads{0};
}

int NumThreads(int num_threads) {
  if (num_threads <= 0) num_threads = default_num_threads;
  return num_threads > 0 ? num_threads : NumProcessors();
}

void SetNumThreads(int num_threads) { default_num_threads = num_threads; }

namespace internal {

void RunTasks(int64_t tasks, int num_threads, void (*run)(void*, int64_t), void* context) {
  const int64_t threads = std::min<int64_t>(NumThreads(num_threads), tasks);
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) run(context, task);
    return;
  }
  Job job;
  job.run = run;
  job.context = context;
  job.tasks = tasks;
  job.helpers_wanted = static_cast<int>(threads - 1);
  ThePool().Run(job);
}

}  // namespace internal
}  // namespace fastkeras
