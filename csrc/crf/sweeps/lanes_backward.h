// The backward sweep, a lane for each sequence.

#ifndef FASTKERAS_CRF_SWEEPS_LANES_BACKWARD_H_
#define FASTKERAS_CRF_SWEEPS_LANES_BACKWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_forward.h"
#include "crf/sweeps/lanes_reversed.h"
#include "crf/sweeps/lanes_rows.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// sums(i, j) += sum over `steps` of left[s](i) * right[s](j) in each lane, for kRows tags i and
// kColumns vectors j. `next` elements from a step to the next.
template <int kSections, int kRows, int kColumns, typename T>
FASTKERAS_INLINE void PairTile(const T* const* left, const T* right, int64_t steps, int64_t next,
                               T* sums, int64_t sums_stride) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> tile[kRows][kColumns];
#pragma GCC unroll 5
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 5
    for (int j = 0; j < kColumns; ++j) tile[i][j] = Vec<T>{};
  }
  for (int64_t s = 0; s < steps; ++s) {
    Vec<T> columns[kColumns];
#pragma GCC unroll 5
    for (int j = 0; j < kColumns; ++j) {
      columns[j] = Load(right + s * next + j * kWidth);
      KeepInRegister(columns[j]);
    }
#pragma GCC unroll 5
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> element = LoadTag<kSections>(left[i] + s * next);
#pragma GCC unroll 5
      for (int j = 0; j < kColumns; ++j) tile[i][j] += element * columns[j];
    }
  }
#pragma GCC unroll 5
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 5
    for (int j = 0; j < kColumns; ++j) {
      T* const sum = sums + i * sums_stride + j * kWidth;
      Store(sum, Load(sum) + tile[i][j]);
    }
  }
}

// sums (num_tags, vectors, kWidth) += left^T right of each lane, over rows of (steps, vectors,
// kWidth).
template <int kSections, typename T>
FASTKERAS_SHARED void AddPairs(const Lanes<T>& lanes, const T* left, const T* right, int64_t steps,
                               T* sums) {
  constexpr int kWidth = Simd<T>::kWidth, kTile = kMaxRows == 8 ? 5 : 3;
  const int64_t row = int64_t{lanes.vectors} * kWidth;
  InTiles<kTile>(lanes.num_tags, [&](int i, auto rows) FASTKERAS_LAMBDA_INLINE {
    constexpr int kRows = decltype(rows)::value;
    const T* tags[kRows];
    for (int k = 0; k < kRows; ++k) tags[k] = left + lanes.Place(i + k);
    InTiles<kTile>(lanes.vectors, [&](int j, auto columns) FASTKERAS_LAMBDA_INLINE {
      PairTile<kSections, kRows, decltype(columns)::value>(tags, right + j * kWidth, steps, row,
                                                           sums + i * row + j * kWidth, row);
    });
  });
}

// For a chunk of steps with weights of their own (kernels.h), a vector of each number: what the
// marginals weigh, and what is added to r of the gold tag.
template <typename T>
struct LaneWeights {
  T* weights;
  T* sources;
  typename Simd<T>::Int*
      vectors;  // which vector has the gold tag in this lane; another number: none

  // Reads the steps begin..end-1.
  void Read(const crf::Plan<T>& plan, const crf::GradientOutputs<T>& out, const Lanes<T>& lanes,
            int64_t begin, int64_t end) const {
    constexpr int kWidth = Simd<T>::kWidth;
    using Number = typename std::remove_reference<decltype(vectors[0][0])>::type;
    const int64_t size = (end - begin) * kWidth;
    Number* const vector = reinterpret_cast<Number*>(vectors);
    for (int64_t k = 0; k < size; ++k) weights[k] = sources[k] = 0, vector[k] = -1;
    const int apart = kWidth / lanes.sections;  // from a lane to that of the next section
    for (int lane = 0; lane < lanes.count; ++lane) {
      const int64_t b = lanes.sequence[lane], row = b * plan.chains.steps;
      const int64_t to = lanes.counts[lane] < end ? lanes.counts[lane] : end;
      const T factor = static_cast<T>(out.weights[b]);
      int64_t t = crf::StepAt(plan, b, begin > 0 ? begin - 1 : 0);
      T following = begin > 0 ? factor * out.step_weights[row + t] : T(0);
      for (int64_t s = begin; s < to; ++s) {
        t = crf::StepAt(plan, b, s);
        const Number tag = out.tags[row + t];
        const T weight = factor * out.step_weights[row + t];
        const T source = factor != 0 ? (following - weight) * out.inverses[row + s] : T(0);
        const int64_t k = (s - begin) * kWidth + lane;
        for (int section = 0; section < lanes.sections; ++section) {
          const int64_t place = k + section * apart;
          weights[place] = weight;
          sources[place] = source;
          vector[place] = tag - section * lanes.vectors;  // none, if it is of another section
        }
        following = weight;
      }
    }
  }
};

