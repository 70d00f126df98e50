// The step as a call of XLA on the CPU: its first results are in the buffers of its first inputs,
// the variables. It needs only the header of XLA's foreign-function interface, and serves
// TensorFlow and JAX.

#ifndef FASTKERAS_OPTIMIZERS_DOORS_STEP_CALL_H_
#define FASTKERAS_OPTIMIZERS_DOORS_STEP_CALL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "doors/xla_call.h"
#include "machine/parallel.h"
#include "optimizers/doors/step_inputs.h"

namespace fastkeras::optimizers {

namespace ffi = ::xla::ffi;

inline Element ElementOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16:
      return Element::kFloat16;
    case ffi::DataType::BF16:
      return Element::kBfloat16;
    case ffi::DataType::F32:
      return Element::kFloat32;
    case ffi::DataType::F64:
      return Element::kFloat64;
    case ffi::DataType::PRED:
      return Element::kBool;
    case ffi::DataType::U8:
      return Element::kUint8;
    case ffi::DataType::S32:
      return Element::kInt32;
    case ffi::DataType::U32:
      return Element::kUint32;
    case ffi::DataType::S64:
      return Element::kInt64;
    default:
      return Element::kOther;
  }
}

inline void Take(ffi::AnyBuffer buffer, Array* array) {
  const auto dimensions = buffer.dimensions();
  array->data = buffer.untyped_data();
  array->shape.assign(dimensions.begin(), dimensions.end());
  array->type = ElementOf(buffer.element_type());
}

// What a call is given, by position and by name.
class CallInputs {
 public:
  CallInputs(ffi::RemainingArgs arguments, ffi::RemainingRets results, ffi::Dictionary attributes)
      : arguments_(arguments), results_(results), attributes_(attributes) {}

  int num_arguments() const { return static_cast<int>(arguments_.size()); }
  int num_results() const { return static_cast<int>(results_.size()); }

  void Argument(int i, Array* array) const {
    Take(xla_call::Expected<ffi::AnyBuffer>(arguments_.get<ffi::AnyBuffer>(i)), array);
  }

  void Result(int i, Array* array) const {
    using Buffer = ffi::Result<ffi::AnyBuffer>;
    Take(*xla_call::Expected<Buffer>(results_.get<ffi::AnyBuffer>(i)), array);
  }

  template <typename Value>
  Value Attribute(const char* name) const {
    const auto found = attributes_.get<Value>(name);
    if (!found.has_value()) Invalid("the attribute ", name, ": ", found.error().message());
    return *found;
  }

  std::vector<bool> Flags(const char* name) const {
    std::vector<bool> flags;
    for (const char flag : Attribute<std::string_view>(name)) flags.push_back(flag == '1');
    return flags;
  }

  template <typename T>
  Array Numbers(const char* name, Element type) const {
    const auto numbers = Attribute<ffi::Span<const T>>(name);
    return {const_cast<T*>(numbers.begin()), {static_cast<int64_t>(numbers.size())}, type};
  }

  bool Has(const char* name) const { return attributes_.contains(name); }

 private:
  const ffi::RemainingArgs arguments_;
  const ffi::RemainingRets results_;
  const ffi::Dictionary attributes_;
};

// From TensorFlow the chains come among the inputs. From JAX they come as attributes: it knows them
// when it compiles, and without x64 its arrays have no 64 bits.
inline StepSettings SettingsOf(const CallInputs& call, const StepInputs& inputs) {
  StepSettings settings;
  int next = inputs.first_setting();
  const auto take = [&](Array* array) { call.Argument(next++, array); };
  take(&settings.frozen);
  take(&settings.coefficients);
  take(&settings.decays);
  if (call.Has("chain_lengths")) {
    settings.lengths = call.Numbers<int32_t>("chain_lengths", Element::kInt32);
    settings.kinds = call.Numbers<int32_t>("chain_kinds", Element::kInt32);
    settings.operands = call.Numbers<double>("chain_operands", Element::kFloat64);
    settings.groups = call.Numbers<int32_t>("chain_groups", Element::kInt32);
  } else {
    take(&settings.lengths);
    take(&settings.kinds);
    take(&settings.operands);
    take(&settings.groups);
  }
  take(&settings.rates);
  take(&settings.seeds);
  return settings;
}

inline ffi::Error RunStep(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                          ffi::Dictionary attributes) {
  return xla_call::Caught([&] {
    const CallInputs call(arguments, results, attributes);
    StepInputs inputs;
    inputs.Set({std::string(call.Attribute<std::string_view>("rule")), call.Attribute<int32_t>("N"),
                call.Attribute<int32_t>("M"), call.Flags("quantized"), call.Flags("has_remainder"),
                call.Flags("has_rows"), call.Flags("adapted"), call.Flags("dithered")},
               call.num_arguments(),
               call.Has("chain_lengths") ? kNumSettings - kNumChainSettings : kNumSettings);
    const int num_held = inputs.num_held();
    if (call.num_results() != num_held + 1) {
      Invalid("there are ", call.num_results(), " results for ", num_held, " variables");
    }
    Array result;
    const auto array = [&](int i, Array* it) {
      call.Argument(i, it);
      if (i >= num_held) return;
      call.Result(i, &result);
      const bool is_same = result.shape == it->shape && result.type == it->type;
      if (!is_same || (result.data != it->data && it->size() > 0)) {
        Invalid("result ", i, " must be the buffer of input ", i);
      }
    };
    StepVariables step = inputs.Read(array, SettingsOf(call, inputs));
    call.Result(num_held, &result);
    if (result.type != Element::kBool || result.size() != 1) {
      Invalid("the last result must be one bool, got ", result.Text());
    }
    *static_cast<bool*>(result.data) = Step(
        inputs.rule(), step.variables, [](int64_t tasks, const std::function<void(int64_t)>& fn) {
          ParallelFor(tasks, 0, [&fn](int64_t task) { fn(task); });
        });
  });
}

// The function that XLA calls.
inline XLA_FFI_Error* HandleStep(XLA_FFI_CallFrame* frame) {
  static const auto* handler =
      ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(&RunStep).release();
  return handler->Call(frame);
}

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_DOORS_STEP_CALL_H_
