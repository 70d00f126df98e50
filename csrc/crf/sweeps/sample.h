// Backward sampling from the rows of the forward sweep: p(y_t = i | y_{t+1} = j) is proportional to
// alpha_t[i] W[i, j].

#ifndef FASTKERAS_CRF_SWEEPS_SAMPLE_H_
#define FASTKERAS_CRF_SWEEPS_SAMPLE_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_forward.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// out = a row dealt to the lanes, each of which gets `shape.vectors` neighbouring tags: sums over
// the vectors are then sums of neighbours, and only one vector is left to cumulate. `row` yields
// the weight of a tag; in the padding out is 0.
template <typename T, typename Weights>
FASTKERAS_INLINE void Deal(const Row<T>& shape, const Weights& row, T* out) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int v = 0; v < shape.vectors; ++v) {
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t tag = int64_t{lane} * shape.vectors + v;
      out[v * kWidth + lane] = tag < shape.num_tags ? row(tag) : T(0);
    }
  }
}

// into (num_tags + 1, padded): row j = W[:, j], dealt; one more row of ones, for the last step.
template <typename T>
void DealTransitions(const crf::Plan<T>& plan, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Row<T> shape(plan.chains.num_tags);
  const crf::Panels<T>& weights = plan.weights_transposed;
  for (int64_t j = 0; j <= shape.num_tags; ++j) {
    const auto row = [&](int64_t i) -> T {
      if (j == shape.num_tags) return 1;
      const int64_t v = i / kWidth / 2 * 2;  // where the panel begins
      const int64_t columns = (v + 2 <= weights.vectors ? 2 : 1) * kWidth;
      return weights.data[v * kWidth * shape.num_tags + j * columns + i - v * kWidth];
    };
    Deal(shape, row, into + j * shape.vectors * kWidth);
  }
}

// The first tag at which the sum of prefix * into is above uniform times the whole sum; none whose
// weight is 0.
template <typename T>
FASTKERAS_INLINE int32_t DrawTag(const Row<T>& shape, const T* prefix, const T* into, T uniform) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> sums = Load(prefix) * Load(into);
  for (int v = 1; v < shape.vectors; ++v) {
    sums += Load(prefix + v * kWidth) * Load(into + v * kWidth);
  }
  const Vec<T> cumulated = PrefixSums(sums), one = Broadcast(T(1));
  const T target = uniform * cumulated[kWidth - 1];
  const auto is_above = cumulated > Broadcast(target), has_weight = sums > Vec<T>{};
  int lane = FirstEqual(is_above & has_weight ? one : Vec<T>{}, one);
  if (lane == kWidth) {  // missed by rounding: take the last tag of any weight
    for (lane = kWidth - 1; lane > 0 && !(sums[lane] > 0);) --lane;
  }
  if (shape.vectors == 1) return lane;
  T cumulative = 0, below = target - (cumulated[lane] - sums[lane]);
  below = below > 0 ? below : 0;
  int row = 0;
  for (int v = 0; v < shape.vectors; ++v) {
    cumulative += prefix[v * kWidth + lane] * into[v * kWidth + lane];
    row += cumulative <= below;
  }
  if (row == shape.vectors) {
    while (row > 1 && !(prefix[(row - 1) * kWidth + lane] * into[(row - 1) * kWidth + lane] > 0)) {
      --row;
    }
    --row;
  }
  return lane * shape.vectors + row;
}

// The rows that the forward sweep left of one sequence.
template <typename T>
struct PrefixRows {
  const T* alpha;
  int64_t step;            // elements of a step
  Buffer<int64_t> places;  // (num_tags) where each tag's element is

  PrefixRows(const crf::Plan<T>& plan, bool in_lanes, int64_t first, int64_t last, int64_t place)
      : places(plan.chains.num_tags) {
    const int64_t num_tags = plan.chains.num_tags;
    if (!in_lanes) {
      alpha = crf::KeptRows<T>(plan, place).alpha;
      step = num_tags;
      for (int64_t j = 0; j < num_tags; ++j) places.data[j] = j;
      return;
    }
    const Lanes<T> lanes(plan, first, last);
    const LaneRows<T> kept(plan, lanes, first);
    alpha = kept.alpha + place - first;
    step = kept.step;
    for (int j = 0; j < num_tags; ++j) {
      places.data[j] = lanes.fills_vectors() ? lanes.Place(j) : int64_t{j} * lanes.count;
    }
  }
  FASTKERAS_INLINE T At(int64_t s, int64_t tag) const { return alpha[s * step + places.data[tag]]; }
};

