// Picks the widest kernels that this processor runs.

#include <atomic>
#include <cstring>

#include "crf/crf.h"
#include "crf/plan.h"

namespace fastkeras::crf {

const Kernels<float>* portable_float();
const Kernels<double>* portable_double();
const Kernels<float>* avx2_float();
const Kernels<double>* avx2_double();
const Kernels<float>* avx512_float();
const Kernels<double>* avx512_double();

namespace {

struct InstructionSetEntry {
  const char* name;
  bool (*runs)();
  const Kernels<float>* (*of_float)();
  const Kernels<double>* (*of_double)();
};

const InstructionSetEntry kSets[] = {
// widest first
#if defined(__x86_64__)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
     },
     avx512_float, avx512_double},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     avx2_float, avx2_double},
#endif
    {"portable", [] { return true; }, portable_float, portable_double},
};

const InstructionSetEntry* Widest() {
  const InstructionSetEntry* set = kSets;
  while (!set->runs()) ++set;
  return set;
}

std::atomic<const InstructionSetEntry*>& Current() {
  static std::atomic<const InstructionSetEntry*> current{Widest()};
  return current;
}

}  // namespace

const char* InstructionSet() { return Current().load()->name; }

bool SetInstructionSet(const char* name) {
  for (const InstructionSetEntry& set : kSets) {
    if (std::strcmp(set.name, name) == 0 && set.runs()) {
      Current() = &set;
      return true;
    }
  }
  return false;
}

template <>
const Kernels<float>& CurrentKernels<float>() {
  return *Current().load()->of_float();
}
template <>
const Kernels<double>& CurrentKernels<double>() {
  return *Current().load()->of_double();
}

}  // namespace fastkeras::crf
