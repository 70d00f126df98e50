// Lets our kernels run inside programs that XLA compiles for the CPU: each op becomes a custom
// call.
//
// docs/packaging.md says which parts of TensorFlow this needs. It takes a minute to compile.

#ifndef FASTKERAS_DOORS_XLA_H_
#define FASTKERAS_DOORS_XLA_H_

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "doors/tensorflow.h"
#include "doors/xla_call.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();  // TensorFlow has it, but not the header that says so
}

namespace fastkeras::xla_call {

using tensorflow::Shapes;

// What a kernel is constructed from while XLA compiles.
struct OpAttributes {
  ::tensorflow::OpKernelConstruction* construction;
};

template <typename Value>
Value Attribute(const OpAttributes* op, const char* name) {
  Value value{};
  const auto status = op->construction->GetAttr(name, &value);
  if (!status.ok()) InvalidArgument(status.message());
  return value;
}

inline int32_t IntAttribute(const OpAttributes* op, const char* name) {
  return Attribute<int32_t>(op, name);
}

inline bool BoolAttribute(const OpAttributes* op, const char* name) {
  return Attribute<bool>(op, name);
}

// The attributes as the text of an MLIR dictionary, which `Run` gets back.
inline std::string AttributesText(const ::tensorflow::NodeDef& node) {
  std::string text;
  for (const auto& [name, value] : node.attr()) {
    if (value.value_case() == ::tensorflow::AttrValue::kI) {
      text += (text.empty() ? "" : ", ") + name + " = " + std::to_string(value.i()) + " : i32";
    } else if (value.value_case() == ::tensorflow::AttrValue::kB) {
      text += (text.empty() ? "" : ", ") + name + (value.b() ? " = true" : " = false");
    }
  }
  return "{" + text + "}";
}

inline ::xla::Shape RowMajor(::tensorflow::DataType type, const std::vector<int64_t>& shape) {
  ::xla::PrimitiveType element = ::xla::PRIMITIVE_TYPE_INVALID;
  const auto status = ::tensorflow::DataTypeToPrimitiveType(type, &element);
  if (!status.ok()) InvalidArgument(status.message());
  return ::xla::ShapeUtil::MakeShapeWithDescendingLayout(element, shape);
}

// XLA lets a size vary up to a bound, and our call would see only the bound.
inline void ExpectKnownSizes(::tensorflow::XlaOpKernelContext* context, int index) {
  const auto shape = context->InputXlaShape(index);
  if (shape.ok() && shape->is_dynamic()) {
    InvalidArgument(context->op_kernel().type_string(), " takes no sizes that XLA finds out while ",
                    "it runs, got ", shape->ToString(), "; engine='keras' does");
  }
}

// Stands for the op while XLA compiles, when every shape is known, and puts our call in its place.
template <typename Kernel>
class Lowering : public ::tensorflow::XlaOpKernel {
 public:
  explicit Lowering(::tensorflow::OpKernelConstruction* construction)
      : XlaOpKernel(construction), attributes_(AttributesText(construction->def())) {
    const OpAttributes source{construction};
    Guarded([&] { kernel_ = std::make_unique<Kernel>(&source); },
            [&](const char* message) {
              construction->CtxFailure(absl::InvalidArgumentError(message));
            });
  }

  void Compile(::tensorflow::XlaOpKernelContext* context) override {
    Guarded([&] { LeaveCall(context); },
            [&](const char* message) { context->CtxFailure(absl::InvalidArgumentError(message)); });
  }

 private:
  template <typename Body, typename Report>
  static void Guarded(Body body, Report report) {
    try {
      body();
    } catch (const Error& error) {
      report(error.message.c_str());
    } catch (const std::exception& error) {
      report(error.what());
    }
  }

  void LeaveCall(::tensorflow::XlaOpKernelContext* context) {
    Shapes shapes;
    std::vector<::xla::XlaOp> inputs;
    std::vector<::xla::Shape> input_shapes, output_shapes;
    for (int i = 0; i < context->num_inputs(); ++i) {
      ExpectKnownSizes(context, i);
      const auto sizes = context->InputShape(i).dim_sizes();
      shapes.emplace_back(sizes.begin(), sizes.end());
      inputs.push_back(context->Input(i));
      input_shapes.push_back(RowMajor(context->input_type(i), shapes.back()));
    }
    shapes = kernel_->OutputShapes(shapes);
    for (int i = 0; i < context->num_outputs(); ++i) {
      output_shapes.push_back(RowMajor(context->expected_output_dtype(i), shapes[i]));
    }
    const ::xla::XlaOp call = ::xla::CustomCallWithLayout(
        context->builder(), Target(), inputs, ::xla::ShapeUtil::MakeTupleShape(output_shapes),
        input_shapes, attributes_, /*has_side_effect=*/false, /*output_operand_aliasing=*/{},
        /*literal=*/nullptr, ::xla::CustomCallSchedule::SCHEDULE_NONE,
        ::xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (int i = 0; i < context->num_outputs(); ++i) {
      context->SetOutput(i, ::xla::GetTupleElement(call, i));
    }
  }

  static std::string& Target() {
    static std::string target;
    return target;
  }

  template <template <typename> class, typename>
  friend void RegisterCall(const char* op);

  std::string attributes_;
  std::unique_ptr<Kernel> kernel_;
};

// Registers the kernel of an existing op for programs that XLA compiles.
template <template <typename> class Kernel, typename T>
void RegisterCall(const char* op) {
  using ThisLowering = Lowering<Kernel<T>>;
  ThisLowering::Target() = std::string(op) + (sizeof(T) == 4 ? "/float" : "/double");
  ffi::Ffi::RegisterStaticHandler(ffi::GetXlaFfiApi(), ThisLowering::Target(), "Host",
                                  &Handle<Kernel<T>>);
  const auto* definition = ::tensorflow::KernelDefBuilder(op)
                               .Device("XLA_CPU_JIT")
                               .template TypeConstraint<T>("T")
                               .Build();
  ::tensorflow::kernel_factory::OpKernelRegistrar(
      definition, op, [](::tensorflow::OpKernelConstruction* construction) {
        return static_cast<::tensorflow::OpKernel*>(new ThisLowering(construction));
      });
}

template <template <typename> class Kernel>
void RegisterCalls(const char* op) {
  RegisterCall<Kernel, float>(op);
  RegisterCall<Kernel, double>(op);
}

}  // namespace fastkeras::xla_call

#endif  // FASTKERAS_DOORS_XLA_H_
