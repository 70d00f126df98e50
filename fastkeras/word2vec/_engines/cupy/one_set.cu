// One input, which is a row or the mean of some, with a set of its own: skip-gram as word2vec.c
// trains it, and CBOW; negatives or the path to a word in a Huffman tree.

__device__ inline void TakeSet(const Memory& memory, const Plan& plan, int set) {
  for (int s = threadIdx.x; s < memory.stride; s += kWorkers)
    Take(memory, plan, set, s, plan.head[kOutputs]);
}

__device__ inline void MeanOfContexts(const Memory& memory, const Plan& plan) {
  const float share = 1.0f / float(plan.head[kTotal]);
  for (int s = threadIdx.x; s < memory.stride; s += kWorkers) {
    float sum = 0;
    for (int c = 0; c < plan.head[kContexts]; ++c) {
      sum += float(plan.times[c]) * memory.rows[plan.places[c] * memory.stride + s];
    }
    memory.hidden[s] = sum * share;
  }
}

// Logits of all outputs; after them, if an output is repeated, the square of the input.
__device__ inline void Logits(const Memory& memory, const Plan& plan, const float* input) {
  const int lane = threadIdx.x % 32, outputs = plan.head[kOutputs];
  const int count = outputs + (plan.head[kRepeated] ? 1 : 0);
  const auto* h = reinterpret_cast<const Four*>(input);
  for (int j = threadIdx.x / 32; j < count; j += kWarps) {
    const auto* u =
        j < outputs ? reinterpret_cast<const Four*>(memory.taken + j * memory.stride) : h;
    float sum = 0;
    for (int s = lane; s < memory.stride / 4; s += 32) sum = DotOf(h[s], u[s], sum);
    sum = OfWarp<Sum>(sum);
    if (lane == 0) memory.errors[j] = sum;
  }
}

// Every warp computes all errors, for its own use; only one of them counts the loss.
__device__ inline const float* ErrorsOfSet(Memory& memory, const Plan& plan, int set) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int* const of_set = plan.rows + set * memory.num_outputs;
  const int* const firsts = plan.firsts + set * memory.num_outputs;
  const int* const terms = plan.terms + set * memory.num_outputs;
  const int outputs = plan.head[kOutputs];
  const float rate = __int_as_float(plan.head[kRate]), times = warp == 0 ? 1.0f : 0.0f;
  const bool repeated = plan.head[kRepeated];
  float* const g = memory.errors + (warp + 1) * memory.padded_outputs;
  if (memory.softmax) {
    Softmax(memory, plan, set, memory.errors, g, 1, warp == 0);
    __syncwarp();
    return g;
  }
  const auto error_of = [&](int j, float x) {
    const float sign = __int_as_float(terms[j]);
    return of_set[j] < 0 ? 0.0f : -sign * rate * Sigmoid(sign * x, times, &memory.loss);
  };
  for (int j = lane; j < outputs; j += 32) {
    if (!repeated || firsts[j] == j) g[j] = error_of(j, memory.errors[j]);
  }
  __syncwarp();
  if (!repeated) return g;
  // An output that was drawn before has been moved by then.
  for (int j = 1; lane == 0 && j < outputs; ++j) {
    if (firsts[j] == j) continue;
    float moved = 0;
    for (int k = firsts[j]; k < j; ++k) moved += firsts[k] == firsts[j] ? g[k] : 0.0f;
    g[j] = error_of(j, memory.errors[j] + moved * memory.errors[outputs]);
  }
  __syncwarp();
  return g;
}

// Moves the outputs; returns the change of the input's element.
__device__ inline float UpdateSet(const Memory& memory, const Plan& plan, int set, const float* g,
                                  float h, int s) {
  const int* const of_set = plan.rows + set * memory.num_outputs;
  const int* const firsts = plan.firsts + set * memory.num_outputs;
  const bool repeated = plan.head[kRepeated];
  float change = 0;
  for (int j = 0; j < plan.head[kOutputs]; ++j) {
    if (of_set[j] < 0) continue;
    float* const u = memory.taken + (repeated ? firsts[j] : j) * memory.stride + s;
    const float moved = g[j] * h;
    change += g[j] * *u;
    if (repeated) *u += moved;
    atomicAdd(memory.outputs + int64_t(of_set[j]) * memory.stride + s, moved);
  }
  return change;
}

__device__ inline void UpdatePair(Memory& memory, const Plan& plan, int c, int set) {
  const float* const g = ErrorsOfSet(memory, plan, set);
  float* const row = memory.rows + plan.places[c] * memory.stride;
  for (int s = threadIdx.x; s < memory.stride; s += kWorkers) {
    row[s] += UpdateSet(memory, plan, set, g, row[s], s);
  }
}

__device__ inline void UpdateMean(Memory& memory, const Plan& plan) {
  const float* const g = ErrorsOfSet(memory, plan, 0);
  const float share = memory.exact_cbow ? 1.0f / float(plan.head[kTotal]) : 1.0f;
  for (int s = threadIdx.x; s < memory.stride; s += kWorkers) {
    const float change = share * UpdateSet(memory, plan, 0, g, memory.hidden[s], s);
    for (int c = 0; c < plan.head[kContexts]; ++c) {
      memory.rows[plan.places[c] * memory.stride + s] += float(plan.times[c]) * change;
    }
  }
}
