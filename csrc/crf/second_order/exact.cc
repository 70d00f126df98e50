#include "crf/second_order/exact.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace fastkeras::crf {
namespace {

double LogSum(const double* scores, int64_t count, int64_t stride = 1) {
  double peak = -INFINITY, sum = 0;
  for (int64_t k = 0; k < count; ++k) peak = std::max(peak, scores[k * stride]);
  if (peak == -INFINITY) return peak;
  for (int64_t k = 0; k < count; ++k) sum += std::exp(scores[k * stride] - peak);
  return std::log(sum) + peak;
}

// A sequence of at least two valid steps.
template <typename T>
struct Sequence {
  const Plan<T>& plan;
  const T* triples;
  int64_t index, steps, num_tags, area;

  Sequence(const Plan<T>& p, const T* scores, int64_t b)
      : plan(p),
        triples(scores),
        index(b),
        steps(p.counts[b]),
        num_tags(p.chains.num_tags),
        area(num_tags * num_tags) {}

  double Emission(int64_t s, int64_t j) const {
    const Chains<T>& chains = plan.chains;
    double score = chains.emissions[(index * chains.steps + StepAt(plan, index, s)) * num_tags + j];
    if (s == 0) score += chains.start_transitions[j];
    if (s == steps - 1) score += chains.end_transitions[j];
    return score;
  }
  double Pair(int64_t j, int64_t k) const { return plan.chains.transitions[j * num_tags + k]; }
  double Triple(int64_t i, int64_t j, int64_t k) const {
    return Pair(j, k) + triples[i * area + j * num_tags + k];
  }

  // Log-sums of the prefixes, (steps - 1, num_tags, num_tags), each step less its own log-sum, of
  // which the total is returned.
  double Forward(std::vector<double>& alpha) const {
    alpha.resize((steps - 1) * area);
    std::vector<double> ways(num_tags);
    double total = 0;
    for (int64_t s = 1; s < steps; ++s) {
      double* const row = alpha.data() + (s - 1) * area;
      for (int64_t j = 0; j < num_tags; ++j) {
        for (int64_t k = 0; k < num_tags; ++k) {
          double score = Emission(0, j) + Pair(j, k);
          if (s > 1) {
            for (int64_t i = 0; i < num_tags; ++i) {
              ways[i] = (row - area)[i * num_tags + j] + Triple(i, j, k);
            }
            score = LogSum(ways.data(), num_tags);
          }
          row[j * num_tags + k] = score + Emission(s, k);
        }
      }
      const double sum = LogSum(row, area);
      if (sum == -INFINITY) return sum;
      total += sum;
      for (int64_t k = 0; k < area; ++k) row[k] -= sum;
    }
    return total;
  }
};

}  // namespace

template <typename T>
double ExactSecondOrder(const Plan<T>& plan, const T* triples, int64_t b) {
  std::vector<double> alpha;
  return Sequence<T>(plan, triples, b).Forward(alpha);
}

template <typename T>
void ExactSecondOrderGradient(const Plan<T>& plan, const T* triples, int64_t b, double factor,
                              T* gradient, double* d_pairs, double* d_triples) {
  const Sequence<T> sequence(plan, triples, b);
  const int64_t num_tags = sequence.num_tags, area = sequence.area;
  std::vector<double> alpha, beta(area, 0.0), before(area), joint(area);
  if (sequence.Forward(alpha) == -INFINITY) return;
  std::vector<double> ways(area * num_tags);
  for (int64_t s = sequence.steps - 1; s > 0; --s) {
    const double* const row = alpha.data() + (s - 1) * area;
    for (int64_t k = 0; k < area; ++k) joint[k] = row[k] + beta[k];
    const double log_sum = LogSum(joint.data(), area);
    for (int64_t j = 0; j < num_tags; ++j) {
      for (int64_t k = 0; k < num_tags; ++k) {
        const double p = factor * std::exp(joint[j * num_tags + k] - log_sum);
        gradient[StepAt(plan, b, s) * num_tags + k] += static_cast<T>(p);
        if (s == 1) gradient[StepAt(plan, b, 0) * num_tags + j] += static_cast<T>(p);
        if (s == 1 || !d_triples) d_pairs[j * num_tags + k] += p;
      }
    }
    if (s == 1) break;
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        double* const of_pair = ways.data() + (i * num_tags + j) * num_tags;
        for (int64_t k = 0; k < num_tags; ++k) {
          of_pair[k] = sequence.Triple(i, j, k) + sequence.Emission(s, k) + beta[j * num_tags + k];
        }
        before[i * num_tags + j] = LogSum(of_pair, num_tags);
        joint[i * num_tags + j] = (row - area)[i * num_tags + j] + before[i * num_tags + j];
      }
    }
    const double pairs_sum = LogSum(joint.data(), area);
    for (int64_t k = 0; d_triples && k < area * num_tags; ++k) {
      d_triples[k] += factor * std::exp((row - area)[k / num_tags] + ways[k] - pairs_sum);
    }
    const double level = *std::max_element(before.begin(), before.end());
    for (int64_t k = 0; k < area; ++k) beta[k] = before[k] - level;
  }
}

#define FASTKERAS_INSTANTIATE(T)                                                           \
  template double ExactSecondOrder<T>(const Plan<T>&, const T*, int64_t);                  \
  template void ExactSecondOrderGradient<T>(const Plan<T>&, const T*, int64_t, double, T*, \
                                            double*, double*);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
