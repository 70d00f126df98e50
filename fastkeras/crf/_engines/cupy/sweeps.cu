// The sweeps in the scaled domain, and the watch for what they lose.
//
// A step waits for the one before, so only its latency counts: the sweeps do nothing that can be
// done afterwards for all steps at once. Whether alpha has lost digits is left to `watch`.

struct alignas(16) Pack {
  Real of[16 / sizeof(Real)];
};
constexpr int kPack = 16 / sizeof(Real);

// Up to 32 tags, a warp computes a step, and each thread one tag. Up to 128, a warp computes the
// part of 16 tags before, and each thread four tags: it reads a fourth as often as with one tag.
constexpr int kSweepThreads = kTags == 32 ? 32 : 256;
constexpr int kColumns = kTags == 128 ? 4 : 1;  // of W, for each thread
constexpr int kRoom = kTags ? kTags : kSweepThreads;
constexpr int kGroups = kSweepThreads * kColumns / kRoom;  // threads that share a column of W
constexpr int kRows = kTags ? kTags / kGroups : 4;  // elements of it in the registers of each
constexpr int kAhead = 4;                           // steps that are loaded in advance

__device__ inline void Meet() {
  if (kSweepThreads == 32) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// sum_i row[i] W[i, column] for the columns of this thread; the row is in shared memory, and all
// threads read the same 16 bytes. There are four sums, since one would wait for each addition.
__device__ inline void Product(const Pack* row, const Real (&weights)[kRows * kColumns],
                               Real (&sums)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) sums[k] = 0;
#pragma unroll
  for (int i = 0; i < kRows; i += kPack) {
    const Pack pack = row[i / kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        sums[kColumns == 4 ? c : (i + k) % 4] += pack.of[k] * weights[(i + k) * kColumns + c];
      }
    }
  }
}

