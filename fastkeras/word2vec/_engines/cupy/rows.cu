// What a block holds, and how rows come to it and go back; what all objectives share.

constexpr int kWarps = 4;  // that train; one more plans
constexpr int kWorkers = 32 * kWarps, kThreads = kWorkers + 32;
constexpr int kGroup = 8;                      // outputs whose numbers are in registers at a time
constexpr int kRoom = 10240, kIntRoom = 1920;  // of the memory that a block shares
constexpr bool kWide = FASTKERAS_WIDE;         // windows need more, and get it elsewhere

struct alignas(16) Four {
  float of[4];
};

// The sums over the lanes of a warp of kCount values; a lane gets that of number lane % kCount.
// In each step a lane gives away half of them. A template, so that all indices are constants.
template <int kCount>
__device__ inline float SumsOfWarp(const float (&values)[kCount]) {
  constexpr int kHalf = kCount / 2;
  const bool upper = threadIdx.x & kHalf;
  float halves[kHalf];
#pragma unroll
  for (int k = 0; k < kHalf; ++k) {
    const float sent = upper ? values[k] : values[k + kHalf];
    const float kept = upper ? values[k + kHalf] : values[k];
    halves[k] = kept + __shfl_xor_sync(kAllLanes, sent, kHalf);
  }
  return SumsOfWarp(halves);
}
template <>
__device__ inline float SumsOfWarp(const float (&value)[1]) {
  return value[0];
}

__device__ inline float DotOf(const Four& a, const Four& b, float sum) {
#pragma unroll
  for (int k = 0; k < 4; ++k) sum += a.of[k] * b.of[k];
  return sum;
}

// The derivative of log(1 + exp(y)); adds the function itself to the loss.
__device__ inline float Sigmoid(float y, float times, double* loss) {
  const float e = expf(-fabsf(y));
  *loss += double(times) * double((y > 0 ? y : 0.0f) + log1pf(e));
  return (y > 0 ? 1.0f : e) / (1 + e);
}

struct Memory {
  float* const inputs;  // the matrices
  float* const outputs;
  const int stride, num_outputs, padded_outputs;  // of the largest set
  const bool softmax, exact_cbow;
  // Of this block:
  float* rows;    // by place: as this block has trained them,
  float* loaded;  // and as they were when it took them
  float* taken;   // rows of the output matrix, for one set
  float* hidden;  // the mean of the contexts
  float* errors;  // by context and output; else logits, and by warp and output
  double loss;
};

// A row goes back: as it is here, or, if others have changed it, by adding what has changed here.
// `now` is what the matrix has; returns what it has then.
__device__ inline float GiveBack(const Memory& memory, int place, int row, int s, float now) {
  const int at = place * memory.stride + s;
  const float value = memory.rows[at], was = memory.loaded[at];
  const float merged = now == was ? value : now + (value - was);
  memory.inputs[int64_t(row) * memory.stride + s] = merged;
  return merged;
}

// Loads an element of each output of a set.
__device__ inline void Take(const Memory& memory, const Plan& plan, int set, int s, int count) {
  const int* const of_set = plan.rows + set * memory.num_outputs;
  for (int first = 0; first < count; first += kGroup) {
    float u[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      const int row = first + k < count ? of_set[first + k] : -1;
      u[k] = row < 0 ? 0.0f : __ldcg(memory.outputs + int64_t(row) * memory.stride + s);
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (first + k < count) memory.taken[(first + k) * memory.stride + s] = u[k];
    }
  }
}

// One row leaves, one enters or is refreshed; all loads are under way at once. Each thread has the
// same elements of all rows here and in what follows, but for the dot products.
__device__ inline void Exchange(const Memory& memory, const Plan& plan) {
  const int stride = memory.stride;
  const int leaves = plan.head[kLeaves], enters = plan.head[kEnters];
  const int leaving = plan.head[kLeavingRow], entering = plan.head[kEnteringRow];
  const int count = kObjective != kPairs && plan.head[kContexts] > 0 ? plan.head[kOutputs] : 0;
  for (int s = threadIdx.x; s < stride; s += kWorkers) {
    const float of_leaving =
        leaves >= 0 ? __ldcg(memory.inputs + int64_t(leaving) * stride + s) : 0.0f;
    float of_entering = enters >= 0 ? __ldcg(memory.inputs + int64_t(entering) * stride + s) : 0.0f;
    Take(memory, plan, 0, s, count);
    if (leaves >= 0) GiveBack(memory, leaves, leaving, s, of_leaving);
    if (enters < 0) continue;
    if (plan.head[kIsHere]) of_entering = GiveBack(memory, enters, entering, s, of_entering);
    memory.rows[enters * stride + s] = memory.loaded[enters * stride + s] = of_entering;
  }
}

// From logits to errors of the sampled softmax, by one warp.
__device__ inline void Softmax(Memory& memory, const Plan& plan, int set, const float* x, float* g,
                               float times, bool counts) {
  const int lane = threadIdx.x % 32;
  const int* const of_set = plan.rows + set * memory.num_outputs;
  const int* const offsets = plan.terms + set * memory.num_outputs;
  const auto z = [&](int j) {
    return of_set[j] < 0 ? -INFINITY : x[j] + __int_as_float(offsets[j]);
  };
  float largest = -INFINITY;
  for (int j = lane; j < memory.num_outputs; j += 32) largest = Largest::Of(largest, z(j));
  largest = OfWarp<Largest>(largest);
  float others = 0;
  for (int j = lane; j < memory.num_outputs; j += 32) others += j > 0 ? expf(z(j) - largest) : 0.0f;
  others = OfWarp<Sum>(others);
  const float first = x[0] - largest, sum = expf(first) + others;
  if (lane == 0 && counts) memory.loss += double(times) * (log(double(sum)) - double(first));
  const float scale = __int_as_float(plan.head[kRate]) * times / sum;
  __syncwarp();  // g may be x
  for (int j = lane; j < memory.padded_outputs; j += 32) {
    g[j] = j >= memory.num_outputs ? 0.0f : scale * (j == 0 ? others : -expf(z(j) - largest));
  }
}
