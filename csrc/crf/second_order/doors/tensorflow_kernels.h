// What runs behind the TensorFlow ops of second-order chains; every op begins with the six inputs
// of a linear chain, and the triples.

#ifndef FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_
#define FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_

#include "crf/doors/tensorflow_inputs.h"
#include "crf/second_order/second_order.h"

namespace fastkeras::crf {

template <typename T>
struct SecondOrderInputs {
  template <typename Context>
  explicit SecondOrderInputs(Context* context)
      : of_chain(context),
        triples(Input(context, 6)),
        given(CheckedSecondOrder(of_chain.chains, ArgumentOf<T>(of_chain.transitions),
                                 ArgumentOf<T>(triples))) {}

  Inputs<T> of_chain;
  Tensor triples;
  SecondOrderChains<T> given;
};

template <typename T>
struct SecondOrderValueKernel : WithWorkspace {
  template <typename Attributes>
  explicit SecondOrderValueKernel(Attributes* attributes)
      : WithWorkspace(attributes),
        quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch}, {keep_workspace ? SecondOrderWorkspaceSize(batch, steps, num_tags) : 0}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SecondOrderInputs<T> inputs(context);
    const Tensor tags = Input(context, 7);
    const int32_t* const checked_tags = inputs.of_chain.Tags(tags, quantity);
    const Tensor value = Output<T>(context, 0, {inputs.given.chains.batch});
    const Tensor workspace =
        Output<T>(context, 1, OutputShapes({inputs.of_chain.emissions.shape})[1]);
    SecondOrderValue(inputs.given, checked_tags, quantity, value.data<T>(),
                     keep_workspace ? workspace.data<T>() : nullptr, num_threads);
  }

  Quantity quantity;
};

template <typename T>
struct SecondOrderGradientKernel : WithThreads {
  template <typename Attributes>
  explicit SecondOrderGradientKernel(Attributes* attributes)
      : WithThreads(attributes), quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    Shapes shapes = GradientTensors<T>::ShapesOf(inputs);
    const int64_t num_tags = shapes[2][0];
    shapes.push_back({num_tags, num_tags, num_tags});
    return shapes;
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SecondOrderInputs<T> inputs(context);
    const Chains<T>& chains = inputs.given.chains;
    const Tensor tags = Input(context, 7), value = Input(context, 8);
    const Tensor workspace = Input(context, 9), weights = Input(context, 10);
    const int32_t* const checked_tags = inputs.of_chain.Tags(tags, quantity);
    ExpectShape("value", value.shape, {chains.batch});
    ExpectShape("workspace", workspace.shape,
                {SecondOrderWorkspaceSize(chains.batch, chains.steps, chains.num_tags)});
    ExpectShape("weights", weights.shape, {chains.batch});
    const GradientTensors<T> gradients(context, inputs.of_chain);
    const Tensor of_triples = Output<T>(context, 4, inputs.triples.shape);
    SecondOrderGradient<T>(inputs.given, checked_tags, quantity, value.data<const T>(),
                           workspace.data<const T>(), weights.data<const T>(),
                           {gradients.emissions, gradients.transitions, of_triples.data<T>(),
                            gradients.start, gradients.end},
                           num_threads);
  }

  Quantity quantity;
};

template <typename T>
struct SecondOrderMarginalsKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch, steps, num_tags}, {batch, num_tags, num_tags}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SecondOrderInputs<T> inputs(context);
    const Shapes shapes = OutputShapes({inputs.of_chain.emissions.shape});
    const Tensor unary = Output<T>(context, 0, shapes[0]);
    const Tensor counts = Output<T>(context, 1, shapes[1]);
    SecondOrderMarginals(inputs.given, unary.data<T>(), counts.data<T>(), num_threads);
  }
};

template <typename T>
struct SecondOrderViterbiKernel : WithThreads {
  using WithThreads::WithThreads;

  Shapes OutputShapes(const Shapes& inputs) const {
    const auto [batch, steps, num_tags] = CheckedSizes(inputs[0]);
    return {{batch, steps}, {batch}};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const SecondOrderInputs<T> inputs(context);
    const Chains<T>& chains = inputs.given.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, chains.steps});
    const Tensor score = Output<T>(context, 1, {chains.batch});
    SecondOrderViterbi(inputs.given, tags.data<int32_t>(), score.data<T>(), num_threads);
  }
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_
