// How rows of lanes are read and written: emissions and gradients, transposed, and the workspace.

#ifndef FASTKERAS_CRF_SWEEPS_LANES_ROWS_H_
#define FASTKERAS_CRF_SWEEPS_LANES_ROWS_H_

#include "crf/kernels.h"
#include "crf/sweeps/lanes.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Where the tags of a row go whose quarters belong to the four sections, and where they come from.
template <typename T>
typename Lanes<T>::Int OfQuarters(const Lanes<T>& lanes) {
  typename Lanes<T>::Int from = {};
  for (int lane = 0; lane < lanes.kWidth; ++lane) {
    from[lane] = lane / 4 * lanes.vectors + lane % 4;
  }
  return from;
}
template <typename T>
typename Lanes<T>::Int FromQuarters(const Lanes<T>& lanes) {
  typename Lanes<T>::Int from = {};
  for (int tag = 0; tag < lanes.num_tags; ++tag) {
    from[tag] = tag / lanes.vectors * 4 + tag % lanes.vectors;
  }
  return from;
}

// Whether steps lie beside one another: no mask leaves any out.
template <typename T>
FASTKERAS_INLINE bool HasNoHoles(const crf::Plan<T>& plan) {
  return !plan.step_index || plan.reversed;
}
// Where step s of a lane lies, in chains without holes; after its last step, anywhere in it.
template <typename T>
FASTKERAS_INLINE int64_t StepOfLane(const crf::Plan<T>& plan, const Lanes<T>& lanes, int lane,
                                    int64_t s) {
  if (!plan.reversed) return s;
  return s < lanes.counts[lane] ? lanes.counts[lane] - 1 - s : 0;
}

// Whether two steps fill the square that is transposed: each lane has half of its vector for
// either.
template <typename T>
bool CanPair(const crf::Plan<T>& plan, const Lanes<T>& lanes) {
  return lanes.sections == 2 && lanes.num_tags > 1 && HasNoHoles(plan) &&
         2 * lanes.vectors <= lanes.kWidth;
}

// Reads the emissions of the steps begin..end-1, transposed, into (end - begin, vectors, kWidth).
// What a lane has after its last step, and in place of a tag that it lacks, is no score.
template <typename T>
FASTKERAS_SHARED void ReadEmissions(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                    int64_t end, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = lanes.num_tags;
  Vec<T> square[kWidth];
  const T* rows[kWidth];
  if (lanes.sections == 1 && !plan.step_index) {  // the steps of a sequence as one long row
    for (int lane = 0; lane < kWidth; ++lane) {
      rows[lane] = chains.emissions + (lanes.sequence[lane] * chains.steps + begin) * num_tags;
    }
    const int64_t size = (end - begin) * num_tags;
    for (int64_t k = 0; k < size; k += kWidth) {
      const int left = size - k < kWidth ? static_cast<int>(size - k) : kWidth;
      if (left == kWidth) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) square[lane] = Load(rows[lane] + k);
      } else {
        for (int lane = 0; lane < kWidth; ++lane) square[lane] = LoadFirst(rows[lane] + k, left);
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (i < left) Store(into + (k + i) * kWidth, square[i]);
      }
    }
    return;
  }
  int64_t s = begin;
