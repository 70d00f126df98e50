// Whole paths: their scores, the best, the k best, and samples.

#include "crf/paths.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "crf/crf.h"
#include "crf/exact.h"
#include "crf/planner.h"
#include "crf/soundness.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

template <typename T>
std::unique_ptr<T[]> Transposed(const Chains<T>& chains) {
  const int64_t num_tags = chains.num_tags;
  std::unique_ptr<T[]> transposed(new T[num_tags * num_tags]);
  for (int64_t i = 0; i < num_tags; ++i) {
    for (int64_t j = 0; j < num_tags; ++j) {
      transposed[j * num_tags + i] = chains.transitions[i * num_tags + j];
    }
  }
  return transposed;
}

template <typename T>
T UnsoundScore(const Plan<T>& plan, int64_t b) {
  const Chains<T>& chains = plan.chains;
  const auto emission = [&](int64_t s, int64_t j) {
    return chains.emissions[(b * chains.steps + StepAt(plan, b, s)) * chains.num_tags + j];
  };
  const auto no_duration = [](int64_t, int64_t) { return 0.0; };
  const auto transitions = [&](int64_t s) { return TransitionsInto(plan, b, s); };
  return static_cast<T>(BestUnsoundScore(plan.counts[b], chains.num_tags, 1, emission, no_duration,
                                         transitions, chains.start_transitions,
                                         chains.end_transitions));
}

// In single precision the sums of two almost equal paths may come in the wrong order; here their
// scores are exact. Paths of equal scores keep the order of ties.
template <typename T>
void SortByScore(const Plan<T>& plan, int64_t sequence, int64_t found, int32_t* tags, T* scores) {
  const int64_t steps = plan.chains.steps;
  std::vector<double> exact(found);
  std::vector<int64_t> order(found);
  std::iota(order.begin(), order.end(), 0);
  PathScores(plan, sequence, found, tags, exact.data());
  const auto better = [&](int64_t a, int64_t b) { return exact[a] > exact[b]; };
  if (!std::is_sorted(order.begin(), order.end(), better)) {
    const std::vector<int32_t> paths(tags, tags + found * steps);
    std::stable_sort(order.begin(), order.end(), better);
    for (int64_t r = 0; r < found; ++r) {
      std::copy_n(paths.begin() + order[r] * steps, steps, tags + r * steps);
    }
  }
  for (int64_t r = 0; r < found; ++r) scores[r] = static_cast<T>(exact[order[r]]);
}

}  // namespace

template <typename T>
void PathScores(const Plan<T>& plan, int64_t sequence, int64_t paths, const int32_t* tags,
                double* scores) {
  const Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags, steps = plan.counts[sequence];
  if (paths == 1) {  // four sums, since each addition waits for the one before
    double of_tags[2] = {}, of_pairs[2] = {};
    const T* emissions = chains.emissions + sequence * chains.steps * num_tags;
    int32_t tag = 0;
    int64_t s = 0;
    const auto step = [&](int64_t t, const T* into) __attribute__((always_inline)) {
      tag = tags[t];
      of_tags[s & 1] += emissions[t * num_tags + tag];
      of_pairs[s & 1] += into[tag];
    };
    if (steps > 0) step(StepAt(plan, sequence, 0), chains.start_transitions);
    if (!plan.step_index && !chains.varies) {  // the usual walk, in pairs of steps
      for (s = 1; s + 2 <= steps; s += 2) {
        const int32_t first = tags[s], second = tags[s + 1];
        of_tags[1] += emissions[s * num_tags + first];
        of_pairs[1] += chains.transitions[tag * num_tags + first];
        of_tags[0] += emissions[(s + 1) * num_tags + second];
        of_pairs[0] += chains.transitions[first * num_tags + second];
        tag = second;
      }
    }
    for (s = std::max<int64_t>(s, 1); s < steps; ++s) {
      step(StepAt(plan, sequence, s), TransitionsInto(plan, sequence, s) + tag * num_tags);
    }
    if (steps > 0) of_tags[0] += chains.end_transitions[tag];
    *scores = (of_tags[0] + of_tags[1]) + (of_pairs[0] + of_pairs[1]);
    return;
  }
  std::fill_n(scores, paths, 0.0);
  int64_t before = 0;
  for (int64_t s = 0; s < steps; ++s) {  // all paths at each step: their sums are independent
    const int64_t t = StepAt(plan, sequence, s);
    const T* emissions = chains.emissions + (sequence * chains.steps + t) * num_tags;
    const T* into = s == 0 ? nullptr : TransitionsInto(plan, sequence, s);
    for (int64_t r = 0; r < paths; ++r) {
      const int32_t* path = tags + r * chains.steps;
      const int64_t tag = path[t];
      scores[r] += emissions[tag];
      scores[r] += s == 0 ? chains.start_transitions[tag] : into[path[before] * num_tags + tag];
      if (s == steps - 1) scores[r] += chains.end_transitions[tag];
    }
    before = t;
  }
}

