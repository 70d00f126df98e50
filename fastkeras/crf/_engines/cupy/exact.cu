// What the scaled domain cannot hold: log space, float64.

// log sum_i exp(scores(i)).
template <typename ScoreOf>
__device__ double LogSumExp(int count, const ScoreOf& score) {
  double peak = -INFINITY, sum = 0;
  for (int i = 0; i < count; ++i) peak = Largest::Of(peak, score(i));
  if (peak == -INFINITY) return peak;
  for (int i = 0; i < count; ++i) sum += exp(score(i) - peak);
  return log(sum) + peak;
}

// The forward sweep in log space. Each row is relative to the peak of the row before, which every
// thread finds for itself. Returns log Z; `alpha` is (steps, num_tags).
__device__ double ExactForward(const Scores& scores, int b, int count, double* alpha) {
  const int num_tags = scores.num_tags;
  double total = 0;
  for (int s = 0; s < count; ++s) {
    double* row = alpha + int64_t(s) * num_tags;
    const double* before = row - num_tags;
    double peak = 0;
    if (s > 0) {
      peak = -INFINITY;
      for (int i = 0; i < num_tags; ++i) peak = Largest::Of(peak, before[i]);
      if (peak == -INFINITY) return peak;
      total += peak;
    }
    for (int j = threadIdx.x; j < num_tags; j += blockDim.x) {
      const auto score = [&](int i) {
        return before[i] - peak + double(scores.transitions[int64_t(i) * num_tags + j]);
      };
      row[j] = scores.Emission<double>(b, count, s, j) + (s > 0 ? LogSumExp(num_tags, score) : 0.0);
    }
    __syncthreads();
  }
  const double* last = alpha + int64_t(count - 1) * num_tags;
  return total + LogSumExp(num_tags, [&](int i) { return last[i]; });
}

// Computes again what the scaled domain could not hold: one block for each sequence, most of which
// have nothing to do. Overwrites the `rows` of its sequence with alpha in float64; `scratch` is
// (batch, 2, num_tags). Then writes the value: log Z, or with `score` the likelihood.
extern "C" __global__ void __launch_bounds__(512, 1)
    exact(const Real* emissions, const int* tags, const Real* transitions, const Real* start,
          const Real* end, const int* counts, const int* step_index, int steps, int num_tags,
          Real* rows, double* scratch, const double* factors, int chunks, Real* unary, Real* pairs,
          double* log_z, const double* score, int* state, Real* value) {
  const Scores scores = {emissions, transitions, start, end, step_index, steps, num_tags};
  const int b = blockIdx.x, count = counts[b];
  const int flags = state[b];
  __syncthreads();  // all threads read the state before one of them writes it
  if (count > 0 && (flags & kInexact) && !(flags & kUnsound)) {
    double* alpha = reinterpret_cast<double*>(rows + int64_t(b) * 2 * steps * num_tags);
    const double of_all = ExactForward(scores, b, count, alpha);
    if (threadIdx.x == 0) {
      log_z[b] = of_all;
      if (of_all == -INFINITY) state[b] = flags | kImpossible;
    }
    const double factor = factors ? factors[b] : 1.0;
    if (unary && of_all == -INFINITY) {
      for (int64_t k = threadIdx.x; k < int64_t(count) * num_tags; k += blockDim.x) {
        unary[scores.RowOf(b, int(k / num_tags)) + k % num_tags] = 0;
      }
    } else if (unary && factor != 0 && factor == factor) {
      double* const beta = scratch + int64_t(b) * 2 * num_tags;
      double* const suffix = beta + num_tags;  // emissions and beta of the step after
      double level = 0;                        // the peak of `suffix`
      const int64_t area = int64_t(num_tags) * num_tags;
      for (int j = threadIdx.x; j < num_tags; j += blockDim.x) beta[j] = 0;
      __syncthreads();
      for (int s = count - 1; s >= 0; --s) {
        const double* row = alpha + int64_t(s) * num_tags;
        const int64_t of_step = scores.RowOf(b, s);
        const int t = StepAt(step_index, int64_t(b) * steps, s);
        const int gold = tags ? tags[int64_t(b) * steps + t] : -1;
        const double sum = LogSumExp(num_tags, [&](int i) { return row[i] + beta[i]; });
        for (int j = threadIdx.x; j < num_tags; j += blockDim.x) {
          const double marginal = exp(row[j] + beta[j] - sum);
          unary[of_step + j] = Real(factor * (tags ? (j == gold) - marginal : marginal));
        }
        if (s + 1 < count) {
          Real* sums = pairs + (int64_t(b) * chunks + s / kChunk) * area;
          const bool begins = s == count - 2 || s % kChunk == kChunk - 1;
          const int after =
              tags ? tags[int64_t(b) * steps + StepAt(step_index, int64_t(b) * steps, s + 1)] : -1;
          for (int64_t k = threadIdx.x; k < area; k += blockDim.x) {
            const int i = int(k / num_tags), j = int(k % num_tags);
            const double pair = exp(row[i] + double(transitions[k]) + suffix[j] - level - sum);
            const Real more = Real(tags ? (i == gold && j == after) - pair : pair);
            sums[k] = begins ? more : sums[k] + more;
          }
        }
        if (s == 0) break;
        __syncthreads();
        for (int j = threadIdx.x; j < num_tags; j += blockDim.x) {
          suffix[j] = scores.Emission<double>(b, count, s, j) + beta[j];
        }
        __syncthreads();
        level = -INFINITY;
        for (int j = 0; j < num_tags; ++j) level = Largest::Of(level, suffix[j]);
        for (int i = threadIdx.x; i < num_tags; i += blockDim.x) {
          beta[i] = LogSumExp(num_tags, [&](int j) {
            return double(transitions[int64_t(i) * num_tags + j]) + suffix[j] - level;
          });
        }
        __syncthreads();
      }
    }
  }
  if (threadIdx.x > 0) return;
  double result = flags & kUnsound ? double(NAN) : count > 0 ? log_z[b] : 0.0;
  if (score) {
    const bool impossible = score[b] == -INFINITY && result == result;
    result = score[b] - (impossible ? 0.0 : result);
    if (result > 0) result = 0;  // above 0 by rounding only
  }
  value[b] = Real(result);
}
FASTKERAS_KERNEL(exact);
