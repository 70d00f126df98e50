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

// max_i (row[i] + transitions[i, column]) for the columns of this thread, and the lowest i that
// gives it, for rows without NaN; laid out as for `Product`. With one column, the four maxima are
// of every fourth tag each.
__device__ inline void Best(const Pack* row, const Real (&transitions)[kRows * kColumns],
                            Real (&best)[4], int (&from)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    best[k] = -INFINITY;
    from[k] = 0;
  }
#pragma unroll
  for (int i = 0; i < kRows; i += kPack) {
    const Pack pack = row[i / kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int of = kColumns == 4 ? c : (i + k) % 4;
        const Real score = pack.of[k] + transitions[(i + k) * kColumns + c];
        if (score > best[of]) {
          best[of] = score;
          from[of] = i + k;
        }
      }
    }
  }
}

// The best path, in a tie that of the lowest tags, and its score. `rows` is (batch, 2, num_tags),
// `pointers` (batch, steps, num_tags): the tag before.
extern "C" __global__ void __launch_bounds__(kSweepThreads, kTags == 128 && kSingle ? 2 : 1)
    viterbi(const Real* emissions, const Real* transitions, const Real* start, const Real* end,
            const int* counts, const int* step_index, int steps, int num_tags, const Facts* facts,
            Real* rows, Pointer* pointers, int* tags, Real* value) {
  constexpr int kPeriod = 32;  // steps after which scores restart near 0, to keep their digits
  FASTKERAS_SHARED(Pack, of_rows, 2 * kRoom / kPack);
  FASTKERAS_SHARED(Pack, of_partial, (kGroups > 1 ? kGroups : 1) * kRoom / kPack);
  FASTKERAS_SHARED(Pointer, from_partial, (kGroups > 1 ? kGroups : 1) * kRoom);
  FASTKERAS_SHARED(double, doubles, 8);
  FASTKERAS_SHARED(Pointer, staged, kPeriod * kRoom);
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b], lane = threadIdx.x % 32;
  if (count == 0) {
    if (threadIdx.x == 0) value[b] = 0;
    return;
  }
  const int64_t of_sequence = int64_t(b) * steps;
  rows = kTags ? of_rows[0].of : rows + int64_t(b) * 2 * num_tags;
  const int stride = kTags ? kTags : num_tags;
  pointers += of_sequence * num_tags;
  bool unsound = facts->unsound_ends > 0 || (count > 1 && facts->unsound > 0);
  // What is taken from the scores of the next step.
  const auto peak_after = [&](int s, const Real* row) -> Real {
    if (s % kPeriod != kPeriod - 1) return 0;
    Real peak = -INFINITY;
    for (int j = lane; j < num_tags; j += 32) peak = Largest::Of(peak, row[j]);
    peak = OfWarp<Largest>(peak);
    return peak - peak == 0 ? rint(peak) : Real(0);  // a whole number keeps exact scores exact
  };

  if constexpr (kTags > 0) {
    const int j = threadIdx.x, group = threadIdx.x / (kRoom / kColumns);
    const int column = threadIdx.x % (kRoom / kColumns) * kColumns;
    const bool sums_up = kGroups == 1 || j < kRoom, owns = j < num_tags;
    Real of_thread[kRows * kColumns];
#pragma unroll
    for (int k = 0; k < kRows * kColumns; ++k) {
      const int from = group * kRows + k / kColumns, to = column + k % kColumns;
      of_thread[k] = from < num_tags && to < num_tags ? transitions[int64_t(from) * num_tags + to]
                                                      : Real(-INFINITY);
    }
    const auto emission = [&](int s) {
      return owns && s < count ? emissions[scores.RowOf(b, s) + j] : Real(0);
    };
    Pointer* pointer = pointers + j;
    Real taken = 0;
    const auto finish = [&](int s, Real reached, int from, Real term) {
      Real* const row = rows + s % 2 * kRoom;
      if (sums_up) {
        if (IsUnsound(term)) unsound = true;
        row[j] = owns ? (reached - taken) + term : Real(0);
        if (owns && s > 0) *pointer = Pointer(from);
      }
      pointer += num_tags;
      Meet();
      taken = peak_after(s, row);
    };
    Real next[kAhead], now[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) next[k] = emission(1 + k);
    finish(0, owns ? start[j] : Real(0), 0, emission(0));
    for (int first = 1; first < count; first += kAhead) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) now[k] = next[k];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) next[k] = emission(first + kAhead + k);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int s = first + k;
        if (s >= count) break;
        Real best[4];
        int from[4];
        Best(of_rows + ((s + 1) % 2 * kRoom + group * kRows) / kPack, of_thread, best, from);
        if (kGroups == 1) {
#pragma unroll
          for (int c = 1; c < 4; ++c) {
            if (best[c] > best[0] || (best[c] == best[0] && from[c] < from[0])) {
              best[0] = best[c];
              from[0] = from[c];
            }
          }
        } else {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            of_partial[0].of[group * kRoom + column + c] = best[c];
            from_partial[group * kRoom + column + c] = Pointer(group * kRows + from[c]);
          }
          __syncthreads();
          if (sums_up) {
            best[0] = -INFINITY;
            from[0] = 0;
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
              const Real score = of_partial[0].of[g * kRoom + j];
              if (score > best[0]) {
                best[0] = score;
                from[0] = g;
              }
            }
            if (best[0] > Real(-INFINITY)) from[0] = from_partial[from[0] * kRoom + j];
          }
        }
        finish(s, best[0], from[0], now[k]);
      }
    }
  }
  // Any number of tags, and scores with NaN or +inf, in which the recursion ends.
  const bool any_unsound = OfBlock<Largest, kSweepThreads>(unsound ? 1.0 : 0.0, doubles) > 0;
  if (kTags == 0 || any_unsound) {
    Real taken = 0;
    for (int s = 0; s < count; ++s) {
      const Real* before = rows + (s + 1) % 2 * stride;
      Real* row = rows + s % 2 * stride;
      for (int j = threadIdx.x; j < num_tags; j += kSweepThreads) {
        Real reached = s > 0 ? Real(-INFINITY) : start[j];
        int from = 0;
        for (int i = 0; s > 0 && i < num_tags; ++i) {
          Raise(&reached, &from, before[i] + transitions[int64_t(i) * num_tags + j], i);
        }
        const Real emission = emissions[scores.RowOf(b, s) + j];
        if (IsUnsound(emission)) unsound = true;
        row[j] = (reached - taken) + emission;
        if (s > 0) pointers[int64_t(s) * num_tags + j] = Pointer(from);
      }
      Meet();
      taken = peak_after(s, row);
    }
  }
  // The last tag, then back through the pointers. These are copied to shared memory first, since
  // each step has to wait for the one before.
  Real final_score = -INFINITY;
  int tag = 0;
  const Real* last = rows + (count - 1) % 2 * stride;
  for (int j = 0; j < num_tags; ++j) Raise(&final_score, &tag, last[j] + end[j], j);
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
  const double is_unsound = OfBlock<Largest, kSweepThreads>(unsound ? 1.0 : 0.0, doubles);
  // In a chain that is not sound, the recursion ends in NaN or +inf, and that is its score.
  if (threadIdx.x == 0) value[b] = is_unsound > 0 ? final_score : Real(score);
}
FASTKERAS_KERNEL(viterbi);
