// The sweeps of chains whose transitions vary, one sequence at a time: there is a matrix for each
// step, which no other sequence shares. The way forward reads each once, the way back once more,
// when it also writes the matrix's gradient; no exponential is stored. docs/crf.md has the bounds.

#ifndef FASTKERAS_CRF_SWEEPS_VARYING_H_
#define FASTKERAS_CRF_SWEEPS_VARYING_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/k_best.h"
#include "crf/sweeps/viterbi.h"
#include "machine/math.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// How the matrix of a step lies in memory, and in how many rows at a time it is exponentiated: as
// many as stay in the first cache, a multiple of a vector's lanes. Rows follow one another without
// padding, so that a vector that begins in one row may end in the next.
template <typename T>
struct Matrix {
  static constexpr int kWidth = Simd<T>::kWidth;
  const Row<T> row, flat;
  const int64_t num_tags, stride, rows_at_once;

  explicit Matrix(int64_t n)
      : row(n),
        flat(n * n),
        num_tags(n),
        stride(int64_t{row.vectors} * kWidth),
        rows_at_once(n <= 1024 / kWidth ? 1024 / n / kWidth * kWidth : kWidth) {}

  int64_t room() const { return rows_at_once * num_tags + 2 * kWidth; }  // for weights

  FASTKERAS_INLINE void Extremes(const T* scores, T* peak, T* lowest) const {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    Vec<T> highs[2] = {Broadcast(-kInfinity), Broadcast(-kInfinity)};
    Vec<T> lows[2] = {Broadcast(kInfinity), Broadcast(kInfinity)};
    int v = 0;
    for (; v + 2 < flat.vectors; v += 2) {
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        const Vec<T> x = Load(scores + (v + k) * kWidth);
        highs[k] = Max(x, highs[k]);
        lows[k] = x < lows[k] ? x : lows[k];
      }
    }
    for (; v < flat.vectors; ++v) {
      const Vec<T> x = flat.LoadVector(scores, v);
      highs[0] = Max(flat.Pad(v, x, -kInfinity), highs[0]);
      const Vec<T> y = flat.Pad(v, x, kInfinity);
      lows[0] = y < lows[0] ? y : lows[0];
    }
    *peak = Largest(Max(highs[0], highs[1]));
    *lowest = -Largest(-(lows[0] < lows[1] ? lows[0] : lows[1]));
    if (*peak == -kInfinity) *peak = 0;
  }

  // weights = exp(scores - peak) of the rows from..to-1, and something finite behind them.
  FASTKERAS_INLINE void Exponentiate(const T* scores, T peak, int64_t from, int64_t to,
                                     T* weights) const {
    const int64_t end = to * num_tags;
    for (int64_t k = from * num_tags; k < end; k += kWidth, weights += kWidth) {
      if (k + kWidth <= num_tags * num_tags) {
        Store(weights, ExpOfNonPositive<T>(Load(scores + k) - peak));
      } else {
        const int v = flat.vectors - 1;
        const Vec<T> x = flat.Pad(v, flat.LoadVector(scores, v) - peak, 0);
        Store(weights, ExpOfNonPositive<T>(x));
      }
    }
    Store(weights, Vec<T>{});
  }
};

// sums += the rows from..to-1 of the matrix, of which `weights` holds these, each times its factor:
// kVectors vectors from v on. Several sums of each are independent, since additions wait.
template <int kVectors, typename T>
FASTKERAS_INLINE void AddRows(const Matrix<T>& matrix, const T* factors, const T* weights, int v,
                              int64_t from, int64_t to, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth, kSums = 4 / kVectors;
  Vec<T> sum[kSums][kVectors] = {};
  const T* entry = weights + v * kWidth;
  int64_t i = from;
  for (; i + kSums <= to; i += kSums) {
#pragma GCC unroll 4
    for (int k = 0; k < kSums; ++k, entry += matrix.num_tags) {
      const Vec<T> factor = Broadcast(factors[i + k]);
#pragma GCC unroll 4
      for (int w = 0; w < kVectors; ++w) sum[k][w] += factor * Load(entry + w * kWidth);
    }
  }
  for (; i < to; ++i, entry += matrix.num_tags) {
    const Vec<T> factor = Broadcast(factors[i]);
#pragma GCC unroll 4
    for (int w = 0; w < kVectors; ++w) sum[0][w] += factor * Load(entry + w * kWidth);
  }
#pragma GCC unroll 4
  for (int w = 0; w < kVectors; ++w) {
    Vec<T> total = sum[0][w];
#pragma GCC unroll 4
    for (int k = 1; k < kSums; ++k) total += sum[k][w];
    T* const to_sum = sums + (v + w) * kWidth;
    Store(to_sum, Load(to_sum) + total);
  }
}