template <typename T>
void Viterbi(const Chains<T>& chains, int32_t* tags, T* score, int num_threads) {
  const Planner<T> planner(chains, false, true, nullptr, num_threads);
  const Plan<T>& plan = planner.plan;
  const Kernels<T>& kernels = planner.kernels;
  std::fill(tags, tags + chains.batch * chains.steps, 0);
  std::fill(plan.inexact, plan.inexact + chains.batch, false);
  const auto write_score = [&](int64_t b) {
    if (plan.inexact[b]) {
      score[b] = UnsoundScore(plan, b);
      return;
    }
    double exact;
    PathScores(plan, b, 1, tags + b * chains.steps, &exact);
    score[b] = static_cast<T>(exact);
  };
  if (chains.varies) {
    ParallelFor(chains.batch, planner.num_threads, [&](int64_t task) {
      const int64_t b = plan.order[task];
      if (plan.counts[b] > 0) kernels.varying_viterbi(plan, b, tags);
      write_score(b);
    });
    return;
  }
  const std::unique_ptr<T[]> transposed = Transposed(chains);
  const std::vector<Task> tasks = planner.Tasks(planner.block(), 1);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const auto [first, last, lanes, group] = tasks[number];
    (lanes ? kernels.viterbi_lanes : kernels.viterbi)(plan, transposed.get(), first, last, tags);
    for (int64_t i = first; i < last; ++i) write_score(plan.order[i]);
  });
}

template <typename T>
void KBest(const Chains<T>& chains, int64_t k, int32_t* tags, T* scores, int num_threads) {
  const Planner<T> planner(chains, false, false, nullptr, num_threads, 10.0 * k);
  const Plan<T>& plan = planner.plan;
  std::unique_ptr<T[]> transposed;
  if (!chains.varies) transposed = Transposed(chains);
  const std::unique_ptr<int64_t[]> found(new int64_t[chains.batch]);
  const int64_t block = chains.varies ? 1 : planner.block(), area = k * chains.steps;
  ParallelFor((chains.batch + block - 1) / block, planner.num_threads, [&](int64_t task) {
    const int64_t first = task * block, last = std::min(chains.batch, first + block);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = plan.order[i];
      std::fill_n(tags + b * area, area, 0);
      std::fill_n(scores + b * k, k, -std::numeric_limits<T>::infinity());
      found[b] = 1;  // no step is valid: the empty path
      plan.inexact[b] = false;
    }
    if (!chains.varies) {
      planner.kernels.k_best(plan, transposed.get(), first, last, k, tags, found.get());
    } else if (plan.counts[plan.order[first]] > 0) {
      planner.kernels.varying_k_best(plan, plan.order[first], k, tags, found.get());
    }
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = plan.order[i];
      if (plan.inexact[b]) {
        std::fill_n(scores + b * k, k, T(NAN));
        scores[b * k] = UnsoundScore(plan, b);
        continue;
      }
      SortByScore(plan, b, found[b], tags + b * area, scores + b * k);
    }
  });
}

// In log space, where each step's exponentials are computed once, as in a sweep.
template <typename T>
void SampleVarying(const Chains<T>& chains, int64_t num_samples, const T* uniforms, int32_t* tags,
                   int num_threads) {
  const Planner<T> planner(chains, true, false, nullptr, num_threads, 10.0 * num_samples);
  std::fill_n(tags, num_samples * chains.batch * chains.steps, 0);
  ParallelFor(chains.batch, planner.num_threads, [&](int64_t task) {
    const int64_t b = planner.plan.order[task];
    if (planner.plan.counts[b] == 0 || !planner.kernels.is_sound(planner.plan, b)) return;
    ExactSample(planner.plan, b, num_samples, uniforms, tags);
  });
}

template <typename T>
void Sample(const Chains<T>& chains, int64_t num_samples, const T* uniforms, int32_t* tags,
            int num_threads) {
  if (chains.varies) {
    SampleVarying(chains, num_samples, uniforms, tags, num_threads);
    return;
  }
  const Buffer<T> workspace(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
  const Planner<T> planner(chains, true, true, workspace.data, num_threads, 10.0 * num_samples);
  const Plan<T>& plan = planner.plan;
  const std::unique_ptr<double[]> value(new double[chains.batch]);
  const Buffer<T> into((chains.num_tags + 1) * planner.stride());
  planner.kernels.deal_transitions(plan, into.data);
  const std::vector<Task> tasks = planner.Tasks(planner.block(), 1);
  std::vector<Task> task_of(chains.batch);  // by place
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const auto [first, last, lanes, group] = tasks[number];
    (lanes ? planner.kernels.forward_lanes : planner.kernels.forward)(plan, first, last,
                                                                      value.get());
    std::fill(task_of.begin() + first, task_of.begin() + last, tasks[number]);
  });
  ParallelFor(chains.batch, planner.num_threads, [&](int64_t place) {
    const int64_t b = plan.order[place];
    const bool all_written = !plan.step_index && value[b] != -INFINITY && !plan.inexact[b];
    const int64_t written = all_written ? plan.counts[b] : 0;
    for (int64_t k = 0; k < num_samples; ++k) {
      int32_t* path = tags + (k * chains.batch + b) * chains.steps;
      std::fill(path + written, path + chains.steps, 0);
    }
    if (plan.inexact[b]) {
      if (!planner.kernels.is_sound(plan, b)) return;  // there is nothing to draw from
      ExactSample(plan, b, num_samples, uniforms, tags);
    } else if (value[b] != -INFINITY) {
      const auto [first, last, lanes, group] = task_of[place];
      planner.kernels.draw(plan, into.data, lanes, first, last, place, num_samples, uniforms, tags);
    }
  });
}

#define FASTKERAS_INSTANTIATE(T)                                                          \
  template void PathScores<T>(const Plan<T>&, int64_t, int64_t, const int32_t*, double*); \
  template void Viterbi<T>(const Chains<T>&, int32_t*, T*, int);                          \
  template void KBest<T>(const Chains<T>&, int64_t, int32_t*, T*, int);                   \
  template void Sample<T>(const Chains<T>&, int64_t, const T*, int32_t*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
