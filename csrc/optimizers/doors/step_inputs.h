// The meaning of a step's inputs and attributes, for the TensorFlow op and for calls inside
// programs that XLA compiles. They are checked here; std::invalid_argument says what is wrong.

#ifndef FASTKERAS_OPTIMIZERS_DOORS_STEP_INPUTS_H_
#define FASTKERAS_OPTIMIZERS_DOORS_STEP_INPUTS_H_

#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "optimizers/optimizers.h"

namespace fastkeras::optimizers {

template <typename... Parts>
[[noreturn]] void Invalid(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

enum class Element {
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
  kBool,
  kUint8,
  kInt32,
  kUint32,
  kInt64,
  kOther
};
inline constexpr const char* kElementNames[] = {"float16", "bfloat16",    "float32", "float64",
                                                "bool",    "uint8",       "int32",   "uint32",
                                                "int64",   "another type"};

// An input, or the value of one that is a variable.
struct Array {
  void* data;
  std::vector<int64_t> shape;
  Element type;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t size() const {
    return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  }
  std::string Text() const {
    std::string text = kElementNames[static_cast<int>(type)];
    text += "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? "," : "") + std::to_string(shape[i]);
    return text + "]";
  }
};

inline Dtype DtypeOf(const Array& array) {
  switch (array.type) {
    case Element::kFloat16:
      return Dtype::kFloat16;
    case Element::kBfloat16:
      return Dtype::kBfloat16;
    case Element::kFloat32:
      return Dtype::kFloat32;
    case Element::kFloat64:
      return Dtype::kFloat64;
    default:
      Invalid("no kernel for ", array.Text());
  }
}

struct StepAttributes {
  std::string rule;
  int count, num_slots;
  std::vector<bool> quantized, has_remainder, has_rows, adapted, dithered;  // of each variable
};

// What is said of each variable, and the chains of transforms of all of them, one after the other.
struct StepSettings {
  Array frozen, coefficients, decays, lengths, kinds, operands, groups, rates, seeds;
};
constexpr int kNumSettings = 9, kNumChainSettings = 4;

// What `Step` takes, and the numbers of rows that it refers to.
struct StepVariables {
  std::vector<Variable> variables;
  std::vector<std::vector<int64_t>> rows;
};

class StepInputs {
 public:
  // `num_settings` inputs come after those that are looked at here.
  void Set(const StepAttributes& attributes, int num_inputs, int num_settings) {
    attributes_ = attributes;
    const int count = attributes.count;
    const std::optional<Rule> found = FindRule(attributes.rule);
    if (!found) Invalid("rule='", attributes.rule, "' has no kernel");
    rule_ = *found;
    for (const auto* flags : {&attributes.quantized, &attributes.has_remainder,
                              &attributes.has_rows, &attributes.adapted, &attributes.dithered}) {
      if (count < 0 || flags->size() != static_cast<size_t>(count)) {
        Invalid("a list of flags has ", flags->size(), " entries for ", count);
      }
    }
    first_slots_ = {count};
    for (const bool quantized : attributes.quantized) {
      if (quantized && !CanBeNarrow(rule())) Invalid("the rule has no 8 bits");
      first_slots_.push_back(first_slots_.back() + NumSlots(rule()) * (quantized ? 2 : 1));
    }
    if (first_slots_.back() - count != attributes.num_slots) {
      Invalid("the rule keeps ", first_slots_.back() - count, " slots, got ", attributes.num_slots);
    }
    first_gradient_ = first_slots_.back();
    first_setting_ = first_gradient_ + count;
    for (int i = 0; i < count; ++i) {
      remainders_.push_back(attributes.has_remainder[i] ? first_gradient_++ : -1);
      first_setting_ += attributes.has_remainder[i] + attributes.has_rows[i];
    }
    for (int i = 0, next = first_gradient_ + count; i < count; ++i) {
      rows_.push_back(attributes.has_rows[i] ? next++ : -1);
    }
    if (first_setting_ + num_settings == num_inputs) return;
    Invalid("remainders or rows are not as many as their flags say");
  }

  Rule rule() const { return rule_; }

  // The first inputs are variables: parameters, slots, and remainders.
  int num_held() const { return first_gradient_; }

  int first_setting() const { return first_setting_; }

  // `array(i, &it)` gives an input. It is not called for the values of frozen variables.
  using Arrays = std::function<void(int, Array*)>;
  StepVariables Read(const Arrays& array, const StepSettings& settings) const {
    CheckSettings(settings);
    StepVariables step{std::vector<Variable>(attributes_.count), {}};
    std::vector<Variable>& variables = step.variables;
    Taken taken;
    for (int i = 0; i < attributes_.count; ++i) {
      Variable* const variable = &variables[i];
      *variable = {};
      variable->frozen = settings.frozen.as<bool>()[i];
      if (variable->frozen) continue;
      ReadVariable(array, i, variable, &taken, &step.rows);
      const int64_t num_coefficients = settings.coefficients.shape[1];
      for (int64_t c = 0; c < num_coefficients; ++c) {
        variable->coefficients[c] = NumberAt(settings.coefficients, i * num_coefficients + c);
      }
      variable->decay = NumberAt(settings.decays, i);
      variable->adapted = attributes_.adapted[i];
      variable->rate = NumberAt(settings.rates, i);
      variable->dithered = attributes_.dithered[i];
      if (settings.seeds.size() > 0) {
        variable->seed = settings.seeds.as<uint32_t>()[i];
      } else if (variable->dithered || variable->moments != Moments::kWide) {
        Invalid("seeds are missing: variable ", i, " or its moments are rounded at random");
      }
    }
    TakeChains(settings, &variables);
    return step;
  }

 private:
  // The arrays of one variable; the memory of their shapes is reused for the next one.
  struct Taken {
    Array parameter, gradient, other;
  };

  static double NumberAt(const Array& numbers, int64_t i) {
    return numbers.type == Element::kFloat64 ? numbers.as<double>()[i] : numbers.as<float>()[i];
  }

  static void CheckType(const char* name, const Array& array, Element one, Element other) {
    if (array.type != one && array.type != other) {
      Invalid(name, " must be ", kElementNames[static_cast<int>(one)], ", got ", array.Text());
    }
  }

  void CheckSettings(const StepSettings& settings) const {
    const auto check = [this](const char* name, const Array& array, Element one, Element other) {
      CheckType(name, array, one, other);
      if (array.shape.size() != 1 || array.shape[0] != attributes_.count) {
        Invalid(name, " must be one for each of ", attributes_.count, " variables, got ",
                array.Text());
      }
    };
    const Array& coefficients = settings.coefficients;
    CheckType("coefficients", coefficients, Element::kFloat64, Element::kFloat32);
    if (coefficients.shape.size() != 2 || coefficients.shape[0] != attributes_.count ||
        coefficients.shape[1] != NumCoefficients(rule())) {
      Invalid("coefficients must be ", NumCoefficients(rule()), " of each of ", attributes_.count,
              " variables, got ", coefficients.Text());
    }
    check("frozen", settings.frozen, Element::kBool, Element::kBool);
    check("decays", settings.decays, Element::kFloat64, Element::kFloat32);
    check("rates", settings.rates, Element::kFloat64, Element::kFloat32);
    check("the lengths of the chains", settings.lengths, Element::kInt32, Element::kInt32);
    if (settings.seeds.size() > 0) {
      check("seeds", settings.seeds, Element::kUint32, Element::kInt32);
    }
    CheckType("the kinds of the transforms", settings.kinds, Element::kInt32, Element::kInt32);
    CheckType("the operands of the transforms", settings.operands, Element::kFloat64,
              Element::kFloat64);
    CheckType("the groups of the transforms", settings.groups, Element::kInt32, Element::kInt32);
  }

  void ReadVariable(const Arrays& array, int i, Variable* variable, Taken* taken,
                    std::vector<std::vector<int64_t>>* rows) const {
    const Array &parameter = taken->parameter, &gradient = taken->gradient;
    array(i, &taken->parameter);
    array(first_gradient_ + i, &taken->gradient);
    variable->dtype = DtypeOf(parameter);
    variable->gradient_dtype = DtypeOf(gradient);
    variable->parameter = parameter.data;
    variable->gradient = gradient.data;
    variable->size = parameter.size();
    if (attributes_.has_rows[i]) ReadRows(array, i, variable, taken, rows);
    if ((!attributes_.has_rows[i] && gradient.shape != parameter.shape) ||
        (parameter.type == Element::kFloat64) != (gradient.type == Element::kFloat64)) {
      Invalid("gradient ", i, " is ", gradient.Text(), ", its variable ", parameter.Text());
    }
    if (attributes_.has_remainder[i]) {
      const Array& remainder = taken->other;
      array(remainders_[i], &taken->other);
      variable->remainder = static_cast<float*>(remainder.data);
      const bool is_half =
          variable->dtype == Dtype::kFloat16 || variable->dtype == Dtype::kBfloat16;
      if (!is_half || remainder.shape != parameter.shape || remainder.type != Element::kFloat32) {
        Invalid("the remainder of variable ", i, " is ", remainder.Text());
      }
    }
    if (attributes_.has_rows[i] && (attributes_.quantized[i] || attributes_.adapted[i])) {
      Invalid("rows of variable ", i, ", which has 8-bit moments or layer adaptation");
    }
    ReadSlots(array, i, variable, taken);
  }

  void ReadSlots(const Arrays& array, int i, Variable* variable, Taken* taken) const {
    const Array &parameter = taken->parameter, &held = taken->other;
    const bool wide = parameter.type == Element::kFloat64;
    const bool quantized = attributes_.quantized[i];
    Element wanted = quantized ? Element::kUint8 : wide ? Element::kFloat64 : Element::kFloat32;
    variable->moments = quantized ? Moments::kCodes : Moments::kWide;
    int next = first_slots_[i];
    for (int s = 0; s < NumSlots(rule()); ++s) {
      array(next++, &taken->other);
      variable->slots[s] = held.data;
      const bool may_be_halves = CanBeNarrow(rule()) && wanted == Element::kFloat32;
      if (s == 0 && may_be_halves && held.type == Element::kBfloat16) {
        wanted = Element::kBfloat16;
        variable->moments = Moments::kBfloat16;
      }
      if (held.shape != parameter.shape || held.type != wanted) {
        Invalid("slot ", s, " of variable ", i, " is ", held.Text(), ", the variable ",
                parameter.Text());
      }
      if (!quantized) continue;
      array(next++, &taken->other);
      variable->scales[s] = static_cast<float*>(held.data);
      const int64_t blocks = (variable->size + kQuantizedBlock - 1) / kQuantizedBlock;
      if (held.size() != blocks || held.type != Element::kFloat32 || wide) {
        Invalid("the scales of slot ", s, " of variable ", i, " are ", held.Text());
      }
    }
  }

  // Either the gradient has the parameter's shape except for the number of its rows, and `rows` are
  // their numbers; or it has all rows, and `rows` is a mask of those that count.
  void ReadRows(const Arrays& array, int i, Variable* variable, Taken* taken,
                std::vector<std::vector<int64_t>>* made) const {
    const Array &rows = taken->other, &parameter = taken->parameter, &gradient = taken->gradient;
    array(rows_[i], &taken->other);
    const bool is_mask = rows.type == Element::kBool;
    const bool is_type = is_mask || rows.type == Element::kInt64 || rows.type == Element::kInt32;
    const size_t rank = parameter.shape.size();
    bool fit = rows.shape.size() == 1 && is_type && rank > 0 && gradient.shape.size() == rank &&
               gradient.shape[0] == rows.shape[0] &&
               (!is_mask || rows.shape[0] == parameter.shape[0]);
    for (size_t d = 1; fit && d < rank; ++d) fit = gradient.shape[d] == parameter.shape[d];
    if (!fit) {
      Invalid("rows of variable ", i, " are ", rows.Text(), ", their gradient ", gradient.Text(),
              ", the variable ", parameter.Text());
    }
    const int64_t count = rows.shape[0];
    variable->row_size = count == 0 ? 0 : gradient.size() / count;
    variable->gradient_has_all_rows = is_mask;
    if (rows.type == Element::kInt64 && count > 0) {
      variable->rows = rows.as<int64_t>();
      variable->num_rows = count;
    } else {
      std::vector<int64_t>& numbers = made->emplace_back();
      numbers.reserve(count + 1);  // so that there is an address even without rows
      for (int64_t r = 0; r < count; ++r) {
        if (!is_mask) numbers.push_back(rows.as<int32_t>()[r]);
        if (is_mask && rows.as<bool>()[r]) numbers.push_back(r);
      }
      variable->rows = numbers.data();
      variable->num_rows = static_cast<int64_t>(numbers.size());
    }
    if (!AreRows(variable->rows, variable->num_rows, parameter.shape[0])) {
      Invalid("rows of variable ", i, " must be of 0 to ", parameter.shape[0] - 1, ", each once");
    }
  }

  void TakeChains(const StepSettings& settings, std::vector<Variable>* variables) const {
    const int32_t* const lengths = settings.lengths.as<int32_t>();
    const int32_t* const kinds = settings.kinds.as<int32_t>();
    const int64_t size = settings.kinds.size();
    if (settings.operands.size() != size || settings.groups.size() != size) {
      Invalid("a chain needs as many kinds as operands and groups");
    }
    int64_t k = 0;
    for (int i = 0; i < attributes_.count; ++i) {
      if (lengths[i] < 0) Invalid("the chain of variable ", i, " is malformed");
      for (const int64_t end = k + lengths[i]; k < end; ++k) {
        if (k >= size || kinds[k] < 0 || kinds[k] >= static_cast<int>(TransformKind::kCount)) {
          Invalid("the chain of variable ", i, " is malformed");
        }
        (*variables)[i].chain.push_back({static_cast<TransformKind>(kinds[k]),
                                         settings.operands.as<double>()[k],
                                         settings.groups.as<int32_t>()[k]});
      }
    }
    if (k != size) Invalid("chains have ", k, " transforms, got ", size);
  }

  StepAttributes attributes_;
  Rule rule_;
  // Among the inputs; the slots are those of each variable, and one past the last.
  std::vector<int> first_slots_, remainders_, rows_;
  int first_gradient_, first_setting_;
};

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_DOORS_STEP_INPUTS_H_
