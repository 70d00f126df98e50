// What runs behind the TensorFlow ops of the linear-chain CRF, called with a TF_OpKernelContext, or
// from a program that XLA has compiled (csrc/doors/xla.h), which asks for the outputs' shapes
// beforehand.

#ifndef FASTKERAS_CRF_DOORS_TENSORFLOW_KERNELS_H_
#define FASTKERAS_CRF_DOORS_TENSORFLOW_KERNELS_H_

#include "crf/doors/tensorflow_inputs.h"
#include "crf/entropy.h"
#include "crf/varying/varying.h"
#include "crf/weighted.h"

namespace fastkeras::crf {

template <typename T>
struct ValueKernel : WithWorkspace {
  template <typename Attributes>
  explicit ValueKernel(Attributes* attributes)
      : WithWorkspace(attributes),
        quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch}, {keep_workspace ? WorkspaceSize<T>(batch, steps, num_tags) : 0}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, quantity);
    const Tensor value = Output<T>(context, 0, {chains.batch});
    const Tensor workspace = Output<T>(context, 1, OutputShapes({inputs.emissions.shape})[1]);
    Value(chains, checked_tags, quantity, value.data<T>(),
          keep_workspace ? workspace.data<T>() : nullptr, num_threads);
  }

  Quantity quantity;
};

template <typename T>
struct GradientKernel : WithThreads {
  template <typename Attributes>
  explicit GradientKernel(Attributes* attributes)
      : WithThreads(attributes), quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))) {}

  Shapes OutputShapes(const Shapes& inputs) const { return GradientTensors<T>::ShapesOf(inputs); }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, quantity);
    const Tensor value = Input(context, 7);
    const Tensor workspace = Input(context, 8);
    const Tensor weights = Input(context, 9);
    ExpectShape("value", value.shape, {batch});
    ExpectShape("workspace", workspace.shape, {WorkspaceSize<T>(batch, steps, num_tags)});
    ExpectShape("weights", weights.shape, {batch});
    const GradientTensors<T> gradients(context, inputs);
    Gradient(chains, checked_tags, quantity, value.data<const T>(), workspace.data<const T>(),
             weights.data<const T>(), gradients.emissions, gradients.transitions, gradients.start,
             gradients.end, num_threads);
  }

  Quantity quantity;
};

// The value, and the gradients by emissions and by transitions that vary of the sum of all values:
// in one pass, since a second one through matrices of all steps costs more than `WeighKernel`.
template <typename T>
struct VaryingValueKernel {
  template <typename Attributes>
  explicit VaryingValueKernel(Attributes* attributes)
      : quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))),
        num_threads(IntAttribute(attributes, "num_threads")) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    return {{CheckedSizes(inputs[0]).batch}, inputs[0], inputs[1]};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, quantity);
    const Tensor value = Output<T>(context, 0, {chains.batch});
    const Tensor d_emissions = Output<T>(context, 1, inputs.emissions.shape);
    const Tensor d_transitions = Output<T>(context, 2, inputs.transitions.shape);
    const std::vector<T> ones(chains.batch, T(1));
    std::vector<T> d_ends(2 * chains.num_tags);
    ValueAndGradient(chains, checked_tags, quantity, value.data<T>(), ones.data(),
                     d_emissions.data<T>(), d_transitions.data<T>(), d_ends.data(),
                     d_ends.data() + chains.num_tags, num_threads);
  }

  Quantity quantity;
  int num_threads;
};

// The gradients that VaryingValueKernel left behind, each sequence's times its weight: in the same
// memory, if nobody else needs that.
template <typename T>
struct WeighKernel {
  template <typename Attributes>
  explicit WeighKernel(Attributes* attributes)
      : num_threads(IntAttribute(attributes, "num_threads")) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const int64_t num_tags = CheckedSizes(inputs[0]).num_tags;
    return {inputs[0], inputs[1], {num_tags}, {num_tags}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Shapes shapes = {Input(context, 0).shape, Input(context, 1).shape};
    const auto [batch, steps, num_tags] = CheckedSizes(shapes[0]);
    ExpectShape("d_transitions", shapes[1],
                {batch, std::max<int64_t>(steps - 1, 0), num_tags, num_tags});
    const Tensor value = Input(context, 2);
    const Tensor lengths = Input(context, 3);
    const Tensor mask = Input(context, 4);
    const Tensor weights = Input(context, 5);
    ExpectShape("value", value.shape, {batch});
    ExpectShape("weights", weights.shape, {batch});
    const Tensor d_emissions = OutputInPlaceOf<T>(context, 0, 0, shapes[0]);
    const Tensor d_transitions = OutputInPlaceOf<T>(context, 1, 1, shapes[1]);
    const Tensor d_start = Output<T>(context, 2, {num_tags});
    const Tensor d_end = Output<T>(context, 3, {num_tags});
    const Tensor of_emissions = Input(context, 0), of_transitions = Input(context, 1);
    const std::vector<T> none(num_tags);
    const Argument<T> ends = {none.data(), {num_tags}};
    const Argument<bool> given_mask = ArgumentOf<bool>(mask);
    const Chains<T> gradients =
        CheckedChains(ArgumentOf<T>(of_emissions), ArgumentOf<T>(of_transitions), ends, ends,
                      ArgumentOf<int32_t>(lengths), IsEmptyMatrix(mask) ? nullptr : &given_mask);
    WeighGradient(gradients, value.data<const T>(), weights.data<const T>(), d_emissions.data<T>(),
                  d_transitions.data<T>(), d_start.data<T>(), d_end.data<T>(), num_threads);
  }

