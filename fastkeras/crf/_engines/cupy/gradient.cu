// From the rows of both sweeps to marginals and gradients.

// The gradient by the emissions, one warp for each step: factor (gold - marginal); without tags,
// factor marginal; without rows, factor gold, the gradient of a path's score. Without factors they
// are 1. On entry, `unary` holds E. Beta is replaced by r = E beta 2^-k / z: alpha of the step
// before, times W, times r is the marginal of a pair.
extern "C" __global__ void __launch_bounds__(256, 1)
    marginals(const int* tags, const int* counts, const int* step_index, int steps, int num_tags,
              Real* rows, const int* exponents, const double* factors, Real* unary, int* state) {
  const int blocks = (steps + 7) / 8, b = blockIdx.x / blocks, lane = threadIdx.x % 32;
  const int s = blockIdx.x % blocks * 8 + threadIdx.x / 32;
  if (s >= counts[b]) return;
  const int t = StepAt(step_index, int64_t(b) * steps, s);
  const int64_t row = (int64_t(b) * steps + t) * num_tags;
  const double factor = factors ? factors[b] : state[b] & kUnsound ? double(NAN) : 1;
  const int gold = tags ? tags[int64_t(b) * steps + t] : -1;
  if (!rows) {
    for (int j = lane; j < num_tags; j += 32) unary[row + j] = j == gold ? Real(factor) : Real(0);
    return;
  }
  if (factor == 0 || factor != factor) {
    for (int j = lane; j < num_tags; j += 32) unary[row + j] = Real(factor);
    return;
  }
  const Real* alpha = rows + (int64_t(b) * 2 * steps + s) * num_tags;
  Real* beta = rows + ((int64_t(b) * 2 + 1) * steps + s) * num_tags;
  double z = 0;
  for (int j = lane; j < num_tags; j += 32) z += alpha[j] > 0 ? double(alpha[j] * beta[j]) : 0.0;
  z = OfWarp<Sum>(z);
  // If z >= safe, what the backward sweep lost to underflow is less than one rounding of z.
  const double safe = double(kSmallest) / kEpsilon * 4 * num_tags * num_tags * num_tags;
  bool lost = !(z >= safe);
  const Real inverse = Real(1 / z), scale = PowerOfTwo(-exponents[int64_t(b) * steps + s]);
  for (int j = lane; j < num_tags; j += 32) {
    const Real suffix = alpha[j] > 0 ? beta[j] * inverse : Real(0);
    const Real r = unary[row + j] * suffix * scale;
    if (!(r < Real(INFINITY))) lost = true;
    beta[j] = r;
    const Real marginal = alpha[j] * suffix;
    unary[row + j] = Real(factor) * (tags ? Real(j == gold) - marginal : marginal);
  }
  if (lost) atomicOr(&state[b], int(kInexact));
}
FASTKERAS_KERNEL(marginals);

constexpr int kTile = kTags == 32 ? 32 : 64;
constexpr int kEach = kTile / 16;  // a thread sums kEach * kEach pairs

struct alignas(kEach * sizeof(Real) < 16 ? kEach * sizeof(Real) : 16) OfThread {
  Real of[kEach];  // loaded at once
};

