// Runs the pool of threads under the sanitizers: with many callers at once, tasks that throw, forks
// at any moment, tasks in tasks, and the end of the process while threads are at work.

#include "machine/parallel.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace fastkeras;

// The thread sanitizer lets a forked child start threads only if told so.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  return "die_after_fork=0";
}

namespace {

std::atomic<int> failures{0};

void Expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "%s\n", what);
}

// Every task runs once, whatever the number of threads.
void RunsAll(int64_t tasks, int num_threads) {
  std::vector<int> times(tasks);
  ParallelFor(tasks, num_threads, [&](int64_t task) { ++times[task]; });
  for (int count : times) Expect(count == 1, "a task did not run once");
}

// The exception of one task is thrown when all tasks that ran are done.
void Throws(int64_t tasks, int num_threads, int64_t bad) {
  std::vector<std::string> room(tasks, "a string that is longer than what fits beside its length");
  std::atomic<int> running{0};
  bool caught = false;
  try {
    ParallelFor(tasks, num_threads, [&](int64_t task) {
      ++running;
      const std::string copy = room[task];
      --running;
      if (task % 7 == bad) throw std::invalid_argument(copy);
    });
  } catch (const std::invalid_argument& error) {
    caught = error.what() == room[0];
  }
  Expect(caught, "the exception was lost");
  Expect(running == 0, "tasks run after their job is done");
}

void InTasks() {
  std::atomic<int64_t> sum{0};
  ParallelFor(6, 3, [&](int64_t task) {
    ParallelFor(5, 3, [&](int64_t inner) { sum += 5 * task + inner; });
  });
  Expect(sum == 29 * 30 / 2, "tasks in tasks");
}

// Runs `body` in threads of its own, over and over, until it is destroyed.
template <typename Body>
class Load {
 public:
  Load(int num_threads, Body body) {
    for (int i = 0; i < num_threads; ++i) {
      threads_.emplace_back([this, body] {
        while (!done_) body();
      });
    }
  }
  ~Load() {
    done_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::vector<std::thread> threads_;
};

// A child that hangs is ended by its alarm. The load allocates nothing, since the sanitizers' own
// locks do not survive a fork.
void Forks(int times) {
  const Load load(2, [] {
    std::atomic<int> sum{0};
    ParallelFor(20, 3, [&](int64_t) { ++sum; });
    Expect(sum == 20, "a task did not run once");
  });
  for (int i = 0; i < times; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      RunsAll(20, 3);
      Throws(20, 3, 3);
      _exit(failures ? EXIT_FAILURE : EXIT_SUCCESS);
    }
    int status = -1;
    waitpid(child, &status, 0);
    Expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child failed or hung");
  }
}

// In a child, since it ends the process.
void Ends() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    for (int i = 0; i < 3; ++i) {
      std::thread([] {
        for (;;) RunsAll(20, 3);
      }).detach();
    }
    RunsAll(1000, 3);
    std::exit(EXIT_SUCCESS);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the end of a process at work failed");
}

// Helpers run where their caller may, and nowhere else.
void Affinity() {
  cpu_set_t before;
  if (sched_getaffinity(0, sizeof(before), &before) != 0) return;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &before)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    sched_setaffinity(0, sizeof(one), &one);
    Expect(NumThreads(0) == 1, "one processor has more than one thread");
    ParallelFor(64, 3, [&](int64_t) {
      usleep(300);  // so that helpers get tasks too
      Expect(sched_getcpu() == processor, "a task left its caller's processors");
    });
  }
  sched_setaffinity(0, sizeof(before), &before);
  RunsAll(64, 3);
}

void Counts() {
  Expect(ThreadsThatPay(0, 8) == 1 && ThreadsThatPay(50e3, 8) == 1, "little work for two threads");
  Expect(ThreadsThatPay(1e9, 8) == 8 && ThreadsThatPay(1e300, 3) == 3, "much work for few threads");
  Expect(ThreadsThatPay(300e3, 8) < 8, "some work for all threads");
  Expect(NumThreads(2000000000) <= 1024, "threads without a limit");
  SetNumThreads(5);
  Expect(NumThreads(0) == 5 && NumThreads(-1) == 5 && NumThreads(2) == 2, "the number set");
  SetNumThreads(0);
  Expect(NumThreads(0) == NumProcessors(), "the number of processors");
}

}  // namespace

int main() {
  for (int i = 0; i < 5; ++i) Ends();  // first, while the sanitizer knows of no threads
  Counts();
  for (int num_threads : {0, 1, 2, 3, 8}) {
    for (int64_t tasks : {0, 1, 2, 3, 100}) RunsAll(tasks, num_threads);
    for (int64_t bad = 0; bad < 7; ++bad) Throws(50, num_threads, bad);
  }
  InTasks();
  Affinity();
  {
    const Load load(3, [] {
      RunsAll(30, 4);
      Throws(30, 4, 2);
    });
    for (int round = 0; round < 100; ++round) RunsAll(50, 3);
  }
  Forks(100);
  std::printf("100 forks and 5 ends of a process at work, %d failures\n", failures.load());
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
