// The backward sweep in the scaled domain, with the marginals and the sums over pairs of tags:
// r_t = E_t * beta_t * 2^-k, beta_{t-1} = W r_t, marginal_t = alpha_t * beta_t.

#ifndef FASTKERAS_CRF_SWEEPS_BACKWARD_H_
#define FASTKERAS_CRF_SWEEPS_BACKWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/products.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// One sequence on its way back.
template <typename T>
struct Returner {
  int64_t sequence;
  int64_t steps;
  const T* alpha;
  const T* emission;
  const T* scales;
  T* gradient;  // its rows of the gradient of the emissions
  const int32_t* tags;
  T weight;                          // over the largest weight of the batch
  const T *step_weights, *inverses;  // of its steps, or null (kernels.h)
  T* pairs;                          // of its group
  T* beta;                           // padded row
  T* r;                              // padded rows of one chunk
};

// marginal = alpha * beta and r = E * beta * scale of one step. Tags that no prefix reaches have
// alpha 0, but a beta that may have grown without bound, so they are left out.
template <typename T>
FASTKERAS_INLINE void MarginalRow(const Row<T>& shape, const Returner<T>& back, int64_t step,
                                  T sign, T* gradient, T* r) {
  constexpr int kWidth = Simd<T>::kWidth;
  const T* alpha = back.alpha + step * shape.num_tags;
  const T* emission = back.emission + step * shape.num_tags;
  const T scale = back.scales[step];
  const int64_t ahead =
      step >= 2 ? -2 * shape.num_tags : 0;  // more streams than hardware prefetches
  for (int v = 0; v < shape.vectors; ++v) {
    __builtin_prefetch(alpha + ahead + v * kWidth);
    __builtin_prefetch(emission + ahead + v * kWidth);
    const Vec<T> prefix = shape.LoadVector(alpha, v);
    const Vec<T> suffix = prefix > 0 ? Load(back.beta + v * kWidth) : Vec<T>{};
    shape.StoreVector(gradient, v, prefix * suffix * sign);
    Store(r + v * kWidth, shape.LoadVector(emission, v) * suffix * scale);
  }
}

// With weights of steps, marginals of both signs go into the gradient. They should sum to
// weight * sign: what is missing is added to r in proportion to their magnitudes.
template <typename T>
FASTKERAS_INLINE void CorrectDrift(const Row<T>& shape, const T* gradient, T weight, T sign, T* r) {
  Vec<T> sum = {}, magnitudes = {};
  for (int v = 0; v < shape.vectors; ++v) {
    const Vec<T> marginals = shape.LoadVector(gradient, v);
    sum += marginals;
    magnitudes += Max(marginals, -marginals);
  }
  const T missing = (weight * sign - Sum(sum)) / Sum(magnitudes);
  const T factor = sign < 0 ? -missing : missing;
  if (!(factor > T(-0.5) && factor < T(0.5))) return;
  for (int v = 0; v < shape.vectors; ++v) {
    T* const element = r + v * Simd<T>::kWidth;
    Store(element, Load(element) + Max(Load(element), -Load(element)) * factor);
  }
}

