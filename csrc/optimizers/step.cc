#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "machine/instruction_set.h"
#include "optimizers/chains.h"
#include "optimizers/kernels.h"
#include "optimizers/pieces.h"

namespace fastkeras::optimizers {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

int NumCoefficients(Rule rule) {
  return CurrentKernels<float>().num_coefficients[static_cast<int>(rule)];
}

std::optional<Rule> FindRule(std::string_view name) {
  for (int i = 0; i < kNumRules; ++i) {
    if (name == kRuleFacts[i].name) return static_cast<Rule>(i);
  }
  return std::nullopt;
}

namespace {

constexpr double kSmallestShare = 1e-3;  // as SMALLEST_SHARE in rules/updates.py
constexpr int64_t kTile = 2048;          // elements that stay in the first cache between two loops

bool IsNative(const Variable& variable) {
  return variable.dtype == Dtype::kFloat32 || variable.dtype == Dtype::kFloat64;
}

// Slots of a tile as T: where they are, or numbers that codes or bfloat16 stand for.
template <typename T>
class SlotsOfTile {
 public:
  SlotsOfTile(Rule rule, const Variable& variable, int64_t first, int64_t size) {
    for (int s = 0; s < NumSlots(rule); ++s) {
      pointers_[s] = numbers_[s];
      if (variable.moments == Moments::kWide) {
        pointers_[s] = static_cast<T*>(variable.slots[s]) + first;
      } else if (variable.moments == Moments::kBfloat16) {
        CurrentKernels<T>().load(Dtype::kBfloat16, variable.slots[s], nullptr, first, size,
                                 numbers_[s]);
      } else {
        CurrentKernels<T>().dequantize(
            HasSign(rule, s), static_cast<const uint8_t*>(variable.slots[s]) + first,
            variable.scales[s] + first / kQuantizedBlock, size, numbers_[s]);
      }
    }
  }

  const T* const* pointers() const { return pointers_; }

 private:
  T* pointers_[kMaxSlots] = {};
  alignas(64) T numbers_[kMaxSlots][kTile];
};

class Stepper {
 public:
  Stepper(Rule rule, std::vector<Variable>& variables, const Executor& executor)
      : rule_(rule), executor_(executor) {
    for (Variable& variable : variables) {
      if (variable.frozen || variable.size == 0) continue;
      states_.push_back({&variable});
      Advance(states_.back());
    }
  }

  bool Run() {
    if (!ResolveNorms()) return false;
    FindRatios();
    PiecesOf([](const State&) {
      return true;
    }).ForEach(executor_, [this](const Piece& piece, int64_t) {
      if (VariableOf(piece).dtype == Dtype::kFloat64) {
        UpdatePiece<double>(piece);
      } else {
        UpdatePiece<float>(piece);
      }
    });
    return true;
  }

 private:
  const Variable& VariableOf(const Piece& piece) const { return *states_[piece.variable].variable; }

  template <typename Predicate>
  Pieces PiecesOf(Predicate is_chosen) const {
    Pieces pieces;
    for (size_t i = 0; i < states_.size(); ++i) {
      if (is_chosen(states_[i])) pieces.Add(static_cast<int>(i), *states_[i].variable);
    }
    return pieces;
  }

  // Each round reads the gradients of all variables that wait for a sum of their own.
  bool ResolveNorms() {
    for (;;) {
      if (std::none_of(states_.begin(), states_.end(), Waits)) return true;
      const auto needs_sum = [](const State& state) { return Waits(state) && !state.summed; };
      if (std::none_of(states_.begin(), states_.end(), needs_sum)) {
        throw std::invalid_argument("groups of gradients wait for each other");
      }
      const Pieces pieces = PiecesOf(needs_sum);
      std::vector<double> sums(pieces.all().size());
      pieces.ForEach(executor_, [this, &sums](const Piece& piece, int64_t index) {
        sums[index] = VariableOf(piece).dtype == Dtype::kFloat64 ? SumPiece<double>(piece)
                                                                 : SumPiece<float>(piece);
      });
      for (State& state : states_) {
        if (!needs_sum(state)) continue;
        state.sum = 0;
        state.summed = true;
      }
      for (size_t i = 0; i < sums.size(); ++i) states_[pieces.all()[i].variable].sum += sums[i];
      if (!ApplySums(states_)) return false;
    }
  }

