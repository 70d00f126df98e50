// The sweeps in the scaled domain.

// sum_i row[i] column[i]; the row is in shared memory, and all threads read the same 16 bytes.
struct alignas(16) Pack {
  Real of[16 / sizeof(Real)];
};
constexpr int kPack = 16 / sizeof(Real);

template <int kRows>
__device__ inline Real Product(const Pack* row, const Real (&column)[kRows]) {
  Real sums[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kRows; i += kPack) {
    const Pack pack = row[i / kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) sums[(i + k) % 4] += pack.of[k] * column[i + k];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Whether an element of alpha that is suspiciously small has lost digits. A zero is right where
// every way to this tag is forbidden; `gap` becomes the least distance of a score taken as zero.
template <typename Previous>
__device__ bool HasLostDigits(const Scores& scores, int b, int count, int s, int j, Real row_peak,
                              Real peak, const Previous& previous, double* gap) {
  const Real score = scores.Emission<Real>(b, count, s, j);
  if (score == Real(-INFINITY)) return false;
  const Real below = row_peak - score;
  if (below > kForbidden) {
    if (below < *gap) *gap = below;
    return false;
  }
  bool reachable = s == 0;
  for (int i = 0; !reachable && i < scores.num_tags; ++i) {
    reachable = previous(i) > 0 &&
                peak - scores.transitions[int64_t(i) * scores.num_tags + j] <= kForbidden;
  }
  return reachable;
}

constexpr int kSweepThreads = kTags == 32 ? 32 : 256;
constexpr int kRoom = kTags ? kTags : kSweepThreads;
constexpr int kGroups = kSweepThreads / kRoom;      // threads that share a column of W
constexpr int kRows = kTags ? kTags / kGroups : 4;  // elements of it in the registers of each
constexpr int kAhead = 8;                           // steps that are loaded in advance

__device__ inline void Meet() {
  if (kSweepThreads == 32) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// One block sweeps forward (blockIdx.y 0), another backward (1). `rows` is (batch, 2, kept,
// num_tags), alpha and beta of valid steps. `kept` is `steps`, or 2 if rows are not kept.
extern "C" __global__ void __launch_bounds__(kSweepThreads, 1)
    sweeps(const Real* emissions, const Real* transitions, const Real* start, const Real* end,
           const int* counts, const int* step_index, int steps, int num_tags, const Real* weights,
           const Facts* facts, const Real* exponentials, const Real* peaks, Real* rows, int kept,
           int* exponents, double* log_z, int* state) {
  FASTKERAS_SHARED(Pack, of_rows, 2 * kRoom / kPack);
  FASTKERAS_SHARED(Real, partial, kRoom);
  FASTKERAS_SHARED(unsigned, maxima, 16);
  FASTKERAS_SHARED(double, doubles, 8);
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool backward = blockIdx.y == 1;
  if (count == 0) {
    if (!backward && threadIdx.x == 0) log_z[b] = 0;
    return;
  }
  const int64_t first_step = int64_t(b) * steps;
  const Real* const matrix = weights + (backward ? int64_t(num_tags) * num_tags : 0);
  rows += (int64_t(b) * 2 + backward) * kept * num_tags;
  const Real peak = Real(facts->peak);
  const Real smallest_safe = kSmallest / kEpsilon * num_tags * num_tags;
  double gap = facts->gap, last = 0;
  bool lost = false;
  Real scale = 1;
  int exponent = 0, sum_of_exponents = 0;
  const auto step_of = [&](int n) { return backward ? count - 1 - n : n; };
  const auto row_of = [&](int s) { return rows + int64_t(kept == steps ? s : s % 2) * num_tags; };
  // What both branches below do at each step.
  const auto watch = [&](int s, int j, Real value, const auto& previous) {
    const Real safe = scale > 1 ? smallest_safe * scale : smallest_safe;
    if (!backward && !lost && value < safe) {
      lost = HasLostDigits(scores, b, count, s, j, peaks[first_step + s], peak, previous, &gap);
    }
  };
  const auto rescale = [&](unsigned bits) {
    exponent = ExponentOf(bits);
    scale = PowerOfTwo(-exponent);
  };
  const auto note_exponent = [&](int s) {
    sum_of_exponents += exponent;
    if (!backward && threadIdx.x == 0) exponents[first_step + s] = exponent;
  };

  if constexpr (kTags > 0) {
    Real* const shared_rows = of_rows[0].of;  // two rows, used alternately
    const int j = threadIdx.x % kRoom, group = threadIdx.x / kRoom;
    const bool owns = group == 0 && j < num_tags;
    Real column[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int from = group * kRows + i;
      column[i] = from < num_tags && j < num_tags ? matrix[int64_t(from) * num_tags + j] : Real(0);
    }
    Real next[kAhead], now[kAhead];
    const auto load = [&](int first) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        next[k] = owns && first + k < count ? exponentials[scores.RowOf(b, step_of(first + k)) + j]
                                            : Real(0);
      }
    };
    load(0);
    for (int first = 0; first < count; first += kAhead) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) now[k] = next[k];
      load(first + kAhead);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int n = first + k;
        if (n >= count) continue;
        const int s = step_of(n);
        const Real* previous = shared_rows + (n + 1) % 2 * kRoom;
        Real reached = 1;
        if (n > 0) {
          const Pack* packs = of_rows + ((n + 1) % 2 * kRoom + group * kRows) / kPack;
          reached = Product(packs, column);
          if (kGroups > 1) {
            if (group == 1) partial[j] = reached;
            __syncthreads();
            if (group == 0) reached += partial[j];
          }
          reached *= scale;
        }
        note_exponent(s);
        if (group == 0) {
          const Real value = reached * now[k];
          shared_rows[n % 2 * kRoom + j] = value;
          if (owns) {
            if (kept == steps) row_of(s)[j] = backward ? reached : value;
            watch(s, j, value, [&](int i) { return previous[i]; });
          }
          last = value;
          const unsigned largest = __reduce_max_sync(kAllLanes, UpperBits(value));
          if (kSweepThreads == 32) {
            rescale(largest);
          } else if (lane == 0) {
            maxima[n % 2 * 8 + warp] = largest;
          }
        }
        Meet();
        if (kSweepThreads > 32) {
          unsigned largest = 0;
          for (int w = 0; w < kRoom / 32; ++w) {
            largest = Largest::Of(largest, maxima[n % 2 * 8 + w]);
          }
          rescale(largest);
        }
      }
    }
  } else {
    for (int n = 0; n < count; ++n) {
      const int s = step_of(n), before = backward ? s + 1 : s - 1;
      const Real* e = exponentials + scores.RowOf(b, s);
      const Real* e_before = n > 0 ? exponentials + scores.RowOf(b, before) : e;
      const Real* row_before = row_of(n > 0 ? before : s);
      const auto previous = [&](int i) {
        return backward ? row_before[i] * e_before[i] : row_before[i];
      };
      note_exponent(s);
      unsigned largest = 0;
      last = 0;
      for (int j = threadIdx.x; j < num_tags; j += kSweepThreads) {
        Real reached = 1;
        if (n > 0) {
          Real sums[4] = {0, 0, 0, 0};
          int i = 0;
          for (; i + 4 <= num_tags; i += 4) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              sums[k] += previous(i + k) * matrix[int64_t(i + k) * num_tags + j];
            }
          }
          for (; i < num_tags; ++i) sums[0] += previous(i) * matrix[int64_t(i) * num_tags + j];
          reached = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale;
        }
        const Real value = reached * e[j];
        row_of(s)[j] = backward ? reached : value;
        watch(s, j, value, previous);
        last += value;
        largest = Largest::Of(largest, UpperBits(value));
      }
      largest = __reduce_max_sync(kAllLanes, largest);
      if (lane == 0) maxima[n % 2 * 8 + warp] = largest;
      __syncthreads();
      for (int w = 0; w < 8; ++w) largest = Largest::Of(largest, maxima[n % 2 * 8 + w]);
      rescale(largest);
    }
  }
  if (backward) return;

  double peak_of_steps = 0;
  for (int s = threadIdx.x; s < count; s += kSweepThreads) peak_of_steps += peaks[first_step + s];
  peak_of_steps = OfBlock<Sum, kSweepThreads>(peak_of_steps, doubles);
  last = OfBlock<Sum, kSweepThreads>(last, doubles);
  gap = OfBlock<Smallest, kSweepThreads>(gap, doubles);
  const double any_lost = OfBlock<Largest, kSweepThreads>(lost ? 1.0 : 0.0, doubles);
  if (threadIdx.x > 0) return;
  const double scaled = log(last) + sum_of_exponents * 0.693147180559945309417;
  const double of_transitions = count > 1 ? (count - 1) * facts->peak : 0.0;
  log_z[b] = state[b] & kUnsound ? double(NAN) : scaled + peak_of_steps + of_transitions;
  // An upper bound, in log space, for all paths through something that counted as zero:
  const double forgotten = count * log(double(num_tags)) - gap;
  if (any_lost > 0 || !(forgotten < scaled - 40)) atomicOr(&state[b], int(kInexact));
}
FASTKERAS_KERNEL(sweeps);
