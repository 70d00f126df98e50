#include "machine/parallel.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fastkeras {
namespace {

constexpr int kMostThreads = 1024;  // whatever a caller asks for
constexpr auto kShortWait = std::chrono::microseconds(20);
constexpr auto kBeforeAnotherAttempt = std::chrono::seconds(1);

using Clock = std::chrono::steady_clock;

// The processors a thread may use, where the system lets us say so.
#if defined(__linux__)
struct Processors {
  cpu_set_t set;
  bool known;

  static Processors OfThisThread() {
    Processors own;
    own.known = sched_getaffinity(0, sizeof(own.set), &own.set) == 0;
    return own;
  }
  // Without the one that the calling thread runs on, if there is another.
  Processors Others() const {
    Processors others = *this;
    const int processor = sched_getcpu();
    if (known && processor >= 0 && CPU_COUNT(&set) > 1) CPU_CLR(processor, &others.set);
    return others;
  }
  bool operator==(const Processors& other) const {
    return known == other.known && (!known || CPU_EQUAL(&set, &other.set));
  }
  void Bind(std::thread::native_handle_type thread) const {
    if (known) pthread_setaffinity_np(thread, sizeof(set), &set);  // may fail, without harm
  }
};
#else
struct Processors {
  static Processors OfThisThread() { return {}; }
  Processors Others() const { return {}; }
  bool operator==(const Processors&) const { return true; }
  void Bind(std::thread::native_handle_type) const {}
};
#endif

// A thread allocates some memory of its own for the first exception it throws. This does it early:
// when it throws for lack of memory that would fail, and the process would end.
void PrepareToThrow() { [[maybe_unused]] volatile int none = std::uncaught_exceptions(); }

struct Job {
  void (*run)(void*, int64_t);
  void* context;
  int64_t tasks;
  int helpers_wanted;  // guarded by the pool's mutex
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers_active{0};  // changed under the pool's mutex only
  Processors processors{};             // that helpers may use
  std::condition_variable left{};
  FirstException exception{};

  void Work() {
    for (int64_t task;
         !exception.caught() && (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      exception.Catch([&] { run(context, task); });
    }
  }
  bool IsLeft() const { return helpers_active.load(std::memory_order_acquire) == 0; }
};

class Pool {
 public:
  void Run(Job& job) {
    const bool is_shared = Share(job);
    job.Work();
    if (is_shared) Join(job);
  }

 private:
  struct Worker {
    std::thread thread;  // never joined
    Processors processors{};
    bool has_started = false;
    bool is_idle = true;
  };

  // False if no other thread can help.
  bool Share(Job& job) {
    int helpers;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      Grow(job.helpers_wanted, lock);
      helpers = job.helpers_wanted = std::min<int>(job.helpers_wanted, workers_.size());
      if (helpers == 0) return false;
      try {
        jobs_.push_back(&job);
      } catch (const std::bad_alloc&) {
        return false;
      }
      Place(job);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    return true;
  }

  void Join(Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    if (job.IsLeft()) return;
    // The helpers are at their last tasks: waking this thread would often take longer than those.
    lock.unlock();
    for (const auto end = Clock::now() + kShortWait; !job.IsLeft() && Clock::now() < end;) {
    }
    lock.lock();
    job.left.wait(lock, [&job] { return job.IsLeft(); });
  }

  // If the number of threads is limited, or memory is short, those that exist do the work. A thread
  // allocates all that it needs before the caller goes on, which may use up the memory.
  void Grow(int workers, std::unique_lock<std::mutex>& lock) {
    if (static_cast<int>(workers_.size()) >= workers || Clock::now() < next_attempt_) return;
    try {
      while (static_cast<int>(workers_.size()) < workers) {
        Worker& worker = workers_.emplace_back();
        worker.processors = Processors::OfThisThread();  // which it inherits
        worker.thread = std::thread([this, &worker] { Serve(worker); });
        started_.wait(lock, [&worker] { return worker.has_started; });
      }
    } catch (const std::exception&) {
      if (!workers_.empty() && !workers_.back().thread.joinable()) workers_.pop_back();
      next_attempt_ = Clock::now() + kBeforeAnotherAttempt;
    }
  }

