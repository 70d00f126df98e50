#include "crf/exact.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fastkeras::crf {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSafe = 1e-280;  // sums above this lost nothing to underflow
constexpr double kSafeGap = 600;  // nats that the factors of a pair's marginal may be apart

double LargestFinite(const std::vector<double>& scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  return largest == -kInfinity ? 0 : largest;
}

// out[j] = log sum_i exp(scores[i] + A[i, j]), or with A transposed. By products of exponentials,
// but where these underflow, element by element, by the sum itself.
class LogProduct {
 public:
  LogProduct(int64_t num_tags, bool transpose)
      : num_tags_(num_tags),
        transpose_(transpose),
        matrix_(num_tags * num_tags),
        weights_(num_tags * num_tags) {}

  // Takes the next step's A, unless it is the one that is there.
  template <typename T>
  void Take(const T* transitions) {
    if (taken_ == transitions) return;
    taken_ = transitions;
    for (int64_t i = 0; i < num_tags_; ++i) {
      for (int64_t j = 0; j < num_tags_; ++j) {
        matrix_[transpose_ ? j * num_tags_ + i : i * num_tags_ + j] =
            transitions[i * num_tags_ + j];
      }
    }
    peak_ = LargestFinite(matrix_);
    for (int64_t k = 0; k < num_tags_ * num_tags_; ++k) {
      weights_[k] = std::exp(matrix_[k] - peak_);
    }
  }

  void operator()(const std::vector<double>& scores, double* out) {
    const double peak = LargestFinite(scores);
    std::fill(out, out + num_tags_, 0.0);
    for (int64_t i = 0; i < num_tags_; ++i) {
      const double scaled = std::exp(scores[i] - peak);
      if (scaled == 0) continue;
      const double* row = weights_.data() + i * num_tags_;
      for (int64_t j = 0; j < num_tags_; ++j) out[j] += scaled * row[j];
    }
    for (int64_t j = 0; j < num_tags_; ++j) {
      out[j] = out[j] > kSafe ? std::log(out[j]) + peak + peak_ : Column(scores, j);
    }
  }

 private:
  double Column(const std::vector<double>& scores, int64_t j) const {
    double peak = -kInfinity, sum = 0;
    for (int64_t i = 0; i < num_tags_; ++i) {
      peak = std::max(peak, scores[i] + matrix_[i * num_tags_ + j]);
    }
    if (peak == -kInfinity) return peak;
    for (int64_t i = 0; i < num_tags_; ++i) {
      sum += std::exp(scores[i] + matrix_[i * num_tags_ + j] - peak);
    }
    return std::log(sum) + peak;
  }

  int64_t num_tags_;
  bool transpose_;
  const void* taken_ = nullptr;
  std::vector<double> matrix_, weights_;
  double peak_ = 0;
};

template <typename T>
struct Sequence {
  const Plan<T>& plan;
  int64_t index, steps, num_tags;
  const T* emissions;

  Sequence(const Plan<T>& p, int64_t b)
      : plan(p),
        index(b),
        steps(p.counts[b]),
        num_tags(p.chains.num_tags),
        emissions(p.chains.emissions + b * p.chains.steps * p.chains.num_tags) {}

  double Emission(int64_t s, int64_t j) const {
    double score = emissions[StepAt(plan, index, s) * num_tags + j];
    if (s == 0) score += plan.chains.start_transitions[j];
    if (s == steps - 1) score += plan.chains.end_transitions[j];
    return score;
  }
};

double LogSum(const double* scores, int64_t count) {
  const double peak = *std::max_element(scores, scores + count);
  if (peak == -kInfinity) return peak;
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += std::exp(scores[k] - peak);
  return std::log(sum) + peak;
}

// Fills alpha (steps, num_tags), each row less its log-sum, and returns the total of the log-sums.
// Without `keep`, alpha is a single row that is overwritten.
template <typename T>
double Forward(const Sequence<T>& sequence, bool keep, std::vector<double>& alpha) {
  const int64_t num_tags = sequence.num_tags;
  LogProduct product(num_tags, false);
  std::vector<double> scores(num_tags);
  alpha.resize((keep ? sequence.steps : 1) * num_tags);
  double total = 0;
  for (int64_t s = 0; s < sequence.steps; ++s) {
    double* row = alpha.data() + (keep ? s * num_tags : 0);
    if (s == 0) {
      std::fill(row, row + num_tags, 0.0);
    } else {
      const double* before = keep ? row - num_tags : row;
      scores.assign(before, before + num_tags);
      product.Take(TransitionsInto(sequence.plan, sequence.index, s));
      product(scores, row);
    }
    for (int64_t j = 0; j < num_tags; ++j) row[j] += sequence.Emission(s, j);
    const double sum = LogSum(row, num_tags);
    total += sum;
    if (sum == -kInfinity) return sum;
    for (int64_t j = 0; j < num_tags; ++j) row[j] -= sum;
  }
  return total;
}

