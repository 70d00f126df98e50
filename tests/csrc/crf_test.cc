// Runs the CRF kernels under the sanitizers, on every instruction set that this processor has.
//
// The numbers are checked only coarsely, against a forward recursion in long double; the suite in
// tests/crf/ judges accuracy.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "crf/entropy.h"
#include "crf_problem.h"
#include "machine/instruction_set.h"
#include "machine/parallel.h"

namespace {

constexpr int kRounds = 250;

template <typename T>
struct Results {
  std::vector<T> value[3], d_emissions[3], d_transitions[3], d_start[3], d_end[3];
  std::vector<T> unary, counts, score, entropy, entropy_gradient;
  std::vector<int32_t> tags;

  // The name of the first array whose bits differ, or null.
  const char* Difference(const Results& other) const {
    const auto differ = [](const auto& a, const auto& b) {
      return !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) != 0;
    };
    for (int q = 0; q < 3; ++q) {
      if (differ(value[q], other.value[q])) return "value";
      if (differ(d_emissions[q], other.d_emissions[q])) return "d_emissions";
      if (differ(d_transitions[q], other.d_transitions[q])) return "d_transitions";
      if (differ(d_start[q], other.d_start[q])) return "d_start";
      if (differ(d_end[q], other.d_end[q])) return "d_end";
    }
    if (differ(unary, other.unary)) return "unary";
    if (differ(counts, other.counts)) return "counts";
    if (differ(entropy, other.entropy)) return "entropy";
    if (differ(entropy_gradient, other.entropy_gradient)) return "gradient of the entropy";
    if (differ(score, other.score)) return "score";
    return differ(tags, other.tags) ? "tags" : nullptr;
  }
};

template <typename T>
Results<T> Run(const Problem<T>& problem, int num_threads) {
  const Chains<T> chains = problem.chains();
  const int batch = problem.batch, steps = problem.steps, num_tags = problem.num_tags;
  Results<T> results;
  for (int q = 0; q < 3; ++q) {
    const auto quantity = static_cast<Quantity>(q);
    const int32_t* tags = q == 0 ? nullptr : problem.tags.data();
    std::vector<T> alone(batch), workspace(WorkspaceSize<T>(batch, steps, num_tags));
    results.value[q].resize(batch);
    results.d_emissions[q].resize(batch * steps * num_tags);
    results.d_transitions[q].resize(problem.transitions.size());
    results.d_start[q].resize(num_tags);
    results.d_end[q].resize(num_tags);
    Value<T>(chains, tags, quantity, alone.data(), nullptr, num_threads);
    Value(chains, tags, quantity, results.value[q].data(), workspace.data(), num_threads);
    Gradient(chains, tags, quantity, results.value[q].data(), workspace.data(),
             problem.weights.data(), results.d_emissions[q].data(), results.d_transitions[q].data(),
             results.d_start[q].data(), results.d_end[q].data(), num_threads);
    Results<T> at_once;
    at_once.value[q].resize(batch);
    at_once.d_emissions[q].resize(results.d_emissions[q].size());
    at_once.d_transitions[q].resize(results.d_transitions[q].size());
    at_once.d_start[q].resize(num_tags);
    at_once.d_end[q].resize(num_tags);
    ValueAndGradient(chains, tags, quantity, at_once.value[q].data(), problem.weights.data(),
                     at_once.d_emissions[q].data(), at_once.d_transitions[q].data(),
                     at_once.d_start[q].data(), at_once.d_end[q].data(), num_threads);
    const char* const difference = at_once.Difference(results);
    Expect(!difference, difference ? difference : "at once", problem.Text());
  }
  results.unary.resize(batch * steps * num_tags);
  results.counts.resize((problem.varies ? 1 : batch) * problem.transitions.size());
  Marginals(chains, results.unary.data(), results.counts.data(), num_threads);
  const int64_t rows = batch * steps * num_tags, pairs = problem.transitions.size();
  std::vector<T> alone(batch), workspace(EntropyWorkspaceSize<T>(batch, steps, num_tags));
  results.entropy.resize(batch);
  results.entropy_gradient.resize(rows + pairs + 2 * num_tags);
  Entropy<T>(chains, alone.data(), nullptr, num_threads);
  Entropy<T>(chains, results.entropy.data(), workspace.data(), num_threads);
  Expect(batch == 0 || std::memcmp(alone.data(), results.entropy.data(), batch * sizeof(T)) == 0,
         "entropy with and without a workspace", problem.Text());
  T* const gradient = results.entropy_gradient.data();
  EntropyGradient<T>(chains, results.entropy.data(), workspace.data(), problem.weights.data(),
                     gradient, gradient + rows, gradient + rows + pairs,
                     gradient + rows + pairs + num_tags, num_threads);
  results.tags.resize(batch * steps);
  results.score.resize(batch);
  Viterbi(chains, results.tags.data(), results.score.data(), num_threads);
  return results;
}

