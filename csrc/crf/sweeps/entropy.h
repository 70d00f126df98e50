// The expected scores of prefixes, after a forward sweep, and the way back to the gradient of the
// entropy. All are below the peaks that the forward sweep took out: with L = A - peak, W = exp(L),
// gap_t = peak_t - x_t, so E_t = exp(-gap_t), and what a prefix that ends in tag j is expected to
// lack, before and after its last emission,
//   w_t[j] = sum_i (u_{t-1}[i] - L[i, j]) a_{t-1}[i] W[i, j] / sum_i a_{t-1}[i] W[i, j],
//   u_t[j] = w_t[j] + gap_t[j] - (a number for each step, so that u stays small).

#ifndef FASTKERAS_CRF_SWEEPS_ENTROPY_H_
#define FASTKERAS_CRF_SWEEPS_ENTROPY_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/products.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// out(v, vector v of row x matrix).
template <typename T, typename Out>
FASTKERAS_INLINE void RowProduct(const T* row, const crf::Panels<T>& matrix, const Out& out) {
  RowsProduct<SumProduct, 1>(&row, matrix,
                             [&](int, int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE { out(v, sum); });
}

// Of the sorted sequence `place`, whose rows `forward` kept: writes its u and w, and its entropy
// into value, where its log Z is.
template <typename T>
void EntropyForward(const crf::Plan<T>& plan, const crf::EntropyRows<T>& entropy, int64_t place,
                    double* value) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr T kTiny = std::numeric_limits<T>::min();
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr int64_t kSteps = 8;  // from one recentring to the next
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags, stride = int64_t{shape.vectors} * kWidth;
  const int64_t b = plan.order[place], steps = plan.counts[b];
  const crf::KeptRows<T> kept(plan, place);
  const Buffer<T> room(3 * stride);
  T *const lacking = room.data, *const sums = lacking + stride, *const gaps = sums + stride;
  double peaks = 0, lacked = 0;  // all that was taken out of the scores, and of u
  for (int64_t s = 0; s < steps; ++s) {
    const T* const x = chains.emissions + (b * chains.steps + crf::StepAt(plan, b, s)) * num_tags;
    Vec<T> largest = Broadcast(-kInfinity);
    for (int v = 0; v < shape.vectors; ++v) {
      Vec<T> score = shape.LoadVector(x, v);
      if (s == 0) score += shape.LoadVector(chains.start_transitions, v);
      if (s == steps - 1) score += shape.LoadVector(chains.end_transitions, v);
      Store(gaps + v * kWidth, score);
      largest = Max(shape.Pad(v, score, -kInfinity), largest);
    }
    const T peak = Largest(largest);
    peaks += peak;
    if (s > 0) {  // `lacking` has alpha * u of the step before
      RowProduct(lacking, plan.weights,
                 [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE { Store(sums + v * kWidth, sum); });
      RowProduct(kept.alpha + (s - 1) * num_tags, entropy.weighted_logs,
                 [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
                   Store(sums + v * kWidth, Load(sums + v * kWidth) - sum);
                 });
    }
    const T scale = kept.scale[s];
    T* const u = entropy.After(plan, place, s);
    T* const w = entropy.Before(plan, place, s);
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> alpha = shape.LoadVector(kept.alpha + s * num_tags, v);
      const auto reached = alpha > kTiny;
      Vec<T> before = {};
      if (s > 0) {
        const Vec<T> emission = shape.LoadVector(kept.emission + s * num_tags, v);
        before = Load(sums + v * kWidth) * scale * emission / (reached ? alpha : Broadcast(T(1)));
        before = reached ? before : Vec<T>{};
      }
      const Vec<T> after = reached ? before + (peak - Load(gaps + v * kWidth)) : Vec<T>{};
      shape.StoreVector(w, v, before);
      shape.StoreVector(u, v, after);
      Store(lacking + v * kWidth, alpha * after);
    }
    if (s % kSteps != kSteps - 1 && s + 1 < steps) continue;
    const T mean = shape.SumOf(lacking) / shape.SumOf(kept.alpha + s * num_tags);
    lacked += mean;
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> alpha = shape.LoadVector(kept.alpha + s * num_tags, v);
      const Vec<T> after = alpha > kTiny ? shape.LoadVector(u, v) - mean : Vec<T>{};
      shape.StoreVector(u, v, after);
      Store(lacking + v * kWidth, alpha * after);
    }
  }
  const double most = peaks + static_cast<double>(steps - 1) * static_cast<double>(plan.peak);
  const double nats = value[b] - most + lacked;
  value[b] = nats > 0 ? nats : nats != nats ? nats : 0;  // below 0 by rounding only
}

