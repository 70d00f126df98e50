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
  T *ring, *matrices;               // room for some rows, and for matrices where they are not kept
  T *alpha, *emissions, *peaks;     // of all steps; without a workspace, of a chunk
  T* kept;                          // the sequence's exponentials; null: not kept
  int64_t begin = 0, prepared = 0;  // steps whose matrices are exponentiated
  T peak = 0, safe = 0, total = 0;  // of the last row: what was taken out of its matrix
  bool low = false, inexact = false;  // it has elements that are not safe
  T gap = 0;
  int64_t exponents = 0;
  double sum_of_peaks = 0;

  static int64_t Room(const crf::Plan<T>& plan, const Matrix<T>& matrix) {
    const int64_t rows = plan.workspace ? 0 : kChunk * (matrix.num_tags + 1);
    return kRing * matrix.stride + matrix.room() + kWidth + rows;
  }

  VaryingTraveller() = default;
  VaryingTraveller(const crf::Plan<T>& plan, const Matrix<T>& matrix, int64_t b, T* room,
                   T* exponentials)
      : plan(&plan),
        matrix(&matrix),
        sequence(b),
        steps(plan.counts[b]),
        ring(room),
        matrices(room + kRing * matrix.stride),
        alpha(nullptr),
        emissions(matrices + matrix.room() + kWidth),
        peaks(emissions + kChunk * matrix.num_tags),
        kept(exponentials ? exponentials + b * (plan.chains.steps - 1) * matrix.area : nullptr),
        gap(plan.forbidden_gap) {
    if (!plan.workspace) return;
    const crf::KeptRows<T> rows(plan, b);
    alpha = rows.alpha, emissions = rows.emission, peaks = rows.scale;
  }

  FASTKERAS_INLINE T* RowOf(int64_t s) const { return ring + s % kRing * matrix->stride; }
  FASTKERAS_INLINE int64_t Place(int64_t s) const { return alpha ? s : s % kChunk; }
  FASTKERAS_INLINE T* MatrixInto(int64_t s) const {
    return kept ? crf::PairsInto(*plan, sequence, s, kept) : matrices + (s - begin) * matrix->area;
  }
  FASTKERAS_INLINE const T* ScoresInto(int64_t s) const {
    return crf::TransitionsInto(*plan, sequence, s);
  }

  FASTKERAS_INLINE void PrepareEmissions(int64_t s) {
    const crf::Chains<T>& chains = plan->chains;
    const int64_t num_tags = chains.num_tags, end = steps < s + kChunk ? steps : s + kChunk;
    const T* const rows = chains.emissions + sequence * chains.steps * num_tags;
    for (int64_t k = s; k < end; ++k) {
      sum_of_peaks += ExpOfRow(matrix->row, rows + crf::StepAt(*plan, sequence, k) * num_tags,
                               k == 0 ? chains.start_transitions : nullptr,
                               k == steps - 1 ? chains.end_transitions : nullptr,
                               emissions + Place(k) * num_tags);
    }
  }

  FASTKERAS_INLINE void PrepareMatrices(int64_t s) {
    const bool at_once = matrix->steps_at_once > 0;
    const int64_t most = s + (at_once ? matrix->steps_at_once : 1),
                  end = steps < most ? steps : most;
    begin = s, prepared = end;
    for (int64_t k = s > 0 ? s : 1; k < end; ++k) {
      const T* const scores = ScoresInto(k);
      const T highest = matrix->Peak(scores);
      peaks[Place(k)] = highest;
      sum_of_peaks += highest;
      if (at_once) matrix->Exponentiate(scores, highest, 0, matrix->num_tags, MatrixInto(k));
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

  FASTKERAS_INLINE void Step(int64_t s) {
    const Row<T>& shape = matrix->row;
    if (s % kChunk == 0) PrepareEmissions(s);
    if (s == prepared) PrepareMatrices(s);
    if (low && !inexact) Inspect(s - 1);
    T *const row = RowOf(s), *const emission = emissions + Place(s) * shape.num_tags;
    if (s == 0) {
      for (int v = 0; v < shape.vectors; ++v) Store(row + v * kWidth, Broadcast(T(1)));
    } else {
      peak = peaks[Place(s)];
      ProductWith(*matrix, RowOf(s - 1), matrix->steps_at_once > 0 ? nullptr : ScoresInto(s), peak,
                  kept != nullptr, MatrixInto(s), row);
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
    safe = scale > 1 ? plan->safe * scale : plan->safe;
    low = false;
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> scaled = Load(row + v * kWidth) * scale;
      low |= AnyLess(shape.Pad(v, scaled, safe), Broadcast(safe));
      Store(row + v * kWidth, scaled);
      if (!alpha) continue;
      shape.StoreVector(alpha + s * shape.num_tags, v, scaled);
      shape.StoreVector(emission, v, shape.LoadVector(emission, v) * scale);
    }
  }

  void Finish(double* value) {
    if (low && !inexact) Inspect(steps - 1);
    crf::Finish(*plan, sequence, std::log(static_cast<double>(total)), exponents, sum_of_peaks, gap,
                inexact, value);
  }
};

// For sequences with valid steps, the longest first: where their rows are short, a step of one has
// little to do while it waits for its sums, and the others' steps fill the time.
template <typename T>
void VaryingForward(const crf::Plan<T>& plan, const int64_t* sequences, int count, T* exponentials,
                    double* value) {
  const Matrix<T> matrix(plan.chains.num_tags);
  const int64_t room_of_one = VaryingTraveller<T>::Room(plan, matrix);
  const Buffer<T> room(count * room_of_one);
  VaryingTraveller<T> travellers[crf::kMaxBlock];
  for (int m = 0; m < count; ++m) {
    travellers[m] = {plan, matrix, sequences[m], room.data + m * room_of_one, exponentials};
  }
  int active = count;
  for (int64_t s = 0; s < travellers[0].steps; ++s) {
    while (travellers[active - 1].steps <= s) --active;
    for (int m = 0; m < active; ++m) travellers[m].Step(s);
  }
  for (int m = 0; m < count; ++m) travellers[m].Finish(value);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_FORWARD_H_
