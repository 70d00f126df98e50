// The training of a block's windows, one after the other. Blocks update the matrices without locks.

constexpr int kWarps = 4;  // that train; one more plans
constexpr int kWorkers = 32 * kWarps, kThreads = kWorkers + 32;
constexpr int kGroup = 8;                      // outputs whose numbers are in registers at a time
constexpr int kRoom = 10240, kIntRoom = 1536;  // of the memory that a block shares
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

struct Worker {
  float* const inputs;  // the matrices
  float* const outputs;
  const int stride, num_outputs, padded_outputs;
  const bool softmax, exact_cbow;
  float* rows;    // by place: as this block has trained them,
  float* loaded;  // and as they were when it took them
  float* taken;   // rows of the output matrix, for one set
  float* hidden;  // the mean of the contexts
  float* errors;  // by context and output; else logits, and by warp and output
  double loss;

  // A row goes back: as it is here, or, if others have changed it, by adding what has changed here.
  __device__ void GiveBack(int place, int row, int s, float now) const {
    const float value = rows[place * stride + s], was = loaded[place * stride + s];
    inputs[int64_t(row) * stride + s] = now == was ? value : now + (value - was);
  }

  // Each thread has the same elements of a row in all that follows, but for the dot products.
  __device__ void Exchange(const Plan& plan) const {
    const int leaves = plan.head[kLeaves], enters = plan.head[kEnters];
    const int64_t leaving = int64_t(plan.head[kLeavingRow]) * stride;
    const int64_t entering = int64_t(plan.head[kEnteringRow]) * stride;
    const int count = kObjective != kPairs && plan.head[kContexts] > 0 ? num_outputs : 0;
    for (int s = threadIdx.x; s < stride; s += kWorkers) {
      const float now = leaves >= 0 ? __ldcg(inputs + leaving + s) : 0;
      const float fresh = enters >= 0 ? __ldcg(inputs + entering + s) : 0;
      Take(plan, 0, s, count);
      if (leaves >= 0) GiveBack(leaves, plan.head[kLeavingRow], s, now);
      if (enters >= 0) rows[enters * stride + s] = loaded[enters * stride + s] = fresh;
    }
  }

