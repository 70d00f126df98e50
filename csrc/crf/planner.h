// Owns what a Plan points to, and decides how a batch is cut up.

#ifndef FASTKERAS_CRF_PLANNER_H_
#define FASTKERAS_CRF_PLANNER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "crf/kernels.h"

namespace fastkeras::crf {

template <typename T>
struct Planner {
  Plan<T> plan;
  const Kernels<T>& kernels;
  int num_threads;

  // `exponentials`: the transitions in the scaled domain, for the sweeps; otherwise as they are,
  // for Viterbi. `workspace` has WorkspaceSize elements or is null. `more_work` is what a step
  // takes beyond a sweep, in nanoseconds.
  Planner(const Chains<T>& chains, bool exponentials, T* workspace, int num_threads,
          double more_work = 0);

  // Elements of a row of num_tags, rounded up to whole vectors.
  int64_t stride() const { return int64_t{plan.weights.vectors} * kernels.width; }

  // How many sorted sequences a task takes through time together: many share the loads of the
  // transitions, few leave work for every thread. Results do not depend on it.
  int64_t block() const;

  // How many sorted sequences have their expected transition counts summed together. Results depend
  // on it, so it depends on the problem alone: as small as the memory for the groups' sums allows.
  int64_t group_size() const;

 private:
  void FindValidSteps();
  void ChooseScaling();

  std::vector<int64_t> order_, counts_;
  std::vector<int32_t> step_index_;
  std::unique_ptr<T[]> panels_;
  std::unique_ptr<uint8_t[]> inexact_;
  int64_t valid_ = 0;  // steps in all
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_PLANNER_H_
