#include "crf/arguments.h"

#include <limits>

namespace fastkeras::crf {
namespace {

constexpr int64_t kMostSteps = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostPaths = int64_t{1} << 29;  // even twice as many have numbers of 32 bits

}  // namespace

Sizes CheckedSizes(const Shape& emissions) {
  if (emissions.size() != 3 || emissions[2] < 1) {
    Refuse("emissions must have shape (batch, steps, num_tags >= 1), got ", Text(emissions));
  }
  if (emissions[1] > kMostSteps) {
    Refuse("emissions must have at most ", kMostSteps, " steps, got ", Text(emissions));
  }
  return {emissions[0], emissions[1], emissions[2]};
}

const int32_t* CheckedLengths(const Argument<int32_t>& lengths, int64_t batch, int64_t steps) {
  ExpectShape("lengths", lengths.shape, {batch});
  for (int64_t b = 0; b < batch; ++b) {
    if (lengths.data[b] < 0 || lengths.data[b] > steps) {
      Refuse("lengths must be in 0..", steps, " (the steps of emissions), got ", lengths.data[b],
             " at [", b, "]");
    }
  }
  return lengths.data;
}

template <typename T>
Chains<T> CheckedChains(const Argument<T>& emissions, const Argument<T>& transitions,
                        const Argument<T>& start_transitions, const Argument<T>& end_transitions,
                        const Argument<int32_t>& lengths, const Argument<bool>* mask,
                        bool may_vary) {
  const auto [batch, steps, num_tags] = CheckedSizes(emissions.shape);
  const bool varies = may_vary && transitions.shape.size() == 4;
  if (varies) {
    const int64_t pairs = steps > 1 ? steps - 1 : 0;
    ExpectShape("transitions", transitions.shape, {batch, pairs, num_tags, num_tags});
  } else {
    ExpectShape("transitions", transitions.shape, {num_tags, num_tags});
  }
  ExpectShape("start_transitions", start_transitions.shape, {num_tags});
  ExpectShape("end_transitions", end_transitions.shape, {num_tags});
  if (mask) ExpectShape("mask", mask->shape, {batch, steps});
  return {batch,
          steps,
          num_tags,
          emissions.data,
          transitions.data,
          start_transitions.data,
          end_transitions.data,
          CheckedLengths(lengths, batch, steps),
          mask ? mask->data : nullptr,
          varies};
}

template <typename T>
const int32_t* CheckedTags(const Chains<T>& chains, const Argument<int32_t>& tags) {
  ExpectShape("tags", tags.shape, {chains.batch, chains.steps});
  const int64_t wrong = FirstTagOutOfRange(chains.batch, chains.steps, chains.num_tags, tags.data,
                                           chains.lengths, chains.mask);
  if (wrong >= 0) {
    Refuse("tags must be in 0..", chains.num_tags - 1, " at valid steps, got ", tags.data[wrong],
           " at [", wrong / chains.steps, ", ", wrong % chains.steps, "]");
  }
  return tags.data;
}

int64_t CheckedMaxLength(const Shape& durations, int64_t num_tags) {
  if (durations.size() != 2 || durations[0] < 1 || durations[1] != num_tags) {
    Refuse("durations must have shape (max_length >= 1, ", num_tags, "), got ", Text(durations));
  }
  return durations[0];
}

template <typename T>
SemiChains<T> CheckedSemiChains(const Argument<T>& emissions, const Argument<T>& transitions,
                                const Argument<T>& durations, const Argument<int32_t>& lengths,
                                const Argument<T>& start_transitions,
                                const Argument<T>& end_transitions) {
  const int64_t num_tags = CheckedSizes(emissions.shape).num_tags;
  const int64_t max_length = CheckedMaxLength(durations.shape, num_tags);
  const Chains<T> chains = CheckedChains(emissions, transitions, start_transitions, end_transitions,
                                         lengths, nullptr, false);
  return {chains.batch,           chains.steps,       num_tags,       max_length,
          chains.emissions,       chains.transitions, durations.data, chains.start_transitions,
          chains.end_transitions, chains.lengths};
}

template <typename T>
SecondOrderChains<T> CheckedSecondOrder(const Chains<T>& chains, const Argument<T>& transitions,
                                        const Argument<T>& triples) {
  const int64_t num_tags = chains.num_tags;
  ExpectShape("transitions", transitions.shape, {num_tags, num_tags});
  ExpectShape("triples", triples.shape, {num_tags, num_tags, num_tags});
  return {chains, triples.data};
}

Quantity CheckedQuantity(int64_t quantity) {
  if (quantity < 0 || quantity >= kNumQuantities) {
    Refuse("quantity must be in 0..", kNumQuantities - 1, ", got ", quantity);
  }
  return static_cast<Quantity>(quantity);
}

int64_t CheckedK(int64_t k) {
  if (k < 1 || k > kMostPaths) Refuse("k must be in 1..", kMostPaths, ", got ", k);
  return k;
}

int64_t CheckedNumSamples(const Shape& uniforms, int64_t batch, int64_t steps) {
  const int64_t num_samples = uniforms.empty() ? 0 : uniforms[0];
  ExpectShape("uniforms", uniforms, {num_samples, batch, steps});
  return num_samples;
}

#define FASTKERAS_INSTANTIATE(T)                                                                  \
  template Chains<T> CheckedChains<T>(const Argument<T>&, const Argument<T>&, const Argument<T>&, \
                                      const Argument<T>&, const Argument<int32_t>&,               \
                                      const Argument<bool>*, bool);                               \
  template const int32_t* CheckedTags<T>(const Chains<T>&, const Argument<int32_t>&);             \
  template SemiChains<T> CheckedSemiChains<T>(const Argument<T>&, const Argument<T>&,             \
                                              const Argument<T>&, const Argument<int32_t>&,       \
                                              const Argument<T>&, const Argument<T>&);            \
  template SecondOrderChains<T> CheckedSecondOrder<T>(const Chains<T>&, const Argument<T>&,       \
                                                      const Argument<T>&);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
