// Every TensorFlow op of the linear-chain CRF begins with the same six inputs, checked here.

#ifndef FASTKERAS_CRF_TENSORFLOW_INPUTS_H_
#define FASTKERAS_CRF_TENSORFLOW_INPUTS_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "crf/crf.h"
#include "tensorflow.h"

namespace fastkeras::crf {

using tensorflow::ExpectShape;
using tensorflow::Input;
using tensorflow::IntAttribute;
using tensorflow::InvalidArgument;
using tensorflow::Output;
using tensorflow::ShapeInference;
using tensorflow::Tensor;
using tensorflow::Text;

#define FASTKERAS_CHAINS                                                          \
  "emissions: T", "transitions: T", "start_transitions: T", "end_transitions: T", \
      "lengths: int32", "mask: bool"

struct SizesOfChains {
  int64_t batch, steps, num_tags;
};

inline SizesOfChains CheckedSizes(const std::vector<int64_t>& emissions) {
  if (emissions.size() != 3 || emissions[2] < 1) {
    InvalidArgument("emissions must have shape (batch, steps, num_tags >= 1), got ",
                    Text(emissions));
  }
  return {emissions[0], emissions[1], emissions[2]};
}

inline bool IsEmptyMatrix(const Tensor& tensor) {
  return tensor.shape == std::vector<int64_t>{0, 0};
}

inline const int32_t* Lengths(const Tensor& lengths, int64_t batch, int64_t steps) {
  ExpectShape("lengths", lengths, {batch});
  const int32_t* data = lengths.data<int32_t>();
  for (int64_t b = 0; b < batch; ++b) {
    if (data[b] < 0 || data[b] > steps) {
      InvalidArgument("lengths must be in 0..", steps, " (the steps of emissions), got ", data[b],
                      " at [", b, "]");
    }
  }
  return data;
}

// emissions, transitions, start_transitions, end_transitions, lengths and mask. A mask of shape
// (0, 0) stands for none.
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
    const auto [batch, steps, num_tags] = CheckedSizes(emissions.shape);
    ExpectShape("transitions", transitions, {num_tags, num_tags});
    ExpectShape("start_transitions", start_transitions, {num_tags});
    ExpectShape("end_transitions", end_transitions, {num_tags});
    if (!IsEmptyMatrix(mask)) ExpectShape("mask", mask, {batch, steps});
    chains = {batch,
              steps,
              num_tags,
              emissions.template data<T>(),
              transitions.template data<T>(),
              start_transitions.template data<T>(),
              end_transitions.template data<T>(),
              Lengths(lengths, batch, steps),
              IsEmptyMatrix(mask) ? nullptr : mask.template data<bool>()};
  }

  // Checks the tags, which a quantity without any gold sequence does not read.
  const int32_t* Tags(const Tensor& tags, Quantity quantity) const {
    if (quantity == Quantity::kLogPartition && IsEmptyMatrix(tags)) return nullptr;
    ExpectShape("tags", tags, {chains.batch, chains.steps});
    const int32_t* data = tags.data<int32_t>();
    const int64_t wrong = FirstTagOutOfRange(chains.batch, chains.steps, chains.num_tags, data,
                                             chains.lengths, chains.mask);
    if (wrong >= 0) {
      InvalidArgument("tags must be in 0..", chains.num_tags - 1, " at valid steps, got ",
                      data[wrong], " at [", wrong / chains.steps, ", ", wrong % chains.steps, "]");
    }
    return data;
  }

  Tensor emissions, transitions, start_transitions, end_transitions, lengths, mask;
  Chains<T> chains;
};

// The shape of emissions; the other inputs' ranks are checked on the way.
inline ShapeInference::Shape CheckRanks(ShapeInference& shapes,
                                        std::initializer_list<int> more_ranks) {
  int index = 1;
  for (int rank : {2, 1, 1, 1, 2}) shapes.Input(index++, rank);
  for (int rank : more_ranks) shapes.Input(index++, rank);
  return shapes.Input(0, 3);
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_TENSORFLOW_INPUTS_H_
