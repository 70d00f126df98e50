#include "crf/gradients.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "machine/parallel.h"

namespace fastkeras::crf {

template <typename T>
void Spoil(const Plan<T>& plan, int64_t b, T* d_emissions, T* pairs, int64_t stride) {
  const Chains<T>& chains = plan.chains;
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t row = b * chains.steps + StepAt(plan, b, s);
    std::fill_n(d_emissions + row * chains.num_tags, chains.num_tags, T(NAN));
  }
  if (plan.counts[b] > 1) std::fill_n(pairs, chains.num_tags * stride, T(NAN));
}

template <typename T>
void ClearRows(const Plan<T>& plan, int64_t b, bool left_out, T* d_emissions) {
  const int64_t row = plan.chains.num_tags, rows = plan.chains.steps;
  T* gradient = d_emissions + b * rows * row;
  const int64_t written = left_out || plan.chains.mask ? 0 : plan.counts[b];
  std::fill(gradient + written * row, gradient + rows * row, T(0));
}

template <typename T>
void Weigh(const Plan<T>& plan, int width, T factor, T* pairs, int64_t stride) {
  const Panels<T>& weights = plan.weights;
  for (int v = 0; v < weights.vectors; v += 2) {
    const int64_t columns = (v + 2 <= weights.vectors ? 2 : 1) * width;
    for (int64_t i = 0; i < weights.num_tags; ++i) {
      const T* row = weights.data + v * width * weights.num_tags + i * columns;
      T* sums = pairs + i * stride + v * width;
      for (int64_t k = 0; k < columns; ++k) sums[k] *= factor * row[k];
    }
  }
}

template <typename T>
void AddEnds(const Plan<T>& plan, const T* d_emissions, T* d_start, T* d_end) {
  const int64_t num_tags = plan.chains.num_tags;
  const std::unique_ptr<double[]> sums(new double[2 * num_tags]());
  for (int64_t b = 0; b < plan.chains.batch; ++b) {
    if (plan.counts[b] == 0) continue;
    const T* rows = d_emissions + b * plan.chains.steps * num_tags;
    const T* first = rows + StepAt(plan, b, 0) * num_tags;
    const T* last = rows + StepAt(plan, b, plan.counts[b] - 1) * num_tags;
    for (int64_t j = 0; j < num_tags; ++j) sums[j] += first[j];
    for (int64_t j = 0; j < num_tags; ++j) sums[num_tags + j] += last[j];
  }
  std::copy(sums.get(), sums.get() + num_tags, d_start);
  std::copy(sums.get() + num_tags, sums.get() + 2 * num_tags, d_end);
}

template <typename T>
void AddGroups(const Planner<T>& planner, int64_t groups, const T* pairs, bool transposed,
               T* d_transitions) {
  const int64_t num_tags = planner.plan.chains.num_tags, stride = planner.stride();
  const int64_t rows = std::max<int64_t>(1, 4096 / num_tags);
  ParallelFor((num_tags + rows - 1) / rows, planner.num_threads, [&](int64_t task) {
    const std::unique_ptr<double[]> sums(new double[num_tags]);
    for (int64_t i = task * rows; i < std::min(num_tags, (task + 1) * rows); ++i) {
      std::fill(sums.get(), sums.get() + num_tags, 0.0);
      for (int64_t g = 0; g < groups; ++g) {
        const T* row = pairs + (g * num_tags + i) * stride;
        for (int64_t j = 0; j < num_tags; ++j) sums[j] += row[j];
      }
      for (int64_t j = 0; j < num_tags; ++j) {
        d_transitions[transposed ? j * num_tags + i : i * num_tags + j] = static_cast<T>(sums[j]);
      }
    }
  });
}

#define FASTKERAS_INSTANTIATE(T)                                    \
  template void Spoil<T>(const Plan<T>&, int64_t, T*, T*, int64_t); \
  template void ClearRows<T>(const Plan<T>&, int64_t, bool, T*);    \
  template void Weigh<T>(const Plan<T>&, int, T, T*, int64_t);      \
  template void AddEnds<T>(const Plan<T>&, const T*, T*, T*);       \
  template void AddGroups<T>(const Planner<T>&, int64_t, const T*, bool, T*);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
