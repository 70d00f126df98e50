// What runs behind the op of TensorFlow, and behind the calls of XLA.

#ifndef FASTKERAS_SEQ2SEQ_DOORS_TENSORFLOW_KERNELS_H_
#define FASTKERAS_SEQ2SEQ_DOORS_TENSORFLOW_KERNELS_H_

#include "doors/tensorflow.h"
#include "seq2seq/arguments.h"

namespace fastkeras::seq2seq {

using tensorflow::ArgumentOf;
using tensorflow::Input;
using tensorflow::IntAttribute;
using tensorflow::Output;
using tensorflow::Shapes;
using tensorflow::Tensor;

// Inputs: logits, scores, history, allowed, and the penalty, a scalar. A history of shape (0, 0, 0)
// or an `allowed` of this shape stands for none.
template <typename T>
struct SelectKernel {
  template <typename Attributes>
  explicit SelectKernel(Attributes* attributes)
      : num_candidates(CheckedNumCandidates(IntAttribute(attributes, "num_candidates"))),
        no_repeat_ngram(IntAttribute(attributes, "no_repeat_ngram")),
        num_threads(IntAttribute(attributes, "num_threads")) {}

  Shapes OutputShapes(const Shapes& inputs) const {
    const std::vector<int64_t> shape = {CheckedBatch(inputs[0]), num_candidates};
    return {shape, shape, shape};
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Tensor logits = Input(context, 0), scores = Input(context, 1);
    const Tensor history = Input(context, 2), allowed = Input(context, 3);
    const Tensor penalty = Input(context, 4);
    ExpectShape("repetition_penalty", penalty.shape, {});
    const Argument<int32_t> given_history = ArgumentOf<int32_t>(history);
    const Argument<bool> given_allowed = ArgumentOf<bool>(allowed);
    const Shape none = {0, 0, 0};
    const Step<T> step = CheckedStep(ArgumentOf<T>(logits), ArgumentOf<T>(scores),
                                     history.shape == none ? nullptr : &given_history,
                                     allowed.shape == none ? nullptr : &given_allowed,
                                     *penalty.data<const double>(), no_repeat_ngram);
    const std::vector<int64_t> shape = {step.batch, num_candidates};
    const Tensor best = Output<T>(context, 0, shape);
    const Tensor tokens = Output<int32_t>(context, 1, shape);
    const Tensor parents = Output<int32_t>(context, 2, shape);
    Select<T>(step,
              {num_candidates, best.data<T>(), tokens.data<int32_t>(), parents.data<int32_t>()},
              num_threads);
  }

  int64_t num_candidates, no_repeat_ngram;
  int num_threads;
};

}  // namespace fastkeras::seq2seq

#endif  // FASTKERAS_SEQ2SEQ_DOORS_TENSORFLOW_KERNELS_H_