long double LogAddExp(long double a, long double b) {
  const long double high = std::max(a, b), low = std::min(a, b);
  return std::isinf(low) ? high : high + std::log1p(std::exp(low - high));
}

struct Expected {
  long double log_partition = 0, gold = 0, best = 0;
  long double magnitude = 1;  // what rounding errors are relative to
};

template <typename T>
Expected Reference(const Problem<T>& problem, int b) {
  Expected expected;
  const std::vector<int> valid = problem.ValidSteps(b);
  if (valid.empty()) return expected;
  const int num_tags = problem.num_tags;
  const long double impossible = -std::numeric_limits<long double>::infinity();
  std::vector<long double> sum(problem.start.begin(), problem.start.end()), best = sum;
  int previous_gold = -1;
  for (size_t s = 0; s < valid.size(); ++s) {
    const T* x = &problem.emissions[(b * problem.steps + valid[s]) * num_tags];
    const int gold = problem.tags[b * problem.steps + valid[s]];
    if (s > 0) {
      const std::vector<long double> sums = sum, bests = best;
      for (int j = 0; j < num_tags; ++j) {
        sum[j] = best[j] = impossible;
        for (int i = 0; i < num_tags; ++i) {
          const long double pair = problem.Transition(b, valid[s], i, j);
          sum[j] = LogAddExp(sum[j], sums[i] + pair);
          best[j] = std::max(best[j], bests[i] + pair);
        }
      }
    }
    for (int j = 0; j < num_tags; ++j) sum[j] += x[j], best[j] += x[j];
    expected.gold +=
        x[gold] + (s ? problem.Transition(b, valid[s], previous_gold, gold) : problem.start[gold]);
    previous_gold = gold;
  }
  expected.gold += problem.end[previous_gold];
  expected.log_partition = expected.best = impossible;
  for (int j = 0; j < num_tags; ++j) {
    expected.log_partition = LogAddExp(expected.log_partition, sum[j] + problem.end[j]);
    expected.best = std::max(expected.best, best[j] + problem.end[j]);
  }
  for (long double score : {expected.log_partition, expected.gold, expected.best}) {
    if (std::isfinite(score)) expected.magnitude += std::fabs(score);
  }
  expected.magnitude += 1e4L * valid.size();
  return expected;
}

template <typename T>
bool Near(T actual, long double expected, long double magnitude) {
  if (!std::isfinite(expected)) return actual == expected;
  return std::fabs(actual - expected) <= 64 * std::numeric_limits<T>::epsilon() * magnitude;
}

template <typename T>
void Check(const Problem<T>& problem, const Results<T>& results) {
  const std::string where = problem.Text();
  const int num_tags = problem.num_tags;
  for (int b = 0; b < problem.batch; ++b) {
    const Expected expected = Reference(problem, b);
    const bool possible = std::isfinite(expected.log_partition);
    const long double log_likelihood =
        std::isfinite(expected.gold) ? expected.gold - expected.log_partition : expected.gold;
    const long double magnitude = expected.magnitude;
    Expect(Near(results.value[0][b], expected.log_partition, magnitude), "log_partition", where);
    Expect(Near(results.value[1][b], expected.gold, magnitude), "sequence_score", where);
    Expect(Near(results.value[2][b], log_likelihood, magnitude), "log_likelihood", where);
    Expect(results.value[2][b] <= 0, "log_likelihood is not positive", where);
    // The log of the number of sequences bounds it; scores of 1e4 leave few digits in float.
    const long double most = problem.ValidSteps(b).size() * std::log((long double)num_tags);
    Expect(results.entropy[b] >= 0 && results.entropy[b] <= most + 0.01 * (1 + most), "entropy",
           where);
    Expect(Near(results.score[b], expected.best, magnitude), "score of viterbi", where);
    const std::vector<int> valid = problem.ValidSteps(b);
    for (int t = 0; t < problem.steps; ++t) {
      const T* unary = &results.unary[(b * problem.steps + t) * num_tags];
      long double sum = 0;
      for (int j = 0; j < num_tags; ++j) sum += unary[j];
      const bool counts = possible && problem.Valid(b, t);
      // Scores of 1e4 leave few digits of a probability in float.
      Expect(std::fabs(sum - counts) < 0.02, "unary marginals sum to one", where);
      const int32_t tag = results.tags[b * problem.steps + t];
      Expect(problem.Valid(b, t) ? tag >= 0 && tag < num_tags : tag == 0, "viterbi's tags", where);
    }
    long double pairs = 0;
    const size_t counts = results.counts.size() / problem.batch;
    for (size_t k = b * counts; k < (b + 1) * counts; ++k) pairs += results.counts[k];
    const int expected_pairs = possible && !valid.empty() ? static_cast<int>(valid.size()) - 1 : 0;
    Expect(std::fabs(pairs - expected_pairs) < 0.02 * (1 + expected_pairs), "counts", where);
  }
  for (int q = 0; q < 3; ++q) {
    for (const auto* array :
         {&results.d_emissions[q], &results.d_transitions[q], &results.d_start[q],
          &results.d_end[q], &results.unary, &results.counts, &results.entropy_gradient}) {
      Expect(std::all_of(array->begin(), array->end(), [](T x) { return std::isfinite(x); }),
             "gradients and marginals are finite", where);
    }
  }
}