  // Loads an element of each output of a set.
  __device__ void Take(const Plan& plan, int set, int s, int count) const {
    const int* const of_set = plan.rows + set * num_outputs;
    for (int first = 0; first < count; first += kGroup) {
      float u[kGroup];
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        const int row = first + k < count ? of_set[first + k] : -1;
        u[k] = row < 0 ? 0.0f : __ldcg(outputs + int64_t(row) * stride + s);
      }
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        if (first + k < count) taken[(first + k) * stride + s] = u[k];
      }
    }
  }

  // --- negatives for a window: all from the values before ---

  // The logits of two contexts and eight outputs at a time in each warp, and then their errors.
  __device__ void WindowErrors(const Plan& plan) {
    const int contexts = plan.head[kContexts], lane = threadIdx.x % 32;
    for (int c = 2 * (threadIdx.x / 32); c < contexts; c += 2 * kWarps) {
      const bool two = c + 1 < contexts;
      const auto* v0 = reinterpret_cast<const Four*>(rows + plan.places[c] * stride);
      const auto* v1 = reinterpret_cast<const Four*>(rows + plan.places[two ? c + 1 : c] * stride);
      for (int first = 0; first < num_outputs; first += kGroup) {
        const auto* u = reinterpret_cast<const Four*>(taken + first * stride);
        float sums[2 * kGroup] = {};
        for (int s = lane; s < stride / 4; s += 32) {
          const Four a = v0[s], b = v1[s];
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            if (first + k >= num_outputs) continue;
            const Four of_output = u[k * (stride / 4) + s];
            sums[k] = DotOf(a, of_output, sums[k]);
            sums[kGroup + k] = DotOf(b, of_output, sums[kGroup + k]);
          }
        }
        float x = SumsOfWarp(sums);
        x += __shfl_xor_sync(kAllLanes, x, 2 * kGroup);  // of both halves of the warp
        const int j = first + lane % kGroup;
        if (lane < kGroup || (lane < 2 * kGroup && two)) {
          float* const to = errors + (c + lane / kGroup) * padded_outputs + j;
          if (softmax) {
            *to = x;
          } else {
            *to = j < num_outputs ? Logistic(plan, c + lane / kGroup, j, x) : 0.0f;
          }
        }
      }
      if (!softmax) continue;
      __syncwarp();
      for (int k = c; k < c + (two ? 2 : 1); ++k) {
        Softmax(plan, 0, errors + k * padded_outputs, errors + k * padded_outputs,
                float(plan.times[k]), true);
        __syncwarp();
      }
    }
  }

  // The error of a logit, times the rate and how often the context occurs.
  __device__ float Logistic(const Plan& plan, int c, int j, float x) {
    if (plan.rows[j] < 0) return 0;
    const float times = float(plan.times[c]), sign = j == 0 ? -1.0f : 1.0f;
    const float rate = __int_as_float(plan.head[kRate]);
    return -sign * rate * times * Sigmoid(sign * x, times, &loss);
  }

  __device__ void UpdateWindow(const Plan& plan) const {
    const int contexts = plan.head[kContexts];
    for (int s = threadIdx.x; s < stride; s += kWorkers) {
      const bool at_once = num_outputs <= kGroup;
      for (int first = 0; first < num_outputs; first += kGroup) {
        float u[kGroup], change[kGroup];
        LoadTaken(first, s, u);
#pragma unroll
        for (int k = 0; k < kGroup; ++k) change[k] = 0;
        for (int c = 0; c < contexts; ++c) {
          float* const row = rows + plan.places[c] * stride + s;
          const float v = *row;
          float g[kGroup];
          LoadErrors(errors + c * padded_outputs + first, g);
          float sum = 0;
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            change[k] += g[k] * v;
            sum += g[k] * u[k];
          }
          if (at_once) *row = v + sum;
        }
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          const int row = first + k < num_outputs ? plan.rows[first + k] : -1;
          if (row >= 0) atomicAdd(outputs + int64_t(row) * stride + s, change[k]);
        }
      }
      if (at_once) continue;
      for (int first = 0; first < num_outputs; first += kGroup) {
        float u[kGroup], g[kGroup];
        LoadTaken(first, s, u);
        for (int c = 0; c < contexts; ++c) {
          LoadErrors(errors + c * padded_outputs + first, g);
          float sum = 0;
#pragma unroll
          for (int k = 0; k < kGroup; ++k) sum += g[k] * u[k];
          rows[plan.places[c] * stride + s] += sum;
        }
      }
    }
  }

  __device__ void LoadTaken(int first, int s, float (&u)[kGroup]) const {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      u[k] = first + k < num_outputs ? taken[(first + k) * stride + s] : 0.0f;
    }
  }

  __device__ static void LoadErrors(const float* from, float (&g)[kGroup]) {
#pragma unroll
    for (int k = 0; k < kGroup; k += 4) {
      const Four four = reinterpret_cast<const Four*>(from)[k / 4];
#pragma unroll
      for (int n = 0; n < 4; ++n) g[k + n] = four.of[n];
    }
  }

  // --- one input, a row or the mean of some, with one set ---

  __device__ void TakeSet(const Plan& plan, int set) const {
    for (int s = threadIdx.x; s < stride; s += kWorkers) Take(plan, set, s, num_outputs);
  }

  __device__ void MeanOfContexts(const Plan& plan) const {
    const float share = 1.0f / float(plan.head[kTotal]);
    for (int s = threadIdx.x; s < stride; s += kWorkers) {
      float sum = 0;
      for (int c = 0; c < plan.head[kContexts]; ++c) {
        sum += float(plan.times[c]) * rows[plan.places[c] * stride + s];
      }
      hidden[s] = sum * share;
    }
  }

  // Logits of all outputs; after them, if an output is repeated, the square of the input.
  __device__ void Logits(const Plan& plan, const float* input) const {
    const int lane = threadIdx.x % 32, count = num_outputs + (plan.head[kRepeated] ? 1 : 0);
    const auto* h = reinterpret_cast<const Four*>(input);
    for (int j = threadIdx.x / 32; j < count; j += kWarps) {
      const auto* u = j < num_outputs ? reinterpret_cast<const Four*>(taken + j * stride) : h;
      float sum = 0;
      for (int s = lane; s < stride / 4; s += 32) sum = DotOf(h[s], u[s], sum);
      sum = OfWarp<Sum>(sum);
      if (lane == 0) errors[j] = sum;
    }
  }

  // Every warp computes all errors, for its own use; only one of them counts the loss.
  __device__ const float* ErrorsOfSet(const Plan& plan, int set) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int* const of_set = plan.rows + set * num_outputs;
    const int* const firsts = plan.firsts + set * num_outputs;
    const float rate = __int_as_float(plan.head[kRate]), times = warp == 0 ? 1.0f : 0.0f;
    const bool repeated = plan.head[kRepeated];
    float* const g = errors + (warp + 1) * padded_outputs;
    if (softmax) {
      Softmax(plan, set, errors, g, 1, warp == 0);
      __syncwarp();
      return g;
    }
    const auto error_of = [&](int j, float x) {
      const float sign = j == 0 ? -1.0f : 1.0f;
      return of_set[j] < 0 ? 0.0f : -sign * rate * Sigmoid(sign * x, times, &loss);
    };
    for (int j = lane; j < num_outputs; j += 32) {
      if (!repeated || firsts[j] == j) g[j] = error_of(j, errors[j]);
    }
    __syncwarp();
    if (!repeated) return g;
    // An output that was drawn before has been moved by then.
    for (int j = 1; lane == 0 && j < num_outputs; ++j) {
      if (firsts[j] == j) continue;
      float moved = 0;
      for (int k = firsts[j]; k < j; ++k) moved += firsts[k] == firsts[j] ? g[k] : 0.0f;
      g[j] = error_of(j, errors[j] + moved * errors[num_outputs]);
    }
    __syncwarp();
    return g;
  }

  // From logits to errors of the sampled softmax, by one warp.
  __device__ void Softmax(const Plan& plan, int set, const float* x, float* g, float times,
                          bool counts) {
    const int lane = threadIdx.x % 32;
    const int* const of_set = plan.rows + set * num_outputs;
    const int* const offsets = plan.offsets + set * num_outputs;
    const auto z = [&](int j) {
      return of_set[j] < 0 ? -INFINITY : x[j] + __int_as_float(offsets[j]);
    };
    float largest = -INFINITY;
    for (int j = lane; j < num_outputs; j += 32) largest = Largest::Of(largest, z(j));
    largest = OfWarp<Largest>(largest);
    float others = 0;
    for (int j = lane; j < num_outputs; j += 32) others += j > 0 ? expf(z(j) - largest) : 0.0f;
    others = OfWarp<Sum>(others);
    const float first = x[0] - largest, sum = expf(first) + others;
    if (lane == 0 && counts) loss += double(times) * (log(double(sum)) - double(first));
    const float scale = __int_as_float(plan.head[kRate]) * times / sum;
    __syncwarp();  // g may be x
    for (int j = lane; j < padded_outputs; j += 32) {
      g[j] = j >= num_outputs ? 0.0f : scale * (j == 0 ? others : -expf(z(j) - largest));
    }
  }

  // Moves the outputs; returns the change of the input's element.
  __device__ float UpdateSet(const Plan& plan, int set, const float* g, float h, int s) const {
    const int* const of_set = plan.rows + set * num_outputs;
    const int* const firsts = plan.firsts + set * num_outputs;
    const bool repeated = plan.head[kRepeated];
    float change = 0;
    for (int j = 0; j < num_outputs; ++j) {
      if (of_set[j] < 0) continue;
      float* const u = taken + (repeated ? firsts[j] : j) * stride + s;
      const float moved = g[j] * h;
      change += g[j] * *u;
      if (repeated) *u += moved;
      atomicAdd(outputs + int64_t(of_set[j]) * stride + s, moved);
    }
    return change;
  }

  __device__ void UpdatePair(const Plan& plan, int c) {
    const float* const g = ErrorsOfSet(plan, c);
    float* const row = rows + plan.places[c] * stride;
    for (int s = threadIdx.x; s < stride; s += kWorkers) {
      row[s] += UpdateSet(plan, c, g, row[s], s);
    }
  }

  __device__ void UpdateMean(const Plan& plan) {
    const float* const g = ErrorsOfSet(plan, 0);
    const float share = exact_cbow ? 1.0f / float(plan.head[kTotal]) : 1.0f;
    for (int s = threadIdx.x; s < stride; s += kWorkers) {
      const float change = share * UpdateSet(plan, 0, g, hidden[s], s);
      for (int c = 0; c < plan.head[kContexts]; ++c) {
        rows[plan.places[c] * stride + s] += float(plan.times[c]) * change;
      }
    }
  }
};