  int num_threads;
};

template <typename T>
struct WeightedValueKernel : WithWorkspace {
  using WithWorkspace::WithWorkspace;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch},
            {batch, steps},
            {keep_workspace ? WeightedWorkspaceSize<T>(batch, steps, num_tags) : 0}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, Quantity::kLogLikelihood);
    const Tensor weights = Input(context, 7);
    ExpectShape("weights", weights.shape, {chains.batch, chains.steps});
    const Tensor value = Output<T>(context, 0, {chains.batch});
    const Tensor log_p = Output<T>(context, 1, {chains.batch, chains.steps});
    const Tensor workspace = Output<T>(context, 2, OutputShapes({inputs.emissions.shape})[2]);
    WeightedValue(chains, checked_tags, weights.data<const T>(), value.data<T>(), log_p.data<T>(),
                  keep_workspace ? workspace.data<T>() : nullptr, num_threads);
  }
};

template <typename T>
struct WeightedGradientKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const { return GradientTensors<T>::ShapesOf(inputs); }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, Quantity::kLogLikelihood);
    const Tensor weights = Input(context, 7);
    const Tensor value = Input(context, 8);
    const Tensor workspace = Input(context, 9);
    const Tensor factors = Input(context, 10);
    ExpectShape("weights", weights.shape, {batch, steps});
    ExpectShape("value", value.shape, {batch});
    ExpectShape("workspace", workspace.shape, {WeightedWorkspaceSize<T>(batch, steps, num_tags)});
    ExpectShape("factors", factors.shape, {batch});
    const GradientTensors<T> gradients(context, inputs);
    WeightedGradient(chains, checked_tags, weights.data<const T>(), value.data<const T>(),
                     workspace.data<const T>(), factors.data<const T>(), gradients.emissions,
                     gradients.transitions, gradients.start, gradients.end, num_threads);
  }
};

template <typename T>
struct EntropyKernel : WithWorkspace {
  using WithWorkspace::WithWorkspace;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch}, {keep_workspace ? EntropyWorkspaceSize<T>(batch, steps, num_tags) : 0}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Tensor value = Output<T>(context, 0, {inputs.chains.batch});
    const Tensor workspace = Output<T>(context, 1, OutputShapes({inputs.emissions.shape})[1]);
    Entropy(inputs.chains, value.data<T>(), keep_workspace ? workspace.data<T>() : nullptr,
            num_threads);
  }
};

template <typename T>
struct EntropyGradientKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const { return GradientTensors<T>::ShapesOf(inputs); }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
    const Tensor value = Input(context, 6);
    const Tensor workspace = Input(context, 7);
    const Tensor weights = Input(context, 8);
    ExpectShape("value", value.shape, {batch});
    ExpectShape("workspace", workspace.shape, {EntropyWorkspaceSize<T>(batch, steps, num_tags)});
    ExpectShape("weights", weights.shape, {batch});
    const GradientTensors<T> gradients(context, inputs);
    EntropyGradient(chains, value.data<const T>(), workspace.data<const T>(),
                    weights.data<const T>(), gradients.emissions, gradients.transitions,
                    gradients.start, gradients.end, num_threads);
  }
};

template <typename T>
struct MarginalsKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    const Shape& transitions = inputs[1];
    return {{batch, steps, num_tags},
            transitions.size() == 4 ? transitions : Shape{batch, num_tags, num_tags}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor unary = Output<T>(context, 0, inputs.emissions.shape);
    const Tensor counts =
        Output<T>(context, 1, OutputShapes({inputs.emissions.shape, inputs.transitions.shape})[1]);
    Marginals(chains, unary.data<T>(), counts.data<T>(), num_threads);
  }
};

template <typename T>
struct ViterbiKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch, steps}, {batch}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, chains.steps});
    const Tensor score = Output<T>(context, 1, {chains.batch});
    Viterbi(chains, tags.data<int32_t>(), score.data<T>(), num_threads);
  }
};

template <typename T>
struct KBestKernel : WithThreads {
  template <typename Attributes>
  explicit KBestKernel(Attributes* attributes)
      : WithThreads(attributes), k(CheckedK(IntAttribute(attributes, "k"))) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch, k, steps}, {batch, k}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, k, chains.steps});
    const Tensor scores = Output<T>(context, 1, {chains.batch, k});
    KBest(chains, k, tags.data<int32_t>(), scores.data<T>(), num_threads);
  }

  int64_t k;
};

template <typename T>
struct SampleKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const { return {inputs[6]}; }

  template <typename Context>
  void operator()(Context* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor uniforms = Input(context, 6);
    const int64_t num_samples = CheckedNumSamples(uniforms.shape, chains.batch, chains.steps);
    const Tensor tags = Output<int32_t>(context, 0, uniforms.shape);
    Sample(chains, num_samples, uniforms.data<const T>(), tags.data<int32_t>(), num_threads);
  }
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_DOORS_TENSORFLOW_KERNELS_H_