// Alone, a sequence takes another way through the kernels than with others of its length.
template <typename T>
void CheckAlone(const Problem<T>& problem, const Results<T>& results) {
  const int64_t steps = problem.steps, num_tags = problem.num_tags, area = steps * num_tags;
  for (int b = 0; b < problem.batch; ++b) {
    Chains<T> chains = problem.chains();
    chains.batch = 1;
    chains.emissions += b * area;
    const int64_t counted = results.counts.size() / problem.batch;
    if (problem.varies) chains.transitions += b * counted;
    chains.lengths += b;
    if (chains.mask) chains.mask += b * steps;
    std::vector<T> unary(area), counts(counted), value(1), score(1);
    std::vector<int32_t> tags(steps);
    Value<T>(chains, nullptr, Quantity::kLogPartition, value.data(), nullptr, 1);
    Marginals(chains, unary.data(), counts.data(), 1);
    Viterbi(chains, tags.data(), score.data(), 1);
    const auto same = [b](const auto& alone, const auto& all) {
      const size_t size = alone.size();
      return size == 0 || std::memcmp(alone.data(), &all[b * size], size * sizeof alone[0]) == 0;
    };
    Expect(same(value, results.value[0]), "log_partition alone", problem.Text());
    Expect(same(unary, results.unary), "unary marginals alone", problem.Text());
    Expect(same(counts, results.counts), "counts alone", problem.Text());
    Expect(same(score, results.score) && same(tags, results.tags), "viterbi alone", problem.Text());
  }
}

template <typename T>
void CheckTagsOutOfRange(Problem<T>& problem) {
  const auto first = [&] {
    return FirstTagOutOfRange(problem.batch, problem.steps, problem.num_tags, problem.tags.data(),
                              problem.lengths.data(), problem.mask.get());
  };
  Expect(first() == -1, "tags in range", problem.Text());
  for (int i = 0; i < problem.batch * problem.steps; ++i) {
    if (!problem.Valid(i / problem.steps, i % problem.steps)) continue;
    problem.tags[i] = PickFrom({-1, problem.num_tags, std::numeric_limits<int32_t>::max()});
    Expect(first() == i, "the tag out of range", problem.Text());
    return;
  }
}

template <typename T>
void CheckSpoiled(const Problem<T>& problem) {
  for (const char* set : {"portable", "avx2", "avx512"}) {
    if (!SetInstructionSet(set)) continue;
    const Results<T> results = Run(problem, 1);
    Expect(!Run(problem, 3).Difference(results), "three threads, spoiled", problem.Text());
    for (int32_t tag : results.tags) {
      Expect(tag >= 0 && tag < problem.num_tags, "tags of spoiled scores", problem.Text());
    }
  }
}

template <typename T>
int Rounds() {
  for (int round = 0; round < kRounds; ++round) {
    Problem<T> problem;
    for (const char* set : {"portable", "avx2", "avx512"}) {
      if (!SetInstructionSet(set)) continue;
      const Results<T> results = Run(problem, 1);
      Check(problem, results);
      CheckAlone(problem, results);
      const char* difference = Run(problem, 3).Difference(results);
      Expect(!difference, "three threads give one thread's bits",
             problem.Text() + ", " + (difference ? difference : ""));
    }
    problem.Spoil();
    CheckSpoiled(problem);
    CheckTagsOutOfRange(problem);
  }
  return kRounds;
}

}  // namespace

int main() {
  SetWorthAThread(0);
  const int rounds = Rounds<float>() + Rounds<double>();
  std::printf("%d random batches on every instruction set, %d failures\n", rounds, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
