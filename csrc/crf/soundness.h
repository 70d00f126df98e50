// Scores that are NaN or +inf. A sequence that uses one has no log Z, and its paths have no order:
// its log Z, likelihood, marginals and gradients are NaN, and its best score is the result of a
// recursion that keeps every NaN.

#ifndef FASTKERAS_CRF_SOUNDNESS_H_
#define FASTKERAS_CRF_SOUNDNESS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fastkeras::crf {

// The best score of a chain, linear if max_length is 1, that is not sound: +inf or NaN. emission(t,
// j) and duration(l, j) are scores of a step and of a segment of l + 1 steps; transitions(t) are
// the (num_tags, num_tags) into a segment that begins at step t >= 1.
template <typename T, typename Emission, typename Duration, typename Transitions>
double BestUnsoundScore(int64_t steps, int64_t num_tags, int64_t max_length,
                        const Emission& emission, const Duration& duration,
                        const Transitions& transitions, const T* start, const T* end) {
  bool has_nan = false;  // then all the additions would end in NaN
  for (int64_t j = 0; j < num_tags; ++j) {
    has_nan |= std::isnan(start[j]) || std::isnan(end[j]);
    for (int64_t t = 0; t < steps; ++t) has_nan |= std::isnan(emission(t, j));
    for (int64_t l = 0; l < std::min(max_length, steps); ++l) has_nan |= std::isnan(duration(l, j));
  }
  for (int64_t t = 1; t < steps; ++t) {
    const T* scores = transitions(t);
    for (int64_t k = 0; k < num_tags * num_tags; ++k) has_nan |= std::isnan(scores[k]);
  }
  if (has_nan) return NAN;
  const auto raise = [](double& best, double score) {
    if (score > best || std::isnan(score)) best = score;
  };
  std::vector<double> ended((steps + 1) * num_tags, -INFINITY), begun(start, start + num_tags);
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t j = 0; t > 0 && j < num_tags; ++j) {
      begun[j] = -INFINITY;
      for (int64_t i = 0; i < num_tags; ++i) {
        raise(begun[j], ended[t * num_tags + i] + transitions(t)[i * num_tags + j]);
      }
    }
    for (int64_t j = 0; j < num_tags; ++j) {
      double sum = begun[j];
      for (int64_t l = 0; l < std::min(max_length, steps - t); ++l) {
        sum += emission(t + l, j);
        raise(ended[(t + l + 1) * num_tags + j], sum + duration(l, j));
      }
    }
  }
  double best = -INFINITY;
  for (int64_t j = 0; j < num_tags; ++j) raise(best, ended[steps * num_tags + j] + end[j]);
  return best;
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SOUNDNESS_H_
