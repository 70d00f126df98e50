#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>

#include "instruction_set.h"
#include "optimizers/kernels.h"

namespace fastkeras::optimizers {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

int NumSlots(Rule rule) {
  constexpr int kNumSlots[] = {0, 1, 1, 2, 3, 2, 1, 1, 2, 2, 3, 1, 2};
  return kNumSlots[static_cast<int>(rule)];
}

bool CanQuantize(Rule rule) {
  return rule == Rule::kMomentum || rule == Rule::kNesterov || rule == Rule::kAdam ||
         rule == Rule::kLion;
}

namespace {

// Of the rules that can quantize: only Adam's velocity has none.
bool HasSign(int slot) { return slot == 0; }

constexpr int64_t kPiece = 16384;  // elements; sums over a piece are added in order
constexpr int64_t kTile = 2048;    // elements that stay in the first cache between two loops
constexpr int64_t kTasks = 16;     // if all are large; long ones keep the memory streaming
constexpr int64_t kSmallestTask = 2 * kPiece, kLargestTask = 64 * kPiece;

struct Piece {
  int variable;
  int64_t first, size;
};

// One variable on its way through its chain of transforms.
struct State {
  Variable* variable;
  std::vector<Elementwise> steps;  // of the transforms whose norms are known ...
  double scale = 1;                // ... and what the gradient is multiplied by after them
  size_t next = 0;                 // the first whose norm is not
  bool summed = false;             // its sum is known, but not yet that of its group
  double sum = 0;
};

bool IsL1(TransformKind kind) { return kind == TransformKind::kClipByL1Norm; }

void Append(State& state, Elementwise step) {
  if (step.kind == Elementwise::kScale) {
    state.scale *= step.operand;
    return;
  }
  if (state.scale != 1) state.steps.push_back({Elementwise::kScale, state.scale});
  state.scale = 1;
  state.steps.push_back(step);
}

// Turns what needs no norm, up to the next that does, into element-wise steps.
void Advance(State& state) {
  for (; state.next < state.variable->chain.size(); ++state.next) {
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

double ClippingScale(double norm, double largest) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return norm > largest ? largest / norm : 1.0;
}

// What the transform does now that the sum of squares, or of magnitudes, is known.
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

class Stepper {
 public:
  Stepper(Rule rule, std::vector<Variable>& variables, const Executor& executor)
      : rule_(rule), executor_(executor) {
    for (Variable& variable : variables) {
      if (variable.frozen || variable.size == 0) continue;
      states_.push_back({&variable, {}, 1, 0, false, 0});
    }
    std::vector<int> all(states_.size());
    std::iota(all.begin(), all.end(), 0);
    all_ = all;
    for (State& state : states_) Advance(state);
  }

  bool Run() {
    if (!ResolveNorms()) return false;
    if (rule_ == Rule::kLamb) MultiplyByTrustRatios();
    ForEachPiece(all_, [this](const Piece& piece, int64_t) {
      if (states_[piece.variable].variable->dtype == Dtype::kFloat64) {
        UpdatePiece<double>(piece);
      } else {
        UpdatePiece<float>(piece);
      }
    });
    return true;
  }

 private:
  // Each round reads the gradients of all variables that wait for a sum of their own.
  bool ResolveNorms() {
    for (;;) {
      std::vector<int> waiting;
      for (const int v : all_) {
        if (Waits(states_[v]) && !states_[v].summed) waiting.push_back(v);
      }
      Sum(waiting);
      if (!ApplySums()) return false;
      if (std::none_of(all_.begin(), all_.end(), [this](int v) { return Waits(states_[v]); })) {
        return true;
      }
      if (waiting.empty()) throw std::invalid_argument("groups of gradients wait for each other");
    }
  }

  static bool Waits(const State& state) { return state.next < state.variable->chain.size(); }

  void Sum(const std::vector<int>& waiting) {
    std::vector<double> sums;
    std::vector<int> owners;
    ForEachPiece(
        waiting,
        [this, &sums](const Piece& piece, int64_t index) {
          sums[index] = states_[piece.variable].variable->dtype == Dtype::kFloat64
                            ? SumPiece<double>(piece)
                            : SumPiece<float>(piece);
        },
        [&sums, &owners](const std::vector<Piece>& pieces) {
          sums.resize(pieces.size());
          for (const Piece& piece : pieces) owners.push_back(piece.variable);
        });
    for (const int v : waiting) {
      states_[v].sum = 0;
      states_[v].summed = true;
    }
    for (size_t i = 0; i < sums.size(); ++i) states_[owners[i]].sum += sums[i];
  }

  // Returns false if a gradient to be sanitized is not finite.
  bool ApplySums() {
    std::map<int, std::pair<double, bool>> groups;  // sum, and whether it is complete
    for (const int v : all_) {
      State& state = states_[v];
      for (size_t i = state.next; i < state.variable->chain.size(); ++i) {
        const Transform& transform = state.variable->chain[i];
        if (transform.kind != TransformKind::kClipByGlobalNorm) continue;
        auto& [sum, complete] = groups.try_emplace(transform.group, 0.0, true).first->second;
        if (i == state.next && state.summed) {
          sum += state.sum;
        } else {
          complete = false;
        }
      }
    }
    for (const int v : all_) {
      State& state = states_[v];
      while (Waits(state) && state.summed) {
        const Transform& transform = state.variable->chain[state.next];
        double sum = state.sum;
        if (transform.kind == TransformKind::kSanitize) {
          if (!std::isfinite(sum)) return false;
          ++state.next;  // the next norm of the same gradient need not be summed again
          state.summed = Waits(state) && IsSquares(state.variable->chain[state.next].kind) &&
                         state.variable->chain[state.next].kind != TransformKind::kClipByGlobalNorm;
          if (!state.summed) Advance(state);
          continue;
        }
        if (transform.kind == TransformKind::kClipByGlobalNorm) {
          if (!groups[transform.group].second) break;
          sum = groups[transform.group].first;
        }
        Append(state, {Elementwise::kScale, ScaleOf(transform, sum)});
        ++state.next;
        state.summed = false;
        Advance(state);
      }
    }
    return true;
  }

  static bool IsSquares(TransformKind kind) {
    return kind >= TransformKind::kClipByNorm && !IsL1(kind);
  }

  void MultiplyByTrustRatios() {
    std::vector<std::array<double, 2>> sums;
    std::vector<int> owners;
    ForEachPiece(
        all_,
        [this, &sums](const Piece& piece, int64_t index) {
          if (states_[piece.variable].variable->dtype == Dtype::kFloat64) {
            LambPiece<double>(piece, sums[index].data());
          } else {
            LambPiece<float>(piece, sums[index].data());
          }
        },
        [&sums, &owners](const std::vector<Piece>& pieces) {
          sums.assign(pieces.size(), {});
          for (const Piece& piece : pieces) owners.push_back(piece.variable);
        });
    std::vector<std::array<double, 2>> totals(states_.size(), {0, 0});
    for (size_t i = 0; i < sums.size(); ++i) {
      totals[owners[i]][0] += sums[i][0];
      totals[owners[i]][1] += sums[i][1];
    }
    for (const int v : all_) {
      const auto [of_parameter, of_direction] = totals[v];
      if (of_parameter > 0 && of_direction > 0) {
        states_[v].variable->coefficients[0] *= std::sqrt(of_parameter / of_direction);
      }
    }
  }

  // Cuts the variables into pieces, and several small ones are one task; `prepare` sees them first.
  void ForEachPiece(const std::vector<int>& chosen,
                    const std::function<void(const Piece&, int64_t)>& fn,
                    const std::function<void(const std::vector<Piece>&)>& prepare = nullptr) {
    std::vector<Piece> pieces;
    std::vector<int64_t> starts;  // of the tasks
    int64_t total = 0, room = 0;
    for (const int v : chosen) total += states_[v].variable->size;
    const int64_t task_size = std::clamp(total / kTasks, kSmallestTask, kLargestTask);
    for (const int v : chosen) {
      const int64_t size = states_[v].variable->size;
      for (int64_t first = 0; first < size; first += kPiece) {
        const int64_t part = std::min(kPiece, size - first);
        if (room < part) {
          starts.push_back(static_cast<int64_t>(pieces.size()));
          room = task_size;
        }
        room -= part;
        pieces.push_back({v, first, part});
      }
    }
    if (prepare) prepare(pieces);
    const int64_t tasks = static_cast<int64_t>(starts.size());
    starts.push_back(static_cast<int64_t>(pieces.size()));
    if (tasks == 0) return;
    executor_(tasks, [&](int64_t task) {
      for (int64_t i = starts[task]; i < starts[task + 1]; ++i) fn(pieces[i], i);
    });
  }

  // Calls fn(parameter, gradient, first, size) on stretches of the piece, transformed and in T. The
  // parameter is null where only the gradient matters. A stretch is the whole piece, in place, if
  // there is nothing to convert and nothing to transform.
  template <typename T, typename Function>
  void ForEachTile(const Piece& piece, bool with_parameter, bool store, Function fn) const {
    const Kernels<T>& kernels = CurrentKernels<T>();
    const State& state = states_[piece.variable];
    const Variable& variable = *state.variable;
    const bool native = variable.dtype == Dtype::kFloat32 || variable.dtype == Dtype::kFloat64;
    const bool whole = !(variable.quantized && store);
    if (whole && native && variable.gradient_dtype == variable.dtype && state.steps.empty()) {
      fn(static_cast<T*>(variable.parameter) + piece.first,
         static_cast<const T*>(variable.gradient) + piece.first, piece.first, piece.size);
      return;
    }
    const bool reads_parameter =
        with_parameter || std::any_of(state.steps.begin(), state.steps.end(), [](auto& step) {
          return step.kind == Elementwise::kAddParameter;
        });
    alignas(64) T gradient[kTile];
    alignas(64) T converted[kTile];
    for (int64_t done = 0; done < piece.size; done += kTile) {
      const int64_t first = piece.first + done;
      const int64_t size = std::min(kTile, piece.size - done);
      T* parameter = converted;
      if (native) {
        parameter = static_cast<T*>(variable.parameter) + first;
      } else if (reads_parameter) {
        kernels.load(variable.dtype, variable.parameter, first, size, converted);
      }
      const T* given = gradient;
      if (variable.gradient_dtype == variable.dtype && native && state.steps.empty()) {
        given = static_cast<const T*>(variable.gradient) + first;
      } else {
        kernels.load(variable.gradient_dtype, variable.gradient, first, size, gradient);
        kernels.transform(state.steps.data(), static_cast<int64_t>(state.steps.size()), parameter,
                          gradient, size);
      }
      fn(parameter, given, first, size);
      if (!native && store)
        kernels.store(variable.dtype, converted, first, size, variable.parameter);
    }
  }

  template <typename T>
  double SumPiece(const Piece& piece) const {
    const Kernels<T>& kernels = CurrentKernels<T>();
    const State& state = states_[piece.variable];
    const auto sum_of = IsL1(state.variable->chain[state.next].kind) ? kernels.sum_of_magnitudes
                                                                     : kernels.sum_of_squares;
    double sum = 0;
    ForEachTile<T>(piece, false, false, [&](T*, const T* gradient, int64_t, int64_t size) {
      sum += sum_of(gradient, size);
    });
    const double scale = state.scale;  // the sums are those of the scaled gradient
    return sum * (IsL1(state.variable->chain[state.next].kind) ? std::fabs(scale) : scale * scale);
  }

  template <typename T>
  void SlotsAt(const Variable& variable, int64_t first, T** slots) const {
    for (int s = 0; s < kMaxSlots; ++s) {
      slots[s] = s < NumSlots(rule_) ? static_cast<T*>(variable.slots[s]) + first : nullptr;
    }
  }

  template <typename T>
  void LambPiece(const Piece& piece, double* sums) const {
    const Variable& variable = *states_[piece.variable].variable;
    ForEachTile<T>(piece, true, false,
                   [&](T* parameter, const T* gradient, int64_t first, int64_t size) {
                     T* slots[kMaxSlots];
                     SlotsAt(variable, first, slots);
                     CurrentKernels<T>().lamb_norms(variable.coefficients, variable.decay,
                                                    states_[piece.variable].scale, parameter,
                                                    gradient, slots, size, sums);
                   });
  }

  template <typename T>
  void UpdatePiece(const Piece& piece) const {
    const State& state = states_[piece.variable];
    const Variable& variable = *state.variable;
    const Kernels<T>& kernels = CurrentKernels<T>();
    const auto update = kernels.rules[static_cast<int>(rule_)];
    ForEachTile<T>(
        piece, true, true, [&](T* parameter, const T* gradient, int64_t first, int64_t size) {
          T* slots[kMaxSlots];
          if (!variable.quantized) {
            SlotsAt(variable, first, slots);
            update(variable.coefficients, variable.decay, state.scale, parameter, gradient, slots,
                   size);
            return;
          }
          alignas(64) T numbers[kMaxSlots][kTile];
          const int num_slots = NumSlots(rule_);
          const auto codes_of = [&](int s) {
            return static_cast<uint8_t*>(variable.slots[s]) + first;
          };
          const auto scales_of = [&](int s) {
            return variable.scales[s] + first / kQuantizedBlock;
          };
          for (int s = 0; s < num_slots; ++s) {
            kernels.dequantize(HasSign(s), codes_of(s), scales_of(s), size, slots[s] = numbers[s]);
          }
          update(variable.coefficients, variable.decay, state.scale, parameter, gradient, slots,
                 size);
          for (int s = 0; s < num_slots; ++s) {
            kernels.quantize(HasSign(s), numbers[s], size, codes_of(s), scales_of(s));
          }
        });
  }

  const Rule rule_;
  const Executor& executor_;
  std::vector<State> states_;
  std::vector<int> all_;
};

}  // namespace

bool Step(Rule rule, std::vector<Variable>& variables, const Executor& executor) {
  return Stepper(rule, variables, executor).Run();
}

}  // namespace fastkeras::optimizers