// What may follow each tag: scores[s, j] = x_s[j] + the log-sum of all suffixes from there on, and
// sums[s, i] the log-sum over j of A[i, j] + scores[s, j]; of the first step its own log-sum, once.
struct Suffixes {
  template <typename T>
  explicit Suffixes(const Sequence<T>& sequence)
      : scores(sequence.steps * sequence.num_tags), sums(scores.size()) {
    const int64_t num_tags = sequence.num_tags;
    LogProduct product(num_tags, true);
    std::vector<double> after(num_tags, 0.0), row(num_tags);
    for (int64_t s = sequence.steps - 1; s >= 0; --s) {
      for (int64_t j = 0; j < num_tags; ++j) row[j] = sequence.Emission(s, j) + after[j];
      std::copy(row.begin(), row.end(), scores.begin() + s * num_tags);
      double* const sum = sums.data() + s * num_tags;
      if (s == 0) {
        sum[0] = LogSum(row.data(), num_tags);
        return;
      }
      product.Take(TransitionsInto(sequence.plan, sequence.index, s));
      product(row, sum);
      const double level = *std::max_element(sum, sum + num_tags);
      if (level == -kInfinity) continue;
      for (int64_t i = 0; i < num_tags; ++i) after[i] = sum[i] - level;
    }
  }

  std::vector<double> scores, sums;
};

}  // namespace

template <typename T>
void ExactSteps(const Plan<T>& plan, int64_t b, const int32_t* tags, double* log_p) {
  const Sequence<T> sequence(plan, b);
  const Suffixes suffixes(sequence);
  const int64_t num_tags = sequence.num_tags;
  int64_t before = 0;
  for (int64_t s = 0; s < sequence.steps; ++s) {
    const int64_t tag = tags[StepAt(plan, b, s)];
    const double transition = s == 0 ? 0.0 : TransitionsInto(plan, b, s)[before * num_tags + tag];
    const double of_all = suffixes.sums[s * num_tags + before];
    log_p[s] = of_all == -kInfinity
                   ? of_all
                   : std::min(transition + suffixes.scores[s * num_tags + tag] - of_all, 0.0);
    before = tag;
  }
}

template <typename T>
void ExactStepsGradient(const Plan<T>& plan, int64_t b, const int32_t* tags, const double* weights,
                        T* gradient, T* pairs, int64_t from, int64_t to) {
  const Sequence<T> sequence(plan, b);
  const Suffixes suffixes(sequence);
  const int64_t num_tags = sequence.num_tags;
  std::vector<double> reached(num_tags), of_step(num_tags);  // d log p by the sums after each tag
  int64_t before = 0;
  for (int64_t s = 0; s < sequence.steps; ++s) {
    const int64_t t = StepAt(plan, b, s), tag = tags[t];
    const double* const scores = suffixes.scores.data() + s * num_tags;
    const double* const sums = suffixes.sums.data() + s * num_tags;
    std::fill(of_step.begin(), of_step.end(), 0.0);
    if (s == 0) {
      for (int64_t j = 0; j < num_tags; ++j) {
        of_step[j] = -weights[0] * std::exp(scores[j] - sums[0]);
      }
    } else {
      const T* const transitions = TransitionsInto(plan, b, s);
      T* const counts = PairsInto(plan, b, s, pairs);
      for (int64_t i = 0; i < num_tags; ++i) {
        if (reached[i] == 0 || sums[i] == -kInfinity) continue;
        for (int64_t j = 0; j < num_tags; ++j) {
          const double pair =
              reached[i] * std::exp(transitions[i * num_tags + j] + scores[j] - sums[i]);
          counts[i * from + j * to] += static_cast<T>(pair);
          of_step[j] += pair;
        }
      }
      counts[before * from + tag * to] += static_cast<T>(weights[s]);
    }
    for (int64_t j = 0; j < num_tags; ++j) {
      gradient[t * num_tags + j] += static_cast<T>(of_step[j] + (j == tag ? weights[s] : 0));
    }
    if (s + 1 < sequence.steps) of_step[tag] += weights[s] - weights[s + 1];
    std::swap(reached, of_step);
    before = tag;
  }
}