// sums = factors times the matrix exp(scores - peak); `weights` has room for some rows.
template <typename T>
FASTKERAS_INLINE void ProductWith(const Matrix<T>& matrix, const T* factors, const T* scores,
                                  T peak, T* weights, T* sums) {
  const int vectors = matrix.row.vectors;
  for (int v = 0; v < vectors; ++v) Store(sums + v * Simd<T>::kWidth, Vec<T>{});
  for (int64_t from = 0; from < matrix.num_tags; from += matrix.rows_at_once) {
    const int64_t most = from + matrix.rows_at_once;
    const int64_t to = most < matrix.num_tags ? most : matrix.num_tags;
    matrix.Exponentiate(scores, peak, from, to, weights);
    int v = 0;
    for (; v + 4 <= vectors; v += 4) AddRows<4>(matrix, factors, weights, v, from, to, sums);
    for (; v + 2 <= vectors; v += 2) AddRows<2>(matrix, factors, weights, v, from, to, sums);
    if (v < vectors) AddRows<1>(matrix, factors, weights, v, from, to, sums);
  }
}

// Looks at row s of a sequence, which has elements below `safe`. Zeros are right where the emission
// is forbidden, or every way from a tag that is reached; any other small element has lost digits.
template <typename T>
void InspectVarying(const crf::Plan<T>& plan, int64_t sequence, int64_t s, const T* before,
                    const T* row, T peak, T safe, T* gap, bool* inexact) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags;
  const T* x =
      chains.emissions + (sequence * chains.steps + crf::StepAt(plan, sequence, s)) * num_tags;
  const T* into = s > 0 ? crf::TransitionsInto(plan, sequence, s) : nullptr;
  const auto score = [&](int64_t j) {
    T sum = x[j];
    if (s == 0) sum += chains.start_transitions[j];
    if (s == plan.counts[sequence] - 1) sum += chains.end_transitions[j];
    return sum;
  };
  // Whether a score so far below the best counts as zero, which is then accounted for.
  const auto forbidden = [&](T below) {
    if (below <= crf::kForbidden<T>) return false;
    if (below < *gap) *gap = below;
    return true;
  };
  T best = -kInfinity;
  for (int64_t j = 0; j < num_tags; ++j) best = score(j) > best ? score(j) : best;
  for (int64_t j = 0; j < num_tags; ++j) {
    if (row[j] >= safe || score(j) == -kInfinity || forbidden(best - score(j))) continue;
    bool reached = s == 0;
    for (int64_t i = 0; s > 0 && i < num_tags; ++i) {
      const T way = into[i * num_tags + j];
      if (before[i] > 0 && way != -kInfinity && !forbidden(peak - way)) reached = true;
    }
    if (reached) *inexact = true;
  }
}

