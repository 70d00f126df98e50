// Variables on their way through their chains of transforms: what can be done to each element at
// once is gathered, and a norm is waited for.

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
  double scale = 1;                     // ... and what the gradient is multiplied by after them
  size_t next = 0;                      // the first whose norm is not
  bool summed = false;                  // its sum is known, but not yet that of its group
  double sum = 0;
  double trust_ratio = 1;
};

inline bool Waits(const State& state) { return state.next < state.variable->chain.size(); }

// What a state waits for the sum of. A gradient is sanitized if a sum over it is not finite: that
// of the squares, which a norm needs anyway, or another where squares of finite numbers may be too
// large for a double.
enum class Summed { kSquares, kMagnitudes, kDefects };
inline Summed WaitsFor(const State& state) {
  const TransformKind kind = state.variable->chain[state.next].kind;
  if (kind == TransformKind::kClipByL1Norm) return Summed::kMagnitudes;
  const bool squares_may_overflow = state.variable->dtype == Dtype::kFloat64;
  return kind == TransformKind::kSanitize && squares_may_overflow ? Summed::kDefects
                                                                  : Summed::kSquares;
}

// Turns what needs no norm, up to the next that does, into element-wise steps.
void Advance(State& state);

// Goes on with all whose sums, or those of whose groups, are known. Returns false if a gradient to
// be sanitized is not finite.
bool ApplySums(std::vector<State>& states);

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_CHAINS_H_
