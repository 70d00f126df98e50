// Rows of single sequences, read into lanes and written back: squares of lanes and tags are
// transposed.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_ROWS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_ROWS_H_

#include "crf/second_order/sweeps/sections.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Rows of single sequences: where the part of each lane begins, and how many numbers it has.
template <typename T, typename Pointer>
struct RowsOfLanes {
  static constexpr int kWidth = Simd<T>::kWidth;
  Pointer rows[kWidth];
  int64_t sizes[kWidth];

  // All of a row, of which each lane has the tags of its section; `row` is null where a sequence
  // has none.
  template <typename Row>
  FASTKERAS_INLINE RowsOfLanes(const TripleGroup<T>& group, const Row& row) {
    for (int lane = 0; lane < kWidth; ++lane) {
      const int place = group.places[lane];
      const Pointer begin = place < group.count ? row(place) : nullptr;
      sizes[lane] = begin ? group.tags_in[lane] : 0;
      rows[lane] = sizes[lane] ? begin + group.first_tag[lane] : nullptr;
    }
  }
  // Where there is one section: size(place) numbers, of many rows.
  template <typename Row, typename Size>
  FASTKERAS_INLINE RowsOfLanes(const TripleGroup<T>& group, const Row& row, const Size& size) {
    for (int lane = 0; lane < kWidth; ++lane) {
      sizes[lane] = lane < group.count ? size(lane) : 0;
      rows[lane] = sizes[lane] > 0 ? row(lane) : nullptr;
    }
  }
};

// The first `size` numbers, at least one, and `fill` in the other lanes.
template <typename T>
FASTKERAS_INLINE Vec<T> FirstOr(const T* from, int size, Vec<T> fill) {
  typename Simd<T>::Int index;
  for (int lane = 0; lane < Simd<T>::kWidth; ++lane) index[lane] = lane;
  return index < size ? LoadFirst(from, size) : fill;
}

// Numbers of single sequences as `vectors` vectors, `nothing` where a lane has none.
template <typename T>
void Gather(const RowsOfLanes<T, const T*>& from, int64_t vectors, T nothing, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Vec<T> fill = Broadcast(nothing);
  Vec<T> square[kWidth];
  for (int64_t v = 0; v < vectors; v += kWidth) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t left = from.sizes[lane] - v;
      if (left >= kWidth) {
        square[lane] = Load(from.rows[lane] + v);
      } else if (left > 0) {
        square[lane] = FirstOr(from.rows[lane] + v, static_cast<int>(left), fill);
      } else {
        square[lane] = fill;
      }
    }
    Transpose<T>(square);
    const int64_t here = vectors - v < kWidth ? vectors - v : kWidth;
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      if (i < here) Store(into + (v + i) * kWidth, square[i]);
    }
  }
}

// The opposite, times a factor of each lane.
template <typename T>
void Scatter(const T* from, int64_t vectors, Vec<T> factors, const RowsOfLanes<T, T*>& to) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> square[kWidth];
  for (int64_t v = 0; v < vectors; v += kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      square[i] = v + i < vectors ? Load(from + (v + i) * kWidth) * factors : Vec<T>{};
    }
    Transpose<T>(square);
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t left = to.sizes[lane] - v;
      if (left >= kWidth) {
        Store(to.rows[lane] + v, square[lane]);
      } else if (left > 0) {
        StoreFirst(to.rows[lane] + v, square[lane], static_cast<int>(left));
      }
    }
  }
}

// Rows of few vectors, as many at once as fill a square.
template <typename T>
FASTKERAS_INLINE int64_t RowsAtOnce(const TripleGroup<T>& group) {
  return group.vectors < group.kWidth ? group.kWidth / group.vectors : 1;
}

// `number` rows of all tags of single sequences, row(place, n), null where a sequence has none, as
// (number, vectors).
template <typename T, typename Row>
void GatherRows(const TripleGroup<T>& group, int64_t number, T nothing, const Row& row, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t together = RowsAtOnce(group), vectors = group.vectors;
  const Vec<T> fill = Broadcast(nothing);
  if (group.sections == kWidth && vectors == 1) {  // a row is a vector
    for (int64_t n = 0; n < number; ++n) {
      const T* const from = row(0, n);
      Store(into + n * kWidth, from ? FirstOr(from, group.num_tags, fill) : fill);
    }
    return;
  }
  for (int64_t first = 0; first < number; first += together) {
    if (together == 1) {
      const RowsOfLanes<T, const T*> rows(group, [&](int place) { return row(place, first); });
      Gather(rows, vectors, nothing, into + first * group.row);
      continue;
    }
    const int64_t here = number - first < together ? number - first : together;
    // Of each lane; the next row overwrites what one has too much.
    T numbers[(kWidth + 1) * kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      const int place = group.places[lane], size = group.tags_in[lane];
      for (int64_t n = 0; n < here; ++n) {
        const T* const from = place < group.count && size > 0 ? row(place, first + n) : nullptr;
        Store(numbers + lane * kWidth + n * vectors,
              from ? FirstOr(from + group.first_tag[lane], size, fill) : fill);
      }
    }
    Vec<T> square[kWidth];
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) square[lane] = Load(numbers + lane * kWidth);
    Transpose<T>(square);
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      if (i < here * vectors) Store(into + (first * vectors + i) * kWidth, square[i]);
    }
  }
}