// Every row is scaled to a sum in [1, 2), and the scale is kept in its emissions. A row with
// elements below what is safe is inspected, unless the ranges of the transitions into it and out of
// it are so small that they do not matter.
//
// Rows that the next step reads are in whole vectors: a load waits for a store of part of one.
template <typename T>
void VaryingForward(const crf::Plan<T>& plan, int64_t b, double* value) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const Matrix<T> matrix(chains.num_tags);
  const Row<T>& shape = matrix.row;
  const int64_t num_tags = chains.num_tags, stride = matrix.stride, steps = plan.counts[b];
  constexpr int64_t kRing = 4;
  const Buffer<T> room(kRing * stride + (plan.workspace ? 0 : kChunk * num_tags) + matrix.room());
  T* const ring = room.data;
  T* const weights = ring + kRing * stride;
  T *alpha = nullptr, *emission_rows = weights + matrix.room(), *kept_peaks = nullptr;
  if (plan.workspace) {
    const crf::KeptRows<T> kept(plan, b);
    alpha = kept.alpha;
    emission_rows = kept.emission;
    kept_peaks = kept.scale;
  }
  const auto row_of = [&](int64_t s) { return ring + s % kRing * stride; };
  const auto emission_of = [&](int64_t s) {
    return emission_rows + (alpha ? s : s % kChunk) * num_tags;
  };
  const T* const emissions = chains.emissions + b * chains.steps * num_tags;
  T gap = plan.forbidden_gap, range_before = 0, peak_before = 0, safe_before = 0, total = 0;
  bool inexact = false, low_before = false;
  double peaks = 0;
  int64_t exponents = 0;
  const auto inspect = [&](int64_t s, T range) {
    if (!low_before || inexact || range_before + range <= plan.harmless_range) return;
    InspectVarying(plan, b, s, s > 0 ? row_of(s - 1) : nullptr, row_of(s), peak_before, safe_before,
                   &gap, &inexact);
  };
  for (int64_t s = 0; s < steps; ++s) {
    for (int64_t k = s; s % kChunk == 0 && k < steps && k < s + kChunk; ++k) {
      peaks += ExpOfRow(shape, emissions + crf::StepAt(plan, b, k) * num_tags,
                        k == 0 ? chains.start_transitions : nullptr,
                        k == steps - 1 ? chains.end_transitions : nullptr, emission_of(k));
    }
    T *const row = row_of(s), *const emission = emission_of(s);
    T peak = 0, lowest = 0;
    if (s == 0) {
      for (int v = 0; v < shape.vectors; ++v) Store(row + v * kWidth, Broadcast(T(1)));
    } else {
      const T* const scores = crf::TransitionsInto(plan, b, s);
      matrix.Extremes(scores, &peak, &lowest);
      inspect(s - 1, peak - lowest);
      ProductWith(matrix, row_of(s - 1), scores, peak, weights, row);
      peaks += peak;
    }
    Vec<T> totals = {};
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> product = Load(row + v * kWidth) * shape.LoadVector(emission, v);
      Store(row + v * kWidth, product);
      totals += shape.Pad(v, product, 0);
    }
    total = Sum(totals);
    T scale = 1;
    if (total > 0) {
      const int exponent = Exponent(total);
      scale = PowerOfTwo<T>(-exponent);
      exponents += exponent;
      total *= scale;
    }
    // What was lost before a row was scaled up grows with it.
    safe_before = scale > 1 ? plan.safe * scale : plan.safe;
    low_before = false;
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> scaled = Load(row + v * kWidth) * scale;
      low_before |= AnyLess(shape.Pad(v, scaled, safe_before), Broadcast(safe_before));
      Store(row + v * kWidth, scaled);
      if (!alpha) continue;
      shape.StoreVector(alpha + s * num_tags, v, scaled);
      shape.StoreVector(emission, v, shape.LoadVector(emission, v) * scale);
    }
    range_before = peak - lowest;
    peak_before = peak;
    if (alpha) kept_peaks[s] = peak;
  }
  inspect(steps - 1, 0);
  crf::Finish(plan, b, std::log(static_cast<double>(total)), exponents, peaks, gap, inexact, value);
}

// Lane i is the sum of rows[i], for as many rows as a vector has lanes, which are overwritten: of
// two neighbours, the sums of each other piece and the next, and so on with smaller pieces.
template <typename T, int kPiece = Simd<T>::kWidth / 2>
FASTKERAS_INLINE Vec<T> SumsOfRows(Vec<T>* rows) {
  constexpr int kWidth = Simd<T>::kWidth;
  if constexpr (kPiece == 0) {
    return rows[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kPiece; ++i) {
      const Vec<T> a = rows[2 * i], b = rows[2 * i + 1];
      rows[i] = Shuffled<EverySecond<kWidth, kPiece, 0>>(a, b) +
                Shuffled<EverySecond<kWidth, kPiece, 1>>(a, b);
    }
    return SumsOfRows<T, kPiece / 2>(rows);
  }
}

