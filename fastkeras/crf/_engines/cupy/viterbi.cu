// The best path, in the (max, +) semiring.

#if FASTKERAS_TAGS > 0
using Pointer = unsigned char;
#else
using Pointer = int;
#endif

// Takes the larger score and its index; NaN counts as the largest.
__device__ inline void Raise(Real* best, int* from, Real score, int i) {
  if (score > *best || score != score) {
    *best = score;
    *from = i;
  }
}

// The best path, in a tie that of the lowest tags, and its score. `rows` is (batch, 2, num_tags),
// `pointers` (batch, steps, num_tags): the tag before.
extern "C" __global__ void __launch_bounds__(kSweepThreads, 1)
    viterbi(const Real* emissions, const Real* transitions, const Real* start, const Real* end,
            const int* counts, const int* step_index, int steps, int num_tags, const Facts* facts,
            Real* rows, Pointer* pointers, int* tags, Real* value) {
  constexpr int kPeriod = 32;  // steps after which scores restart near 0, to keep their digits
  FASTKERAS_SHARED(Real, best, 2 * kRoom);
  FASTKERAS_SHARED(Real, of_groups, kRoom);
  FASTKERAS_SHARED(int, from_groups, kRoom);
  FASTKERAS_SHARED(double, doubles, 8);
  FASTKERAS_SHARED(Pointer, staged, kPeriod * kRoom);
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b];
  if (count == 0) {
    if (threadIdx.x == 0) value[b] = 0;
    return;
  }
  rows = kTags ? best : rows + int64_t(b) * 2 * num_tags;
  const int stride = kTags ? kTags : num_tags;
  pointers += int64_t(b) * steps * num_tags;
  const int group = threadIdx.x / kRoom;
  const int first_tag = threadIdx.x % kRoom;
  Real column[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int from = group * kRows + i;
    column[i] = kTags && from < num_tags && first_tag < num_tags
                    ? transitions[int64_t(from) * num_tags + first_tag]
                    : Real(-INFINITY);
  }
  bool unsound = facts->unsound_ends > 0 || (count > 1 && facts->unsound > 0);
  Real taken = 0;
  for (int s = 0; s < count; ++s) {
    const Real* before = rows + (s + 1) % 2 * stride;
    Real* row = rows + s % 2 * stride;
    for (int j = first_tag; j < num_tags || (kTags && j == first_tag); j += kSweepThreads) {
      Real reached = -INFINITY;
      int from = 0;
      if (s > 0 && kTags) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int tag = group * kRows + i;
          if (tag < num_tags) Raise(&reached, &from, before[tag] + column[i], tag);
        }
        if (kGroups > 1) {
          if (group == 1) {
            of_groups[j] = reached;
            from_groups[j] = from;
          }
          __syncthreads();
          if (group == 0) Raise(&reached, &from, of_groups[j], from_groups[j]);
        }
      } else if (s > 0) {
        for (int i = 0; i < num_tags; ++i) {
          Raise(&reached, &from, before[i] + transitions[int64_t(i) * num_tags + j], i);
        }
      } else if (j < num_tags) {
        reached = start[j];
      }
      if (group == 0 && j < num_tags) {
        const Real emission = emissions[scores.RowOf(b, s) + j];
        if (IsUnsound(emission)) unsound = true;
        row[j] = (reached - taken) + emission;
        if (s > 0) pointers[int64_t(s) * num_tags + j] = Pointer(from);
      }
    }
    Meet();
    taken = 0;
    if (s % kPeriod == kPeriod - 1) {
      Real peak = -INFINITY;
      int of_peak = 0;
      for (int j = 0; j < num_tags; ++j) Raise(&peak, &of_peak, row[j], j);
      if (peak - peak == 0) taken = rint(peak);  // a whole number keeps exact scores exact
    }
  }
  // The last tag, then back through the pointers. These are copied to shared memory first, since
  // each step has to wait for the one before.
  Real final_score = -INFINITY;
  int tag = 0;
  const Real* last = rows + (count - 1) % 2 * stride;
  for (int j = 0; j < num_tags; ++j) Raise(&final_score, &tag, last[j] + end[j], j);
  const int64_t of_sequence = int64_t(b) * steps;
  for (int high = count; high > 0; high -= kPeriod) {
    const int low = high > kPeriod ? high - kPeriod : 0;
    if (kTags) {
      for (int k = threadIdx.x; k < (high - low) * num_tags; k += kSweepThreads) {
        const int64_t from = int64_t(low) * num_tags + k;
        if (from >= num_tags) staged[k] = pointers[from];
      }
    }
    Meet();
    for (int s = high - 1; s >= low; --s) {  // all threads do the same, so none has to wait
      if (threadIdx.x == 0) tags[of_sequence + StepAt(step_index, of_sequence, s)] = tag;
      if (s > 0) {
        tag = kTags ? int(staged[(s - low) * num_tags + tag])
                    : int(pointers[int64_t(s) * num_tags + tag]);
      }
    }
    Meet();
  }
  const double score = PathScore<kSweepThreads>(scores, tags, b, count, doubles);
  const double any_unsound = OfBlock<Largest, kSweepThreads>(unsound ? 1.0 : 0.0, doubles);
  // In a chain that is not sound, the recursion ends in NaN or +inf, and that is its score.
  if (threadIdx.x == 0) value[b] = any_unsound > 0 ? final_score : Real(score);
}
FASTKERAS_KERNEL(viterbi);