// For each section of a sequence, one block sweeps forward (blockIdx.y 0), another backward (1).
// `rows` is (batch, 2, steps, num_tags), alpha and beta of valid steps. `exponents` (batch, steps)
// are those of alpha; `scaled` (batch) is log Z without the peaks. What comes before a section, and
// its peaks, are as in sections.cu; the pointers are null if there is one section.
extern "C" __global__ void __launch_bounds__(kSweepThreads, kTags == 128 && kSingle ? 2 : 1)
    sweeps(const int* counts, const int* step_index, int steps, int num_tags, const Real* weights,
           const Facts* facts, const Real* exponentials, const Real* peaks, int sections,
           int steps_of_section, const Real* borders, const int* levels_of_borders,
           const double* peaks_of_sections, Real* rows, int* exponents, double* scaled,
           double* log_z, const int* state) {
  FASTKERAS_SHARED(Pack, of_rows, 2 * kRoom / kPack);
  FASTKERAS_SHARED(Pack, of_partial, (kGroups > 1 ? kGroups : 1) * kRoom / kPack);
  FASTKERAS_SHARED(unsigned, maxima, 16);
  FASTKERAS_SHARED(double, doubles, 8);
  const int b = blockIdx.x / sections, section = blockIdx.x % sections;
  const int count = counts[b], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool backward = blockIdx.y == 1;
  if (count == 0) {
    if (section == 0 && !backward && threadIdx.x == 0) log_z[b] = scaled[b] = 0;
    return;
  }
  if (int64_t(section) * steps_of_section >= count) return;
  const int first = section * steps_of_section;  // up to `last`, the steps of this section
  const int last = count - first > steps_of_section ? first + steps_of_section : count;
  const int begin = backward ? count - last : first, end = backward ? count - first : last;
  const int64_t first_step = int64_t(b) * steps;
  const Real* const matrix = weights + (backward ? int64_t(num_tags) * num_tags : 0);
  rows += (int64_t(b) * 2 + backward) * steps * num_tags;
  exponentials += first_step * num_tags;
  exponents += first_step;
  if (borders) {
    borders += (int64_t(b) * 2 + backward) * sections * num_tags;
    levels_of_borders += int64_t(b) * sections;
    peaks_of_sections += int64_t(b) * sections;
  }
  const bool writes_exponents = !backward && threadIdx.x == 0;
  Real value_at_end = 0, scale = 1;
  int exponent = 0, sum_of_exponents = 0;
  const auto step_of = [&](int n) { return backward ? count - 1 - n : n; };
  const auto rescale = [&](unsigned bits) {
    exponent = ExponentOf(bits);
    scale = PowerOfTwo(-exponent);
  };
  const auto note_exponent = [&](int n) {
    sum_of_exponents += exponent;
    if (writes_exponents) exponents[n] = exponent;
  };

  if constexpr (kTags > 0) {
    Real* const shared_rows = of_rows[0].of;  // two rows, used alternately
    Real* const partial = of_partial[0].of;
    const int j = threadIdx.x, group = threadIdx.x / (kRoom / kColumns);
    const bool sums_up = kGroups == 1 || j < kRoom, owns = j < num_tags;
    Real of_thread[kRows * kColumns];
#pragma unroll
    for (int k = 0; k < kRows * kColumns; ++k) {
      const int from = group * kRows + k / kColumns;
      const int to = threadIdx.x % (kRoom / kColumns) * kColumns + k % kColumns;
      of_thread[k] =
          from < num_tags && to < num_tags ? matrix[int64_t(from) * num_tags + to] : Real(0);
    }
    const auto exponential = [&](int n) {
      if (!owns || n >= end) return Real(0);
      const int t = StepAt(step_index, first_step, step_of(n));
      return exponentials[int64_t(t) * num_tags + j];
    };
    Real* row = rows + int64_t(step_of(begin)) * num_tags + j;
    const int64_t to_next_row = backward ? -num_tags : num_tags;
    // What remains of a step once alpha or beta before the emission is known.
    const auto finish = [&](int n, Real reached, Real term) {
      const Real value = reached * term;
      if (sums_up) {
        shared_rows[n % 2 * kRoom + j] = value;
        if (owns) *row = backward ? reached : value;
        const unsigned largest = __reduce_max_sync(kAllLanes, UpperBits(value));
        if (kSweepThreads == 32) {
          rescale(largest);
        } else if (lane == 0) {
          maxima[n % 2 * 8 + warp] = largest;
        }
        value_at_end = value;
      }
      row += to_next_row;
      Meet();
      if (kSweepThreads > 32) {
        unsigned largest = 0;
        for (int w = 0; w < kRoom / 32; ++w) {
          largest = Largest::Of(largest, maxima[n % 2 * 8 + w]);
        }
        rescale(largest);
      }
    };
    Real next[kAhead], now[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) next[k] = exponential(begin + 1 + k);
    Real reached_first = 1;
    if constexpr (kTags == 32) {
      if (backward && last < count) {
        reached_first = owns ? borders[section * num_tags + j] : Real(0);
      } else if (!backward && section > 0) {
        const Real border = owns ? borders[section * num_tags + j] : Real(0);
        shared_rows[(begin + 1) % 2 * kRoom + j] = border;
        rescale(__reduce_max_sync(kAllLanes, UpperBits(border)));
        __syncwarp();
        Real sums[4];
        Product(of_rows + (begin + 1) % 2 * kRoom / kPack, of_thread, sums);
        reached_first = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale;
        sum_of_exponents = levels_of_borders[section] + exponent;
      }
    }
    if (writes_exponents && section == 0) exponents[0] = 0;
    finish(begin, reached_first, exponential(begin));
    for (int stage = begin + 1; stage < end; stage += kAhead) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) now[k] = next[k];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) next[k] = exponential(stage + kAhead + k);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int n = stage + k;
        if (n >= end) break;
        Real sums[4];
        Product(of_rows + ((n + 1) % 2 * kRoom + group * kRows) / kPack, of_thread, sums);
        Real reached;
        if (kGroups == 1) {
          reached = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        } else {
          const int column = threadIdx.x % (kRoom / kColumns) * kColumns;
#pragma unroll
          for (int c = 0; c < 4; c += kPack) {
            Pack pack;
#pragma unroll
            for (int p = 0; p < kPack; ++p) pack.of[p] = sums[c + p];
            of_partial[(group * kRoom + column + c) / kPack] = pack;
          }
          __syncthreads();
          reached = 0;
          if (sums_up) {
            Real parts[kGroups];
#pragma unroll
            for (int g = 0; g < kGroups; ++g) parts[g] = partial[g * kRoom + j];
#pragma unroll
            for (int apart = 1; apart < kGroups; apart *= 2) {
#pragma unroll
              for (int g = 0; g + apart < kGroups; g += 2 * apart) parts[g] += parts[g + apart];
            }
            reached = parts[0];
          }
        }
        reached *= scale;
        note_exponent(n);
        finish(n, reached, now[k]);
      }
    }
    if (!sums_up) value_at_end = 0;
  } else {
    for (int n = 0; n < count; ++n) {
      const int s = step_of(n), before = n == 0 ? s : backward ? s + 1 : s - 1;
      const Real* e = exponentials + int64_t(StepAt(step_index, first_step, s)) * num_tags;
      const Real* e_before =
          exponentials + int64_t(StepAt(step_index, first_step, before)) * num_tags;
      const Real* row_before = rows + int64_t(before) * num_tags;
      Real* const row = rows + int64_t(s) * num_tags;
      const auto previous = [&](int i) {
        return backward ? row_before[i] * e_before[i] : row_before[i];
      };
      note_exponent(n);
      unsigned largest = 0;
      value_at_end = 0;
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
        row[j] = backward ? reached : value;
        value_at_end += value;
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
  if constexpr (kTags == 32) {
    if (last < count) {  // the exponent of the next alpha is between this section and the next
      const Real border = lane < num_tags ? borders[(section + 1) * num_tags + lane] : Real(0);
      const int after = ExponentOf(__reduce_max_sync(kAllLanes, UpperBits(border)));
      const int level = levels_of_borders[section + 1] + after;
      if (lane == 0) exponents[last] = ClippedExponent(level - sum_of_exponents);
      return;
    }
  }

  double peak_of_steps = 0;
  for (int s = first + threadIdx.x; s < count; s += kSweepThreads) {
    peak_of_steps += peaks[first_step + s];
  }
  for (int before = threadIdx.x; before < section; before += kSweepThreads) {
    peak_of_steps += peaks_of_sections[before];
  }
  peak_of_steps = OfBlock<Sum, kSweepThreads>(peak_of_steps, doubles);
  const double sum = OfBlock<Sum, kSweepThreads>(double(value_at_end), doubles);
  if (threadIdx.x > 0) return;
  scaled[b] = log(sum) + sum_of_exponents * 0.693147180559945309417;
  const double of_transitions = count > 1 ? (count - 1) * facts->peak : 0.0;
  log_z[b] = state[b] & kUnsound ? double(NAN) : scaled[b] + peak_of_steps + of_transitions;
}
FASTKERAS_KERNEL(sweeps);

// Whether a suspiciously small element of alpha has lost digits. A zero is right where every way to
// this tag is forbidden; `gap` becomes the least distance of a score that was taken as zero.
__device__ bool HasLostDigits(const Scores& scores, int b, int count, int s, int j, Real row_peak,
                              Real peak, const Real* before, double* gap) {
  const Real score = scores.Emission<Real>(b, count, s, j);
  if (score == Real(-INFINITY)) return false;
  const Real below = row_peak - score;
  if (below > kForbidden) {
    if (below < *gap) *gap = below;
    return false;
  }
  bool reachable = s == 0;
  for (int i = 0; !reachable && i < scores.num_tags; ++i) {
    reachable =
        before[i] > 0 && peak - scores.transitions[int64_t(i) * scores.num_tags + j] <= kForbidden;
  }
  return reachable;
}

// Marks the sequences whose log Z is not exact: where an element of alpha has lost digits, or where
// all paths together through something that counted as zero may matter. One warp for each step.
extern "C" __global__ void __launch_bounds__(256, 1)
    watch(const Real* emissions, const Real* transitions, const Real* start, const Real* end,
          const int* counts, const int* step_index, int steps, int num_tags, const Facts* facts,
          const Real* peaks, const Real* rows, const int* exponents, const double* scaled,
          int* state) {
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int blocks = (steps + 7) / 8, b = blockIdx.x / blocks, lane = threadIdx.x % 32;
  const int s = blockIdx.x % blocks * 8 + threadIdx.x / 32, count = counts[b];
  if (s >= count) return;
  const int64_t step = int64_t(b) * steps + s;
  const Real* const alpha = rows + (int64_t(b) * 2 * steps + s) * num_tags;
  const Real scale = PowerOfTwo(-exponents[step]);
  const Real safe = kSmallest / kEpsilon * num_tags * num_tags * (scale > 1 ? scale : Real(1));
  double gap = s == 0 ? facts->gap : double(INFINITY);
  bool lost = false;
  for (int j = lane; j < num_tags && !lost; j += 32) {
    if (!(alpha[j] < safe)) continue;
    lost = HasLostDigits(scores, b, count, s, j, peaks[step], Real(facts->peak), alpha - num_tags,
                         &gap);
  }
  const double forgotten = count * log(double(num_tags)) - gap;  // an upper bound, in log space
  if (lost || !(forgotten < scaled[b] - 40)) atomicOr(&state[b], int(kInexact));
}
FASTKERAS_KERNEL(watch);