// One step back: gradients of the transitions, and beta = W r, the sums of their rows before these
// are weighted. Fetches the scores and the gradient that come `ahead` elements before: caches
// expect what comes after.
template <typename T>
FASTKERAS_INLINE void StepBack(const Matrix<T>& matrix, const T* scores, T peak, const T* before,
                               const T* r, T factor, int64_t ahead, T* weights, T* beta,
                               T* gradient) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = matrix.num_tags, area = num_tags * num_tags;
  const int vectors = matrix.row.vectors;
  for (int64_t from = 0; from < num_tags; from += matrix.rows_at_once) {
    const int64_t most = from + matrix.rows_at_once, to = most < num_tags ? most : num_tags;
    matrix.Exponentiate(scores, peak, from, to, weights);
    const T* entry = weights;
    for (int64_t k = from * num_tags; ahead > 0 && k < to * num_tags; k += kWidth) {
      __builtin_prefetch(scores + k - ahead);
      __builtin_prefetch(gradient + k - ahead, 1);
    }
    for (int64_t first = from; first < to; first += kWidth) {
      Vec<T> sums[kWidth];
      for (int64_t i = to - first; i < kWidth; ++i) sums[i] = Vec<T>{};
      for (int64_t i = first; i < first + kWidth && i < to; ++i, entry += num_tags) {
        const Vec<T> left = Broadcast(before[i] * factor);
        Vec<T> sum = {};
        for (int v = 0; v < vectors; ++v) {
          const Vec<T> pair = Load(entry + v * kWidth) * Load(r + v * kWidth);
          sum += pair;
          const int64_t k = i * num_tags + v * kWidth;
          // What goes past a row is overwritten by the next.
          if (k + kWidth <= area) {
            Store(gradient + k, pair * left);
          } else {
            StoreFirst(gradient + k, pair * left, static_cast<int>(area - k));
          }
        }
        sums[i - first] = sum;
      }
      Store(beta + first, SumsOfRows<T>(sums));
    }
  }
}

template <typename T>
void VaryingBackward(const crf::Plan<T>& plan, int64_t b, T factor, T* d_emissions,
                     T* d_transitions) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const Matrix<T> matrix(chains.num_tags);
  const Row<T>& shape = matrix.row;
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  const int64_t steps_ahead = 1 + 1024 / (num_tags * num_tags);
  const Buffer<T> room(2 * matrix.stride + matrix.room());
  T *const beta = room.data, *const r = beta + matrix.stride, *const weights = r + matrix.stride;
  const crf::KeptRows<T> kept(plan, b);
  for (int64_t s = steps - 1; s >= 0; --s) {
    const T *const alpha = kept.alpha + s * num_tags, *const emission =
                                                          kept.emission + s * num_tags;
    T correction = 1;
    if (s == steps - 1) {
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) totals += shape.LoadVector(alpha, v);
      const T first = 1 / Sum(totals);
      for (int v = 0; v < shape.vectors; ++v) {
        Store(beta + v * kWidth, shape.Pad(v, Broadcast(first), 0));
      }
    } else if (s % kChunk == 0) {  // the errors of many steps must not add up
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) {
        const Vec<T> prefix = shape.LoadVector(alpha, v);
        totals += prefix > 0 ? prefix * Load(beta + v * kWidth) : Vec<T>{};
      }
      const T sum = Sum(totals);
      if (sum > T(0.5) && sum < T(2)) correction = 1 / sum;
    }
    const int64_t t = crf::StepAt(plan, b, s);
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> prefix = shape.LoadVector(alpha, v);
      // Of a tag that nothing reaches, the other may have grown without bound.
      const Vec<T> suffix = prefix > 0 ? Load(beta + v * kWidth) * correction : Vec<T>{};
      shape.StoreVector(d_emissions + t * num_tags, v, prefix * suffix * factor);
      Store(r + v * kWidth, shape.LoadVector(emission, v) * suffix);
    }
    if (s == 0) break;
    StepBack(matrix, crf::TransitionsInto(plan, b, s), kept.scale[s], alpha - num_tags, r, factor,
             s > steps_ahead ? steps_ahead * num_tags * num_tags : 0, weights, beta,
             crf::PairsInto(plan, b, s, d_transitions));
  }
}

