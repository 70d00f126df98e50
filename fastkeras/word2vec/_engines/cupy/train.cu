// The training of a block's windows, one after the other. Blocks update the matrices without locks.

// Where all warps of the block meet, though they come from different places of the program, which
// __syncthreads() does not promise to allow.
__device__ inline void Meet() {
#if defined(FASTKERAS_ON_CPU)
  __syncthreads();
#else
  asm volatile("bar.sync 0;" ::: "memory");
#endif
}

// Block b of g trains the b-th of g parts of the items begin..count-after-1, in order. Its memory
// is shared, or, if windows are wide, in `floats` and `ints`, with so many numbers for a block.
// `tally` is (blocks, 3), where it adds loss, predictions and words.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    train(const int* words, const int* positions, const int* sentences, const Counted* counted,
          int tiles, int64_t from, int begin, int after, float* inputs, float* outputs, int stride,
          int reach, const unsigned* noise, const float* logit_offsets, const int64_t* path_starts,
          const int* path_nodes, const float* path_signs, int num_words, int negative,
          int num_outputs, int window, int shrink, int exact_cbow, int64_t key,
          double learning_rate, double slope, float* floats, int64_t num_floats, int* ints,
          int64_t num_ints, double* tally) {
  FASTKERAS_SHARED(double, of_warps, kThreads / 32);
  FASTKERAS_SHARED(Four, room, kWide ? 1 : kRoom / 4);
  FASTKERAS_SHARED(int, int_room, kWide ? 1 : kIntRoom);
  floats = kWide ? floats + blockIdx.x * num_floats : room[0].of;
  ints = kWide ? ints + blockIdx.x * num_ints : int_room;
  const Items items = {words, positions, sentences, from, counted[tiles].items};
  const Drawing drawing = {noise,      logit_offsets, path_starts,   path_nodes,
                           path_signs, num_words,     negative,      window,
                           shrink,     key,           learning_rate, slope};
  const int end = items.count - after, size = end - begin;
  const int first = begin + int(int64_t(size) * blockIdx.x / gridDim.x);
  const int last = begin + int(int64_t(size) * (blockIdx.x + 1) / gridDim.x);
  const int span = 2 * reach + 1;
  const int padded_outputs = (num_outputs + kGroup) / kGroup * kGroup;  // and one more

  int* const plans = ints + 6 * span;
  const int plan_size = int((num_ints - 6 * span) / 3);
  const auto plan_of = [&](int step) {
    return Plan(plans + step % 3 * plan_size, reach, num_outputs);
  };
  Planner planner = {items,           drawing,         reach,          span,        first - reach,
                     last + reach,    first,           ints,           ints + span, ints + 2 * span,
                     ints + 3 * span, ints + 4 * span, ints + 5 * span};
  if (planner.low < 0) planner.low = 0;
  if (planner.high > items.count) planner.high = items.count;
  float* const loaded = floats + int64_t(span) * stride;
  float* const taken = loaded + int64_t(span) * stride;
  float* const hidden = taken + int64_t(num_outputs) * stride;
  Memory memory = {inputs,
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
  const int steps = first < last ? last - start : 0;
  const auto plan_rows = [&](int step) {
    if (step < steps) planner.PlanRows(start + step, plan_of(step));
  };
  const auto plan_draws = [&](int step) {
    if (step < steps) planner.PlanDraws(start + step, plan_of(step));
  };
  if (plans_here) {
    planner.Begin();
    for (int step = 0; step < 2; ++step) {
      plan_rows(step);
      plan_draws(step);
    }
  }
  Meet();
  for (int step = 0; step < steps; ++step) {
    const Plan plan = plan_of(step);
    const int contexts = plan.head[kContexts];
    if (plans_here) {
      Meet();  // now the others have finished with the plan before, which it overwrites
      plan_rows(step + 2);
      Meet();
      plan_draws(step + 2);
      for (int c = 1; kObjective == kPairs && c < contexts; ++c) {
        Meet();
        Meet();
      }
      continue;
    }
    if (threadIdx.x == 0) predictions += kObjective == kMeans ? contexts > 0 : plan.head[kTotal];
    Exchange(memory, plan);
    if (kObjective == kPairs) {
      for (int c = 0; c < contexts || c == 0; ++c) {
        const int set = path_starts ? 0 : c;  // one path for all
        if (c < contexts) TakeSet(memory, plan, set);
        Meet();
        if (c < contexts) Logits(memory, plan, memory.rows + plan.places[c] * stride);
        Meet();
        if (c < contexts) UpdatePair(memory, plan, c, set);
      }
      continue;
    }
    if (kObjective == kMeans && contexts > 0) MeanOfContexts(memory, plan);
    Meet();
    if (kObjective == kWindow && contexts > 0) WindowErrors(memory, plan);
    if (kObjective == kMeans && contexts > 0) Logits(memory, plan, memory.hidden);
    Meet();
    if (kObjective == kWindow && contexts > 0) UpdateWindow(memory, plan);
    if (kObjective == kMeans && contexts > 0) UpdateMean(memory, plan);
  }
  Meet();
  for (int place = 0; place < span && !plans_here; ++place) {
    const int row = planner.words[place];
    for (int s = threadIdx.x; row >= 0 && s < stride; s += kWorkers) {
      GiveBack(memory, place, row, s, __ldcg(inputs + int64_t(row) * stride + s));
    }
  }
  const double loss = OfBlock<Sum, kThreads>(memory.loss, of_warps);
  if (threadIdx.x > 0) return;
  tally[3 * int64_t(blockIdx.x)] += loss;
  tally[3 * int64_t(blockIdx.x) + 1] += double(predictions);
  tally[3 * int64_t(blockIdx.x) + 2] += last - first;
}
FASTKERAS_KERNEL(train);
