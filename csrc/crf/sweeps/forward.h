// The forward sweep in the scaled domain: alpha_t = (alpha_{t-1} W) * E_t * 2^-k.

#ifndef FASTKERAS_CRF_SWEEPS_FORWARD_H_
#define FASTKERAS_CRF_SWEEPS_FORWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/products.h"
#include "crf/sweeps/watch.h"
#include "machine/math.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kChunk = 32;  // steps whose rows are prepared, or summed up, at once

template <typename T>
struct Row {  // how a row of num_tags elements lies in vectors
  int64_t num_tags;
  int vectors;
  int tail;  // elements of the last vector
  typename Simd<T>::Int within_tail;

  explicit Row(int64_t n)
      : num_tags(n),
        vectors(static_cast<int>((n + Simd<T>::kWidth - 1) / Simd<T>::kWidth)),
        tail(static_cast<int>(n - (vectors - 1) * int64_t{Simd<T>::kWidth})) {
    for (int lane = 0; lane < Simd<T>::kWidth; ++lane) within_tail[lane] = lane < tail ? -1 : 0;
  }
  FASTKERAS_INLINE Vec<T> LoadVector(const T* row, int v) const {
    row += v * Simd<T>::kWidth;
    return v + 1 < vectors ? Load(row) : LoadFirst(row, tail);
  }
  FASTKERAS_INLINE void StoreVector(T* row, int v, Vec<T> value) const {
    row += v * Simd<T>::kWidth;
    v + 1 < vectors ? Store(row, value) : StoreFirst(row, value, tail);
  }
  // `padding` where the last vector goes past the row.
  FASTKERAS_INLINE Vec<T> Pad(int v, Vec<T> value, T padding) const {
    return v + 1 < vectors ? value : within_tail ? value : Broadcast(padding);
  }
  FASTKERAS_INLINE T SumOf(const T* row) const {
    if (num_tags <= crf::kMostLaneTags) {  // in the order of SumOfTags (lanes.h)
      constexpr int kParts = crf::MostSections(Simd<T>::kWidth);
      const int64_t size = (num_tags + kParts - 1) / kParts;
      T parts[kParts] = {};
      for (int64_t j = 0, part = 0; j < num_tags; ++part) {
        for (const int64_t end = j + size < num_tags ? j + size : num_tags; j < end; ++j) {
          parts[part] += row[j];
        }
      }
      const T low = parts[0] + parts[1];
      return kParts == 2 ? low : low + (parts[kParts - 2] + parts[kParts - 1]);
    }
    Vec<T> sum = {};
    for (int v = 0; v < vectors; ++v) sum += LoadVector(row, v);
    return Sum(sum);
  }
  // Whether an element is below the bound, except where `end` forbids it; null: nowhere.
  FASTKERAS_INLINE bool AnyBelow(const T* row, T bound, const T* end) const {
    bool any = false;
    for (int v = 0; v < vectors; ++v) {
      Vec<T> element = LoadVector(row, v);
      if (end) {
        const Vec<T> none = Broadcast(-std::numeric_limits<T>::infinity());
        element = LoadVector(end, v) == none ? Broadcast(bound) : element;
      }
      any |= AnyLess(Pad(v, element, bound), Broadcast(bound));
    }
    return any;
  }
};

// out(v, exp(scores - peak)); returns peak = max scores. A row of nothing but -inf gives zeros and
// 0. `scores` yields vector v; what is past the row means nothing.
template <typename T, typename Scores, typename Out>
FASTKERAS_INLINE T ExpOfScores(const Row<T>& shape, const Scores& scores, const Out& out) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Vec<T> peaks = shape.Pad(0, scores(0), -kInfinity);
  for (int v = 1; v < shape.vectors; ++v) peaks = Max(shape.Pad(v, scores(v), -kInfinity), peaks);
  T peak = Largest(peaks);
  if (peak == -kInfinity) peak = 0;
  for (int v = 0; v < shape.vectors; ++v) out(v, Exp<T>(scores(v) - peak));
  return peak;
}

