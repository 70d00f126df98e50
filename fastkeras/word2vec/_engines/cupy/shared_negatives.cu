// Skip-gram with one set of negatives for all contexts of a window; all gradients are those of the
// values before.

// The error of a logit, times the rate and how often the context occurs.
__device__ inline float Logistic(Memory& memory, const Plan& plan, int c, int j, float x) {
  if (plan.rows[j] < 0) return 0;
  const float times = float(plan.times[c]), sign = j == 0 ? -1.0f : 1.0f;
  const float rate = __int_as_float(plan.head[kRate]);
  return -sign * rate * times * Sigmoid(sign * x, times, &memory.loss);
}

// The logits of two contexts and eight outputs at a time in each warp, and then their errors.
__device__ inline void WindowErrors(Memory& memory, const Plan& plan) {
  const int contexts = plan.head[kContexts], lane = threadIdx.x % 32;
  for (int c = 2 * (threadIdx.x / 32); c < contexts; c += 2 * kWarps) {
    const bool two = c + 1 < contexts;
    const auto* v0 = reinterpret_cast<const Four*>(memory.rows + plan.places[c] * memory.stride);
    const auto* v1 =
        reinterpret_cast<const Four*>(memory.rows + plan.places[two ? c + 1 : c] * memory.stride);
    for (int first = 0; first < memory.num_outputs; first += kGroup) {
      const auto* u = reinterpret_cast<const Four*>(memory.taken + first * memory.stride);
      float sums[2 * kGroup] = {};
      for (int s = lane; s < memory.stride / 4; s += 32) {
        const Four a = v0[s], b = v1[s];
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          if (first + k >= memory.num_outputs) continue;
          const Four of_output = u[k * (memory.stride / 4) + s];
          sums[k] = DotOf(a, of_output, sums[k]);
          sums[kGroup + k] = DotOf(b, of_output, sums[kGroup + k]);
        }
      }
      float x = SumsOfWarp(sums);
      x += __shfl_xor_sync(kAllLanes, x, 2 * kGroup);  // of both halves of the warp
      const int j = first + lane % kGroup;
      if (lane < kGroup || (lane < 2 * kGroup && two)) {
        float* const to = memory.errors + (c + lane / kGroup) * memory.padded_outputs + j;
        if (memory.softmax) {
          *to = x;
        } else {
          *to = j < memory.num_outputs ? Logistic(memory, plan, c + lane / kGroup, j, x) : 0.0f;
        }
      }
    }
    if (!memory.softmax) continue;
    __syncwarp();
    for (int k = c; k < c + (two ? 2 : 1); ++k) {
      Softmax(memory, plan, 0, memory.errors + k * memory.padded_outputs,
              memory.errors + k * memory.padded_outputs, float(plan.times[k]), true);
      __syncwarp();
    }
  }
}

__device__ inline void LoadTaken(const Memory& memory, int first, int s, float (&u)[kGroup]) {
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    u[k] = first + k < memory.num_outputs ? memory.taken[(first + k) * memory.stride + s] : 0.0f;
  }
}

__device__ inline void LoadErrors(const float* from, float (&g)[kGroup]) {
#pragma unroll
  for (int k = 0; k < kGroup; k += 4) {
    const Four four = reinterpret_cast<const Four*>(from)[k / 4];
#pragma unroll
    for (int n = 0; n < 4; ++n) g[k + n] = four.of[n];
  }
}

__device__ inline void UpdateWindow(const Memory& memory, const Plan& plan) {
  const int contexts = plan.head[kContexts];
  for (int s = threadIdx.x; s < memory.stride; s += kWorkers) {
    const bool at_once = memory.num_outputs <= kGroup;
    for (int first = 0; first < memory.num_outputs; first += kGroup) {
      float u[kGroup], change[kGroup];
      LoadTaken(memory, first, s, u);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) change[k] = 0;
      for (int c = 0; c < contexts; ++c) {
        float* const row = memory.rows + plan.places[c] * memory.stride + s;
        const float v = *row;
        float g[kGroup];
        LoadErrors(memory.errors + c * memory.padded_outputs + first, g);
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
        const int row = first + k < memory.num_outputs ? plan.rows[first + k] : -1;
        if (row >= 0) atomicAdd(memory.outputs + int64_t(row) * memory.stride + s, change[k]);
      }
    }
    if (at_once) continue;
    for (int first = 0; first < memory.num_outputs; first += kGroup) {
      float u[kGroup], g[kGroup];
      LoadTaken(memory, first, s, u);
      for (int c = 0; c < contexts; ++c) {
        LoadErrors(memory.errors + c * memory.padded_outputs + first, g);
        float sum = 0;
#pragma unroll
        for (int k = 0; k < kGroup; ++k) sum += g[k] * u[k];
        memory.rows[plan.places[c] * memory.stride + s] += sum;
      }
    }
  }
}