template <bool kWeighted, int kSections, typename T>
void SweepLanesBack(const crf::Plan<T>& plan, const crf::GradientOutputs<T>& out,
                    const Lanes<T>& lanes, int64_t first, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;
  const int vectors = lanes.vectors, num_tags = lanes.num_tags;
  const int64_t row = int64_t{vectors} * kWidth, steps_given = plan.chains.steps;
  const bool direct = lanes.fills_vectors();
  const LaneRows<T> kept(plan, lanes, first);
  const T* const matrix = plan.lane_weights_transposed[kSections > 1];
  // Rows of a chunk: gradients, r, alpha with one step more, E; and those of one step.
  const Buffer<T> room((4 * kChunk + 2) * row);
  T* const gradients = room.data;
  T* const r_rows = gradients + kChunk * row;
  T* const alphas = r_rows + kChunk * row;
  T* const emissions = alphas + (kChunk + 1) * row;
  T* const beta = emissions + kChunk * row;
  for (int64_t k = 0; k < row; ++k) beta[k] = 0;

  Vec<T> weights = {};
  Int left_out = {};
  for (int lane = 0; lane < kWidth; ++lane) {
    const int place = lane % (kWidth / kSections);
    if (place < lanes.count) weights[lane] = static_cast<T>(out.weights[lanes.sequence[lane]]);
    left_out[lane] = weights[lane] == 0 ? -1 : 0;
  }
  const T sign = out.marginal_sign * static_cast<T>(out.largest_weight);

  const Buffer<T> of_steps(kWeighted ? 3 * kChunk * kWidth : 0);
  const LaneWeights<T> gold = {of_steps.data, of_steps.data + kChunk * kWidth,
                               reinterpret_cast<Int*>(of_steps.data + 2 * kChunk * kWidth)};
  int64_t next_end = lanes.EndBefore(lanes.steps);
  for (int64_t begin = (lanes.steps - 1) / kChunk * kChunk; begin >= 0; begin -= kChunk) {
    const int64_t end = lanes.steps < begin + kChunk ? lanes.steps : begin + kChunk;
    const int64_t before = begin > 0 ? begin - 1 : 0;
    const T *alpha_rows, *emission_rows;  // of the steps from `before` on, and from `begin` on
    if (direct) {
      alpha_rows = kept.alpha + before * row;
      emission_rows = kept.emission + begin * row;
    } else {
      for (int64_t s = before; s < end; ++s) {
        LoadNarrow(lanes, kept.alpha + s * kept.step, alphas + (s - before) * row);
        if (s < begin) continue;
        LoadNarrow(lanes, kept.emission + s * kept.step, emissions + (s - begin) * row);
      }
      alpha_rows = alphas;
      emission_rows = emissions;
    }
    if constexpr (kWeighted) gold.Read(plan, out, lanes, begin, end);
    for (int64_t s = end - 1; s >= begin; --s) {
      const T* const alpha = alpha_rows + (s - before) * row;
      const T* const emission = emission_rows + (s - begin) * row;
      T* const gradient = gradients + (s - begin) * row;
      T* const r = r_rows + (s - begin) * row;
      if (s == next_end) {
        const Int now = lanes.EndingAt(s);
        const Vec<T> total = SumOfTags(lanes, alpha);
        const Vec<T> weight = kWeighted ? Load(gold.weights + (s - begin) * kWidth) : weights;
        const Vec<T> start = (total > 0) & ~left_out ? weight / total : Vec<T>{};
        for (int v = 0; v < vectors; ++v) {
          Store(beta + v * kWidth, lanes.Pad(v, now ? start : Load(beta + v * kWidth), 0));
        }
        next_end = lanes.EndBefore(s);
      }
      // A row that was rescaled was so after its emissions came in: beta before them is larger.
      Vec<T> scale = Broadcast(T(1));
      if (s % plan.period == plan.period - 1) {
        scale = LoadOfLanes(lanes, kept.scale + s / plan.period * lanes.count);
      }
      const auto with_source = [&](int v, Vec<T> element) FASTKERAS_LAMBDA_INLINE {
        const Vec<T> source = Load(gold.sources + (s - begin) * kWidth);
        return gold.vectors[s - begin] == v ? element + source : element;
      };
      for (int v = 0; v < vectors; ++v) {
        const Vec<T> prefix = Load(alpha + v * kWidth);
        // Tags that no prefix reaches have a beta that may have grown without bound.
        const Vec<T> suffix = prefix > 0 ? Load(beta + v * kWidth) : Vec<T>{};
        Store(gradient + v * kWidth, prefix * suffix * sign);
        Vec<T> element = Load(emission + v * kWidth) * suffix * scale;
        if (kWeighted && s > begin) element = with_source(v, element);
        Store(r + v * kWidth, element);
      }
      if constexpr (kWeighted) {
        if (s == begin) {  // CorrectDrift, in lanes
          Vec<T> magnitudes = {};
          for (int v = 0; v < vectors; ++v) {
            const Vec<T> marginals = Load(gradient + v * kWidth);
            magnitudes += Max(marginals, -marginals);
          }
          magnitudes = SumOfSections(lanes, magnitudes);
          const Vec<T> wanted = Load(gold.weights + (s - begin) * kWidth) * sign;
          const Vec<T> missing = (wanted - SumOfTags(lanes, gradient)) / magnitudes;
          const Vec<T> signed_part = sign < 0 ? -missing : missing;
          const Vec<T> factor =
              (signed_part > T(-0.5)) & (signed_part < T(0.5)) ? signed_part : Vec<T>{};
          for (int v = 0; v < vectors; ++v) {
            const Vec<T> element = Load(r + v * kWidth);
            Store(r + v * kWidth, with_source(v, element + Max(element, -element) * factor));
          }
        }
      }
      if (s == 0) continue;
      LaneProduct<SumProduct, kSections>(r, matrix, num_tags, vectors,
                                         [&](int v, Vec<T> product) FASTKERAS_LAMBDA_INLINE {
                                           Store(beta + v * kWidth, product);
                                         });
      if (kWeighted || s > begin) continue;
      // How far the marginals' sum is from the weight: the errors of many chunks must not add up.
      const Vec<T> drift = weights * sign / SumOfTags(lanes, gradient);
      const Vec<T> factor = (drift > T(0.5)) & (drift < T(2)) ? drift : Broadcast(T(1));
      for (int v = 0; v < vectors; ++v) {
        Store(beta + v * kWidth, Load(beta + v * kWidth) * factor);
      }
    }
    if (IsReversedBlock(plan, lanes, end)) {
      WriteReversed(plan, lanes, begin, end, gradients, out.emissions);
    } else {
      WriteRows(plan, lanes, begin, end, gradients, out.emissions);
    }
    if (out.tags) {
      for (int lane = 0; lane < lanes.count; ++lane) {
        const int64_t b = lanes.sequence[lane];
        const int64_t to = lanes.counts[lane] < end ? lanes.counts[lane] : end;
        const T largest = static_cast<T>(out.largest_weight), weight = weights[lane] * largest;
        for (int64_t s = begin; s < to && weight != 0; ++s) {
          const int64_t t = b * steps_given + crf::StepAt(plan, b, s);
          out.emissions[t * num_tags + out.tags[t]] +=
              kWeighted ? gold.weights[(s - begin) * kWidth + lane] * largest : weight;
        }
      }
    }
    const int64_t from = begin > 1 ? begin : 1;
    if (end > from) {
      AddPairs<kSections>(lanes, alpha_rows + (from - 1 - before) * row,
                          r_rows + (from - begin) * row, end - from, sums);
    }
  }
}

