// The optimizer step inside of what XLA compiles: one custom call, whose results are the buffers of
// the variables themselves.

#include "xla.h"

#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "optimizers/step_inputs.h"
#include "parallel.h"

namespace fastkeras::optimizers {
namespace {

namespace ffi = ::xla::ffi;
namespace tf = ::tensorflow;

const char* const kTarget = "Fastkeras>OptimizerStep";

std::string Text(const std::vector<bool>& flags) {
  std::string text;
  for (const bool flag : flags) text += flag ? '1' : '0';
  return text;
}

std::vector<bool> Flags(const ffi::Dictionary& attributes, const char* name) {
  const std::string_view text = attributes.get<std::string_view>(name).value();
  std::vector<bool> flags;
  for (const char flag : text) flags.push_back(flag == '1');
  return flags;
}

ffi::Error Run(ffi::RemainingArgs arguments, ffi::RemainingRets results,
               ffi::Dictionary dictionary) {
  const auto number = [&](const char* name) { return dictionary.get<int32_t>(name).value(); };
  StepAttributes attributes{std::string(dictionary.get<std::string_view>("rule").value()),
                            number("N"),
                            number("M"),
                            Flags(dictionary, "quantized"),
                            Flags(dictionary, "has_remainder"),
                            Flags(dictionary, "has_rows"),
                            Flags(dictionary, "adapted")};
  StepInputs inputs;
  absl::Status status = inputs.Set(attributes, static_cast<int>(arguments.size()));
  const auto array = [&](int i, Array* it) {
    // a variable's result is its argument: the same buffer
    const ffi::AnyBuffer buffer = i < inputs.num_held() ? *results.get<ffi::AnyBuffer>(i).value()
                                                        : arguments.get<ffi::AnyBuffer>(i).value();
    const auto type =
        tf::EncodePrimitiveTypeAsDataType(static_cast<::xla::PrimitiveType>(buffer.element_type()));
    if (!type.ok()) return type.status();
    *it = {buffer.untyped_data(), tf::TensorShape(), *type};
    for (const int64_t dimension : buffer.dimensions()) it->shape.AddDim(dimension);
    return absl::OkStatus();
  };
  std::vector<Variable> variables;
  if (status.ok()) status = inputs.Read(array, &variables);
  if (!status.ok()) return ffi::Error::InvalidArgument(std::string(status.message()));
  return xla_call::Caught([&] {
    const ffi::AnyBuffer finite = *results.get<ffi::AnyBuffer>(inputs.num_held()).value();
    *static_cast<bool*>(finite.untyped_data()) =
        Step(inputs.rule(), variables, [](int64_t tasks, const std::function<void(int64_t)>& fn) {
          ParallelFor(tasks, 0, [&fn](int64_t task) { fn(task); });
        });
  });
}

class StepLowering : public tf::XlaOpKernel {
 public:
  explicit StepLowering(tf::OpKernelConstruction* context) : XlaOpKernel(context) {
    StepAttributes attributes;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &attributes.rule));
    OP_REQUIRES_OK(context, context->GetAttr("N", &attributes.count));
    OP_REQUIRES_OK(context, context->GetAttr("M", &attributes.num_slots));
    text_ = absl::StrCat("{rule = \"", attributes.rule, "\", N = ", attributes.count,
                         " : i32, M = ", attributes.num_slots, " : i32");
    const std::pair<const char*, std::vector<bool>*> all[] = {
        {"quantized", &attributes.quantized},
        {"has_remainder", &attributes.has_remainder},
        {"has_rows", &attributes.has_rows},
        {"adapted", &attributes.adapted}};
    for (const auto& [name, flags] : all) {
      OP_REQUIRES_OK(context, context->GetAttr(name, flags));
      absl::StrAppend(&text_, ", ", name, " = \"", Text(*flags), "\"");
    }
    text_ += "}";
    OP_REQUIRES_OK(context, inputs_.Set(attributes, context->num_inputs()));
  }

  void Compile(tf::XlaOpKernelContext* context) override {
    std::set<const tf::XlaResource*> held;
    for (int i = 0; i < inputs_.num_held(); ++i) {
      tf::XlaResource* resource = nullptr;
      OP_REQUIRES_OK(context, context->GetResourceInput(i, &resource));
      OP_REQUIRES(context, held.insert(resource).second, Invalid("a variable is given twice"));
    }
    std::vector<::xla::XlaOp> operands(context->num_inputs());
    std::vector<::xla::Shape> shapes, results;
    std::vector<tf::DataType> types(inputs_.num_held());
    for (int i = 0; i < context->num_inputs(); ++i) {
      tf::TensorShape shape;
      tf::DataType type = context->input_type(i);
      if (i < inputs_.num_held()) {
        OP_REQUIRES_OK(context, context->GetVariableTypeAndShape(i, &type, &shape));
        OP_REQUIRES_OK(context, context->ReadVariableInput(i, type, &shape, &operands[i]));
        types[i] = type;
      } else {
        shape = context->InputShape(i);
        operands[i] = context->Input(i);
      }
      const auto sizes = shape.dim_sizes();
      shapes.push_back(xla_call::RowMajor(type, {sizes.begin(), sizes.end()}));
    }
    std::vector<std::pair<::xla::ShapeIndex, std::pair<int64_t, ::xla::ShapeIndex>>> aliases;
    for (int i = 0; i < inputs_.num_held(); ++i) {
      results.push_back(shapes[i]);
      aliases.push_back({{i}, {i, {}}});
    }
    results.push_back(xla_call::RowMajor(tf::DT_BOOL, {}));
    const ::xla::XlaOp call = ::xla::CustomCallWithLayout(
        context->builder(), kTarget, operands, ::xla::ShapeUtil::MakeTupleShape(results), shapes,
        text_, /*has_side_effect=*/false, aliases, /*literal=*/nullptr,
        ::xla::CustomCallSchedule::SCHEDULE_NONE,
        ::xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < inputs_.num_held(); ++i) {
      OP_REQUIRES_OK(context,
                     context->AssignVariable(i, types[i], ::xla::GetTupleElement(call, i)));
    }
    context->SetOutput(0, ::xla::GetTupleElement(call, inputs_.num_held()));
  }

 private:
  std::string text_;
  StepInputs inputs_;
};

const bool registered = [] {
  const auto run = [](XLA_FFI_CallFrame* frame) -> XLA_FFI_Error* {
    static const auto* handler =
        ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(&Run).release();
    return handler->Call(frame);
  };
  ffi::Ffi::RegisterStaticHandler(ffi::GetXlaFfiApi(), kTarget, "Host", +run);
  return true;
}();

REGISTER_KERNEL_BUILDER(Name("Fastkeras>OptimizerStep").Device("XLA_CPU_JIT"), StepLowering);

}  // namespace
}  // namespace fastkeras::optimizers