#if defined(FASTKERAS_AVX512)
  if constexpr (kSectionsOf<T> == 4) {  // of each sequence, a quarter of its tags in each quarter
    const auto spread = OfQuarters(lanes);
    for (; lanes.sections > 1 && HasNoHoles(plan) && s < end; ++s) {
      for (int k = 0; k < 4; ++k) {
        const int64_t t = lanes.sequence[k] * chains.steps + StepOfLane(plan, lanes, k, s);
        const T* const row = chains.emissions + t * num_tags;
        square[k] = Permuted(LoadFirst(row, lanes.num_tags), spread);
      }
      TransposeSquares<T>(square, square);
      T* const to = into + (s - begin) * lanes.vectors * kWidth;
      for (int v = 0; v < lanes.vectors; ++v) Store(to + v * kWidth, square[v]);
    }
  } else {
    for (; CanPair(plan, lanes) && s + 2 <= end; s += 2) {
      const int tags[2] = {lanes.vectors, lanes.vectors - lanes.padded};
#pragma GCC unroll 16
      for (int lane = 0; lane < kWidth; ++lane) {
        const int section = lane / (kWidth / 2);
        const T* const rows_of_lane = chains.emissions + section * lanes.vectors +
                                      lanes.sequence[lane] * chains.steps * num_tags;
        square[lane] =
            LoadPair(rows_of_lane + StepOfLane(plan, lanes, lane, s) * num_tags,
                     rows_of_lane + StepOfLane(plan, lanes, lane, s + 1) * num_tags, tags[section]);
      }
      Transpose<T>(square);
      T* const to = into + (s - begin) * lanes.vectors * kWidth;
#pragma GCC unroll 8
      for (int i = 0; i < kWidth / 2; ++i) {
        if (i >= lanes.vectors) continue;
        Store(to + i * kWidth, square[i]);
        Store(to + (lanes.vectors + i) * kWidth, square[kWidth / 2 + i]);
      }
    }
  }
#endif
  for (; s < end; ++s) {
    T* const to = into + (s - begin) * lanes.vectors * kWidth;
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t step = s < lanes.counts[lane] ? s : 0, b = lanes.sequence[lane];
      const int64_t t = crf::StepAt(plan, b, step);
      rows[lane] = chains.emissions + (b * chains.steps + t) * num_tags + lanes.first_tag[lane];
    }
    for (int j = 0; j < lanes.vectors; j += kWidth) {
      const int here = lanes.vectors - j < kWidth ? lanes.vectors - j : kWidth;
#pragma GCC unroll 16
      for (int lane = 0; lane < kWidth; ++lane) {
        const int rest = static_cast<int>(lanes.tags[lane]) - j, tags = rest < here ? rest : here;
        square[lane] = tags > 0 ? LoadFirst(rows[lane] + j, tags) : Vec<T>{};
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (i < here) Store(to + (j + i) * kWidth, square[i]);
      }
    }
  }
}

// The opposite: writes (end - begin, vectors, kWidth) to the rows of the steps begin..end-1, where
// they are steps of a lane.
template <typename T>
FASTKERAS_SHARED void WriteRows(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                int64_t end, const T* from, T* emissions) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = lanes.num_tags, steps = plan.chains.steps;
  Vec<T> square[kWidth];
  T* rows[kWidth];
  if (lanes.sections == 1 && !plan.step_index) {
    const int64_t size = (end - begin) * num_tags;
    const bool all = lanes.shortest >= end;
    int64_t sizes[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t left = lanes.counts[lane] - begin;
      rows[lane] = emissions + (lanes.sequence[lane] * steps + begin) * num_tags;
      sizes[lane] = left < 0 ? 0 : left * num_tags < size ? left * num_tags : size;
    }
    for (int64_t k = 0; k < size; k += kWidth) {
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (k + i < size) square[i] = Load(from + (k + i) * kWidth);
      }
      Transpose<T>(square);
      if (all && k + kWidth <= size) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) Store(rows[lane] + k, square[lane]);
        continue;
      }
      for (int lane = 0; lane < kWidth; ++lane) {
        const int64_t left = sizes[lane] - k;
        if (left >= kWidth) {
          Store(rows[lane] + k, square[lane]);
        } else if (left > 0) {
          StoreFirst(rows[lane] + k, square[lane], static_cast<int>(left));
        }
      }
    }
    return;
  }
  int64_t s = begin;