  // Reads the arrays once whose steps are scaled by what they are as a whole.
  void FindRatios() {
    const Pieces pieces = PiecesOf([this](const State& state) {
      return ScalingOf(rule_) != Scaling::kNone || state.variable->adapted;
    });
    if (pieces.all().empty()) return;
    std::vector<std::array<double, 2>> sums(pieces.all().size());
    pieces.ForEach(executor_, [this, &sums](const Piece& piece, int64_t index) {
      sums[index] = VariableOf(piece).dtype == Dtype::kFloat64 ? LengthsOf<double>(piece)
                                                               : LengthsOf<float>(piece);
    });
    std::vector<std::array<double, 2>> totals(states_.size(), {0, 0});
    for (size_t i = 0; i < sums.size(); ++i) {
      for (const int k : {0, 1}) totals[pieces.all()[i].variable][k] += sums[i][k];
    }
    for (size_t i = 0; i < states_.size(); ++i) {
      states_[i].ratio = RatioOf(*states_[i].variable, totals[i]);
    }
  }

  // NaN goes on.
  double RatioOf(const Variable& variable, const std::array<double, 2>& sums) const {
    if (ScalingOf(rule_) != Scaling::kNone) {
      const int64_t count =
          variable.rows == nullptr ? variable.size : variable.num_rows * variable.row_size;
      const double mean = sums[0] / static_cast<double>(count);
      if (ScalingOf(rule_) == Scaling::kByAgreement) return 1 / std::max(mean, kSmallestShare);
      return mean <= 1 ? 1.0 : 1 / std::sqrt(mean);
    }
    const double kept = 1 - variable.decay;
    const double of_parameter = std::sqrt(sums[0] * kept * kept);
    const double of_change = std::sqrt(sums[1]);
    if (of_parameter == 0 || of_change == 0) return 1.0;
    return variable.rate * of_parameter / of_change;
  }

  // Calls fn(parameter, gradient, first, size) on stretches of the piece, transformed and in T. The
  // parameter is null where only the gradient matters. A stretch is the whole piece, in place, if
  // there is nothing to convert, nothing to transform and `fn` takes it.
  template <typename T, typename Function>
  void ForEachTile(const Piece& piece, bool with_parameter, bool store, bool whole,
                   Function fn) const {
    const Kernels<T>& kernels = CurrentKernels<T>();
    const State& state = states_[piece.variable];
    const Variable& variable = *state.variable;
    const bool native = IsNative(variable);
    const bool as_it_is =
        native && variable.gradient_dtype == variable.dtype && state.steps.empty();
    if (whole && as_it_is) {
      fn(static_cast<T*>(variable.parameter) + piece.first,
         static_cast<const T*>(variable.gradient) + piece.first_of_gradient, piece.first,
         piece.size);
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
      const int64_t of_gradient = piece.first_of_gradient + done;
      const int64_t size = std::min(kTile, piece.size - done);
      T* parameter = converted;
      if (native) {
        parameter = static_cast<T*>(variable.parameter) + first;
      } else if (reads_parameter) {
        kernels.load(variable.dtype, variable.parameter, variable.remainder, first, size,
                     converted);
      }
      const T* given = gradient;
      if (as_it_is) {
        given = static_cast<const T*>(variable.gradient) + of_gradient;
      } else {
        kernels.load(variable.gradient_dtype, variable.gradient, nullptr, of_gradient, size,
                     gradient);
        kernels.transform(state.steps.data(), static_cast<int64_t>(state.steps.size()), parameter,
                          gradient, size);
      }
      fn(parameter, given, first, size);
      if (native || !store) continue;
      if (variable.dithered && variable.dtype == Dtype::kBfloat16) {
        kernels.dither(variable.seed, converted, first, size, variable.parameter);
      } else {
        kernels.store(variable.dtype, converted, first, size, variable.parameter,
                      variable.remainder);
      }
    }
  }