// to (columns, to_stride) = from (rows, from_stride), transposed: by squares where they are whole.
template <typename T, typename Number>
FASTKERAS_INLINE void CopyTransposed(const Number* from, int64_t from_stride, int64_t rows,
                                     int64_t columns, Number* to, int64_t to_stride) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr bool kFits = sizeof(Number) == sizeof(T);
  const int64_t whole_rows = kFits ? rows / kWidth * kWidth : 0;
  const int64_t whole_columns = kFits ? columns / kWidth * kWidth : 0;
  Vec<T> square[kWidth];
  for (int64_t r = 0; r < whole_rows; r += kWidth) {
    for (int64_t c = 0; c < whole_columns; c += kWidth) {
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        std::memcpy(&square[i], from + (r + i) * from_stride + c, sizeof(square[i]));
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        std::memcpy(to + (c + i) * to_stride + r, &square[i], sizeof(square[i]));
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

// One step of `count` samples, by a table of all cumulative sums, (num_tags, kVectors vectors):
// row i holds the sums up to tag i for every tag that may follow. `following` is null at the last
// step. numbers, following and drawn are readable and writeable up to whole vectors.
template <int kVectors, typename T>
FASTKERAS_INLINE void DrawByTable(const crf::Panels<T>& weights, const PrefixRows<T>& prefixes,
                                  int64_t step, const int32_t* following, const T* numbers,
                                  int64_t count, T* table, int32_t* drawn) {
  constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;
  typedef int32_t Narrow __attribute__((vector_size(4 * kWidth)));
  Vec<T> sums[2] = {};
  const auto cumulate = [&](auto row) FASTKERAS_LAMBDA_INLINE {
    for (int64_t i = 0; i < weights.num_tags; ++i) {
      const T prefix = prefixes.At(step, i);
      for (int v = 0; v < kVectors; ++v) {
        sums[v] += Broadcast(prefix) * row(i * kVectors + v);
        Store(table + (i * kVectors + v) * kWidth, sums[v]);
      }
    }
  };
  if (following) {
    cumulate([&](int64_t v) FASTKERAS_LAMBDA_INLINE { return Load(weights.data + v * kWidth); });
  } else {
    cumulate([&](int64_t) FASTKERAS_LAMBDA_INLINE { return Broadcast(T(1)); });
  }
  for (int64_t k = 0; k < count; k += kWidth) {
    Narrow narrow = {};
    if (following) std::memcpy(&narrow, following + k, sizeof(narrow));
    const Int index = __builtin_convertvector(narrow, Int);
    const Vec<T> target = Load(numbers + k) * LookUp(sums[0], sums[kVectors - 1], index);
    Int tag = {};
    for (int64_t i = 0; i < weights.num_tags - 1; ++i) {
      const T* row = table + i * kVectors * kWidth;
      tag -= LookUp(Load(row), Load(row + (kVectors - 1) * kWidth), index) <= target;
    }
    narrow = __builtin_convertvector(tag, Narrow);
    std::memcpy(drawn + k, &narrow, sizeof(narrow));
  }
}

// Draws paths of one sequence that has a possible one, and of the sorted sequences first..last-1
// that share vectors if `in_lanes`. uniforms and tags are (num_samples, batch, steps).
template <typename T>
void Draw(const crf::Plan<T>& plan, const T* into, bool in_lanes, int64_t first, int64_t last,
          int64_t place, int64_t num_samples, const T* uniforms, int32_t* tags) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t stride = int64_t{shape.vectors} * kWidth;
  const int64_t sequence = plan.order[place];
  const int64_t area = chains.batch * chains.steps, begin = sequence * chains.steps;
  const PrefixRows<T> prefixes(plan, in_lanes, first, last, place);
  // With few tags, a table for whole vectors of samples costs less than samples one by one.
  const bool by_table = kLooksUp && shape.vectors <= 2 && num_samples >= kWidth / 2;
  const Buffer<T> table(by_table ? shape.num_tags * stride : stride);
  // Samples are far apart in memory, often by a power of two, so they are copied by chunks of
  // steps.
  const int64_t row_size = (num_samples + kWidth - 1) / kWidth * kWidth;
  const Buffer<T> numbers(kChunk * row_size);
  const Buffer<int32_t> drawn(kChunk * row_size);
  for (int64_t i = 0; i < kChunk * row_size; ++i) numbers.data[i] = 0;
  const int32_t* following = nullptr;
  const int64_t steps = plan.counts[sequence];
  const auto at = [&](int64_t s) { return begin + crf::StepAt(plan, sequence, s); };
  for (int64_t from = (steps - 1) / kChunk * kChunk; from >= 0 && steps > 0; from -= kChunk) {
    const int64_t to = from + kChunk < steps ? from + kChunk : steps;
    if (!plan.step_index) {
      CopyTransposed<T>(uniforms + begin + from, area, num_samples, to - from, numbers.data,
                        row_size);
    }
    for (int64_t k = 0; k < num_samples; ++k) {
      const T* given = uniforms + k * area;
      for (int64_t s = from; plan.step_index && s < to; ++s) {
        numbers.data[(s - from) * row_size + k] = given[at(s)];
      }
      for (int64_t s = from - kChunk; from > 0 && s <= from; s += 64 / sizeof(T)) {
        __builtin_prefetch(given + at(s));
      }
    }
    for (int64_t s = to - 1; s >= from; --s) {
      const T* uniform = numbers.data + (s - from) * row_size;
      int32_t* row = drawn.data + (s - from) * row_size;
      if constexpr (kLooksUp) {
        if (by_table) {
          if (shape.vectors == 1) {
            DrawByTable<1>(plan.weights, prefixes, s, following, uniform, num_samples, table.data,
                           row);
          } else {
            DrawByTable<2>(plan.weights, prefixes, s, following, uniform, num_samples, table.data,
                           row);
          }
          following = row;
          continue;
        }
      }
      Deal(shape, [&](int64_t tag) { return prefixes.At(s, tag); }, table.data);
      for (int64_t k = 0; k < num_samples; ++k) {
        const int64_t after = following ? following[k] : shape.num_tags;
        row[k] = DrawTag(shape, table.data, into + after * stride, uniform[k]);
      }
      following = row;
    }
    if (!plan.step_index) {
      CopyTransposed<T>(drawn.data, row_size, to - from, num_samples, tags + begin + from, area);
      continue;
    }
    for (int64_t k = 0; k < num_samples; ++k) {
      for (int64_t s = from; s < to; ++s) {
        tags[k * area + at(s)] = drawn.data[(s - from) * row_size + k];
      }
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_SAMPLE_H_