// Block b of g trains the b-th of g parts of the items begin..count-after-1, in order. Its memory
// is shared, or, if windows are wide, in `floats` and `ints`, with so many numbers for a block.
// `tally` is (blocks, 3), where it adds loss, predictions and words.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    train(const int* words, const int* positions, const int* sentences, const Counted* counted,
          int tiles, int64_t from, int begin, int after, float* inputs, float* outputs, int stride,
          int reach, const unsigned* noise, const float* logit_offsets, int num_words, int negative,
          int window, int shrink, int exact_cbow, int64_t key, double learning_rate, double slope,
          float* floats, int64_t num_floats, int* ints, int64_t num_ints, double* tally) {
  FASTKERAS_SHARED(double, of_warps, kThreads / 32);
  FASTKERAS_SHARED(Four, room, kWide ? 1 : kRoom / 4);
  FASTKERAS_SHARED(int, int_room, kWide ? 1 : kIntRoom);
  floats = kWide ? floats + blockIdx.x * num_floats : room[0].of;
  ints = kWide ? ints + blockIdx.x * num_ints : int_room;
  const Items items = {words, positions, sentences, from, counted[tiles].items};
  const Drawing drawing = {noise,  logit_offsets, num_words,     negative, window,
                           shrink, key,           learning_rate, slope};
  const int end = items.count - after, size = end - begin;
  const int first = begin + int(int64_t(size) * blockIdx.x / gridDim.x);
  const int last = begin + int(int64_t(size) * (blockIdx.x + 1) / gridDim.x);
  const int span = 2 * reach + 1, num_outputs = negative + 1;
  const int padded_outputs = (num_outputs + kGroup) / kGroup * kGroup;  // and one more

  int* const plans = ints + 6 * span;
  const int plan_size = int((num_ints - 6 * span) / 2);
  Planner planner = {items,           drawing,         reach,          span,        first - reach,
                     last + reach,    first,           ints,           ints + span, ints + 2 * span,
                     ints + 3 * span, ints + 4 * span, ints + 5 * span};
  if (planner.low < 0) planner.low = 0;
  if (planner.high > items.count) planner.high = items.count;
  float* const loaded = floats + int64_t(span) * stride;
  float* const taken = loaded + int64_t(span) * stride;
  float* const hidden = taken + int64_t(num_outputs) * stride;
  Worker worker = {inputs,
                   outputs,
                   stride,
                   num_outputs,
                   padded_outputs,
                   logit_offsets != nullptr,
                   exact_cbow != 0,
                   floats,
                   loaded,
                   taken,
                   hidden,
                   hidden + stride,
                   0};

  const bool plans_here = threadIdx.x >= kWorkers;
  int64_t predictions = 0;
  const int start = first - 2 * reach;  // at which the first row enters
  if (plans_here) {
    planner.Begin();
    if (first < last) planner.Make(start, Plan(plans, reach, num_outputs));
  }
  __syncthreads();
  for (int i = start; i < last && first < last; ++i) {
    const Plan plan(plans + ((i - start) & 1) * plan_size, reach, num_outputs);
    const Plan next(plans + ((i - start + 1) & 1) * plan_size, reach, num_outputs);
    const int contexts = plan.head[kContexts];
    const bool has_next = i + 1 < last;
    if (threadIdx.x == 0) predictions += kObjective == kMeans ? contexts > 0 : plan.head[kTotal];
    if (!plans_here) worker.Exchange(plan);
    if (kObjective == kPairs) {
      for (int c = 0; c < contexts; ++c) {
        if (!plans_here) worker.TakeSet(plan, c);
        __syncthreads();
        if (!plans_here) {
          worker.Logits(plan, worker.rows + plan.places[c] * stride);
        } else if (c == 0 && has_next) {
          planner.Make(i + 1, next);
        }
        __syncthreads();
        if (!plans_here) worker.UpdatePair(plan, c);
      }
      if (contexts > 0) continue;
      __syncthreads();
      if (plans_here && has_next) planner.Make(i + 1, next);
      __syncthreads();
    } else {
      if (!plans_here && kObjective == kMeans && contexts > 0) worker.MeanOfContexts(plan);
      __syncthreads();
      if (plans_here) {
        if (has_next) planner.Make(i + 1, next);
      } else if (contexts > 0) {
        if (kObjective == kWindow) worker.WindowErrors(plan);
        if (kObjective == kMeans) worker.Logits(plan, worker.hidden);
      }
      __syncthreads();
      if (plans_here || contexts == 0) continue;
      if (kObjective == kWindow) worker.UpdateWindow(plan);
      if (kObjective == kMeans) worker.UpdateMean(plan);
    }
  }
  for (int place = 0; place < span && !plans_here; ++place) {
    const int row = planner.words[place];
    for (int s = threadIdx.x; row >= 0 && s < stride; s += kWorkers) {
      worker.GiveBack(place, row, s, __ldcg(inputs + int64_t(row) * stride + s));
    }
  }
  const double loss = OfBlock<Sum, kThreads>(worker.loss, of_warps);
  if (threadIdx.x > 0) return;
  tally[3 * int64_t(blockIdx.x)] += loss;
  tally[3 * int64_t(blockIdx.x) + 1] += double(predictions);
  tally[3 * int64_t(blockIdx.x) + 2] += last - first;
}
FASTKERAS_KERNEL(train);
