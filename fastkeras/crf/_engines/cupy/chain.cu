// The CRF on NVIDIA GPUs. docs/crf.md has the mathematics, docs/gpu.md what each kernel costs.
//
// The forward and the backward sweep run at the same time, one block each, in the scaled domain:
// with W = exp(A - peak) and E_t = exp(x_t - peak_t),
//   alpha_t = (alpha_{t-1} W) 2^-k E_t,   beta_{t-1} = W (beta_t E_t) 2^-k,
// with a k of its own at each step. A sweep notices when the type cannot hold its numbers; those
// sequences are computed again in log space and float64, without involving the host.
//
// Compiled once for each type, FASTKERAS_REAL, and each limit on the number of tags,
// FASTKERAS_TAGS: up to 32 or 128 tags, a column of W is in registers; 0 stands for any number.
// Sums are always in the same order, and no sequence's results depend on the rest of the batch.
//
// Arguments that kernels share: emissions (batch, steps, num_tags) and tags (batch, steps), read at
// valid steps only; counts (batch), the number of valid steps; step_index (batch, steps), the
// valid steps in order, or null for 0, 1, ...; state (batch), bits of State. "Rows of valid steps"
// are (steps, num_tags), one for each valid step in order; "rows of steps" are laid out like the
// emissions.

using Real = FASTKERAS_REAL;

constexpr int kTags = FASTKERAS_TAGS;
constexpr bool kSingle = sizeof(Real) == 4;
constexpr Real kSmallest = kSingle ? 1.17549435e-38 : 2.2250738585072014e-308;  // that is normal
constexpr Real kEpsilon = kSingle ? 1.1920929e-7 : 2.220446049250313e-16;
// A score this many nats below the best can only be meant to forbid (csrc/crf/kernels.h).
constexpr Real kForbidden = kSingle ? 500 : 4000;
constexpr int kChunk = kTags == 32 ? 64 : 256;  // steps whose pairs are summed by one block

enum State { kUnsound = 1, kInexact = 2, kImpossible = 4 };

struct Facts {  // of the transitions
  double peak;
  double gap;  // nats from the peak down to the best transition that counts as zero
  double unsound, unsound_ends;
};

__device__ inline bool IsUnsound(Real score) { return !(score < Real(INFINITY)); }

// The upper bits of a number >= 0, which have the same order as the numbers.
__device__ inline unsigned UpperBits(float x) { return unsigned(__float_as_int(x)); }
__device__ inline unsigned UpperBits(double x) { return unsigned(__double_as_longlong(x) >> 32); }

// So that the powers of two with this exponent and its negative are normal.
__device__ inline int ClippedExponent(int exponent) {
  constexpr int kMost = kSingle ? 120 : 1000;
  return exponent < -kMost ? -kMost : exponent > kMost ? kMost : exponent;
}
// The binary exponent of such bits, clipped; 0 for zero.
__device__ inline int ExponentOf(unsigned bits) {
  if (bits == 0) return 0;
  return ClippedExponent(kSingle ? int(bits >> 23) - 127 : int(bits >> 20) - 1023);
}
__device__ inline Real PowerOfTwo(int exponent) {
  if (kSingle) return __int_as_float((exponent + 127) << 23);
  return __longlong_as_double(int64_t(exponent + 1023) << 52);
}

__device__ inline int StepAt(const int* step_index, int64_t first, int s) {
  return step_index ? step_index[first + s] : s;
}

struct Scores {
  const Real *emissions, *transitions, *start, *end;
  const int* step_index;
  int steps, num_tags;

  __device__ int64_t RowOf(int b, int s) const {  // where it begins in the emissions
    return (int64_t(b) * steps + StepAt(step_index, int64_t(b) * steps, s)) * num_tags;
  }
  template <typename Sum>
  __device__ Sum Emission(int b, int count, int s, int j) const {
    Sum score = emissions[RowOf(b, s) + j];
    if (s == 0) score += start[j];
    if (s == count - 1) score += end[j];
    return score;
  }
};