// By the surprises of the tags, each given the one before: -log p(y) = sum of -log p(y_t |
// y_{t-1}). What a surprise adds, together with the change of what is expected to follow, has the
// mean 0 given y_{t-1}. So `derivative` needs what came before alone, and nothing large cancels.
template <typename T>
double ExactEntropy(const Plan<T>& plan, int64_t b, double factor, T* gradient, T* pairs,
                    int64_t stride) {
  const Sequence<T> sequence(plan, b);
  const Suffixes suffixes(sequence);
  const int64_t num_tags = sequence.num_tags, steps = sequence.steps;
  for (int64_t s = 0; s < steps; ++s) {  // where none is possible, no tag of some step is
    const double* const sums = suffixes.sums.data() + s * num_tags;
    if (*std::max_element(sums, sums + (s > 0 ? num_tags : 1)) == -kInfinity) return 0;
  }
  const auto log_p = [&](const T* transitions, int64_t s, int64_t i, int64_t j) {
    const double log = (s > 0 ? double{transitions[i * num_tags + j]} : 0.0) +
                       suffixes.scores[s * num_tags + j] - suffixes.sums[s * num_tags + i];
    return std::min(log, 0.0);  // above 0 by rounding only, and the entropy would be below
  };
  std::vector<double> following(steps * num_tags);  // the entropy of what may follow each tag
  double entropy = 0;
  for (int64_t s = steps - 1; s >= 0; --s) {
    const T* const transitions = s > 0 ? TransitionsInto(plan, b, s) : nullptr;
    for (int64_t i = 0; i < (s > 0 ? num_tags : 1); ++i) {
      double sum = 0;
      for (int64_t j = 0; j < num_tags && suffixes.sums[s * num_tags + i] > -kInfinity; ++j) {
        const double log = log_p(transitions, s, i, j), p = std::exp(log);
        if (p > 0) sum += p * (following[s * num_tags + j] - log);
      }
      (s > 0 ? following[(s - 1) * num_tags + i] : entropy) = sum;
    }
  }
  if (!gradient) return entropy;
  std::vector<double> reached(num_tags), before(num_tags);
  std::vector<double> derivative(num_tags), derivative_before(num_tags);
  before[0] = factor;
  for (int64_t s = 0; s < steps; ++s) {
    const T* const transitions = s > 0 ? TransitionsInto(plan, b, s) : nullptr;
    T* const counts = s > 0 ? PairsInto(plan, b, s, pairs) : nullptr;
    std::fill(reached.begin(), reached.end(), 0.0);
    std::fill(derivative.begin(), derivative.end(), 0.0);
    for (int64_t i = 0; i < (s > 0 ? num_tags : 1); ++i) {
      if (before[i] == 0) continue;
      const double expected = s > 0 ? following[(s - 1) * num_tags + i] : entropy;
      for (int64_t j = 0; j < num_tags; ++j) {
        const double log = log_p(transitions, s, i, j), p = std::exp(log);
        if (!(p > 0)) continue;
        const double surprise = following[s * num_tags + j] - log - expected;
        const double pair = p * (derivative_before[i] + before[i] * surprise);
        if (counts) counts[i * stride + j] += static_cast<T>(pair);
        derivative[j] += pair;
        reached[j] += p * before[i];
      }
    }
    T* const row = gradient + StepAt(plan, b, s) * num_tags;
    for (int64_t j = 0; j < num_tags; ++j) row[j] += static_cast<T>(derivative[j]);
    std::swap(reached, before);
    std::swap(derivative, derivative_before);
  }
  return entropy;
}

template <typename T>
double ExactLogPartition(const Plan<T>& plan, int64_t sequence) {
  std::vector<double> alpha;
  return Forward(Sequence<T>(plan, sequence), false, alpha);
}

