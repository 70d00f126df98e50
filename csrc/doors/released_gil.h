// Lets other Python threads run while a kernel does.

#ifndef FASTKERAS_DOORS_RELEASED_GIL_H_
#define FASTKERAS_DOORS_RELEASED_GIL_H_

#include <Python.h>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#include <unistd.h>
#endif

namespace fastkeras {

// Like pybind11::gil_scoped_release, with which the end of Python may abort the process: a daemon
// thread that then asks for the lock is ended by unwinding its stack, which must not pass a
// destructor. Here the thread sleeps until the process ends, as in newer versions of Python.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ~ReleasedGil() {
#if defined(__GLIBCXX__)
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      for (;;) pause();
    }
#else
    PyEval_RestoreThread(state_);
#endif
  }

 private:
  PyThreadState* const state_;
};

}  // namespace fastkeras

#endif  // FASTKERAS_DOORS_RELEASED_GIL_H_
