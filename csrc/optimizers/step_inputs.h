// What the inputs and attributes of the op Fastkeras>OptimizerStep mean: read by its kernel, and by
// its call inside of what XLA has compiled.

#ifndef FASTKERAS_OPTIMIZERS_STEP_INPUTS_H_
#define FASTKERAS_OPTIMIZERS_STEP_INPUTS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "optimizers/optimizers.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/errors.h"

namespace fastkeras::optimizers {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// An input of the op, or what a variable among them holds.
struct Array {
  void* data;
  ::tensorflow::TensorShape shape;
  ::tensorflow::DataType type;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  std::string DebugString() const {
    return absl::StrCat(::tensorflow::DataTypeString(type), shape.DebugString());
  }
};

inline absl::Status DtypeOf(::tensorflow::DataType type, Dtype* dtype) {
  switch (type) {
    case ::tensorflow::DT_FLOAT:
      *dtype = Dtype::kFloat32;
      return absl::OkStatus();
    case ::tensorflow::DT_DOUBLE:
      *dtype = Dtype::kFloat64;
      return absl::OkStatus();
    case ::tensorflow::DT_HALF:
      *dtype = Dtype::kFloat16;
      return absl::OkStatus();
    case ::tensorflow::DT_BFLOAT16:
      *dtype = Dtype::kBfloat16;
      return absl::OkStatus();
    default:
      return Invalid("no kernel for ", ::tensorflow::DataTypeString(type));
  }
}

struct StepAttributes {
  std::string rule;
  int count, num_slots;
  std::vector<bool> quantized, has_remainder, has_rows, adapted;  // of each variable
};

class StepInputs {
 public:
  absl::Status Set(const StepAttributes& attributes, int num_inputs) {
    attributes_ = attributes;
    const int count = attributes.count;
    const std::optional<Rule> found = FindRule(attributes.rule);
    if (!found) return Invalid("rule='", attributes.rule, "' has no kernel");
    rule_ = *found;
    for (const auto* flags : {&attributes.quantized, &attributes.has_remainder,
                              &attributes.has_rows, &attributes.adapted}) {
      if (static_cast<int>(flags->size()) != count) {
        return Invalid("a list of flags has ", flags->size(), " entries for ", count);
      }
    }
    first_slots_ = {count};
    for (const bool quantized : attributes.quantized) {
      if (quantized && !CanQuantize(rule())) return Invalid("the rule has no 8 bits");
      first_slots_.push_back(first_slots_.back() + NumSlots(rule()) * (quantized ? 2 : 1));
    }
    if (first_slots_.back() != count + attributes.num_slots) {
      return Invalid("the rule keeps ", first_slots_.back() - count, " slots, got ",
                     attributes.num_slots);
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
    if (first_setting_ + kNumSettings == num_inputs) return absl::OkStatus();
    return Invalid("remainders or rows are not as many as their flags say");
  }

  Rule rule() const { return rule_; }

  // The first inputs are variables: parameters, slots, and remainders.
  int num_held() const { return first_gradient_; }

  // `array(i, &it)` gives an input. What frozen variables hold is not asked for.
  using Arrays = std::function<absl::Status(int, Array*)>;
  absl::Status Read(const Arrays& array, std::vector<Variable>* variables) const {
    Array settings[kNumSettings];
    TF_RETURN_IF_ERROR(ReadSettings(array, settings));
    variables->resize(attributes_.count);
    for (int i = 0; i < attributes_.count; ++i) {
      Variable* const variable = &(*variables)[i];
      *variable = {};
      variable->frozen = settings[kFrozen].as<bool>()[i];
      if (variable->frozen) continue;
      TF_RETURN_IF_ERROR(ReadVariable(array, i, variable));
      const int64_t num_coefficients = settings[kCoefficients].shape.dim_size(1);
      for (int64_t c = 0; c < num_coefficients; ++c) {
        variable->coefficients[c] = settings[kCoefficients].as<double>()[i * num_coefficients + c];
      }
      variable->decay = settings[kDecays].as<double>()[i];
      variable->adapted = attributes_.adapted[i];
      variable->rate = settings[kRates].as<double>()[i];
      variable->dithered = settings[kSeeds].shape.num_elements() > 0;
      if (variable->dithered) variable->seed = settings[kSeeds].as<uint32_t>()[i];
    }
    return TakeChains(settings, variables);
  }

 private:
  enum { kFrozen, kCoefficients, kDecays, kLengths, kKinds, kOperands, kGroups, kRates, kSeeds };
  static constexpr int kNumSettings = kSeeds + 1;

  absl::Status ReadSettings(const Arrays& array, Array* settings) const {
    for (int which = 0; which < kNumSettings; ++which) {
      TF_RETURN_IF_ERROR(array(first_setting_ + which, &settings[which]));
    }
    const auto& coefficients = settings[kCoefficients].shape;
    if (coefficients.dims() != 2 || coefficients.dim_size(0) != attributes_.count ||
        coefficients.dim_size(1) != NumCoefficients(rule())) {
      return Invalid("coefficients must be ", NumCoefficients(rule()), " of each of ",
                     attributes_.count, " variables, got ", coefficients.DebugString());
    }
    for (const int which : {kFrozen, kDecays, kLengths, kRates, kSeeds}) {
      const auto& shape = settings[which].shape;
      if (which == kSeeds && shape.num_elements() == 0) continue;
      if (shape.dims() != 1 || shape.dim_size(0) != attributes_.count) {
        return Invalid("one setting for each variable, got ", shape.DebugString());
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadVariable(const Arrays& array, int i, Variable* variable) const {
    Array parameter, gradient;
    TF_RETURN_IF_ERROR(array(i, &parameter));
    TF_RETURN_IF_ERROR(array(first_gradient_ + i, &gradient));
    TF_RETURN_IF_ERROR(DtypeOf(parameter.type, &variable->dtype));
    TF_RETURN_IF_ERROR(DtypeOf(gradient.type, &variable->gradient_dtype));
    variable->parameter = parameter.data;
    variable->gradient = gradient.data;
    variable->size = parameter.shape.num_elements();
    if (attributes_.has_rows[i]) {
      TF_RETURN_IF_ERROR(ReadRows(array, i, parameter.shape, gradient.shape, variable));
    }
    if ((!attributes_.has_rows[i] && gradient.shape != parameter.shape) ||
        (parameter.type == ::tensorflow::DT_DOUBLE) != (gradient.type == ::tensorflow::DT_DOUBLE)) {
      return Invalid("gradient ", i, " is ", gradient.DebugString(), ", its variable ",
                     parameter.DebugString());
    }
    if (attributes_.has_remainder[i]) {
      Array remainder;
      TF_RETURN_IF_ERROR(array(remainders_[i], &remainder));
      variable->remainder = static_cast<float*>(remainder.data);
      const bool is_half =
          variable->dtype == Dtype::kFloat16 || variable->dtype == Dtype::kBfloat16;
      if (!is_half || remainder.shape != parameter.shape ||
          remainder.type != ::tensorflow::DT_FLOAT) {
        return Invalid("the remainder of variable ", i, " is ", remainder.DebugString());
      }
    }
    variable->quantized = attributes_.quantized[i];
    if (attributes_.has_rows[i] && (variable->quantized || attributes_.adapted[i])) {
      return Invalid("rows of variable ", i, ", which has 8-bit moments or layer adaptation");
    }
    return ReadSlots(array, i, parameter, variable);
  }

  absl::Status ReadSlots(const Arrays& array, int i, const Array& parameter,
                         Variable* variable) const {
    const bool wide = parameter.type == ::tensorflow::DT_DOUBLE;
    const auto wanted = variable->quantized ? ::tensorflow::DT_UINT8
                        : wide              ? ::tensorflow::DT_DOUBLE
                                            : ::tensorflow::DT_FLOAT;
    int next = first_slots_[i];
    for (int s = 0; s < NumSlots(rule()); ++s) {
      Array slot, scales;
      TF_RETURN_IF_ERROR(array(next++, &slot));
      variable->slots[s] = slot.data;
      if (slot.shape != parameter.shape || slot.type != wanted) {
        return Invalid("slot ", s, " of variable ", i, " is ", slot.DebugString(),
                       ", the variable ", parameter.DebugString());
      }
      if (!variable->quantized) continue;
      TF_RETURN_IF_ERROR(array(next++, &scales));
      variable->scales[s] = static_cast<float*>(scales.data);
      const int64_t blocks = (variable->size + kQuantizedBlock - 1) / kQuantizedBlock;
      if (scales.shape.num_elements() != blocks || scales.type != ::tensorflow::DT_FLOAT || wide) {
        return Invalid("the scales of slot ", s, " of variable ", i, " are ", scales.DebugString());
      }
    }
    return absl::OkStatus();
  }

  // The shape of the gradient is that of the parameter but for the number of its rows.
  absl::Status ReadRows(const Arrays& array, int i, const ::tensorflow::TensorShape& parameter,
                        const ::tensorflow::TensorShape& gradient, Variable* variable) const {
    Array rows;
    TF_RETURN_IF_ERROR(array(rows_[i], &rows));
    bool fit = rows.shape.dims() == 1 && parameter.dims() > 0 &&
               gradient.dims() == parameter.dims() &&
               gradient.dim_size(0) == rows.shape.dim_size(0);
    for (int d = 1; fit && d < parameter.dims(); ++d) {
      fit = gradient.dim_size(d) == parameter.dim_size(d);
    }
    if (!fit) {
      return Invalid("rows of variable ", i, " are ", rows.DebugString(), ", their gradient ",
                     gradient.DebugString(), ", the variable ", parameter.DebugString());
    }
    variable->rows = rows.as<int64_t>();
    variable->num_rows = rows.shape.dim_size(0);
    variable->row_size = variable->num_rows == 0 ? 0 : gradient.num_elements() / variable->num_rows;
    if (AreRows(variable->rows, variable->num_rows, parameter.dim_size(0))) {
      return absl::OkStatus();
    }
    return Invalid("rows of variable ", i, " must be of 0 to ", parameter.dim_size(0) - 1,
                   ", each once");
  }

  absl::Status TakeChains(const Array* settings, std::vector<Variable>* variables) const {
    const int32_t* const lengths = settings[kLengths].as<int32_t>();
    const int32_t* const kinds = settings[kKinds].as<int32_t>();
    const int64_t size = settings[kKinds].shape.num_elements();
    if (settings[kOperands].shape.num_elements() != size ||
        settings[kGroups].shape.num_elements() != size) {
      return Invalid("a chain needs as many kinds as operands and groups");
    }
    int64_t k = 0;
    for (int i = 0; i < attributes_.count; ++i) {
      if (lengths[i] < 0) return Invalid("the chain of variable ", i, " is malformed");
      for (const int64_t end = k + lengths[i]; k < end; ++k) {
        if (k >= size || kinds[k] < 0 || kinds[k] >= static_cast<int>(TransformKind::kCount)) {
          return Invalid("the chain of variable ", i, " is malformed");
        }
        (*variables)[i].chain.push_back({static_cast<TransformKind>(kinds[k]),
                                         settings[kOperands].as<double>()[k],
                                         settings[kGroups].as<int32_t>()[k]});
      }
    }
    if (k != size) return Invalid("chains have ", k, " transforms, got ", size);
    return absl::OkStatus();
  }

  StepAttributes attributes_;
  Rule rule_;
  // Among the inputs; the slots are those of each variable, and one past the last.
  std::vector<int> first_slots_, remainders_, rows_;
  int first_gradient_, first_setting_;
};

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_STEP_INPUTS_H_
