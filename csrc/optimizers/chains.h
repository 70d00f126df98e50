// Variables on their way through their chains of transforms: what can be done element by element is
// collected until a norm is needed.

#ifndef FASTKERAS_OPTIMIZERS_CHAINS_H_
#define FASTKERAS_OPTIMIZERS_CHAINS_H_

#include <cstddef>
#include <vector>

#include "optimizers/kernels.h"
#include "optimizers/optimizers.h"

namespace fastkeras::optimizers {

struct State {
  Variable* variable;
  std::vector<Elementwise> steps = {};  // of the transforms whose norms are known ...
  double scale = 1;                     // ... and the factor of the gradient after them
  size_t next = 0;                      // the first transform whose norm is not known
  bool summed = false;                  // its own sum is known, but not yet that of its group
  double sum = 0;
  double ratio = 1;
};

inline bool Waits(const State& state) { return state.next < state.variable->chain.size(); }

// Which sum a state waits for. A gradient is sanitized if a sum over it is not finite: the sum of
// the squares, which a norm needs anyway, or another one where squares of finite numbers may be too
// large for a double.
enum class Summed { kSquares, kMagnitudes, kDefects };
inline Summed WaitsFor(const State& state) {
  const TransformKind kind = state.variable->chain[state.next].kind;
  if (kind == TransformKind::kClipByL1Norm) return Summed::kMagnitudes;
  const bool squares_may_overflow = state.variable->dtype == Dtype::kFloat64;
  return kind == TransformKind::kSanitize && squares_may_overflow ? Summed::kDefects
                                                                  : Summed::kSquares;
}

// Turns the transforms up to the next one that needs a norm into element-wise steps.
void Advance(State& state);

// Advances all states whose sums, and those of whose groups, are known. Returns false if a gradient
// to be sanitized is not finite.
bool ApplySums(std::vector<State>& states);

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_CHAINS_H_
