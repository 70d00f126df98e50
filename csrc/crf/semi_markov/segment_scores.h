// What the semi-Markov kernels of every instruction set get, all of it in double.

#ifndef FASTKERAS_CRF_SEMI_MARKOV_SEGMENT_SCORES_H_
#define FASTKERAS_CRF_SEMI_MARKOV_SEGMENT_SCORES_H_

#include <cstdint>

#include "crf/kernels.h"

namespace fastkeras::crf {

// One sequence. Rows of `stride` are num_tags rounded up to whole vectors; behind the tags start is
// -inf, the other rows are 0.
struct SegmentScores {
  int64_t steps;
  int64_t num_tags;
  int64_t stride;
  int64_t max_length;
  const double* emissions;     // (steps, stride)
  const double* durations;     // (max_length, stride)
  const double* start;         // (stride)
  const double* end;           // (stride)
  const double* into;          // (num_tags, num_tags), row j: the transitions to j
  Panels<double> transitions;  // rows i
  Panels<double> weights;      // exp(transitions - peak)
  double peak;
  double* room;  // (2, stride), of the caller's thread
};

// What a sweep wrote for a sequence, and one for the sequence read from its end, whose start, end
// and transitions are the other way round.
struct SegmentSweeps {
  const double* ended;  // (steps + 1, stride)
  const double* begun;  // (steps, stride)
  const double* mirrored_ended;
  const double* mirrored_begun;
  double log_z;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SEMI_MARKOV_SEGMENT_SCORES_H_
