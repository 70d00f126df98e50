// Owns what a Plan points to, and decides how a batch is cut up.

#ifndef FASTKERAS_CRF_PLANNER_H_
#define FASTKERAS_CRF_PLANNER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "crf/kernels.h"

namespace fastkeras::crf {

// Sorted sequences that go through time together.
struct Task {
  int64_t first, last;
  bool lanes;     // a lane for each; otherwise, a vector for the tags of one
  int64_t group;  // the first of its groups (kernels.h)
};

template <typename T>
struct Planner {
  Plan<T> plan;
  const Kernels<T>& kernels;
  int num_threads;

  // `exponentials`: the transitions in the scaled domain, for the sweeps; otherwise as they are,
  // for Viterbi. `in_lanes`: sequences may share vectors. `workspace` has WorkspaceSize elements or
  // is null. `more_work` is what a step takes beyond a sweep, in nanoseconds. `reversed`: the valid
  // steps of each sequence from the last to the first; the scores are those of such chains.
  Planner(const Chains<T>& chains, bool exponentials, bool in_lanes, T* workspace, int num_threads,
          double more_work = 0, bool reversed = false);

  // Elements of a row of num_tags, rounded up to whole vectors.
  int64_t stride() const { return int64_t{plan.weights.vectors} * kernels.width; }

  // How many sorted sequences go through time together where a vector holds tags: many share the
  // loads of the transitions, few leave work for every thread. Results do not depend on it.
  int64_t block() const;

  // The batch cut into tasks, each with groups of at most group_size sequences; a task of lanes is
  // one group. Tasks of tags have at most max(block, group_size) sequences. Which sequences go in
  // lanes does not depend on the number of threads.
  std::vector<Task> Tasks(int64_t block, int64_t group_size) const;

  // How many sorted sequences have their expected transition counts summed together. Results depend
  // on it, so it depends on the problem alone: as small as the memory for the groups' sums allows.
  int64_t group_size() const;
  int64_t groups(int64_t size) const;  // and how many groups that makes

 private:
  void FindValidSteps(bool reversed);
  void ChooseScaling();
  void ChooseWatch();
  void WatchAllSteps();
  void ChooseLanes();
  void CutIntoLanes(bool exponentials, bool transposed);

  std::vector<int64_t> order_, counts_;
  std::vector<int32_t> step_index_;
  std::unique_ptr<T[]> panels_, lane_weights_;
  std::vector<Task> stretches_;  // of sorted sequences: a group of lanes each, or all of tags
  std::vector<uint64_t> allowed_into_;
  std::unique_ptr<uint8_t[]> inexact_;
  int64_t valid_ = 0;  // steps in all
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_PLANNER_H_