// For the sorted sequences first..last-1, at most kMaxBlock of them. Sequences whose weight is 0
// are left out.
template <typename T>
void Backward(const crf::Plan<T>& plan, const crf::GradientOutputs<T>& out, int64_t first,
              int64_t last) {
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags;
  const int64_t stride = int64_t{shape.vectors} * Simd<T>::kWidth;
  const int64_t panel_size = 2 * kChunk * Simd<T>::kWidth;
  const Buffer<T> rows(((last - first) * (kChunk + 1) + 2) * stride + panel_size);
  T* const panel = rows.data + ((last - first) * (kChunk + 1) + 2) * stride;
  T* const idle = rows.data;
  for (int64_t k = 0; k < 2 * stride; ++k) idle[k] = 0;
  Returner<T> returners[crf::kMaxBlock];
  int returning = 0;
  for (int64_t k = first; k < last; ++k) {
    const int64_t b = plan.order[k];
    if (plan.counts[b] == 0 || out.weights[b] == 0) continue;
    Returner<T>& back = returners[returning];
    back.sequence = b;
    back.steps = plan.counts[b];
    const crf::KeptRows<T> kept(plan, k);
    back.alpha = kept.alpha;
    back.emission = kept.emission;
    back.scales = kept.scale;
    back.gradient = out.emissions + b * chains.steps * num_tags;
    back.tags = out.tags ? out.tags + b * chains.steps : nullptr;
    back.weight = static_cast<T>(out.weights[b]);
    back.step_weights = out.step_weights ? out.step_weights + b * chains.steps : nullptr;
    back.inverses = out.inverses ? out.inverses + b * chains.steps : nullptr;
    back.pairs =
        out.pairs + (out.per_sequence ? b : (k - first) / out.group_size) * num_tags * stride;
    back.beta = rows.data + (2 + returning * (kChunk + 1)) * stride;
    back.r = back.beta + stride;
    ++returning;
  }
  if (returning == 0) return;

  const T* r_rows[crf::kMaxBlock];
  T* beta_rows[crf::kMaxBlock];
  for (int m = 0; m < crf::kMaxBlock; ++m) {
    r_rows[m] = idle;
    beta_rows[m] = m < returning ? returners[m].beta : idle + stride;
  }
  const T sign = out.marginal_sign * static_cast<T>(out.largest_weight);
  int active = 0;
  for (int64_t begin = (returners[0].steps - 1) / kChunk * kChunk; begin >= 0; begin -= kChunk) {
    const int64_t end = returners[0].steps < begin + kChunk ? returners[0].steps : begin + kChunk;
    for (int64_t s = end - 1; s >= begin; --s) {
      for (; active < returning && returners[active].steps > s; ++active) {
        const Returner<T>& back = returners[active];
        T weight = back.weight;
        if (back.step_weights) weight *= back.step_weights[crf::StepAt(plan, back.sequence, s)];
        const T first_beta = weight / shape.SumOf(back.alpha + s * num_tags);
        for (int v = 0; v < shape.vectors; ++v) {
          Store(back.beta + v * Simd<T>::kWidth, shape.Pad(v, Broadcast(first_beta), 0));
        }
      }
      T drift[crf::kMaxBlock];  // how far the marginals' sum is from the weight, by rounding
      for (int m = 0; m < active; ++m) {
        const Returner<T>& back = returners[m];
        const int64_t t = crf::StepAt(plan, back.sequence, s);
        T* gradient = back.gradient + t * num_tags;
        T* r = back.r + (s - begin) * stride;
        MarginalRow(shape, back, s, sign, gradient, r);
        if (back.step_weights) {
          drift[m] = 0;
          const T weight = back.weight * back.step_weights[t];
          if (s == begin) CorrectDrift(shape, gradient, weight, sign, r);
          if (s > 0) {
            const int64_t following = crf::StepAt(plan, back.sequence, s - 1);
            const T source = back.weight * back.step_weights[following] - weight;
            r[back.tags[t]] += source * back.inverses[s];
          }
        } else if (s == begin) {
          drift[m] = back.weight * sign / shape.SumOf(gradient);
        }
        r_rows[m] = r;
      }
      if (s == 0) continue;
      InRowGroups(active, [&](int m, auto rows) FASTKERAS_LAMBDA_INLINE {
        RowsProduct<SumProduct, decltype(rows)::value>(
            r_rows + m, plan.weights_transposed,
            [&](int k, int v, Vec<T> sum)
                FASTKERAS_LAMBDA_INLINE { Store(beta_rows[m + k] + v * Simd<T>::kWidth, sum); });
      });
      if (s > begin) continue;
      for (int m = 0; m < active; ++m) {  // the errors of many chunks must not add up
        if (!(drift[m] > T(0.5) && drift[m] < T(2))) continue;
        for (int v = 0; v < shape.vectors; ++v) {
          T* beta = returners[m].beta + v * Simd<T>::kWidth;
          Store(beta, Load(beta) * drift[m]);
        }
      }
    }
    for (int m = 0; m < active; ++m) {
      const Returner<T>& back = returners[m];
      const int64_t to = back.steps < begin + kChunk ? back.steps : begin + kChunk;
      if (back.tags) {  // only now: earlier, the load would have waited for the row's store
        const T weight = back.weight * static_cast<T>(out.largest_weight);
        for (int64_t s = begin; s < to; ++s) {
          const int64_t t = crf::StepAt(plan, back.sequence, s);
          back.gradient[t * num_tags + back.tags[t]] +=
              back.step_weights ? back.step_weights[t] * weight : weight;
        }
      }
      const int64_t from = begin > 1 ? begin : 1;
      if (to <= from) continue;
      AddOuterProducts(back.alpha + (from - 1) * num_tags, back.r + (from - begin) * stride,
                       to - from, num_tags, stride, panel, back.pairs);
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_BACKWARD_H_