template <typename T, typename Out>
FASTKERAS_INLINE T ExpOfRow(const Row<T>& shape, const T* emissions, const T* start, const T* end,
                            const Out& out) {
  if (!start && !end) {
    return ExpOfScores(
        shape, [&](int v) FASTKERAS_LAMBDA_INLINE { return shape.LoadVector(emissions, v); }, out);
  }
  const auto scores = [&](int v) FASTKERAS_LAMBDA_INLINE {
    Vec<T> x = shape.LoadVector(emissions, v);
    if (start) x += shape.LoadVector(start, v);
    if (end) x += shape.LoadVector(end, v);
    return x;
  };
  return ExpOfScores(shape, scores, out);
}

// The exponent of a positive normal number, clipped so that 2^-exponent is normal too.
FASTKERAS_INLINE int Exponent(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const int exponent = (bits >> 23) - 127;
  return exponent < -120 ? -120 : exponent > 120 ? 120 : exponent;
}
FASTKERAS_INLINE int Exponent(double x) {
  int64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 52) - 1023;
  return exponent < -1000 ? -1000 : exponent > 1000 ? 1000 : exponent;
}
template <typename T>
FASTKERAS_INLINE T PowerOfTwo(int exponent) {
  if constexpr (sizeof(T) == 4) {
    const int32_t bits = (exponent + 127) << 23;
    T power;
    std::memcpy(&power, &bits, sizeof(power));
    return power;
  } else {
    const int64_t bits = int64_t{exponent + 1023} << 52;
    T power;
    std::memcpy(&power, &bits, sizeof(power));
    return power;
  }
}

// One sequence on its way through time.
template <typename T>
struct Traveller : Watched<T> {
  const T* emissions;  // of the sequence
  T* alpha;            // its rows; without a workspace, room for one chunk
  T* emission;
  T* scales;          // null: not kept
  T scale;            // of the next step
  T scale_of_period;  // of the first step since the last rescaling
  int64_t exponent;   // sum of the binary exponents taken out
  double peaks;       // sum of the peaks of the emissions taken out
  const T* inspected_row;
};

template <bool kWatched, typename T>
void ForwardBlock(const crf::Plan<T>& plan, Traveller<T>* travellers, int count, T* idle) {
  const Row<T> shape(plan.chains.num_tags);
  const int64_t num_tags = shape.num_tags;
  const Buffer<uint64_t> sets(kWatched ? 3 * plan.words : 0);
  const T *previous[crf::kMaxBlock], *emission[crf::kMaxBlock];
  T *alpha[crf::kMaxBlock], scale[crf::kMaxBlock];
  for (int m = 0; m < crf::kMaxBlock; ++m) {  // rows that only fill up a group of rows
    previous[m] = emission[m] = idle;
    alpha[m] = idle + num_tags;
    scale[m] = 0;
  }
  int active = count;
  for (int64_t begin = 0; begin < travellers[0].steps; begin += kChunk) {
    for (int m = 0; m < active; ++m) {
      Traveller<T>& traveller = travellers[m];
      const int64_t row_begin = plan.workspace ? begin : 0;
      const int64_t end = traveller.steps < begin + kChunk ? traveller.steps : begin + kChunk;
      for (int64_t s = begin; s < end; ++s) {
        T* const row = traveller.emission + (row_begin + s - begin) * num_tags;
        traveller.peaks += ExpOfRow(
            shape, traveller.emissions + crf::StepAt(plan, traveller.sequence, s) * num_tags,
            s == 0 ? plan.chains.start_transitions : nullptr,
            s == traveller.steps - 1 ? plan.chains.end_transitions : nullptr,
            [&](int v, Vec<T> e) FASTKERAS_LAMBDA_INLINE { shape.StoreVector(row, v, e); });
      }
    }
    const int64_t end = travellers[0].steps < begin + kChunk ? travellers[0].steps : begin + kChunk;
    for (int64_t s = begin; s < end; ++s) {
      while (travellers[active - 1].steps <= s) {
        --active;
        previous[active] = emission[active] = idle;
        alpha[active] = idle + num_tags;
        scale[active] = 0;
      }
      const int64_t row = plan.workspace ? s : s - begin;
      for (int m = 0; m < active; ++m) {
        emission[m] = travellers[m].emission + row * num_tags;
        alpha[m] = travellers[m].alpha + row * num_tags;
        scale[m] = travellers[m].scale;
        if (travellers[m].scales) travellers[m].scales[s] = scale[m];
      }
      if (s == 0) {
        for (int m = 0; m < active; ++m) {
          for (int64_t j = 0; j < num_tags; ++j) alpha[m][j] = emission[m][j];
        }
      } else {
        InRowGroups(active, [&](int m, auto rows) FASTKERAS_LAMBDA_INLINE {
          RowsProduct<SumProduct, decltype(rows)::value>(
              previous + m, plan.weights, [&](int k, int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
                shape.StoreVector(alpha[m + k], v,
                                  (sum * scale[m + k]) * shape.LoadVector(emission[m + k], v));
              });
        });
      }
      const bool rescale = s % plan.period == plan.period - 1;
      for (int m = 0; m < active; ++m) {
        Traveller<T>& traveller = travellers[m];
        previous[m] = alpha[m];
        if constexpr (kWatched) {
          if (rescale || s + 1 == traveller.steps) {
            // What was lost before a row was scaled up grew with it.
            const T scaled_up = traveller.scale_of_period;
            const T safe = scaled_up > 1 ? plan.safe * scaled_up : plan.safe;
            const T* const end = s + 1 == traveller.steps ? plan.chains.end_transitions : nullptr;
            if (shape.AnyBelow(alpha[m], safe, end) && !traveller.inexact) {
              const T *const before = traveller.inspected_row, *const now = alpha[m];
              Inspect(
                  plan, s, [&](int64_t j) { return before[j]; }, [&](int64_t j) { return now[j]; },
                  safe, sets.data, traveller);
            }
            traveller.inspected = s;
            traveller.inspected_row = alpha[m];
          }
        }
        traveller.scale = 1;
        if (!rescale) continue;
        const T total = shape.SumOf(alpha[m]);
        if (total > 0) {
          const int exponent = Exponent(total);
          traveller.scale = PowerOfTwo<T>(-exponent);
          if (s + 1 < traveller.steps) traveller.exponent += exponent;
        }
        traveller.scale_of_period = traveller.scale;
      }
    }
  }
}

