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

// One sequence on its way through time. Every row is scaled to a sum in [1, 2), and the scale is
// kept in its emissions. A row with elements below what is safe is inspected, unless the ranges of
// the transitions into it and out of it are so small that they do not matter.
//
// Rows that the next step reads are in whole vectors: a load waits for a store of part of one.
template <typename T>
struct VaryingTraveller {
  static constexpr int kWidth = Simd<T>::kWidth;
  static constexpr int64_t kRing = 4;

  const crf::Plan<T>* plan;
  const Matrix<T>* matrix;
  int64_t sequence, steps;
  T *ring, *matrices;  // room for some rows, and for matrices where they are not kept
  T* emissions;        // exponentials of a chunk, in whole vectors
  T *alpha, *scaled;   // rows that are kept, and emissions with their scales; null: none
  T* peaks;            // of all steps; without a workspace, of a chunk
  T* kept;             // the sequence's exponentials; null: not kept
  int64_t begin = 0, prepared = 0;  // steps whose matrices are exponentiated
  T peak = 0, safe = 0, total = 0;  // of the last row: what was taken out of its matrix
  T scale = 1;
  bool low = false, inexact = false;  // it has elements that are not safe
  T gap = 0;
  int64_t exponents = 0;
  double sum_of_peaks = 0;

  static int64_t Room(const Matrix<T>& matrix) {
    return (kRing + kChunk) * matrix.stride + matrix.room() + kWidth + kChunk;
  }

  VaryingTraveller() = default;
  VaryingTraveller(const crf::Plan<T>& plan, const Matrix<T>& matrix, int64_t b, T* room,
                   T* exponentials)
      : plan(&plan),
        matrix(&matrix),
        sequence(b),
        steps(plan.counts[b]),
        ring(room),
        matrices(room + (kRing + kChunk) * matrix.stride),
        emissions(room + kRing * matrix.stride),
        alpha(nullptr),
        scaled(nullptr),
        peaks(matrices + matrix.room() + kWidth),
        kept(exponentials ? exponentials + b * (plan.chains.steps - 1) * matrix.area : nullptr),
        gap(plan.forbidden_gap) {
    if (!plan.workspace) return;
    const crf::KeptRows<T> rows(plan, b);
    alpha = rows.alpha, scaled = rows.emission, peaks = rows.scale;
  }

  FASTKERAS_INLINE T* RowOf(int64_t s) const { return ring + s % kRing * matrix->stride; }
  FASTKERAS_INLINE const T* EmissionOf(int64_t s) const {
    return emissions + s % kChunk * matrix->stride;
  }
  FASTKERAS_INLINE T& PeakOf(int64_t s) const { return peaks[alpha ? s : s % kChunk]; }
  FASTKERAS_INLINE T* MatrixInto(int64_t s) const {
    return kept ? crf::PairsInto(*plan, sequence, s, kept) : matrices + (s - begin) * matrix->area;
  }
  FASTKERAS_INLINE const T* ScoresInto(int64_t s) const {
    return crf::TransitionsInto(*plan, sequence, s);
  }

  FASTKERAS_INLINE void PrepareEmissions(int64_t s) {
    const crf::Chains<T>& chains = plan->chains;
    const Row<T>& shape = matrix->row;
    const int64_t num_tags = chains.num_tags, end = steps < s + kChunk ? steps : s + kChunk;
    const T* const rows = chains.emissions + sequence * chains.steps * num_tags;
    T* to = emissions;
    for (int64_t k = s; k < end; ++k, to += matrix->stride) {
      sum_of_peaks += ExpOfRow(shape, rows + crf::StepAt(*plan, sequence, k) * num_tags,
                               k == 0 ? chains.start_transitions : nullptr,
                               k == steps - 1 ? chains.end_transitions : nullptr,
                               [&](int v, Vec<T> e) FASTKERAS_LAMBDA_INLINE {
                                 Store(to + v * kWidth, shape.Pad(v, e, 0));
                               });
    }
  }

  // Small scores of matrices that follow one another in memory are exponentiated as they are, which
  // rounds less and leaves no vector half empty.
  FASTKERAS_INLINE void PrepareMatrices(int64_t s) {
    const bool at_once = matrix->steps_at_once > 0;
    const int64_t most = s + (at_once ? matrix->steps_at_once : 1), area = matrix->area;
    const int64_t first = s > 0 ? s : 1, end = steps < most ? steps : most;
    begin = s, prepared = end;
    if (at_once && first < end &&
        ScoresInto(end - 1) - ScoresInto(first) == (end - 1 - first) * area &&
        matrix->ExponentiateSmall(ScoresInto(first), (end - first) * area, MatrixInto(first))) {
      for (int64_t k = first; k < end; ++k) PeakOf(k) = 0;
      return;
    }
    for (int64_t k = first; k < end; ++k) {
      const T* const scores = ScoresInto(k);
      const T highest = matrix->Peak(scores);
      PeakOf(k) = highest;
      sum_of_peaks += highest;
      if (at_once) matrix->Exponentiate(scores, highest, area, MatrixInto(k));
    }
  }

