// Semi-Markov sweeps over one sequence, in log space and double.

#ifndef FASTKERAS_CRF_SEMI_MARKOV_SEGMENTS_H_
#define FASTKERAS_CRF_SEMI_MARKOV_SEGMENTS_H_

#include "crf/kernels.h"
#include "crf/semi_markov/segment_scores.h"
#include "crf/sweeps/products.h"
#include "crf/sweeps/viterbi.h"
#include "machine/math.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr double kNoScore = -std::numeric_limits<double>::infinity();

// log of the sum of exp(scores[i] + into[i]), term by term; for where a product underflows.
inline double LogSumOf(const double* scores, const double* into, int64_t count) {
  double peak = kNoScore, sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    peak = scores[i] + into[i] > peak ? scores[i] + into[i] : peak;
  }
  if (peak == kNoScore) return peak;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(scores[i] + into[i] - peak);
  return std::log(sum) + peak;
}

// The scores of all segments that end before step t, for one vector of tags: visit(l, score), from
// the shortest on. A segment's own score is summed from its last step to its first.
template <typename Visit>
FASTKERAS_INLINE void EndingSegments(const crf::SegmentScores& chain, const double* begun,
                                     int64_t t, int64_t offset, const Visit& visit) {
  Vec<double> sum = {};
  for (int64_t l = 1; l <= chain.max_length && l <= t; ++l) {
    sum += Load(chain.emissions + (t - l) * chain.stride + offset);
    visit(l, Load(begun + (t - l) * chain.stride + offset) + sum +
                 Load(chain.durations + (l - 1) * chain.stride + offset));
  }
}

// begun[j] = log sum_i exp(ended[i] + transitions[i, j]). Padding behind the last tag is -inf.
FASTKERAS_INLINE void LogTransition(const crf::SegmentScores& chain, const double* ended,
                                    double* begun) {
  constexpr int kWidth = Simd<double>::kWidth;
  constexpr double kSafe = 1e-280;  // a sum above this lost nothing to underflow
  double *const scaled = chain.room, *const sums = chain.room + chain.stride;
  const double* const rows[] = {scaled};
  Vec<double> peaks = Load(ended);
  for (int64_t j = kWidth; j < chain.stride; j += kWidth) peaks = Max(Load(ended + j), peaks);
  double peak = Largest(peaks);
  peak = peak == kNoScore ? 0 : peak;
  for (int64_t j = 0; j < chain.stride; j += kWidth) {
    Store(scaled + j, Exp<double>(Load(ended + j) - peak));
  }
  bool unsafe = false;
  RowsProduct<SumProduct, 1>(
      rows, chain.weights, [&](int, int v, Vec<double> sum) FASTKERAS_LAMBDA_INLINE {
        const Vec<double> bound = Broadcast(kSafe), safe = sum < bound ? bound : sum;
        unsafe |= AnyLess(sum, bound);
        Store(begun + v * kWidth, LogOfPositive(safe) + (peak + chain.peak));
        Store(sums + v * kWidth, sum);
      });
  if (!unsafe) return;
  for (int64_t j = 0; j < chain.stride; ++j) {
    if (sums[j] >= kSafe) continue;
    begun[j] = j < chain.num_tags ? LogSumOf(ended, chain.into + j * chain.num_tags, chain.num_tags)
                                  : kNoScore;
  }
}

