#include "optimizers/chains.h"

#include <cmath>
#include <limits>
#include <map>

namespace fastkeras::optimizers {
namespace {

void Append(State& state, Elementwise step) {
  if (step.kind == Elementwise::kScale) {
    state.scale *= step.operand;
    return;
  }
  if (state.scale != 1) state.steps.push_back({Elementwise::kScale, state.scale});
  state.scale = 1;
  state.steps.push_back(step);
}

double ClippingScale(double norm, double largest) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return norm > largest ? largest / norm : 1.0;
}

// Applies the transform, now that the sum of squares, or of magnitudes, is known.
double ScaleOf(const Transform& transform, double sum) {
  switch (transform.kind) {
    case TransformKind::kClipByL1Norm:
      return ClippingScale(sum, transform.operand);
    case TransformKind::kNormalize:
      return sum > 0 ? 1 / std::sqrt(sum) : 0 * sum;
    default:
      return ClippingScale(std::sqrt(sum), transform.operand);
  }
}

struct Group {
  double sum = 0;
  bool complete = true;
};

std::map<int, Group> GroupsAhead(const std::vector<State>& states) {
  std::map<int, Group> groups;
  for (const State& state : states) {
    for (size_t i = state.next; i < state.variable->chain.size(); ++i) {
      const Transform& transform = state.variable->chain[i];
      if (transform.kind != TransformKind::kClipByGlobalNorm) continue;
      Group& group = groups[transform.group];
      if (i == state.next && state.summed) {
        group.sum += state.sum;
      } else {
        group.complete = false;
      }
    }
  }
  return groups;
}

// Whether the next transform needs the sum of squares of this gradient alone, as it is now.
bool NeedsOwnSquares(const State& state) {
  if (!Waits(state)) return false;
  const TransformKind kind = state.variable->chain[state.next].kind;
  return kind == TransformKind::kClipByNorm || kind == TransformKind::kNormalize ||
         kind == TransformKind::kSanitize;
}

}  // namespace

void Advance(State& state) {
  for (; Waits(state); ++state.next) {
    const Transform& transform = state.variable->chain[state.next];
    switch (transform.kind) {
      case TransformKind::kScale:
        Append(state, {Elementwise::kScale, transform.operand});
        break;
      case TransformKind::kZero:
        Append(state, {Elementwise::kZero, 0});
        break;
      case TransformKind::kClipByValue:
        Append(state, {Elementwise::kClip, transform.operand});
        break;
      case TransformKind::kAddDecayedWeights:
        Append(state, {Elementwise::kAddParameter, transform.operand});
        break;
      default:
        return;
    }
  }
}

bool ApplySums(std::vector<State>& states) {
  std::map<int, Group> groups = GroupsAhead(states);
  for (State& state : states) {
    while (Waits(state) && state.summed) {
      const Transform& transform = state.variable->chain[state.next];
      if (transform.kind == TransformKind::kSanitize) {
        if (!std::isfinite(state.sum)) return false;
        const bool knows_squares = WaitsFor(state) == Summed::kSquares;
        ++state.next;
        state.summed = knows_squares && NeedsOwnSquares(state);
      } else {
        const bool is_global = transform.kind == TransformKind::kClipByGlobalNorm;
        if (is_global && !groups[transform.group].complete) break;
        const double sum = is_global ? groups[transform.group].sum : state.sum;
        Append(state, {Elementwise::kScale, ScaleOf(transform, sum)});
        ++state.next;
        state.summed = false;
      }
      if (!state.summed) Advance(state);
    }
  }
  return true;
}

}  // namespace fastkeras::optimizers
