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

// Whether the sum that a state waits for is one of magnitudes; else it is one of squares.
inline bool WaitsForMagnitudes(const State& state) {
  return state.variable->chain[state.next].kind == TransformKind::kClipByL1Norm;
}

// Turns what needs no norm, up to the next that does, into element-wise steps.
void Advance(State& state);

// Goes on with all whose sums, or those of whose groups, are known. Returns false if a gradient to
// be sanitized is not finite.
bool ApplySums(std::vector<State>& states);

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_CHAINS_H_
