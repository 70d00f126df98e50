// What runs behind the TensorFlow ops of semi-Markov chains; every op begins with the same six
// inputs.

#ifndef FASTKERAS_CRF_SEMI_MARKOV_TENSORFLOW_KERNELS_H_
#define FASTKERAS_CRF_SEMI_MARKOV_TENSORFLOW_KERNELS_H_

#include "crf/doors/tensorflow_inputs.h"
#include "crf/semi_markov/semi_markov.h"

namespace fastkeras::crf {

template <typename T>
struct SemiInputs {
  template <typename Context>
  explicit SemiInputs(Context* context)
      : emissions(Input(context, 0)),
        transitions(Input(context, 1)),
        durations(Input(context, 2)),
        lengths(Input(context, 3)),
        start_transitions(Input(context, 4)),
        end_transitions(Input(context, 5)) {
    chains = CheckedSemiChains(ArgumentOf<T>(emissions), ArgumentOf<T>(transitions),
                               ArgumentOf<T>(durations), ArgumentOf<int32_t>(lengths),
                               ArgumentOf<T>(start_transitions), ArgumentOf<T>(end_transitions));
  }

  Tensor emissions, transitions, durations, lengths, start_transitions, end_transitions;
  SemiChains<T> chains;
};

template <typename T>
struct SemiLogPartitionKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const { return {{CheckedSizes(inputs[0]).batch}}; }

  template <typename Context>
  void operator()(Context* context) const {
    const SemiInputs<T> inputs(context);
    const Tensor value = Output<T>(context, 0, {inputs.chains.batch});
    SemiLogPartition(inputs.chains, value.data<T>(), num_threads);
  }
};

template <typename T>
struct SemiMarginalsKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    const int64_t max_length = CheckedMaxLength(inputs[2], num_tags);
    return {inputs[0], {batch, steps, max_length, num_tags}, {batch, num_tags, num_tags}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SemiInputs<T> inputs(context);
    const SemiChains<T>& chains = inputs.chains;
    const Tensor unary = Output<T>(context, 0, inputs.emissions.shape);
    const Tensor segments =
        Output<T>(context, 1, {chains.batch, chains.steps, chains.max_length, chains.num_tags});
    const Tensor counts = Output<T>(context, 2, {chains.batch, chains.num_tags, chains.num_tags});
    SemiMarginals(chains, unary.data<T>(), segments.data<T>(), counts.data<T>(), num_threads);
  }
};

template <typename T>
struct SemiViterbiKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch, steps}, {batch, steps}, {batch}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SemiInputs<T> inputs(context);
    const SemiChains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, chains.steps});
    const Tensor begins = Output<bool>(context, 1, {chains.batch, chains.steps});
    const Tensor score = Output<T>(context, 2, {chains.batch});
    SemiViterbi(chains, tags.data<int32_t>(), begins.data<bool>(), score.data<T>(), num_threads);
  }
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SEMI_MARKOV_TENSORFLOW_KERNELS_H_