  // Looks closer at row s, the last one, which has elements below what is safe.
  FASTKERAS_SHARED void Inspect(int64_t s) {
    const T into = s > 0 ? matrix->Range(ScoresInto(s)) : 0;
    const T out_of = s + 1 < steps ? matrix->Range(ScoresInto(s + 1)) : 0;
    if (into + out_of <= plan->harmless_range) return;
    InspectVarying(*plan, sequence, s, s > 0 ? RowOf(s - 1) : nullptr, RowOf(s), peak, safe, &gap,
                   &inexact);
  }

  // Row s, before it is scaled.
  FASTKERAS_INLINE void Multiply(int64_t s) {
    const Row<T>& shape = matrix->row;
    if (s % kChunk == 0) PrepareEmissions(s);
    if (s == prepared) PrepareMatrices(s);
    if (low && !inexact) Inspect(s - 1);
    const T* const emission = EmissionOf(s);
    T* const row = RowOf(s);
    Vec<T> totals = {};
    const auto out = [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
      const Vec<T> product = sum * Load(emission + v * kWidth);
      Store(row + v * kWidth, product);
      totals += shape.Pad(v, product, 0);
    };
    if (s > 0) peak = PeakOf(s);
    if (s > 0 && matrix->steps_at_once > 0) {
      SumRows(*matrix, RowOf(s - 1), MatrixInto(s), 0, matrix->num_tags, out);
    } else {
      if (s > 0) {
        ProductWithScores(*matrix, RowOf(s - 1), ScoresInto(s), peak, kept != nullptr,
                          MatrixInto(s), row);
      }
      for (int v = 0; v < shape.vectors; ++v) {
        out(v, s > 0 ? Load(row + v * kWidth) : Broadcast(T(1)));
      }
    }
    total = Sum(totals);
    scale = 1;
    if (total > 0) {
      const int exponent = Exponent(total);
      scale = PowerOfTwo<T>(-exponent);
      exponents += exponent;
      total *= scale;
    }
    // What was lost before a row was scaled up grows with it.
    safe = scale > 1 ? plan->safe * scale : plan->safe;
  }

  FASTKERAS_INLINE void Scale(int64_t s) {
    const Row<T>& shape = matrix->row;
    const T* const emission = EmissionOf(s);
    T* const row = RowOf(s);
    low = false;
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> scaled_row = Load(row + v * kWidth) * scale;
      low |= AnyLess(shape.Pad(v, scaled_row, safe), Broadcast(safe));
      Store(row + v * kWidth, scaled_row);
      if (!alpha) continue;
      shape.StoreVector(alpha + s * shape.num_tags, v, scaled_row);
      shape.StoreVector(scaled + s * shape.num_tags, v, Load(emission + v * kWidth) * scale);
    }
  }

  void Finish(double* value) {
    if (low && !inexact) Inspect(steps - 1);
    crf::Finish(*plan, sequence, std::log(static_cast<double>(total)), exponents, sum_of_peaks, gap,
                inexact, value);
  }
};

// For sequences with valid steps, the longest first: where their rows are short, a step of one has
// little to do while it waits for its sums, and the others' steps fill the time, those of the
// products before those of the scales, which wait for them.
template <typename T>
void VaryingForward(const crf::Plan<T>& plan, const int64_t* sequences, int count, T* exponentials,
                    double* value) {
  const Matrix<T> matrix(plan.chains.num_tags);
  const int64_t room_of_one = VaryingTraveller<T>::Room(matrix);
  const Buffer<T> room(count * room_of_one);
  VaryingTraveller<T> travellers[crf::kMaxBlock];
  for (int m = 0; m < count; ++m) {
    travellers[m] = {plan, matrix, sequences[m], room.data + m * room_of_one, exponentials};
  }
  int active = count;
  for (int64_t s = 0; s < travellers[0].steps; ++s) {
    while (travellers[active - 1].steps <= s) --active;
    for (int m = 0; m < active; ++m) travellers[m].Multiply(s);
    for (int m = 0; m < active; ++m) travellers[m].Scale(s);
  }
  for (int m = 0; m < count; ++m) travellers[m].Finish(value);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_FORWARD_H_
