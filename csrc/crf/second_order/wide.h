// Sequences of single precision that its range cannot hold, once more in double: what underflows
// there too goes to log space, which takes much longer.

#ifndef FASTKERAS_CRF_SECOND_ORDER_WIDE_H_
#define FASTKERAS_CRF_SECOND_ORDER_WIDE_H_

#include <cstdint>
#include <vector>

#include "crf/kernels.h"
#include "crf/second_order/second_order.h"

namespace fastkeras::crf {

// Some sequences of a batch, of their valid steps alone.
class WideChains {
 public:
  WideChains(const SecondOrderChains<float>& of, const Plan<float>& plan,
             const std::vector<int64_t>& sequences);

  // Adds factors (of the batch) times the marginals to the rows of d_emissions, and to the sums
  // `pairs` (those that are in no triple) and `triples`; or, where these are null, writes the
  // counts of all pairs, of the batch.
  void AddMarginals(const Plan<float>& plan, const float* factors, float* d_emissions,
                    double* pairs, double* triples, float* counts, int num_threads) const;

  SecondOrderChains<double> given;

 private:
  const std::vector<int64_t>& sequences_;
  std::vector<double> emissions_, transitions_, triples_, start_, end_;
  std::vector<int32_t> lengths_;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_WIDE_H_
