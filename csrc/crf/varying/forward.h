// The way forward where transitions vary, one sequence at a time: there is a matrix for each step,
// which no other sequence shares. docs/crf.md has the bounds.

#ifndef FASTKERAS_CRF_VARYING_FORWARD_H_
#define FASTKERAS_CRF_VARYING_FORWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/varying/matrix.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

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
void VaryingForward(const crf::Plan<T>& plan, int64_t b, T* exponentials, double* value) {
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
      T* const kept = exponentials ? crf::PairsInto(plan, b, s, exponentials) : nullptr;
      ProductWith(matrix, row_of(s - 1), scores, peak, kept != nullptr, kept ? kept : weights, row);
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

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_FORWARD_H_
