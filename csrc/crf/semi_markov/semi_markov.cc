// Lays a batch of semi-Markov chains out for the kernels, and rounds what they return.

#include "crf/semi_markov/semi_markov.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "crf/kernels.h"
#include "crf/semi_markov/segment_scores.h"
#include "crf/soundness.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// What all sequences share, in double.
template <typename T>
struct Layout {
  explicit Layout(const SemiChains<T>& chains)
      : chains(chains),
        num_tags(chains.num_tags),
        stride((num_tags + kernels.width - 1) / kernels.width * kernels.width),
        transitions(chains.transitions, chains.transitions + num_tags * num_tags),
        transposed(num_tags * num_tags),
        durations(chains.max_length * stride),
        start(stride, -INFINITY),
        end(stride, -INFINITY),
        panels(new double[3 * stride * num_tags]),
        order(chains.batch) {
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        transposed[j * num_tags + i] = transitions[i * num_tags + j];
      }
    }
    for (int64_t l = 0; l < chains.max_length; ++l) {
      std::copy_n(chains.durations + l * num_tags, num_tags, &durations[l * stride]);
    }
    std::copy_n(chains.start_transitions, num_tags, start.begin());
    std::copy_n(chains.end_transitions, num_tags, end.begin());
    const auto all_sound = CurrentKernels<T>().all_sound;
    sound_transitions = all_sound(chains.transitions, num_tags * num_tags);
    sound_ends = all_sound(chains.start_transitions, num_tags) &&
                 all_sound(chains.end_transitions, num_tags);
    while (sound_durations < chains.max_length &&
           all_sound(chains.durations + sound_durations * num_tags, num_tags)) {
      ++sound_durations;
    }
    peak = *std::max_element(transitions.begin(), transitions.end());
    if (peak == -INFINITY) peak = 0;
    for (int kind = 0; kind < 3; ++kind) {  // as they are; weights, and those transposed
      kernels.cut_into_panels(transitions.data(), num_tags, kind == 2, kind > 0, peak,
                              panels.get() + kind * stride * num_tags);
    }
    std::iota(order.begin(), order.end(), 0);  // the longest first
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return chains.lengths[a] > chains.lengths[b]; });
  }

  // Whether no score that a sequence of valid steps uses is NaN or +inf (soundness.h).
  bool IsSound(int64_t b) const {
    const int64_t steps = chains.lengths[b];
    return sound_ends && (steps == 1 || sound_transitions) &&
           std::min(chains.max_length, steps) <= sound_durations &&
           CurrentKernels<T>().all_sound(chains.emissions + b * chains.steps * num_tags,
                                         steps * num_tags);
  }

  Panels<double> Panel(int kind) const {
    return {panels.get() + kind * stride * num_tags, num_tags,
            static_cast<int>(stride / kernels.width)};
  }

  const SemiChains<T>& chains;
  const Kernels<double>& kernels = CurrentKernels<double>();
  const int64_t num_tags, stride;
  const std::vector<double> transitions;
  std::vector<double> transposed, durations, start, end;
  const std::unique_ptr<double[]> panels;
  std::vector<int64_t> order;
  double peak;
  bool sound_transitions, sound_ends;
  int64_t sound_durations = 0;  // this many, from the shortest on, are sound
};

// One sequence, read from its first step or from its last.
template <typename T>
struct Laid {
  Laid(const Layout<T>& layout, int64_t b, bool mirrored)
      : rows((layout.chains.lengths[b] + 2) * layout.stride) {
    const SemiChains<T>& chains = layout.chains;
    const int64_t steps = chains.lengths[b], num_tags = layout.num_tags, stride = layout.stride;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t from = mirrored ? steps - 1 - t : t;
      double* row = rows.data + t * stride;
      std::copy_n(chains.emissions + (b * chains.steps + from) * num_tags, num_tags, row);
      std::fill(row + num_tags, row + stride, 0.0);
    }
    const std::vector<double>& into = mirrored ? layout.transitions : layout.transposed;
    scores = {steps,
              num_tags,
              stride,
              chains.max_length,
              rows.data,
              layout.durations.data(),
              (mirrored ? layout.end : layout.start).data(),
              (mirrored ? layout.start : layout.end).data(),
              into.data(),
              layout.Panel(0),
              layout.Panel(mirrored ? 2 : 1),
              layout.peak,
              rows.data + steps * stride};
  }

  const Buffer<double> rows;
  SegmentScores scores;
};

struct Rows {  // of a sweep
  explicit Rows(const SegmentScores& scores)
      : ended((scores.steps + 1) * scores.stride), begun(scores.steps * scores.stride) {}
  const Buffer<double> ended, begun;
};

// Calls fn(b) for every sequence, the longest first.
template <typename T, typename Function>
void ForEach(const Layout<T>& layout, int num_threads, const Function& fn) {
  const SemiChains<T>& chains = layout.chains;
  const double steps = std::accumulate(chains.lengths, chains.lengths + chains.batch, 0.0);
  const double tags = chains.num_tags, segments = chains.max_length;
  const double work = steps * (20 * segments + 0.5 * segments * tags + 0.09 * tags * tags);
  ParallelFor(chains.batch, ThreadsThatPay(work, num_threads),
              [&](int64_t task) { fn(layout.order[task]); });
}

