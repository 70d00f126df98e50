// The scores of given paths, summed in double.

#ifndef FASTKERAS_CRF_PATHS_H_
#define FASTKERAS_CRF_PATHS_H_

#include <cstdint>

#include "crf/kernels.h"

namespace fastkeras::crf {

// Writes the scores of the paths tags (paths, steps) of one sequence, read at its valid steps.
template <typename T>
void PathScores(const Plan<T>& plan, int64_t sequence, int64_t paths, const int32_t* tags,
                double* scores);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_PATHS_H_