// Writes ended (steps + 1, stride) and begun (steps, stride): the log-sums of all that comes before
// a step if a segment has ended, or begins, there. Returns log Z.
inline double SegmentSweep(const crf::SegmentScores& chain, double* ended, double* begun) {
  constexpr int kWidth = Simd<double>::kWidth;
  const int64_t stride = chain.stride;
  const Buffer<double> scores(chain.max_length * kWidth);
  for (int64_t j = 0; j < stride; ++j) ended[j] = kNoScore, begun[j] = chain.start[j];
  for (int64_t t = 1; t <= chain.steps; ++t) {
    double* row = ended + t * stride;
    for (int64_t j = 0; j < stride; j += kWidth) {
      Vec<double> peak = Broadcast(kNoScore), sum = {};
      int64_t count = 0;
      EndingSegments(chain, begun, t, j, [&](int64_t, Vec<double> score) FASTKERAS_LAMBDA_INLINE {
        Store(scores.data + count++ * kWidth, score);
        peak = Max(score, peak);
      });
      const auto is_possible = peak > kNoScore;
      peak = is_possible ? peak : Vec<double>{};
      for (int64_t l = 0; l < count; ++l) {
        sum += Exp<double>(Load(scores.data + l * kWidth) - peak);
      }
      sum = is_possible ? sum : Broadcast(1.0);
      Store(row + j, is_possible ? LogOfPositive(sum) + peak : Broadcast(kNoScore));
    }
    if (t < chain.steps) LogTransition(chain, row, begun + t * stride);
  }
  return LogSumOf(ended + chain.steps * stride, chain.end, chain.num_tags);
}

template <typename T>
FASTKERAS_INLINE void StoreRounded(T* to, Vec<double> value, int64_t count) {
  constexpr int kWidth = Simd<double>::kWidth;
  typedef T Rounded __attribute__((vector_size(sizeof(T) * kWidth)));
  const Rounded rounded = __builtin_convertvector(value, Rounded);
  if (count >= kWidth) {
    std::memcpy(to, &rounded, sizeof(rounded));
  } else {
    std::memcpy(to, &rounded, count * sizeof(T));
  }
}

// Adds to pairs (num_tags, stride) the probabilities of the transitions between the steps t - 1 and
// t, divided by their weights; or, where such products overflow, the probabilities to `counts`.
inline void AddPairs(const crf::SegmentScores& chain, const double* ended, const double* remaining,
                     double log_z, double* pairs, double* counts) {
  constexpr int kWidth = Simd<double>::kWidth;
  constexpr double kSafeGap = 600;
  const int64_t num_tags = chain.num_tags, stride = chain.stride;
  double left = kNoScore, right = kNoScore;
  for (int64_t j = 0; j < num_tags; ++j) {
    left = ended[j] > left ? ended[j] : left;
    right = remaining[j] > right ? remaining[j] : right;
  }
  if (left == kNoScore || right == kNoScore) return;
  const double gap = left + chain.peak + right - log_z;
  if (!(gap < kSafeGap)) {
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        const double score = ended[i] + chain.into[j * num_tags + i] + remaining[j] - log_z;
        counts[i * stride + j] += std::exp(score < 0 ? score : 0);
      }
    }
    return;
  }
  double *const before = chain.room, *const after = chain.room + stride;
  const double factor = std::exp(gap);
  for (int64_t j = 0; j < stride; j += kWidth) {
    Store(before + j, Exp<double>(Load(ended + j) - left) * factor);
    Store(after + j, Exp<double>(Load(remaining + j) - right));
  }
  for (int64_t i = 0; i < num_tags; ++i) {
    double* row = pairs + i * stride;
    for (int64_t j = 0; j < stride; j += kWidth) {
      Store(row + j, Load(row + j) + Load(after + j) * before[i]);
    }
  }
}

