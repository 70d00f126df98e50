// Checks the inputs of a TensorFlow op (arguments.h), and makes kernel arguments of them.

#ifndef FASTKERAS_CRF_DOORS_TENSORFLOW_INPUTS_H_
#define FASTKERAS_CRF_DOORS_TENSORFLOW_INPUTS_H_

#include <cstdint>
#include <initializer_list>

#include "crf/arguments.h"
#include "doors/tensorflow.h"

namespace fastkeras::crf {

using tensorflow::ArgumentOf;
using tensorflow::BoolAttribute;
using tensorflow::Input;
using tensorflow::IntAttribute;
using tensorflow::Output;
using tensorflow::OutputInPlaceOf;
using tensorflow::ShapeInference;
using tensorflow::Shapes;
using tensorflow::Tensor;

#define FASTKERAS_CHAINS                                                          \
  "emissions: T", "transitions: T", "start_transitions: T", "end_transitions: T", \
      "lengths: int32", "mask: bool"

inline bool IsEmptyMatrix(const Tensor& tensor) { return tensor.shape == Shape{0, 0}; }

// The six inputs that every op of the linear chain begins with: emissions, transitions,
// start_transitions, end_transitions, lengths and mask. A mask of shape (0, 0) stands for none.
template <typename T>
struct Inputs {
  template <typename Context>
  explicit Inputs(Context* context)
      : emissions(Input(context, 0)),
        transitions(Input(context, 1)),
        start_transitions(Input(context, 2)),
        end_transitions(Input(context, 3)),
        lengths(Input(context, 4)),
        mask(Input(context, 5)) {
    const Argument<bool> given_mask = ArgumentOf<bool>(mask);
    chains =
        CheckedChains(ArgumentOf<T>(emissions), ArgumentOf<T>(transitions),
                      ArgumentOf<T>(start_transitions), ArgumentOf<T>(end_transitions),
                      ArgumentOf<int32_t>(lengths), IsEmptyMatrix(mask) ? nullptr : &given_mask);
  }

  // A quantity without a gold sequence reads no tags.
  const int32_t* Tags(const Tensor& tags, Quantity quantity) const {
    if (quantity == Quantity::kLogPartition && IsEmptyMatrix(tags)) return nullptr;
    return CheckedTags(chains, ArgumentOf<int32_t>(tags));
  }

  Tensor emissions, transitions, start_transitions, end_transitions, lengths, mask;
  Chains<T> chains;
};

// The outputs that every gradient begins with.
template <typename T>
struct GradientTensors {
  template <typename Context>
  GradientTensors(Context* context, const Inputs<T>& inputs)
      : of_emissions(Output<T>(context, 0, inputs.emissions.shape)),
        of_transitions(Output<T>(context, 1, inputs.transitions.shape)),
        of_start(Output<T>(context, 2, {inputs.chains.num_tags})),
        of_end(Output<T>(context, 3, {inputs.chains.num_tags})),
        emissions(of_emissions.template data<T>()),
        transitions(of_transitions.template data<T>()),
        start(of_start.template data<T>()),
        end(of_end.template data<T>()) {}

  static Shapes ShapesOf(const Shapes& inputs) {
    const int64_t num_tags = CheckedSizes(inputs[0]).num_tags;
    return {inputs[0], inputs[1], {num_tags}, {num_tags}};
  }

  Tensor of_emissions, of_transitions, of_start, of_end;
  T *emissions, *transitions, *start, *end;
};

// What the kernels are told beside their inputs: all of them the number of threads, and those of
// which the gradient needs what they leave behind, whether to keep it.
struct WithThreads {
  template <typename Attributes>
  explicit WithThreads(Attributes* attributes)
      : num_threads(IntAttribute(attributes, "num_threads")) {}

  int num_threads;
};
struct WithWorkspace : WithThreads {
  template <typename Attributes>
  explicit WithWorkspace(Attributes* attributes)
      : WithThreads(attributes), keep_workspace(BoolAttribute(attributes, "keep_workspace")) {}

  bool keep_workspace;
};

// The shape of emissions; the other inputs' ranks are checked on the way.
inline ShapeInference::Shape CheckRanks(ShapeInference& shapes,
                                        std::initializer_list<int> more_ranks) {
  const int64_t rank_of_transitions = shapes.Rank(shapes.Input(1));
  if (rank_of_transitions >= 0 && rank_of_transitions != 4) shapes.Input(1, 2);
  int index = 2;
  for (int rank : {1, 1, 1, 2}) shapes.Input(index++, rank);
  for (int rank : more_ranks) shapes.Input(index++, rank);
  return shapes.Input(0, 3);
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_DOORS_TENSORFLOW_INPUTS_H_