// For the sorted sequences first..last-1, as many as a vector has lanes, or fewer. Sequences whose
// weight is 0 have gradients of 0.
template <typename T>
void BackwardLanes(const crf::Plan<T>& plan, const crf::GradientOutputs<T>& out, int64_t first,
                   int64_t last) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Lanes<T> lanes(plan, first, last);
  const int64_t num_tags = lanes.num_tags, row = int64_t{lanes.vectors} * kWidth;
  const int64_t stride = (num_tags + kWidth - 1) / kWidth * kWidth;
  const Buffer<T> sums(num_tags * row);
  for (int64_t k = 0; k < num_tags * row; ++k) sums.data[k] = 0;
  if (out.step_weights) {
    lanes.sections == 1 ? SweepLanesBack<true, 1>(plan, out, lanes, first, sums.data)
                        : SweepLanesBack<true, kSectionsOf<T>>(plan, out, lanes, first, sums.data);
  } else {
    lanes.sections == 1 ? SweepLanesBack<false, 1>(plan, out, lanes, first, sums.data)
                        : SweepLanesBack<false, kSectionsOf<T>>(plan, out, lanes, first, sums.data);
  }
  const int parts = out.per_sequence ? lanes.count : 1;
  for (int part = 0; part < parts; ++part) {
    T* const pairs = out.pairs + (out.per_sequence ? lanes.sequence[part] : 0) * num_tags * stride;
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int j = 0; j < lanes.num_tags; ++j) {
        const T* of_lanes = sums.data + i * row + lanes.Place(j);
        pairs[i * stride + j] +=
            out.per_sequence ? of_lanes[part] : Sum(LoadFirst(of_lanes, lanes.count));
      }
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_BACKWARD_H_