// Both sweeps are given, the second over the mirrored sequence (SegmentSweep). Writes the rows of
// the valid steps of unary and segments, and counts.
template <typename T>
void SegmentMarginals(const crf::SegmentScores& chain, const crf::SegmentSweeps& sweeps, T* unary,
                      T* segments, T* counts) {
  constexpr int kWidth = Simd<double>::kWidth;
  const int64_t steps = chain.steps, stride = chain.stride, num_tags = chain.num_tags;
  const Buffer<double> probabilities(chain.max_length * kWidth), sums(steps * stride);
  const Buffer<double> pairs(2 * num_tags * stride);
  double* const exact_counts = pairs.data + num_tags * stride;
  for (int64_t k = 0; k < steps * stride; ++k) sums.data[k] = 0;
  for (int64_t k = 0; k < 2 * num_tags * stride; ++k) pairs.data[k] = 0;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t longest = chain.max_length < steps - t ? chain.max_length : steps - t;
    T* row = segments + t * chain.max_length * num_tags;
    for (int64_t j = 0; j < stride; j += kWidth) {
      const Vec<double> before = Load(sweeps.begun + t * stride + j) - sweeps.log_z;
      Vec<double> score = {};
      for (int64_t l = 1; l <= longest; ++l) {
        score += Load(chain.emissions + (t + l - 1) * stride + j);
        const Vec<double> log = before + score + Load(chain.durations + (l - 1) * stride + j) +
                                Load(sweeps.mirrored_begun + (steps - t - l) * stride + j);
        const Vec<double> zero = {};
        const Vec<double> p = Exp<double>(log < zero ? log : zero);
        Store(probabilities.data + (l - 1) * kWidth, p);
        StoreRounded(row + (l - 1) * num_tags + j, p, num_tags - j);
      }
      Vec<double> at_least = {};  // the probability of segments this long or longer
      for (int64_t l = longest; l > 0; --l) {
        at_least += Load(probabilities.data + (l - 1) * kWidth);
        double* sum = sums.data + (t + l - 1) * stride + j;
        Store(sum, Load(sum) + at_least);
      }
    }
    for (int64_t k = longest * num_tags; k < chain.max_length * num_tags; ++k) row[k] = 0;
    if (t == 0) continue;
    AddPairs(chain, sweeps.ended + t * stride, sweeps.mirrored_ended + (steps - t) * stride,
             sweeps.log_z, pairs.data, exact_counts);
  }
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t j = 0; j < stride; j += kWidth) {
      StoreRounded(unary + t * num_tags + j, Load(sums.data + t * stride + j), num_tags - j);
    }
  }
  for (int64_t i = 0; i < num_tags; ++i) {
    for (int64_t j = 0; j < num_tags; ++j) {
      const double weight = std::exp(chain.into[j * num_tags + i] - chain.peak);
      const int64_t k = i * stride + j;
      counts[i * num_tags + j] = static_cast<T>(pairs.data[k] * weight + exact_counts[k]);
    }
  }
}

// Writes the rows of `tags` and `begins`, and returns the score.
inline double SegmentViterbi(const crf::SegmentScores& chain, int32_t* tags, bool* begins) {
  constexpr int kWidth = Simd<double>::kWidth;
  const Row<double> shape(chain.num_tags);
  const int64_t stride = chain.stride, steps = chain.steps;
  const Buffer<double> rows((2 * steps + 1) * stride);
  double *const best = rows.data, *const begun = rows.data + (steps + 1) * stride;
  for (int64_t j = 0; j < stride; ++j) best[j] = kNoScore, begun[j] = chain.start[j];
  for (int64_t t = 1; t <= steps; ++t) {
    double* row = best + t * stride;
    for (int64_t j = 0; j < stride; j += kWidth) {
      Vec<double> largest = Broadcast(kNoScore);
      EndingSegments(chain, begun, t, j, [&](int64_t, Vec<double> score) FASTKERAS_LAMBDA_INLINE {
        largest = Max(score, largest);
      });
      Store(row + j, largest);
    }
    if (t == steps) break;
    const double* const rows_from[] = {row};
    RowsProduct<MaxPlus, 1>(rows_from, chain.transitions,
                            [&](int, int v, Vec<double> reached) FASTKERAS_LAMBDA_INLINE {
                              Store(begun + t * stride + v * kWidth, reached);
                            });
  }
  const double* last = best + steps * stride;
  int32_t tag = FirstBest(shape, last, chain.end);
  const double score = last[tag] + chain.end[tag];
  if (!(score > kNoScore)) return score;
  for (int64_t t = steps; t > 0;) {
    int64_t length = 1;  // the longest of equal ones; repeats the sums of the forward pass
    const int64_t lane = tag % kWidth;
    EndingSegments(chain, begun, t, tag - lane,
                   [&](int64_t l, Vec<double> reached) FASTKERAS_LAMBDA_INLINE {
                     if (reached[lane] == best[t * stride + tag]) length = l;
                   });
    for (int64_t s = t - length; s < t; ++s) tags[s] = tag;
    t -= length;
    begins[t] = true;
    if (t > 0) tag = FirstBest(shape, best + t * stride, chain.into + tag * chain.num_tags);
  }
  return score;
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SEMI_MARKOV_SEGMENTS_H_
