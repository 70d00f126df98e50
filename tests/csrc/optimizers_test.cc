// Runs the optimizer kernels under the sanitizers, on every instruction set that this processor
// has.
//
// All arrays have exactly the size needed, so that the sanitizer detects an access beyond them. Of
// the numbers, only what does not depend on accuracy is checked: the same bits on one thread and on
// three, and nothing touched that is frozen or skipped. The suite in tests/optimizers/ judges
// accuracy.

#include "optimizers/optimizers.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "machine/instruction_set.h"
#include "machine/parallel.h"

using namespace fastkeras;
using namespace fastkeras::optimizers;

namespace {

constexpr int kRounds = 300;
std::mt19937 generator(20240229);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool holds, const char* what, const std::string& where) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s (%s, %s)\n", what, where.c_str(), InstructionSet());
}

using Memory = std::vector<unsigned char>;

int64_t BytesOf(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

// Numbers of the type; for half precision, bit patterns below infinity.
Memory Numbers(Dtype dtype, int64_t size) {
  Memory memory(size * BytesOf(dtype));
  for (int64_t i = 0; i < size; ++i) {
    const double number = std::normal_distribution<double>()(generator);
    const float rounded = static_cast<float>(number);
    const uint16_t half = static_cast<uint16_t>(Pick(0, 0x3c00) | (Pick(0, 1) << 15));
    const void* from = dtype == Dtype::kFloat64   ? static_cast<const void*>(&number)
                       : dtype == Dtype::kFloat32 ? static_cast<const void*>(&rounded)
                                                  : static_cast<const void*>(&half);
    std::memcpy(memory.data() + i * BytesOf(dtype), from, BytesOf(dtype));
  }
  return memory;
}

struct Owned {
  Variable variable = {};
  Memory parameter, gradient, slots[kMaxSlots], scales[kMaxSlots];
  std::vector<float> remainder;
  std::vector<int64_t> rows;
};

struct Problem {
  Rule rule;
  std::vector<Owned> owned;

  Problem() : rule(static_cast<Rule>(Pick(0, static_cast<int>(Rule::kCount) - 1))) {
    const int count = Pick(1, 4);
    for (int i = 0; i < count; ++i) owned.push_back(Draw());
  }

  Owned Draw() const {
    constexpr int kSizes[] = {0, 1, 6, 16, 255, 256, 257, 1023, 1025, 16384, 33333};
    Owned drawn;
    Variable& variable = drawn.variable;
    variable.size = kSizes[Pick(0, 10)];
    variable.dtype = static_cast<Dtype>(Pick(0, 3));
    const bool wide = variable.dtype == Dtype::kFloat64;
    variable.gradient_dtype = wide || Pick(0, 1) ? variable.dtype : Dtype::kFloat32;
    variable.frozen = Pick(0, 5) == 0;
    variable.moments =
        !wide && CanBeNarrow(rule) ? static_cast<Moments>(Pick(0, 2)) : Moments::kWide;
    const bool quantized = variable.moments == Moments::kCodes;
    variable.decay = Pick(0, 1) ? 0.01 : 0;
    for (double& c : variable.coefficients) c = 0.1;
    for (int k = Pick(0, 3); k > 0; --k) {
      const auto kind =
          static_cast<TransformKind>(Pick(0, static_cast<int>(TransformKind::kCount) - 1));
      variable.chain.push_back({kind, 0.5, 0});
      if (kind == TransformKind::kClipByGlobalNorm) break;  // there is one group, so it comes last
    }
    variable.adapted = rule == Rule::kLamb || Pick(0, 3) == 0;
    variable.rate = 0.1;
    variable.dithered = Pick(0, 2) == 0;
    variable.seed = 17;
    drawn.parameter = Numbers(variable.dtype, variable.size);
    if (BytesOf(variable.dtype) == 2 && Pick(0, 1)) drawn.remainder.resize(variable.size);
    int64_t of_gradient = variable.size;
    if (!quantized && !variable.adapted && variable.size % 3 == 0 && Pick(0, 1)) {
      variable.row_size = variable.size < 100 ? 1 : 3;
      for (int64_t row = Pick(0, 2); row * variable.row_size < variable.size; row += Pick(1, 3)) {
        drawn.rows.push_back(row);
      }
      if (!drawn.rows.empty()) {
        of_gradient = static_cast<int64_t>(drawn.rows.size()) * variable.row_size;
      }
    }
    drawn.gradient = Numbers(variable.gradient_dtype, of_gradient);
    const int64_t blocks = (variable.size + kQuantizedBlock - 1) / kQuantizedBlock;
    for (int s = 0; s < NumSlots(rule); ++s) {
      const int bytes = variable.moments == Moments::kBfloat16 ? 2 : quantized ? 1 : wide ? 8 : 4;
      drawn.slots[s].resize(variable.size * bytes);
      if (quantized) drawn.scales[s].resize(blocks * sizeof(float));
    }
    return drawn;
  }

  bool Run(int num_threads) {
    std::vector<Variable> variables;
    for (Owned& each : owned) {
      each.variable.parameter = each.parameter.data();
      each.variable.gradient = each.gradient.data();
      each.variable.remainder = each.remainder.empty() ? nullptr : each.remainder.data();
      each.variable.rows = each.rows.empty() ? nullptr : each.rows.data();
      each.variable.num_rows = static_cast<int64_t>(each.rows.size());
      for (int s = 0; s < NumSlots(rule); ++s) {
        each.variable.slots[s] = each.slots[s].data();
        each.variable.scales[s] = reinterpret_cast<float*>(each.scales[s].data());
      }
      variables.push_back(each.variable);
    }
    return Step(rule, variables,
                [num_threads](int64_t tasks, const std::function<void(int64_t)>& fn) {
                  ParallelFor(tasks, num_threads, [&fn](int64_t task) { fn(task); });
                });
  }

  bool SameAs(const Problem& other, bool only_frozen) const {
    for (size_t i = 0; i < owned.size(); ++i) {
      const Owned &a = owned[i], &b = other.owned[i];
      if (only_frozen && !a.variable.frozen) continue;
      if (a.parameter != b.parameter || a.remainder != b.remainder) return false;
      for (int s = 0; s < kMaxSlots; ++s) {
        if (a.slots[s] != b.slots[s] || a.scales[s] != b.scales[s]) return false;
      }
    }
    return true;
  }
};

}  // namespace

int main() {
  SetWorthAThread(0);
  for (int round = 0; round < kRounds; ++round) {
    const Problem problem;
    const std::string where = "round " + std::to_string(round);
    for (const char* set : {"portable", "avx2", "avx512"}) {
      if (!SetInstructionSet(set)) continue;
      Problem one = problem, three = problem;
      for (int step = 0; step < 2; ++step) {
        const bool done = one.Run(1);
        Expect(three.Run(3) == done, "three threads skip what one skips", where);
        if (step == 0 && !done) Expect(one.SameAs(problem, false), "skipped is untouched", where);
      }
      Expect(three.SameAs(one, false), "three threads give one thread's bits", where);
      Expect(one.SameAs(problem, true), "frozen is untouched", where);
    }
  }
  std::printf("%d random steps on every instruction set, %d failures\n", kRounds, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
