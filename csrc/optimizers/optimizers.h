// One optimizer step over all variables at once: gradient transforms, weight decay, learning-rate
// multipliers and the update rule in one pass over memory, and one more read of a gradient for each
// norm that its transforms ask for. docs/optimizers.md has the formulas.

#ifndef FASTKERAS_OPTIMIZERS_OPTIMIZERS_H_
#define FASTKERAS_OPTIMIZERS_OPTIMIZERS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace fastkeras::optimizers {

// By what of the whole variable a rule scales the step of each number, measured before any changes.
enum class Scaling {
  kNone,
  kByAgreement,  // by the inverse of the share of numbers that move, from 1 to 1000
  kClipped,      // to a root mean square of at most 1
};

// Every rule that has a kernel: its struct in rules.h, its name in fastkeras/optimizers/rules,
// its number of slots, if these may be of 8 or 16 bits, for each an s if it has a sign, or else a
// u, and its scaling if it has one, which goes before the `adapted` of a variable. The enum, the
// table of the kernels and the list that Python compares with its own rules are made from this.
#define FASTKERAS_OPTIMIZER_RULES(RULE)                               \
  RULE(Sgd, "sgd", 0, "")                                             \
  RULE(Momentum, "momentum", 1, "s")                                  \
  RULE(Nesterov, "nesterov", 1, "s")                                  \
  RULE(Adam, "adam", 2, "su")                                         \
  RULE(Amsgrad, "amsgrad", 3, "")                                     \
  RULE(Nadam, "nadam", 2, "su")                                       \
  RULE(Lion, "lion", 1, "s")                                          \
  RULE(Rmsprop, "rmsprop", 1, "u")                                    \
  RULE(RmspropMomentum, "rmsprop_momentum", 2, "us")                  \
  RULE(CenteredRmsprop, "centered_rmsprop", 2, "")                    \
  RULE(CenteredRmspropMomentum, "centered_rmsprop_momentum", 3, "")   \
  RULE(Adagrad, "adagrad", 1, "")                                     \
  RULE(Lamb, "lamb", 2, "su")                                         \
  RULE(Ademamix, "ademamix", 3, "ssu")                                \
  RULE(ScheduleFreeSgd, "schedule_free_sgd", 1, "")                   \
  RULE(ScheduleFreeAdamw, "schedule_free_adamw", 2, "")               \
  RULE(CautiousAdam, "cautious_adam", 2, "su", Scaling::kByAgreement) \
  RULE(CautiousLion, "cautious_lion", 1, "s", Scaling::kByAgreement)  \
  RULE(StableAdamw, "stable_adamw", 2, "su", Scaling::kClipped)

#define FASTKERAS_ENUMERATOR(Struct, ...) k##Struct,
enum class Rule { FASTKERAS_OPTIMIZER_RULES(FASTKERAS_ENUMERATOR) kCount };
#undef FASTKERAS_ENUMERATOR
constexpr int kNumRules = static_cast<int>(Rule::kCount);

struct RuleFacts {
  const char* name;
  int num_slots;
  const char* signs;
  Scaling scaling = Scaling::kNone;
};
#define FASTKERAS_FACTS(Struct, ...) {__VA_ARGS__},
inline constexpr RuleFacts kRuleFacts[] = {FASTKERAS_OPTIMIZER_RULES(FASTKERAS_FACTS)};
#undef FASTKERAS_FACTS

constexpr const RuleFacts& FactsOf(Rule rule) { return kRuleFacts[static_cast<int>(rule)]; }
constexpr int NumSlots(Rule rule) { return FactsOf(rule).num_slots; }
constexpr Scaling ScalingOf(Rule rule) { return FactsOf(rule).scaling; }
constexpr bool CanBeNarrow(Rule rule) { return FactsOf(rule).signs[0] != 0; }
constexpr bool HasSign(Rule rule, int slot) { return FactsOf(rule).signs[slot] == 's'; }
int NumCoefficients(Rule rule);
std::optional<Rule> FindRule(std::string_view name);

constexpr int kMaxSlots = 3;
constexpr int kMaxCoefficients = 6;
constexpr int kQuantizedBlock = 256;

// Every transform that the kernels do, in the order of FUSED in fastkeras/optimizers/chains.py,
// which is compared with this list when it is imported.
#define FASTKERAS_TRANSFORMS(TRANSFORM)               \
  TRANSFORM(Scale, "scale")                           \
  TRANSFORM(Zero, "zero")                             \
  TRANSFORM(ClipByValue, "clip_by_value")             \
  TRANSFORM(AddDecayedWeights, "add_decayed_weights") \
  TRANSFORM(ClipByNorm, "clip_by_norm")               \
  TRANSFORM(ClipByL1Norm, "clip_by_l1_norm")          \
  TRANSFORM(Normalize, "normalize")                   \
  TRANSFORM(ClipByGlobalNorm, "clip_by_global_norm")  \
  TRANSFORM(Sanitize, "sanitize")

#define FASTKERAS_ENUMERATOR(Kind, name) k##Kind,
enum class TransformKind { FASTKERAS_TRANSFORMS(FASTKERAS_ENUMERATOR) kCount };
#undef FASTKERAS_ENUMERATOR
#define FASTKERAS_NAME(Kind, name) name,
inline constexpr const char* kTransformNames[] = {FASTKERAS_TRANSFORMS(FASTKERAS_NAME)};
#undef FASTKERAS_NAME

struct Transform {
  TransformKind kind;
  double operand;
  int group;  // of kClipByGlobalNorm: all gradients of one group share their norm
};

enum class Dtype { kFloat32, kFloat64, kFloat16, kBfloat16 };

// What slots are stored as. The last two are rounded at random, and not for float64 parameters.
enum class Moments {
  kWide,  // float64 if the parameter is, and else float32
  kBfloat16,
  kCodes,  // uint8, with a float32 scale for each block of kQuantizedBlock numbers
};

struct Variable {
  void* parameter;
  float* remainder;  // what a half parameter cannot hold of its value; null if that is lost
  const void* gradient;
  const int64_t* rows;  // each once: only these change; null if all do
  int64_t num_rows, row_size;
  bool gradient_has_all_rows;  // and not only those, in their order
  void* slots[kMaxSlots];
  float* scales[kMaxSlots];
  Moments moments;                        // if codes, then without rows
  int64_t size;                           // of the parameter
  Dtype dtype;                            // float64 is computed in itself, all others in float32
  Dtype gradient_dtype;                   // float64 if and only if `dtype` is
  bool frozen;                            // nothing of it is read or written
  double coefficients[kMaxCoefficients];  // of the rule, the learning rate among them
  double decay;                           // the parameter loses this fraction before the update
  bool adapted;                           // the step is as long as the parameter, times ...
  double rate;                            // ... this, which the coefficients have too
  bool dithered;                          // a bfloat16 parameter is rounded at random, by ...
  uint32_t seed;                          // ... this, which narrow slots are too
  std::vector<Transform> chain;
};

// Whether these may be the rows of a gradient: all of 0 to `size` - 1, each once.
bool AreRows(const int64_t* rows, int64_t count, int64_t size);

// Calls fn(task) for each task in 0..tasks-1, on any threads, in any order, and returns when all
// are done.
using Executor = std::function<void(int64_t tasks, const std::function<void(int64_t)>& fn)>;

// Updates parameters and slots in place. The result does not depend on the executor, bit for bit.
// Returns false, and has changed nothing, if a gradient to be sanitized was not finite. Throws
// std::invalid_argument if groups wait for each other.
bool Step(Rule rule, std::vector<Variable>& variables, const Executor& executor);

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_OPTIMIZERS_H_
