// The optimizer step inside programs that XLA compiles: one custom call, whose results are in the
// buffers of the variables themselves.

#include "doors/xla.h"

#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "optimizers/doors/step_call.h"

namespace fastkeras::optimizers {
namespace {

namespace tf = ::tensorflow;

const char* const kTarget = "Fastkeras>OptimizerStep";

std::string Text(const std::vector<bool>& flags) {
  std::string text;
  for (const bool flag : flags) text += flag ? '1' : '0';
  return text;
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
        {"adapted", &attributes.adapted},
        {"dithered", &attributes.dithered}};
    for (const auto& [name, flags] : all) {
      OP_REQUIRES_OK(context, context->GetAttr(name, flags));
      absl::StrAppend(&text_, ", ", name, " = \"", Text(*flags), "\"");
    }
    text_ += "}";
    try {
      inputs_.Set(attributes, context->num_inputs(), kNumSettings);
    } catch (const std::invalid_argument& error) {
      context->CtxFailure(absl::InvalidArgumentError(error.what()));
    }
  }

  void Compile(tf::XlaOpKernelContext* context) override {
    std::set<const tf::XlaResource*> held;
    for (int i = 0; i < inputs_.num_held(); ++i) {
      tf::XlaResource* resource = nullptr;
      OP_REQUIRES_OK(context, context->GetResourceInput(i, &resource));
      OP_REQUIRES(context, held.insert(resource).second,
                  absl::InvalidArgumentError("a variable is given twice"));
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
  ffi::Ffi::RegisterStaticHandler(ffi::GetXlaFfiApi(), kTarget, "Host", &HandleStep);
  return true;
}();

REGISTER_KERNEL_BUILDER(Name("Fastkeras>OptimizerStep").Device("XLA_CPU_JIT"), StepLowering);

}  // namespace
}  // namespace fastkeras::optimizers