// Writes the gradient of the emissions of the sorted sequence `place`, and adds sums over its steps
// to pairs and plain_pairs (num_tags, stride), of which W * pairs - W * L * plain_pairs is the
// gradient by the transitions. All times `weight`; the gradient of the emissions times `factor`.
//
// beta is that of the marginals, and delta[j] = beta[j] * (what a path through tag j lacks, less
// what all paths lack): d_t = alpha_t * delta_t is the derivative by the emissions.
template <typename T>
void EntropyBackward(const crf::Plan<T>& plan, const crf::EntropyRows<T>& entropy, int64_t place,
                     T weight, T factor, T* gradients, T* pairs, T* plain_pairs) {
  constexpr T kTiny = std::numeric_limits<T>::min();
  constexpr int kWidth = Simd<T>::kWidth;
  const Row<T> shape(plan.chains.num_tags);
  const int64_t num_tags = shape.num_tags, stride = int64_t{shape.vectors} * kWidth;
  const int64_t b = plan.order[place], steps = plan.counts[b];
  const crf::KeptRows<T> kept(plan, place);
  const Buffer<T> room((2 * kChunk + 2) * stride + kChunk * num_tags + 2 * kChunk * kWidth);
  T *const beta = room.data, *const delta = beta + stride;
  T *const r_rows = delta + stride, *const s_rows = r_rows + kChunk * stride;
  T* const lacking = s_rows + kChunk * stride;  // alpha * u, of the steps before those of a chunk
  T* const panel = lacking + kChunk * num_tags;

  const T* const last = kept.alpha + (steps - 1) * num_tags;
  const T first_beta = weight / shape.SumOf(last);
  for (int v = 0; v < shape.vectors; ++v) {
    const Vec<T> after = shape.LoadVector(entropy.After(plan, place, steps - 1), v);
    const Vec<T> row = shape.Pad(v, Broadcast(first_beta), 0);
    Store(beta + v * kWidth, row);
    Store(delta + v * kWidth, row * after);  // u of the last step has mean 0
  }
  for (int64_t begin = (steps - 1) / kChunk * kChunk; begin >= 0; begin -= kChunk) {
    const int64_t end = steps < begin + kChunk ? steps : begin + kChunk;
    for (int64_t s = end - 1; s >= begin; --s) {
      const T* const alpha = kept.alpha + s * num_tags;
      const T* const emission = kept.emission + s * num_tags;
      const T* const w = entropy.Before(plan, place, s);
      T* const gradient = gradients + crf::StepAt(plan, b, s) * num_tags;
      T *const r = r_rows + (s - begin) * stride, *const lacks = s_rows + (s - begin) * stride;
      const T scale = kept.scale[s];
      Vec<T> marginals = {}, derivatives = {};
      for (int v = 0; v < shape.vectors; ++v) {
        const Vec<T> prefix = shape.LoadVector(alpha, v);
        const auto reached = prefix > kTiny;  // what is not has a beta without bound
        const Vec<T> suffix = reached ? Load(beta + v * kWidth) : Vec<T>{};
        const Vec<T> suffix_lacks = reached ? Load(delta + v * kWidth) : Vec<T>{};
        const Vec<T> derivative = prefix * suffix_lacks;
        marginals += prefix * suffix;
        derivatives += derivative;
        shape.StoreVector(gradient, v, derivative * factor);
        const Vec<T> e = shape.LoadVector(emission, v);
        const Vec<T> of_suffix = e * suffix * scale;
        Store(r + v * kWidth, of_suffix);
        Store(lacks + v * kWidth, e * suffix_lacks * scale - of_suffix * shape.LoadVector(w, v));
      }
      if (s == 0) continue;
      const T* const u = entropy.After(plan, place, s - 1);
      const T* const rows[2] = {r, lacks};
      RowsProduct<SumProduct, 2>(rows, plan.weights_transposed,
                                 [&](int row, int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
                                   Store((row == 0 ? beta : delta) + v * kWidth, sum);
                                 });
      RowProduct(
          r, entropy.weighted_logs_transposed, [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
            T* const element = delta + v * kWidth;
            Store(element, Load(element) - sum + shape.LoadVector(u, v) * Load(beta + v * kWidth));
          });
      if (s > begin) continue;
      // The marginals should sum to the weight, and the derivatives to 0.
      const T sum = Sum(marginals), drift = weight / sum, excess = Sum(derivatives) / sum;
      if (!(drift > T(0.5) && drift < T(2))) continue;
      for (int v = 0; v < shape.vectors; ++v) {
        T *const suffix = beta + v * kWidth, *const lacks_more = delta + v * kWidth;
        Store(lacks_more, (Load(lacks_more) - Load(suffix) * excess) * drift);
        Store(suffix, Load(suffix) * drift);
      }
    }
    const int64_t from = begin > 1 ? begin : 1, count = end - from;
    if (count <= 0) continue;
    const T* const before = kept.alpha + (from - 1) * num_tags;
    const T* const u = entropy.After(plan, place, from - 1);
    for (int64_t k = 0; k < count * num_tags; ++k) lacking[k] = before[k] * u[k];
    const T *const r = r_rows + (from - begin) * stride, *const lacks =
                                                             s_rows + (from - begin) * stride;
    AddOuterProducts(before, lacks, count, num_tags, stride, panel, pairs);
    AddOuterProducts(lacking, r, count, num_tags, stride, panel, pairs);
    AddOuterProducts(before, r, count, num_tags, stride, panel, plain_pairs);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_ENTROPY_H_