// For a tile of pairs, the sum over the steps of a chunk: gold counts - expected counts; without
// tags the expected counts; without rows the gold counts. `pairs` is (batch, chunks, num_tags,
// num_tags); it is neither written nor read for chunks without steps, and sequences that do not
// contribute or are left to `exact`.
extern "C" __global__ void __launch_bounds__(256, 1)
    pairs_of_chunks(const int* tags, const int* counts, const int* step_index, int steps,
                    int num_tags, const Real* weights, const Real* rows, const double* factors,
                    const int* state, int chunks, Real* pairs) {
  constexpr int kStage = 16;
  FASTKERAS_SHARED(OfThread, lefts, kStage * 16);
  FASTKERAS_SHARED(OfThread, rights, kStage * 16);
  Real *const left = lefts[0].of, *const right = rights[0].of;
  FASTKERAS_SHARED(int, gold, kTile* kTile);
  const int b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int first = 1 + chunk * kChunk;
  const int last = first + kChunk < counts[b] ? first + kChunk : counts[b];
  if (first >= last || state[b] & (kUnsound | kInexact)) return;
  if (factors && (factors[b] == 0 || factors[b] != factors[b])) return;
  const int first_i = blockIdx.y * kTile, first_j = blockIdx.z * kTile;
  const Real* alpha = rows + int64_t(b) * 2 * steps * num_tags;  // not read if null
  const Real* r = alpha + int64_t(steps) * num_tags;
  for (int k = threadIdx.x; k < kTile * kTile; k += 256) gold[k] = 0;
  __syncthreads();
  for (int s = first + threadIdx.x; tags && s < last; s += 256) {
    const int64_t of_sequence = int64_t(b) * steps;
    const int i = tags[of_sequence + StepAt(step_index, of_sequence, s - 1)] - first_i;
    const int j = tags[of_sequence + StepAt(step_index, of_sequence, s)] - first_j;
    if (i >= 0 && i < kTile && j >= 0 && j < kTile) atomicAdd(&gold[i * kTile + j], 1);
  }
  __syncthreads();
  Real sums[kEach][kEach];
#pragma unroll
  for (int u = 0; u < kEach; ++u) {
#pragma unroll
    for (int v = 0; v < kEach; ++v) sums[u][v] = 0;
  }
  const int row = threadIdx.x / 16 * kEach, column = threadIdx.x % 16 * kEach;
  for (int stage = first; rows && stage < last; stage += kStage) {
    for (int k = threadIdx.x; k < kStage * kTile; k += 256) {
      const int s = stage + k / kTile, i = first_i + k % kTile, j = first_j + k % kTile;
      left[k] = s < last && i < num_tags ? alpha[int64_t(s - 1) * num_tags + i] : Real(0);
      right[k] = s < last && j < num_tags ? r[int64_t(s) * num_tags + j] : Real(0);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStage; ++k) {
      const OfThread alphas = lefts[k * 16 + threadIdx.x / 16];
      const OfThread suffixes = rights[k * 16 + threadIdx.x % 16];
#pragma unroll
      for (int u = 0; u < kEach; ++u) {
#pragma unroll
        for (int v = 0; v < kEach; ++v) sums[u][v] += alphas.of[u] * suffixes.of[v];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int u = 0; u < kEach; ++u) {
#pragma unroll
    for (int v = 0; v < kEach; ++v) {
      const int i = first_i + row + u, j = first_j + column + v;
      if (i >= num_tags || j >= num_tags) continue;
      const int64_t k = int64_t(i) * num_tags + j;
      const Real expected = sums[u][v] * weights[k];
      pairs[(int64_t(b) * chunks + chunk) * num_tags * num_tags + k] =
          tags ? Real(gold[(row + u) * kTile + column + v]) - expected : expected;
    }
  }
}
FASTKERAS_KERNEL(pairs_of_chunks);

// sum_{b, chunk} factor_b pairs[b, chunk], or without factors the sum for each sequence.
// A block computes 32 sums; 32 threads share each.
extern "C" __global__ void __launch_bounds__(1024, 1)
    sum_of_pairs(const Real* pairs, const int* counts, const double* factors, int has_factors,
                 const int* state, int batch, int chunks, int num_tags, Real* sums) {
  FASTKERAS_SHARED(double, parts, 1024);
  const int64_t area = int64_t(num_tags) * num_tags;
  const int64_t tiles = (area + 31) / 32;
  const int64_t k = blockIdx.x % tiles * 32 + threadIdx.x % 32;
  const int alone = int(blockIdx.x / tiles);
  const int first = has_factors ? 0 : alone, last = has_factors ? batch : alone + 1;
  double sum = 0;
  for (int64_t item = int64_t(first) * chunks + threadIdx.x / 32;
       k < area && item < int64_t(last) * chunks; item += 32) {
    const int b = int(item / chunks), chunk = int(item % chunks);
    const double factor = has_factors ? factors[b] : state[b] & kUnsound ? double(NAN) : 1;
    if (1 + chunk * kChunk >= counts[b] || factor == 0 || state[b] & kImpossible) continue;
    sum += factor == factor ? factor * double(pairs[item * area + k]) : double(NAN);
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || k >= area) return;
  for (int part = 1; part < 32; ++part) sum += parts[part * 32 + threadIdx.x];
  sums[alone * area + k] = Real(sum);
}
FASTKERAS_KERNEL(sum_of_pairs);

// The gradients by the start (blockIdx.y 0) and by the end transitions (1).
extern "C" __global__ void __launch_bounds__(256, 1)
    sum_of_ends(const Real* unary, const int* counts, const int* step_index, int batch, int steps,
                int num_tags, Real* d_start, Real* d_end) {
  FASTKERAS_SHARED(double, parts, 256);
  const int j = blockIdx.x * 32 + threadIdx.x % 32;
  double sum = 0;
  for (int b = threadIdx.x / 32; j < num_tags && b < batch; b += 8) {
    if (counts[b] == 0) continue;
    const int t = StepAt(step_index, int64_t(b) * steps, blockIdx.y ? counts[b] - 1 : 0);
    sum += double(unary[(int64_t(b) * steps + t) * num_tags + j]);
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || j >= num_tags) return;
  for (int part = 1; part < 8; ++part) sum += parts[part * 32 + threadIdx.x];
  (blockIdx.y ? d_end : d_start)[j] = Real(sum);
}
FASTKERAS_KERNEL(sum_of_ends);