// The opposite, times a factor of each lane.
template <typename T, typename Row>
void ScatterRows(const TripleGroup<T>& group, int64_t number, const T* from, Vec<T> factors,
                 const Row& row) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t together = RowsAtOnce(group), vectors = group.vectors;
  if (group.sections == kWidth && vectors == 1) {
    for (int64_t n = 0; n < number; ++n) {
      T* const to = row(0, n);
      if (to) StoreFirst(to, Load(from + n * kWidth) * factors, group.num_tags);
    }
    return;
  }
  for (int64_t first = 0; first < number; first += together) {
    if (together == 1) {
      const RowsOfLanes<T, T*> rows(group, [&](int place) { return row(place, first); });
      Scatter(from + first * group.row, vectors, factors, rows);
      continue;
    }
    const int64_t here = number - first < together ? number - first : together;
    Vec<T> square[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      square[i] =
          i < here * vectors ? Load(from + (first * vectors + i) * kWidth) * factors : Vec<T>{};
    }
    Transpose<T>(square);
    T numbers[(kWidth + 1) * kWidth] = {};
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) Store(numbers + lane * kWidth, square[lane]);
    for (int lane = 0; lane < kWidth; ++lane) {
      const int place = group.places[lane], size = group.tags_in[lane];
      for (int64_t n = 0; n < here && place < group.count; ++n) {
        T* const to = size > 0 ? row(place, first + n) : nullptr;
        if (!to) continue;
        StoreFirst(to + group.first_tag[lane], Load(numbers + lane * kWidth + n * vectors), size);
      }
    }
  }
}

// Whether the steps of a sequence are one long row in memory, and one long column of vectors.
template <typename T>
FASTKERAS_INLINE bool StepsAreOneRow(const TripleGroup<T>& group) {
  return group.sections == 1 && !group.plan.step_index;
}

// The scores of the steps begin..end-1, start and end among them, (end - begin, vectors); -inf
// where a lane has no such step or tag.
template <typename T>
void ReadScores(const TripleGroup<T>& group, int64_t begin, int64_t end, T* into) {
  const crf::Chains<T>& chains = group.plan.chains;
  const int64_t num_tags = group.num_tags;
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  const auto row = [&](int place, int64_t s) {
    const int64_t b = group.sequence[place];
    return chains.emissions + (b * chains.steps + crf::StepAt(group.plan, b, s)) * num_tags;
  };
  if (StepsAreOneRow(group)) {
    const RowsOfLanes<T, const T*> rows(
        group, [&](int place) { return row(place, begin); },
        [&](int place) {
          const int64_t last = group.counts[place] < end ? group.counts[place] : end;
          return (last - begin) * num_tags;
        });
    Gather(rows, (end - begin) * num_tags, kNothing, into);
  } else {
    const auto given = [&](int place, int64_t n) {
      return begin + n < group.counts[place] ? row(place, begin + n) : nullptr;
    };
    GatherRows(group, end - begin, kNothing, given, into);
  }
  const auto add = [&](int place, int64_t s, const T* scores) {
    if (s < begin || s >= end) return;
    T* const to = into + (s - begin) * group.row;
    for (int tag = 0; tag < num_tags; ++tag) to[group.At(tag, place)] += scores[tag];
  };
  for (int place = 0; place < group.count; ++place) {
    add(place, 0, chains.start_transitions);
    add(place, group.counts[place] - 1, chains.end_transitions);
  }
}

// Writes rows of the steps begin..end-1 to those of the sequences whose factor is not 0.
template <typename T>
void WriteMarginals(const TripleGroup<T>& group, const crf::TripleOutputs<T>& out, int64_t begin,
                    int64_t end, const T* from) {
  const int64_t num_tags = group.num_tags, steps = group.plan.chains.steps;
  T of_places[Simd<T>::kWidth];
  for (int place = 0; place < group.count; ++place) {
    of_places[place] = out.factors[group.sequence[place]];
  }
  const Vec<T> factors = group.OfPlaces(of_places);
  const auto row = [&](int place, int64_t s) {
    const int64_t b = group.sequence[place];
    return out.emissions + (b * steps + crf::StepAt(group.plan, b, s)) * num_tags;
  };
  if (StepsAreOneRow(group)) {
    const RowsOfLanes<T, T*> rows(
        group, [&](int place) { return row(place, begin); },
        [&](int place) {
          const int64_t last = group.counts[place] < end ? group.counts[place] : end;
          return of_places[place] == 0 ? 0 : (last - begin) * num_tags;
        });
    Scatter(from, (end - begin) * num_tags, factors, rows);
    return;
  }
  ScatterRows(group, end - begin, from, factors, [&](int place, int64_t n) {
    const int64_t s = begin + n;
    return of_places[place] != 0 && s < group.counts[place] ? row(place, s) : nullptr;
  });
}

// Matrices over pairs, by rows, from (num_tags, num_tags) of each sequence, null where it has none,
// and back.
template <typename T, typename From>
void GatherPairs(const TripleGroup<T>& group, const From& from, T* into) {
  const int64_t num_tags = group.num_tags, pairs = num_tags * num_tags;
  if (group.sections == 1) {
    const auto size = [&](int place) { return from(place) ? pairs : int64_t{0}; };
    return Gather(RowsOfLanes<T, const T*>(group, from, size), pairs, T(0), into);
  }
  const auto row = [&](int place, int64_t i) {
    return from(place) ? from(place) + i * num_tags : nullptr;
  };
  GatherRows(group, num_tags, T(0), row, into);
}
template <typename T, typename To>
void ScatterPairs(const TripleGroup<T>& group, const T* from, const To& to) {
  const int64_t num_tags = group.num_tags, pairs = num_tags * num_tags;
  const Vec<T> one = Broadcast(T(1));
  if (group.sections == 1) {
    const auto size = [&](int place) { return to(place) ? pairs : int64_t{0}; };
    return Scatter(from, pairs, one, RowsOfLanes<T, T*>(group, to, size));
  }
  const auto row = [&](int place, int64_t i) {
    return to(place) ? to(place) + i * num_tags : nullptr;
  };
  ScatterRows(group, num_tags, from, one, row);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_ROWS_H_