  template <typename T>
  double SumPiece(const Piece& piece) const {
    const Kernels<T>& kernels = CurrentKernels<T>();
    const State& state = states_[piece.variable];
    const Summed summed = WaitsFor(state);
    const auto sum_of = summed == Summed::kSquares      ? kernels.sum_of_squares
                        : summed == Summed::kMagnitudes ? kernels.sum_of_magnitudes
                                                        : kernels.sum_of_defects;
    double sum = 0;
    ForEachTile<T>(piece, false, false, true, [&](T*, const T* gradient, int64_t, int64_t size) {
      sum += sum_of(gradient, size);
    });
    const double scale = state.scale;  // the sums are those of the scaled gradient
    return sum * (summed == Summed::kSquares ? scale * scale : std::fabs(scale));
  }

  template <typename T>
  std::array<double, 2> LengthsOf(const Piece& piece) const {
    const State& state = states_[piece.variable];
    const Variable& variable = *state.variable;
    const auto lengths = CurrentKernels<T>().lengths[static_cast<int>(rule_)];
    std::array<double, 2> sums = {0, 0};
    ForEachTile<T>(piece, true, false, variable.moments == Moments::kWide,
                   [&](const T* parameter, const T* gradient, int64_t first, int64_t size) {
                     const SlotsOfTile<T> slots(rule_, variable, first, size);
                     lengths(variable.coefficients, state.scale, parameter, gradient,
                             slots.pointers(), size, sums.data());
                   });
    return sums;
  }

  template <typename T>
  void UpdatePiece(const Piece& piece) const {
    const State& state = states_[piece.variable];
    const Variable& variable = *state.variable;
    const Kernels<T>& kernels = CurrentKernels<T>();
    const int rule = static_cast<int>(rule_);
    ForEachTile<T>(
        piece, true, true, true, [&](T* parameter, const T* gradient, int64_t first, int64_t size) {
          if (variable.moments == Moments::kBfloat16) {
            uint16_t* slots[kMaxSlots] = {};
            for (int s = 0; s < NumSlots(rule_); ++s) {
              slots[s] = static_cast<uint16_t*>(variable.slots[s]) + first;
            }
            kernels.halved[rule](variable.coefficients, variable.decay, state.scale, state.ratio,
                                 variable.seed, first, parameter, gradient, slots, size);
          } else if (variable.moments == Moments::kCodes) {
            uint8_t* codes[kMaxSlots] = {};
            float* scales[kMaxSlots] = {};
            for (int s = 0; s < NumSlots(rule_); ++s) {
              codes[s] = static_cast<uint8_t*>(variable.slots[s]) + first;
              scales[s] = variable.scales[s] + first / kQuantizedBlock;
            }
            kernels.quantized[rule](variable.coefficients, variable.decay, state.scale, state.ratio,
                                    variable.seed, first, parameter, gradient, codes, scales, size);
          } else {
            T* slots[kMaxSlots] = {};
            for (int s = 0; s < NumSlots(rule_); ++s) {
              slots[s] = static_cast<T*>(variable.slots[s]) + first;
            }
            kernels.rules[rule](variable.coefficients, variable.decay, state.scale, state.ratio,
                                parameter, gradient, slots, size);
          }
        });
  }

  const Rule rule_;
  const Executor& executor_;
  std::vector<State> states_;
};

}  // namespace

bool AreRows(const int64_t* rows, int64_t count, int64_t size) {
  std::vector<bool> seen(count == 0 ? 0 : static_cast<size_t>(size));
  for (int64_t r = 0; r < count; ++r) {
    if (rows[r] < 0 || rows[r] >= size || seen[rows[r]]) return false;
    seen[rows[r]] = true;
  }
  return true;
}

bool Step(Rule rule, std::vector<Variable>& variables, const Executor& executor) {
  return Stepper(rule, variables, executor).Run();
}

}  // namespace fastkeras::optimizers