template <typename T>
T UnsoundScore(const SemiChains<T>& chains, int64_t b) {
  const T* emissions = chains.emissions + b * chains.steps * chains.num_tags;
  return static_cast<T>(BestUnsoundScore(
      chains.lengths[b], chains.num_tags, chains.max_length,
      [&](int64_t t, int64_t j) { return emissions[t * chains.num_tags + j]; },
      [&](int64_t l, int64_t j) { return chains.durations[l * chains.num_tags + j]; },
      [&](int64_t) { return chains.transitions; }, chains.start_transitions,
      chains.end_transitions));
}

// The marginals of a sequence that is not sound: NaN wherever a segment could be.
template <typename T>
void SpoilMarginals(const SemiChains<T>& chains, int64_t b, T* unary, T* segments, T* counts) {
  const int64_t steps = chains.lengths[b], num_tags = chains.num_tags;
  std::fill_n(unary, steps * num_tags, T(NAN));
  std::fill_n(counts, num_tags * num_tags, T(NAN));
  for (int64_t t = 0; t < steps; ++t) {
    T* row = segments + t * chains.max_length * num_tags;
    const int64_t longest = std::min(chains.max_length, steps - t) * num_tags;
    std::fill_n(row, longest, T(NAN));
    std::fill(row + longest, row + chains.max_length * num_tags, T(0));
  }
}

}  // namespace

template <typename T>
void SemiLogPartition(const SemiChains<T>& chains, T* value, int num_threads) {
  const Layout<T> layout(chains);
  ForEach(layout, num_threads, [&](int64_t b) {
    value[b] = 0;
    if (chains.lengths[b] == 0) return;
    if (!layout.IsSound(b)) {
      value[b] = NAN;
      return;
    }
    const Laid<T> laid(layout, b, false);
    const Rows rows(laid.scores);
    value[b] =
        static_cast<T>(layout.kernels.segment_sweep(laid.scores, rows.ended.data, rows.begun.data));
  });
}

template <typename T>
void SemiMarginals(const SemiChains<T>& chains, T* unary, T* segments, T* counts, int num_threads) {
  const Layout<T> layout(chains);
  const int64_t num_tags = chains.num_tags, area = chains.steps * num_tags;
  ForEach(layout, num_threads, [&](int64_t b) {
    T *const unary_of_b = unary + b * area, *const segments_of_b =
                                                segments + b * area * chains.max_length;
    T* const counts_of_b = counts + b * num_tags * num_tags;
    int64_t written = chains.lengths[b] * num_tags;
    if (written > 0 && !layout.IsSound(b)) {
      SpoilMarginals(chains, b, unary_of_b, segments_of_b, counts_of_b);
    } else if (written > 0) {
      const Laid<T> laid(layout, b, false), mirrored(layout, b, true);
      const Rows rows(laid.scores), mirrored_rows(laid.scores);
      const double log_z =
          layout.kernels.segment_sweep(laid.scores, rows.ended.data, rows.begun.data);
      if (log_z == -INFINITY) {
        written = 0;
      } else {
        layout.kernels.segment_sweep(mirrored.scores, mirrored_rows.ended.data,
                                     mirrored_rows.begun.data);
        CurrentKernels<T>().segment_marginals(
            laid.scores,
            {rows.ended.data, rows.begun.data, mirrored_rows.ended.data, mirrored_rows.begun.data,
             log_z},
            unary_of_b, segments_of_b, counts_of_b);
      }
    }
    std::fill(unary_of_b + written, unary_of_b + area, T(0));
    std::fill(segments_of_b + written * chains.max_length, segments_of_b + area * chains.max_length,
              T(0));
    // Also those of one step, which use no transition: an unsound one must not show in them.
    if (written <= num_tags) std::fill_n(counts_of_b, num_tags * num_tags, T(0));
  });
}

template <typename T>
void SemiViterbi(const SemiChains<T>& chains, int32_t* tags, bool* begins, T* score,
                 int num_threads) {
  const Layout<T> layout(chains);
  ForEach(layout, num_threads, [&](int64_t b) {
    std::fill_n(tags + b * chains.steps, chains.steps, 0);
    std::fill_n(begins + b * chains.steps, chains.steps, false);
    score[b] = 0;
    if (chains.lengths[b] == 0) return;
    if (!layout.IsSound(b)) {
      score[b] = UnsoundScore(chains, b);
      return;
    }
    const Laid<T> laid(layout, b, false);
    score[b] = static_cast<T>(layout.kernels.segment_viterbi(laid.scores, tags + b * chains.steps,
                                                             begins + b * chains.steps));
  });
}

#define FASTKERAS_INSTANTIATE(T)                                         \
  template void SemiLogPartition<T>(const SemiChains<T>&, T*, int);      \
  template void SemiMarginals<T>(const SemiChains<T>&, T*, T*, T*, int); \
  template void SemiViterbi<T>(const SemiChains<T>&, int32_t*, bool*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
