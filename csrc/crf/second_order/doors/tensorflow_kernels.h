// What runs behind the TensorFlow ops of second-order chains; every op begins with the six inputs
// of a linear chain, and the triples.

#ifndef FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_
#define FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_

#include "crf/doors/tensorflow_inputs.h"
#include "crf/second_order/second_order.h"

namespace fastkeras::crf {

using tensorflow::BoolAttribute;
using tensorflow::Shapes;

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
struct SecondOrderValueKernel {
  template <typename Attributes>
  explicit SecondOrderValueKernel(Attributes* attributes)
      : quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))),
        keep_workspace(BoolAttribute(attributes, "keep_workspace")),
        num_threads(IntAttribute(attributes, "num_threads")) {}

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
  bool keep_workspace;
  int num_threads;
};

template <typename T>
struct SecondOrderGradientKernel {
  template <typename Attributes>
  explicit SecondOrderGradientKernel(Attributes* attributes)
      : quantity(CheckedQuantity(IntAttribute(attributes, "quantity"))),
        num_threads(IntAttribute(attributes, "num_threads")) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const int64_t num_tags = CheckedSizes(inputs[0]).num_tags;
    return {
        inputs[0], {num_tags, num_tags}, {num_tags}, {num_tags}, {num_tags, num_tags, num_tags}};
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
    const Shapes shapes = OutputShapes({inputs.of_chain.emissions.shape});
    const Tensor d_emissions = Output<T>(context, 0, shapes[0]);
    const Tensor d_transitions = Output<T>(context, 1, shapes[1]);
    const Tensor d_start = Output<T>(context, 2, shapes[2]);
    const Tensor d_end = Output<T>(context, 3, shapes[3]);
    const Tensor d_triples = Output<T>(context, 4, shapes[4]);
    SecondOrderGradient<T>(inputs.given, checked_tags, quantity, value.data<const T>(),
                           workspace.data<const T>(), weights.data<const T>(),
                           {d_emissions.data<T>(), d_transitions.data<T>(), d_triples.data<T>(),
                            d_start.data<T>(), d_end.data<T>()},
                           num_threads);
  }

  Quantity quantity;
  int num_threads;
};

template <typename T>
struct SecondOrderMarginalsKernel {
  template <typename Attributes>
  explicit SecondOrderMarginalsKernel(Attributes* attributes)
      : num_threads(IntAttribute(attributes, "num_threads")) {}

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

  int num_threads;
};

template <typename T>
struct SecondOrderViterbiKernel {
  template <typename Attributes>
  explicit SecondOrderViterbiKernel(Attributes* attributes)
      : num_threads(IntAttribute(attributes, "num_threads")) {}

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

  int num_threads;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_DOORS_TENSORFLOW_KERNELS_H_