// One block for each sequence finds its valid steps. The last block turns the transitions into the
// weights (2, num_tags, num_tags): W, and W transposed.
extern "C" __global__ void __launch_bounds__(256, 1)
    prepare(const Real* transitions, const Real* start, const Real* end, const int* lengths,
            const unsigned char* mask, int steps, int num_tags, int* counts, int* step_index,
            int* state, Real* weights, Facts* facts) {
  constexpr int kStripes = 8;  // of 256 steps, whose flags are loaded at once
  FASTKERAS_SHARED(int, totals, 8 * kStripes);
  FASTKERAS_SHARED(double, doubles, 8);
  const int b = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (b + 1 < int(gridDim.x)) {
    const int length = lengths[b] < 0 ? 0 : lengths[b] > steps ? steps : lengths[b];
    int count = mask ? 0 : length;
    for (int64_t first = 0; mask && first < steps; first += 256 * kStripes) {
      bool valid[kStripes];
#pragma unroll
      for (int k = 0; k < kStripes; ++k) {
        const int64_t t = first + k * 256 + threadIdx.x;
        valid[k] = t < steps && mask[int64_t(b) * steps + t];
      }
      unsigned votes[kStripes];
#pragma unroll
      for (int k = 0; k < kStripes; ++k) {
        votes[k] = __ballot_sync(kAllLanes, valid[k]);
        if (lane == 0) totals[k * 8 + warp] = __popc(votes[k]);
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kStripes; ++k) {
        if (first + k * 256 >= steps) break;
        int before = count + __popc(votes[k] & ((1u << lane) - 1));
        for (int w = 0; w < 8; ++w) {
          if (w < warp) before += totals[k * 8 + w];
          count += totals[k * 8 + w];
        }
        if (valid[k]) step_index[int64_t(b) * steps + before] = int(first) + k * 256 + threadIdx.x;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      counts[b] = count;
      state[b] = 0;
    }
    return;
  }
  const int64_t area = int64_t(num_tags) * num_tags;
  Real largest = -INFINITY;
  double unsound = 0, unsound_ends = 0;
  for (int64_t k = threadIdx.x; k < area; k += 256) {
    largest = Largest::Of(largest, transitions[k]);
    if (IsUnsound(transitions[k])) unsound = 1;
  }
  for (int j = threadIdx.x; j < num_tags; j += 256) {
    if (IsUnsound(start[j]) || IsUnsound(end[j])) unsound_ends = 1;
  }
  unsound = OfBlock<Largest, 256>(unsound, doubles);
  unsound_ends = OfBlock<Largest, 256>(unsound_ends, doubles);
  double peak = OfBlock<Largest, 256>(double(largest), doubles);
  if (peak == -INFINITY || unsound > 0) peak = 0;
  double gap = INFINITY;
  for (int64_t k = threadIdx.x; k < area; k += 256) {
    const Real below = Real(peak) - transitions[k];
    if (below > kForbidden && below < gap) gap = below;
    const Real weight = Exp(transitions[k] - Real(peak));
    weights[k] = weight;
    weights[area + k % num_tags * num_tags + k / num_tags] = weight;
  }
  gap = OfBlock<Smallest, 256>(gap, doubles);
  if (threadIdx.x == 0) *facts = {peak, gap, unsound, unsound_ends};
}
FASTKERAS_KERNEL(prepare);

// E of valid steps, in rows of steps, and the peaks (batch, steps) of valid steps in order. One
// warp for each step.
extern "C" __global__ void __launch_bounds__(256, 1)
    exponentials_of_emissions(const Real* emissions, const Real* start, const Real* end,
                              const int* counts, const int* step_index, int steps, int num_tags,
                              const Facts* facts, Real* exponentials, Real* peaks, int* state) {
  const Scores scores = {emissions, nullptr, start, end, step_index, steps, num_tags};
  const int blocks = (steps + 7) / 8, b = blockIdx.x / blocks, lane = threadIdx.x % 32;
  const int s = blockIdx.x % blocks * 8 + threadIdx.x / 32, count = counts[b];
  if (s >= count) return;
  bool unsound = s == 0 && (facts->unsound_ends > 0 || (count > 1 && facts->unsound > 0));
  Real peak = -INFINITY;
  const int64_t row = scores.RowOf(b, s);
  for (int j = lane; j < num_tags; j += 32) {
    if (IsUnsound(emissions[row + j])) unsound = true;
    peak = Largest::Of(peak, scores.Emission<Real>(b, count, s, j));
  }
  peak = OfWarp<Largest>(peak);
  if (peak == Real(-INFINITY)) peak = 0;
  for (int j = lane; j < num_tags; j += 32) {
    exponentials[row + j] = Exp(scores.Emission<Real>(b, count, s, j) - peak);
  }
  if (lane == 0) peaks[int64_t(b) * steps + s] = peak;
  if (unsound) atomicOr(&state[b], int(kUnsound));
}
FASTKERAS_KERNEL(exponentials_of_emissions);

// The score of a path, NaN if a tag is out of range; the threads of a block share the steps.
template <int kThreads>
__device__ double PathScore(const Scores& scores, const int* tags, int b, int count,
                            double* shared) {
  double score = 0;
  tags += int64_t(b) * scores.steps;
  const int64_t first = int64_t(b) * scores.steps;
  const auto is_tag = [&](int tag) { return tag >= 0 && tag < scores.num_tags; };
#pragma unroll 4  // without branches, so that the loads of four steps are under way at once
  for (int s = threadIdx.x; s < count; s += kThreads) {
    const int t = StepAt(scores.step_index, first, s);
    const int t_before = StepAt(scores.step_index, first, s > 0 ? s - 1 : 0);
    const int given = tags[t], given_before = tags[t_before];
    const int tag = is_tag(given) ? given : 0, before = is_tag(given_before) ? given_before : 0;
    const Real emission = scores.emissions[(first + t) * scores.num_tags + tag];
    const Real transition = scores.transitions[int64_t(before) * scores.num_tags + tag];
    score += is_tag(given) ? double(emission) : double(NAN);
    score += s > 0 ? double(transition) : 0.0;
  }
  if (threadIdx.x == 0 && count > 0) {
    const int at_start = tags[StepAt(scores.step_index, first, 0)];
    const int at_end = tags[StepAt(scores.step_index, first, count - 1)];
    if (is_tag(at_start)) score += double(scores.start[at_start]);
    if (is_tag(at_end)) score += double(scores.end[at_end]);
  }
  return OfBlock<Sum, kThreads>(score, shared);
}

// The scores of the given paths, one block of 128 or 1024 threads each; 0 without tags. With
// weights, also the factor of each sequence in the gradient: 0 where it does not contribute, NaN
// where its gradient is NaN, which without `state` depends on the path alone.
extern "C" __global__ void __launch_bounds__(1024, 1)
    path_scores(const Real* emissions, const int* tags, const Real* transitions, const Real* start,
                const Real* end, const int* counts, const int* step_index, int steps, int num_tags,
                const Real* weights, const int* state, double* score, Real* value,
                double* factors) {
  FASTKERAS_SHARED(double, shared, 32);
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b];
  const double sum = !tags               ? 0.0
                     : blockDim.x == 128 ? PathScore<128>(scores, tags, b, count, shared)
                                         : PathScore<1024>(scores, tags, b, count, shared);
  if (threadIdx.x > 0) return;
  score[b] = sum;
  if (value) value[b] = Real(sum);
  if (!weights) return;
  const double weight = weights[b];
  factors[b] = count == 0 || weight == 0              ? 0
               : state && state[b] & kUnsound         ? double(NAN)
               : sum == -INFINITY                     ? 0
               : !(sum < INFINITY) || weight - weight ? double(NAN)
                                                      : weight;
}
FASTKERAS_KERNEL(path_scores);
