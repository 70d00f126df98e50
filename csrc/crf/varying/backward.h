// The way back where transitions vary, which writes the gradient of each step's matrix.

#ifndef FASTKERAS_CRF_VARYING_BACKWARD_H_
#define FASTKERAS_CRF_VARYING_BACKWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/varying/matrix.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

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

// The way of one sequence back through time, which overwrites the exponentials of its matrices with
// their gradients.
template <typename T>
struct VaryingReturn {
  static constexpr int kWidth = Simd<T>::kWidth;

  const crf::Plan<T>* plan;
  const Matrix<T>* matrix;
  int64_t sequence, steps;
  T factor;
  T *beta, *r, *left;  // room for rows
  T *d_emissions, *pairs;
  const T *alpha, *emissions, *peaks;
  int64_t prepared;  // matrices from this step on are exponentiated

  static int64_t Room(const Matrix<T>& matrix) { return 3 * matrix.stride; }

  VaryingReturn() = default;
  VaryingReturn(const crf::Plan<T>& plan, const Matrix<T>& matrix, int64_t b, T factor,
                bool exponentiated, T* room, T* d_emissions, T* d_transitions)
      : plan(&plan),
        matrix(&matrix),
        sequence(b),
        steps(plan.counts[b]),
        factor(factor),
        beta(room),
        r(room + matrix.stride),
        left(room + 2 * matrix.stride),
        d_emissions(d_emissions + b * plan.chains.steps * matrix.num_tags),
        pairs(d_transitions + b * (plan.chains.steps - 1) * matrix.area),
        prepared(exponentiated ? 0 : steps) {
    const crf::KeptRows<T> rows(plan, b);
    alpha = rows.alpha, emissions = rows.emission, peaks = rows.scale;
  }

  // Exponentiates the matrices of some steps up to s, and fetches those before them: caches expect
  // what comes after.
  FASTKERAS_INLINE void Prepare(int64_t s) {
    const int64_t at_once = matrix->steps_at_once, area = matrix->area;
    prepared = s >= at_once ? s + 1 - at_once : 0;
    for (int64_t k = prepared > 0 ? prepared : 1; k <= s; ++k) {
      const T* const scores = crf::TransitionsInto(*plan, sequence, k);
      T* const gradient = crf::PairsInto(*plan, sequence, k, pairs);
      for (int64_t i = 0; k > at_once && i < area; i += kWidth) {
        __builtin_prefetch(scores - at_once * area + i);
        __builtin_prefetch(gradient - at_once * area + i, 1);
      }
      matrix->Exponentiate(scores, peaks[k], area, gradient);
    }
  }

  // Gradients of the transitions into step s, and beta = W r, the sums of their rows before these
  // are weighted.
  FASTKERAS_INLINE void Pairs(int64_t s) {
    const int64_t num_tags = matrix->num_tags;
    const int vectors = matrix->row.vectors;
    const bool by_rows = matrix->steps_at_once == 0 && s < prepared;
    const T* const scores = crf::TransitionsInto(*plan, sequence, s);
    T* entry = crf::PairsInto(*plan, sequence, s, pairs);
    Vec<T> weights = matrix->LoadOfRow(entry, 0, 0);  // the vector that comes next
    Vec<T> none = {};
    KeepInRegister(none);  // or gcc calls memset for a few vectors
    for (int64_t first = 0; first < num_tags; first += kWidth) {
      const int64_t to = first + kWidth < num_tags ? first + kWidth : num_tags;
      if (by_rows) {
        matrix->Exponentiate(scores + first * num_tags, peaks[s], (to - first) * num_tags, entry);
      }
      Vec<T> sums[kWidth];
      for (int64_t i = to - first; i < kWidth; ++i) sums[i] = none;
      if (vectors == 1) {
        const Vec<T> right = Load(r);
        const T* from = entry;
        for (int64_t i = 0; i < num_tags; ++i, from += num_tags) {
          sums[i] = matrix->LoadOfRow(from, i, 0) * right;
        }
        for (int64_t i = 0; i < num_tags; ++i, entry += num_tags) {
          matrix->StoreOfRow(entry, i, 0, sums[i] * left[i]);
        }
      } else {
        if (by_rows) weights = Load(entry);
        for (int64_t i = first; i < to; ++i) {
          Vec<T> sum = {};
          for (int v = 0; v < vectors; ++v) {
            const Vec<T> pair = weights * Load(r + v * kWidth);
            sum += pair;
            // The end of a row overwrites the beginning of the next.
            if (v + 1 < vectors) {
              weights = matrix->LoadOfRow(entry, i, v + 1);
            } else if (i + 1 < num_tags) {
              weights = Load(entry + num_tags);
            }
            matrix->StoreOfRow(entry, i, v, pair * left[i]);
          }
          entry += num_tags;
          sums[i - first] = sum;
        }
      }
      Store(beta + first, SumsOfRows<T>(sums));
    }
  }

  FASTKERAS_INLINE void Step(int64_t s) {
    const Row<T>& shape = matrix->row;
    const int64_t num_tags = shape.num_tags;
    const T *const prefixes = alpha + s * num_tags, *const emission = emissions + s * num_tags;
    T correction = 1;
    if (s == steps - 1) {
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) totals += shape.LoadVector(prefixes, v);
      const T first = 1 / Sum(totals);
      for (int v = 0; v < shape.vectors; ++v) {
        Store(beta + v * kWidth, shape.Pad(v, Broadcast(first), 0));
      }
    } else if (s % kChunk == 0) {  // the errors of many steps must not add up
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) {
        const Vec<T> prefix = shape.LoadVector(prefixes, v);
        totals += prefix > 0 ? prefix * Load(beta + v * kWidth) : Vec<T>{};
      }
      const T sum = Sum(totals);
      if (sum > T(0.5) && sum < T(2)) correction = 1 / sum;
    }
    const int64_t t = crf::StepAt(*plan, sequence, s);
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> prefix = shape.LoadVector(prefixes, v);
      // Of a tag that nothing reaches, the other may have grown without bound.
      const Vec<T> suffix = prefix > 0 ? Load(beta + v * kWidth) * correction : Vec<T>{};
      shape.StoreVector(d_emissions + t * num_tags, v, prefix * suffix * factor);
      Store(r + v * kWidth, shape.LoadVector(emission, v) * suffix);
      if (s > 0) Store(left + v * kWidth, shape.LoadVector(prefixes - num_tags, v) * factor);
    }
    if (s == 0) return;
    if (s < prepared && matrix->steps_at_once > 0) Prepare(s);
    Pairs(s);
  }
};

// For sequences with valid steps, the longest first.
template <typename T>
void VaryingBackward(const crf::Plan<T>& plan, const int64_t* sequences, const T* factors,
                     int count, bool exponentiated, T* d_emissions, T* d_transitions) {
  const Matrix<T> matrix(plan.chains.num_tags);
  const int64_t room_of_one = VaryingReturn<T>::Room(matrix);
  const Buffer<T> room(count * room_of_one);
  VaryingReturn<T> returns[crf::kMaxBlock];
  for (int m = 0; m < count; ++m) {
    returns[m] = {plan,        matrix,        sequences[m],
                  factors[m],  exponentiated, room.data + m * room_of_one,
                  d_emissions, d_transitions};
  }
  int active = 0;
  for (int64_t s = returns[0].steps - 1; s >= 0; --s) {
    while (active < count && returns[active].steps > s) ++active;
    for (int m = 0; m < active; ++m) returns[m].Step(s);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_BACKWARD_H_