  void Serve(Worker& self) {
    PrepareToThrow();
    std::unique_lock<std::mutex> lock(mutex_);
    self.has_started = true;
    started_.notify_all();
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      if (--job.helpers_wanted == 0) jobs_.erase(jobs_.begin());
      ++job.helpers_active;
      self.is_idle = false;
      Bind(self, job.processors);
      lock.unlock();
      job.Work();
      lock.lock();
      self.is_idle = true;
      if (--job.helpers_active == 0) job.left.notify_one();
    }
  }

  // Helpers use only processors that their caller may use. They are moved before they are woken,
  // because the system wakes a thread on its caller's processor if no other looks idle, and one on
  // which a thread of TensorFlow's pool spins does not: on a machine with few processors, helper
  // and caller would share one for milliseconds.
  void Place(Job& job) {
    constexpr size_t kFewWorkers = 8;
    job.processors = Processors::OfThisThread();
    if (workers_.size() > kFewWorkers) return;
    job.processors = job.processors.Others();
    for (Worker& worker : workers_) {
      if (worker.is_idle) Bind(worker, job.processors);
    }
  }

  static void Bind(Worker& worker, const Processors& processors) {
    if (worker.processors == processors) return;
    processors.Bind(worker.thread.native_handle());
    worker.processors = processors;
  }

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_, started_;
  std::vector<Job*> jobs_;
  std::deque<Worker> workers_;
  Clock::time_point next_attempt_{};
};

// Never destroyed, since its threads outlive main. A forked child, which inherits no threads and
// perhaps a locked mutex, forgets the pool of its parent and makes one of its own.
std::atomic<Pool*> the_pool{nullptr};

#if defined(__unix__) || defined(__APPLE__)
// Registered when the library is loaded, so before any fork.
[[maybe_unused]] const int kForgets = pthread_atfork(nullptr, nullptr, [] { the_pool = nullptr; });
#endif

// Null if there is no memory for it.
Pool* ThePool() {
  Pool* pool = the_pool;
  if (pool != nullptr) return pool;
  Pool* const fresh = new (std::nothrow) Pool;
  if (the_pool.compare_exchange_strong(pool, fresh)) return fresh;
  delete fresh;  // another thread was faster
  return pool;
}

std::atomic<int> default_num_threads{0};
std::atomic<double> worth_a_thread{100e3};  // nanoseconds; waking one takes 30 to 60 thousand

}  // namespace

int NumProcessors() {
#if defined(__linux__)
  const Processors own = Processors::OfThisThread();
  if (own.known) return CPU_COUNT(&own.set);
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int NumThreads(int num_threads) {
  if (num_threads <= 0) num_threads = default_num_threads;
  return num_threads > 0 ? std::min(num_threads, kMostThreads) : NumProcessors();
}

void SetNumThreads(int num_threads) { default_num_threads = num_threads; }

int ThreadsThatPay(double nanoseconds, int num_threads) {
  const double worth = worth_a_thread;
  if (nanoseconds < 2 * worth) return 1;
  return static_cast<int>(std::min<double>(NumThreads(num_threads), nanoseconds / worth));
}

void SetWorthAThread(double nanoseconds) { worth_a_thread = std::max(0.0, nanoseconds); }

namespace internal {

void RunTasks(int64_t tasks, int num_threads, void (*run)(void*, int64_t), void* context) {
  PrepareToThrow();
  const int64_t threads = tasks > 1 ? std::min<int64_t>(NumThreads(num_threads), tasks) : 1;
  Pool* const pool = threads > 1 ? ThePool() : nullptr;
  if (pool == nullptr) {
    for (int64_t task = 0; task < tasks; ++task) run(context, task);
    return;
  }
  Job job{run, context, tasks, static_cast<int>(threads - 1)};
  pool->Run(job);
  job.exception.Rethrow();
}

}  // namespace internal
}  // namespace fastkeras