// For the sorted sequences first..last-1, at most kMaxBlock of them.
template <typename T>
void Forward(const crf::Plan<T>& plan, int64_t first, int64_t last, double* value) {
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags;
  const int count = static_cast<int>(last - first);
  const int64_t kept_rows = plan.workspace ? 0 : kChunk;
  const Buffer<T> rows((2 * count * kept_rows + 2) * num_tags);
  for (int64_t k = 0; k < 2 * num_tags; ++k) rows.data[k] = 0;
  Traveller<T> travellers[crf::kMaxBlock];
  int travelling = 0;
  for (int m = 0; m < count; ++m) {
    const int64_t b = plan.order[first + m];
    value[b] = 0;
    plan.inexact[b] = false;
    if (plan.counts[b] == 0) continue;
    Traveller<T>& traveller = travellers[travelling++];
    traveller = {};
    traveller.sequence = b;
    traveller.steps = plan.counts[b];
    traveller.emissions = chains.emissions + b * chains.steps * num_tags;
    if (plan.workspace) {
      const crf::KeptRows<T> kept(plan, first + m);
      traveller.alpha = kept.alpha;
      traveller.emission = kept.emission;
      traveller.scales = kept.scale;
    } else {
      traveller.alpha = rows.data + (2 + 2 * m * kChunk) * num_tags;
      traveller.emission = rows.data + (2 + (2 * m + 1) * kChunk) * num_tags;
    }
    traveller.inspected = -1;
    traveller.scale_of_period = 1;
    traveller.scale = 1;
    traveller.gap = plan.forbidden_gap;
  }
  if (travelling == 0) return;
  if (plan.watched) {
    ForwardBlock<true>(plan, travellers, travelling, rows.data);
  } else {
    ForwardBlock<false>(plan, travellers, travelling, rows.data);
  }
  const Row<T> shape(num_tags);
  for (int m = 0; m < travelling; ++m) {
    const Traveller<T>& traveller = travellers[m];
    const int64_t n = traveller.steps;
    const int64_t last_row = plan.workspace ? n - 1 : (n - 1) % kChunk;
    const T total = shape.SumOf(traveller.alpha + last_row * num_tags);
    crf::Finish(plan, traveller.sequence, std::log(static_cast<double>(total)), traveller.exponent,
                traveller.peaks, traveller.gap, traveller.inexact, value);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_FORWARD_H_