// Fills the rows of a trellis of one sequence (viterbi.h), or else, where `rows` is null, the last
// row alone, `last`; and, if they are asked for, the tag before each tag on its best path: those of
// step s in pointers[s * vectors]. `subtracted` and `last` have room for a trellis' and two whole
// rows.
template <bool kPointers, typename T>
Trellis<T> FillVaryingTrellis(const crf::Plan<T>& plan, int64_t b, T* rows, T* subtracted, T* last,
                              typename Simd<T>::Int* pointers) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  const int64_t stride = int64_t{shape.vectors} * kWidth;
  Trellis<T> trellis;
  trellis.count = 1;
  trellis.sequence[0] = b;
  trellis.steps[0] = steps;
  trellis.best[0] = rows;
  trellis.subtracted[0] = subtracted;
  const T* const emissions = chains.emissions + b * chains.steps * num_tags;
  // Sums of x * 0, which is NaN of +inf and NaN; -inf, which is sound, is taken as a finite score.
  Vec<T> zeros = {};
  const Vec<T> finite = Broadcast(std::numeric_limits<T>::lowest());
  const auto watch = [&](Vec<T> x) FASTKERAS_LAMBDA_INLINE { zeros += Max(finite, x) * T(0); };
  for (int64_t s = 0; s < steps; ++s) {
    T *const row = last + (steps - 1 - s) % 2 * stride, *const before =
                                                            last + (steps - s) % 2 * stride;
    const T* const x = emissions + crf::StepAt(plan, b, s) * num_tags;
    const T* const into = s > 0 ? crf::TransitionsInto(plan, b, s) : nullptr;
    for (int v = 0; v < shape.vectors; ++v) {
      Vec<T> best = s > 0 ? Broadcast(-kInfinity) : shape.LoadVector(chains.start_transitions, v);
      Int from = {};
      for (int64_t i = 0; s > 0 && i < num_tags; ++i) {
        const Vec<T> way = shape.LoadVector(into + i * num_tags, v);
        const Vec<T> score = way + before[i];
        if constexpr (kPointers) {
          const auto better = score > best;
          from = better ? Int{} + static_cast<decltype(+from[0])>(i) : from;
          best = better ? score : best;
        } else {
          best = Max(best, score);
        }
        watch(way);
      }
      const Vec<T> emission = shape.LoadVector(x, v);
      Store(row + v * kWidth, best + emission);
      watch(emission);
      if constexpr (kPointers) pointers[s * shape.vectors + v] = from;
    }
    if (s % Trellis<T>::kPeriod == Trellis<T>::kPeriod - 1) {
      T peak = -kInfinity;
      for (int64_t j = 0; j < num_tags; ++j) peak = row[j] > peak ? row[j] : peak;
      peak = peak - peak == 0 ? std::rint(peak) : 0;
      for (int v = 0; v < shape.vectors; ++v) {
        Store(row + v * kWidth, Load(row + v * kWidth) - peak);
      }
      subtracted[s / Trellis<T>::kPeriod] = peak;
    }
    for (int v = 0; rows && v < shape.vectors; ++v) {
      shape.StoreVector(rows + s * num_tags, v, Load(row + v * kWidth));
    }
  }
  trellis.suspicious = !(Sum(zeros) == 0 && plan.sound_ends);
  return trellis;
}

template <typename T>
void VaryingViterbi(const crf::Plan<T>& plan, int64_t b, int32_t* tags) {
  using Int = typename Simd<T>::Int;
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t steps = plan.counts[b];
  const int64_t stride = int64_t{shape.vectors} * Simd<T>::kWidth;
  const Buffer<T> room(2 * stride + steps / Trellis<T>::kPeriod);
  const Buffer<Int> pointers(steps * shape.vectors);
  const auto trellis = FillVaryingTrellis<true, T>(plan, b, nullptr, room.data + 2 * stride,
                                                   room.data, pointers.data);
  TellUnsound(plan, trellis);
  int32_t tag = FirstBest(shape, room.data, chains.end_transitions);
  for (int64_t s = steps - 1; s >= 0; --s) {
    tags[b * chains.steps + crf::StepAt(plan, b, s)] = tag;
    if (s > 0) {
      const Int* const of_step = pointers.data + s * shape.vectors;
      tag = static_cast<int32_t>(of_step[tag / Simd<T>::kWidth][tag % Simd<T>::kWidth]);
    }
  }
}

// As for plain transitions (k_best.h), with a transposed copy of every step's matrix.
template <typename T>
void VaryingKBest(const crf::Plan<T>& plan, int64_t b, int64_t k, int32_t* tags, int64_t* found) {
  const int64_t num_tags = plan.chains.num_tags, steps = plan.counts[b];
  const int64_t stride = (num_tags + Simd<T>::kWidth - 1) / Simd<T>::kWidth * Simd<T>::kWidth;
  const Buffer<T> room(2 * stride + steps * num_tags + steps / Trellis<T>::kPeriod);
  T* const rows = room.data + 2 * stride;
  const auto trellis =
      FillVaryingTrellis<false, T>(plan, b, rows, rows + steps * num_tags, room.data, nullptr);
  TellUnsound(plan, trellis);
  if (plan.inexact[b]) return;
  const Buffer<T> transposed((steps - 1) * num_tags * num_tags);
  for (int64_t s = 1; s < steps; ++s) {
    const T* const into = crf::TransitionsInto(plan, b, s);
    T* const out = transposed.data + (s - 1) * num_tags * num_tags;
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) out[j * num_tags + i] = into[i * num_tags + j];
    }
  }
  PathLists<T> lists(plan, transposed.data, steps, k);
  lists.Search(trellis, 0, k, tags, found);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_VARYING_H_