#if defined(FASTKERAS_AVX512)
  if constexpr (kSectionsOf<T> == 4) {
    const auto gather = FromQuarters(lanes);
    for (; lanes.sections > 1 && HasNoHoles(plan) && s < end; ++s) {
      const T* const step = from + (s - begin) * lanes.vectors * kWidth;
      for (int v = 0; v < 4; ++v) {
        square[v] = v < lanes.vectors ? Load(step + v * kWidth) : Vec<T>{};
      }
      TransposeSquares<T>(square, square);
      for (int k = 0; k < lanes.count; ++k) {
        if (s >= lanes.counts[k]) continue;
        const int64_t t = lanes.sequence[k] * steps + StepOfLane(plan, lanes, k, s);
        StoreFirst(emissions + t * num_tags, Permuted(square[k], gather), lanes.num_tags);
      }
    }
  } else {
    for (; CanPair(plan, lanes) && s + 2 <= end; s += 2) {
      const int tags[2] = {lanes.vectors, lanes.vectors - lanes.padded};
      const T* const step = from + (s - begin) * lanes.vectors * kWidth;
#pragma GCC unroll 8
      for (int i = 0; i < kWidth / 2; ++i) {
        if (i >= lanes.vectors) continue;
        square[i] = Load(step + i * kWidth);
        square[kWidth / 2 + i] = Load(step + (lanes.vectors + i) * kWidth);
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int lane = 0; lane < kWidth; ++lane) {
        const int section = lane / (kWidth / 2);
        const int64_t left = lanes.counts[lane] - s;
        const int64_t t = lanes.sequence[lane] * steps + StepOfLane(plan, lanes, lane, s);
        T* const row = emissions + section * lanes.vectors + t * num_tags;
        if (left >= 2) {
          StorePair(row, plan.reversed ? row - num_tags : row + num_tags, square[lane],
                    tags[section]);
        } else if (left == 1) {
          StoreFirst(row, square[lane], tags[section]);
        }
      }
    }
  }
#endif
  for (; s < end; ++s) {
    const T* const step = from + (s - begin) * lanes.vectors * kWidth;
    for (int j = 0; j < lanes.vectors; j += kWidth) {
      const int here = lanes.vectors - j < kWidth ? lanes.vectors - j : kWidth;
      for (int i = 0; i < here; ++i) square[i] = Load(step + (j + i) * kWidth);
      Transpose<T>(square);
      for (int lane = 0; lane < kWidth; ++lane) {
        const int rest = static_cast<int>(lanes.tags[lane]) - j, tags = rest < here ? rest : here;
        if (s >= lanes.counts[lane] || tags <= 0) continue;
        const int64_t b = lanes.sequence[lane];
        T* row = emissions + (b * steps + crf::StepAt(plan, b, s)) * num_tags;
        StoreFirst(row + j + lanes.first_tag[lane], square[lane], tags);
      }
    }
  }
}

// Rows of the workspace of lanes that do not fill the vectors: (num_tags, count) for each step.
template <typename T>
FASTKERAS_INLINE void StoreNarrow(const Lanes<T>& lanes, const T* vectors, T* row) {
  const int64_t count = lanes.count;
  for (int v = 0; v < lanes.vectors; ++v) {
    Vec<T> all = Load(vectors + v * lanes.kWidth);
    for (int j = v; j < lanes.num_tags; j += lanes.vectors) {
      StoreFirst(row + j * count, all, lanes.count);
      all = Shuffled<Rotated<lanes.kWidth, lanes.kWidth / kSectionsOf<T>>>(all, all);
    }
  }
}
// One number for each sequence, in the lanes of all its sections.
template <typename T>
FASTKERAS_INLINE Vec<T> LoadOfLanes(const Lanes<T>& lanes, const T* from) {
  return SumOfSections(lanes, LoadFirst(from, lanes.count));
}
template <typename T>
FASTKERAS_INLINE void LoadNarrow(const Lanes<T>& lanes, const T* row, T* vectors) {
  constexpr int kWidth = Simd<T>::kWidth, kBack = kWidth - kWidth / kSectionsOf<T>;
  const int64_t count = lanes.count;
  for (int v = 0; v < lanes.vectors; ++v) {
    Vec<T> all = {};
    for (int j = v + (lanes.sections - 1) * lanes.vectors; j >= 0; j -= lanes.vectors) {
      all = Shuffled<Rotated<kWidth, kBack>>(all, all);
      if (j < lanes.num_tags) all += LoadFirst(row + j * count, lanes.count);
    }
    Store(vectors + v * kWidth, all);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_ROWS_H_
