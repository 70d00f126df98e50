// Samples and the k best paths.

// Draws the tags of valid steps from the last to the first, one thread for each sample of a
// sequence. Runs after `sweeps`, which kept alpha, and `exact`, which replaced some of it. Writes
// nothing for a sequence without a possible path or without log Z. uniforms and tags are
// (num_samples, batch, steps).
extern "C" __global__ void __launch_bounds__(64, 1)
    draw(const Real* transitions, const int* counts, const int* step_index, int batch, int steps,
         int num_tags, const Real* weights, const Real* rows, const int* state, int num_samples,
         const Real* uniforms, int* tags) {
  const int b = blockIdx.x % batch, sample = blockIdx.x / batch * 64 + threadIdx.x;
  if (sample >= num_samples || state[b] & (kUnsound | kImpossible)) return;
  const Real* alpha = rows + int64_t(b) * 2 * steps * num_tags;
  const double* exact_alpha = reinterpret_cast<const double*>(alpha);
  const bool in_log_space = state[b] & kInexact;
  int following = -1;
  for (int s = counts[b] - 1; s >= 0; --s) {
    const int64_t row = int64_t(s) * num_tags;
    const auto log_score = [&](int i) {
      const int64_t pair = int64_t(i) * num_tags + following;
      return exact_alpha[row + i] + (following < 0 ? 0.0 : double(transitions[pair]));
    };
    double peak = 0;
    if (in_log_space) {
      peak = -INFINITY;
      for (int i = 0; i < num_tags; ++i) peak = Largest::Of(peak, log_score(i));
    }
    const auto share = [&](int i) {
      if (in_log_space) return exp(log_score(i) - peak);
      const int64_t pair = int64_t(i) * num_tags + following;
      return double(alpha[row + i]) * (following < 0 ? 1.0 : double(weights[pair]));
    };
    double total = 0, sum = 0;
    for (int i = 0; i < num_tags; ++i) total += share(i);
    const int t = StepAt(step_index, int64_t(b) * steps, s);
    const int64_t place = (int64_t(sample) * batch + b) * steps + t;
    const double bound = double(uniforms[place]) * total;
    int tag = 0;
    for (; tag < num_tags - 1; ++tag) {
      sum += share(tag);
      if (sum > bound) break;
    }
    following = tag;
    tags[place] = tag;
  }
}
FASTKERAS_KERNEL(draw);

// One step of merging lists of at most k sorted scores: the best score at the lists' heads, in a
// tie that of the first list. score(i, rank) is -inf where a list ends. Returns the list, or -1.
template <typename Score>
__device__ int NextBest(int num_tags, int k, const int* heads, const Score& score, double* best) {
  int from = -1;
  *best = -INFINITY;
  for (int i = 0; i < num_tags; ++i) {
    const double candidate = heads[i] < k ? score(i, heads[i]) : -INFINITY;
    if (candidate > *best) {
      *best = candidate;
      from = i;
    }
  }
  return from;
}

// The k best paths, one block for each sequence, one thread for each tag. `best` is the score of
// the best path, as `viterbi` gives it. Workspace: lists (batch, 2, num_tags, k); heads (batch,
// num_tags, num_tags); pointers (batch, steps, num_tags, k), the list before and the place in it.
// Where there are fewer than k paths, tags (batch, k, steps) is 0 and scores (batch, k) is -inf.
extern "C" __global__ void __launch_bounds__(128, 1)
    k_best(const Real* emissions, const Real* transitions, const Real* start, const Real* end,
           const int* counts, const int* step_index, int steps, int num_tags, int k,
           const Real* best, double* lists, int* heads, int* pointers, int* tags, Real* value) {
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b];
  value += int64_t(b) * k;
  tags += int64_t(b) * k * steps;
  if (count == 0 || !(best[b] < Real(INFINITY))) {  // one empty path; or no order among paths
    for (int rank = threadIdx.x; rank < k; rank += 128) {
      value[rank] = rank == 0 ? best[b] : count == 0 ? Real(-INFINITY) : Real(NAN);
    }
    return;
  }
  const int64_t size = int64_t(num_tags) * k;
  lists += int64_t(b) * 2 * size;
  heads += int64_t(b) * num_tags * num_tags;
  pointers += int64_t(b) * steps * size;
  for (int s = 0; s < count; ++s) {
    const double* before = lists + (s + 1) % 2 * size;
    double* list = lists + s % 2 * size;
    for (int j = threadIdx.x; j < num_tags; j += 128) {
      const double emission = emissions[scores.RowOf(b, s) + j];
      int* const of_tag = heads + int64_t(j) * num_tags;
      for (int i = 0; i < num_tags; ++i) of_tag[i] = 0;
      for (int rank = 0; rank < k; ++rank) {
        double sum = rank == 0 ? double(start[j]) : -INFINITY;
        int from = -1;
        if (s > 0) {
          const auto score = [&](int i, int head) {
            return before[int64_t(i) * k + head] + double(transitions[int64_t(i) * num_tags + j]);
          };
          from = NextBest(num_tags, k, of_tag, score, &sum);
        }
        list[int64_t(j) * k + rank] = sum + emission;
        pointers[s * size + int64_t(j) * k + rank] = from < 0 ? 0 : from * k + of_tag[from]++;
      }
    }
    __syncthreads();
  }
  const double* last = lists + (count - 1) % 2 * size;
  if (threadIdx.x == 0) {
    int* const of_tags = pointers;  // the first step has none: reuse its memory
    for (int j = 0; j < num_tags; ++j) of_tags[j] = 0;
    for (int rank = 0; rank < k; ++rank) {
      double sum;
      const auto score = [&](int j, int head) {
        return last[int64_t(j) * k + head] + double(end[j]);
      };
      const int j = NextBest(num_tags, k, of_tags, score, &sum);
      value[rank] = Real(sum);
      tags[int64_t(rank) * steps] = j < 0 ? -1 : j * k + of_tags[j]++;
    }
  }
  __syncthreads();
  for (int rank = threadIdx.x; rank < k; rank += 128) {
    int* const path = tags + int64_t(rank) * steps;
    int place = path[0];  // holds the place in the lists until the tag is written there
    path[0] = 0;
    for (int s = count - 1; place >= 0 && s >= 0; --s) {
      path[StepAt(step_index, int64_t(b) * steps, s)] = place / k;
      place = pointers[s * size + place];
    }
  }
}
FASTKERAS_KERNEL(k_best);
