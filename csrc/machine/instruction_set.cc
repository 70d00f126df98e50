#include "machine/instruction_set.h"

#include <atomic>
#include <cstring>

namespace fastkeras {

namespace {

struct Entry {
  const char* name;
  InstructionSetIndex index;
  bool (*runs)();
};

const Entry kSets[] = {
// widest first
#if defined(__x86_64__)
    {"avx512", kAvx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
     }},
    {"avx2", kAvx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"portable", kPortable, [] { return true; }},
};

const Entry* Widest() {
  const Entry* set = kSets;
  while (!set->runs()) ++set;
  return set;
}

// Guarded by no lock, not even that of a static variable's initialization: a fork may come while it
// is held.
std::atomic<const Entry*> chosen{nullptr};

const Entry* Current() {
  const Entry* set = chosen.load();
  if (set != nullptr) return set;
  const Entry* const widest = Widest();
  return chosen.compare_exchange_strong(set, widest) ? widest : set;
}

}  // namespace

const char* InstructionSet() { return Current()->name; }

InstructionSetIndex CurrentInstructionSet() { return Current()->index; }

bool SetInstructionSet(const char* name) {
  for (const Entry& set : kSets) {
    if (std::strcmp(set.name, name) == 0 && set.runs()) {
      chosen = &set;
      return true;
    }
  }
  return false;
}

}  // namespace fastkeras