template <typename T>
void ExactGradient(const Plan<T>& plan, int64_t b, double factor, T* gradient, T* pairs,
                   int64_t stride) {
  const Sequence<T> sequence(plan, b);
  const int64_t num_tags = sequence.num_tags;
  std::vector<double> alpha;
  if (Forward(sequence, true, alpha) == -kInfinity) return;
  LogProduct product(num_tags, true);
  const T* transitions = nullptr;
  double transition_peak = 0;
  std::vector<double> weights(num_tags * num_tags), suffix(num_tags), beta(num_tags, 0.0);
  std::vector<double> joint(num_tags), right(num_tags), pair(num_tags * num_tags);
  const auto take = [&](const T* into) {
    if (transitions == into) return;
    transitions = into;
    transition_peak = *std::max_element(transitions, transitions + num_tags * num_tags);
    for (int64_t k = 0; k < num_tags * num_tags; ++k) {
      weights[k] = std::exp(transitions[k] - transition_peak);
    }
    product.Take(transitions);
  };
  for (int64_t s = sequence.steps - 1; s >= 0; --s) {
    const double* row = alpha.data() + s * num_tags;
    for (int64_t j = 0; j < num_tags; ++j) joint[j] = row[j] + beta[j];
    const double log_sum = LogSum(joint.data(), num_tags);
    T* marginals = gradient + StepAt(plan, b, s) * num_tags;
    for (int64_t j = 0; j < num_tags; ++j) {
      marginals[j] += static_cast<T>(factor * std::exp(joint[j] - log_sum));
    }
    if (s == 0) break;
    take(TransitionsInto(plan, b, s));
    T* const sums = PairsInto(plan, b, s, pairs);
    const double* before = row - num_tags;
    for (int64_t j = 0; j < num_tags; ++j) suffix[j] = sequence.Emission(s, j) + beta[j];
    product(suffix, beta.data());
    for (int64_t i = 0; i < num_tags; ++i) joint[i] = before[i] + beta[i];
    const double pair_sum = LogSum(joint.data(), num_tags);
    const double left_peak = *std::max_element(before, before + num_tags);
    const double right_peak = *std::max_element(suffix.begin(), suffix.end());
    const bool apart = !(left_peak + transition_peak + right_peak - pair_sum < kSafeGap);
    double total = 0;
    for (int64_t j = 0; j < num_tags; ++j) right[j] = std::exp(suffix[j] - right_peak);
    for (int64_t i = 0; i < num_tags; ++i) {
      const double left = std::exp(before[i] - left_peak);
      for (int64_t j = 0; j < num_tags; ++j) {
        const int64_t k = i * num_tags + j;
        pair[k] = apart ? std::exp(before[i] + transitions[k] + suffix[j] - pair_sum)
                        : left * weights[k] * right[j];
        total += pair[k];
      }
    }
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        sums[i * stride + j] += static_cast<T>(factor / total * pair[i * num_tags + j]);
      }
    }
    const double level = *std::max_element(beta.begin(), beta.end());
    for (double& score : beta) score -= level;
  }
}

template <typename T>
void ExactSample(const Plan<T>& plan, int64_t b, int64_t num_samples, const T* uniforms,
                 int32_t* tags) {
  const Sequence<T> sequence(plan, b);
  const int64_t num_tags = sequence.num_tags;
  const int64_t begin = b * plan.chains.steps, area = plan.chains.batch * plan.chains.steps;
  std::vector<double> alpha, sums(num_tags);
  if (Forward(sequence, true, alpha) == -kInfinity) return;
  for (int64_t k = 0; k < num_samples; ++k) {
    int64_t following = 0;
    for (int64_t s = sequence.steps - 1; s >= 0; --s) {
      const T* into = s < sequence.steps - 1 ? TransitionsInto(plan, b, s + 1) : nullptr;
      for (int64_t i = 0; i < num_tags; ++i) {
        sums[i] = alpha[s * num_tags + i];
        if (s < sequence.steps - 1) sums[i] += into[i * num_tags + following];
      }
      const double peak = LargestFinite(sums);
      double total = 0;
      for (double& sum : sums) sum = total += std::exp(sum - peak);
      const int64_t t = k * area + begin + StepAt(plan, b, s);
      following =
          std::upper_bound(sums.begin(), sums.end() - 1, uniforms[t] * total) - sums.begin();
      tags[t] = static_cast<int32_t>(following);
    }
  }
}

#define FASTKERAS_INSTANTIATE(T)                                                                  \
  template void ExactSample<T>(const Plan<T>&, int64_t, int64_t, const T*, int32_t*);             \
  template double ExactLogPartition<T>(const Plan<T>&, int64_t);                                  \
  template double ExactEntropy<T>(const Plan<T>&, int64_t, double, T*, T*, int64_t);              \
  template void ExactSteps<T>(const Plan<T>&, int64_t, const int32_t*, double*);                  \
  template void ExactStepsGradient<T>(const Plan<T>&, int64_t, const int32_t*, const double*, T*, \
                                      T*, int64_t, int64_t);                                      \
  template void ExactGradient<T>(const Plan<T>&, int64_t, double, T*, T*, int64_t);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
