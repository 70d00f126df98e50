// What every op of ours needs from TensorFlow's C API: errors, tensors, shapes, registration.

#ifndef FASTKERAS_DOORS_TENSORFLOW_H_
#define FASTKERAS_DOORS_TENSORFLOW_H_

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "doors/argument_checks.h"
#include "doors/tensorflow_c_api.h"

namespace fastkeras::tensorflow {

// Thrown inside a kernel or a shape function; `Guarded` turns it into a status.
struct Error {
  TF_Code code;
  std::string message;
};

template <typename... Parts>
[[noreturn]] void InvalidArgument(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error{TF_INVALID_ARGUMENT, message.str()};
}

class Status {
 public:
  operator TF_Status*() const { return status_.get(); }
  void ThrowIfFailed() const {
    if (TF_GetCode(*this) != TF_OK) throw Error{TF_GetCode(*this), TF_Message(*this)};
  }

 private:
  std::unique_ptr<TF_Status, void (*)(TF_Status*)> status_{TF_NewStatus(), TF_DeleteStatus};
};

// Runs `body`; what it throws is given to `report` as a status.
template <typename Body, typename Report>
void Guarded(Body body, Report report) {
  Status status;
  try {
    return body();
  } catch (const Error& error) {
    TF_SetStatus(status, error.code, error.message.c_str());
  } catch (const std::invalid_argument& error) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "out of memory");
  } catch (const std::exception& error) {
    TF_SetStatus(status, TF_INTERNAL, error.what());
  }
  report(status);
}

template <typename T>
constexpr TF_DataType kType = static_cast<TF_DataType>(0);
template <>
inline constexpr TF_DataType kType<float> = TF_FLOAT;
template <>
inline constexpr TF_DataType kType<double> = TF_DOUBLE;
template <>
inline constexpr TF_DataType kType<int32_t> = TF_INT32;
template <>
inline constexpr TF_DataType kType<bool> = TF_BOOL;

using Shapes = std::vector<std::vector<int64_t>>;

// An input or an output of a running kernel; if owned, it is freed when the kernel is done.
struct Tensor {
  template <typename T>
  T* data() const {
    constexpr TF_DataType expected = kType<std::remove_const_t<T>>;
    if (type != TF_DataType{} && type != expected) {
      InvalidArgument("an array has the type ", type, ", the kernel takes ", expected);
    }
    return static_cast<T*>(address);
  }
  std::vector<int64_t> shape;
  void* address;
  std::shared_ptr<TF_Tensor> owned;
  TF_DataType type{};  // 0 where the op's definition has checked it
};

inline Tensor Owned(TF_Tensor* tensor) {
  Tensor owned{{}, TF_TensorData(tensor), {tensor, TF_DeleteTensor}};
  for (int i = 0; i < TF_NumDims(tensor); ++i) owned.shape.push_back(TF_Dim(tensor, i));
  return owned;
}

inline Tensor Input(TF_OpKernelContext* context, int index) {
  Status status;
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context, index, &tensor, status);
  status.ThrowIfFailed();
  return Owned(tensor);
}

template <typename T>
Tensor Output(TF_OpKernelContext* context, int index, const std::vector<int64_t>& shape) {
  Status status;
  size_t bytes = sizeof(T);
  for (int64_t dim : shape) bytes *= dim;
  TF_Tensor* tensor = TF_AllocateOutput(context, index, kType<T>, shape.data(),
                                        static_cast<int>(shape.size()), bytes, status);
  status.ThrowIfFailed();
  return Owned(tensor);
}

// An output in the memory of an input of its size, if nobody else needs that. The kernel must not
// hold that input yet.
template <typename T>
Tensor OutputInPlaceOf(TF_OpKernelContext* context, int input, int index,
                       const std::vector<int64_t>& shape) {
  Status status;
  TF_Tensor* tensor = TF_ForwardInputOrAllocateOutput(
      context, &input, 1, index, shape.data(), static_cast<int>(shape.size()), nullptr, status);
  status.ThrowIfFailed();
  return Owned(tensor);
}

// As an argument of the functions that check (argument_checks.h).
template <typename T>
Argument<T> ArgumentOf(const Tensor& tensor) {
  return {tensor.data<const T>(), tensor.shape};
}

inline void ExpectShape(const char* name, const Tensor& tensor,
                        const std::vector<int64_t>& expected) {
  if (tensor.shape != expected) {
    InvalidArgument(name, " must have shape ", Text(expected), ", got ", Text(tensor.shape));
  }
}

// The shapes an op's graph node sees; any dimension may be unknown.
class ShapeInference {
 public:
  explicit ShapeInference(TF_ShapeInferenceContext* context) : context_(context) {}
  using Shape = std::unique_ptr<TF_ShapeHandle, void (*)(TF_ShapeHandle*)>;

  Shape Input(int index, int64_t rank) {
    Shape given = New(), ranked = New();
    TF_ShapeInferenceContextGetInput(context_, index, given.get(), status_);
    status_.ThrowIfFailed();
    TF_ShapeInferenceContextWithRank(context_, given.get(), rank, ranked.get(), status_);
    status_.ThrowIfFailed();
    return ranked;
  }
  Shape Input(int index) {  // of any rank
    Shape given = New();
    TF_ShapeInferenceContextGetInput(context_, index, given.get(), status_);
    status_.ThrowIfFailed();
    return given;
  }
  // -1 if it is unknown.
  int64_t Rank(const Shape& shape) {
    if (!TF_ShapeInferenceContextRankKnown(context_, shape.get())) return -1;
    return TF_ShapeInferenceContextRank(context_, shape.get());
  }
  Shape Slice(const Shape& shape, int64_t start, int64_t end) {
    Shape slice = New();
    TF_ShapeInferenceContextSubshape(context_, shape.get(), start, end, slice.get(), status_);
    status_.ThrowIfFailed();
    return slice;
  }
  Shape Concatenate(const Shape& first, const Shape& second) {
    Shape both = New();
    TF_ShapeInferenceContextConcatenateShapes(context_, first.get(), second.get(), both.get(),
                                              status_);
    status_.ThrowIfFailed();
    return both;
  }
  void SetOutput(int index, const Shape& shape) {
    TF_ShapeInferenceContextSetOutput(context_, index, shape.get(), status_);
    status_.ThrowIfFailed();
  }
  void SetAllUnknown() { TF_ShapeInferenceContextSetUnknownShape(context_, status_); }

 private:
  static Shape New() { return {TF_NewShapeHandle(), TF_DeleteShapeHandle}; }
  TF_ShapeInferenceContext* context_;
  Status status_;
};

template <void (*infer)(ShapeInference&)>
void InferShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  Guarded(
      [&] {
        ShapeInference shapes(context);
        infer(shapes);
      },
      [&](TF_Status* error) { TF_SetStatus(status, TF_GetCode(error), TF_Message(error)); });
}

inline int32_t IntAttribute(TF_OpKernelConstruction* construction, const char* name) {
  Status status;
  int32_t value = 0;
  TF_OpKernelConstruction_GetAttrInt32(construction, name, &value, status);
  status.ThrowIfFailed();
  return value;
}

inline bool BoolAttribute(TF_OpKernelConstruction* construction, const char* name) {
  Status status;
  TF_Bool value = 0;
  TF_OpKernelConstruction_GetAttrBool(construction, name, &value, status);
  status.ThrowIfFailed();
  return value;
}

// Errors of registration come later, from inside TensorFlow, which reports them; the statuses here
// are empty.
using Words = std::initializer_list<const char*>;
template <void (*infer)(ShapeInference&)>
void RegisterOp(const char* name, Words inputs, Words outputs, Words attributes) {
  Status status;
  TF_OpDefinitionBuilder* builder = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(builder, attribute);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(builder, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(builder, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, &InferShapes<infer>);
  TF_RegisterOpDefinition(builder, status);
}

// `Kernel<T>` is made from a TF_OpKernelConstruction* and called with a TF_OpKernelContext*. Its
// name has to be unique among all files: gcc merges what it instantiates for two of the same name,
// even if each is in an unnamed namespace.
template <template <typename> class Kernel, typename T>
void RegisterKernel(const char* op) {
  const auto create = [](TF_OpKernelConstruction* construction) -> void* {
    void* kernel = nullptr;
    Guarded([&] { kernel = new Kernel<T>(construction); },
            [&](TF_Status* error) { TF_OpKernelConstruction_Failure(construction, error); });
    return kernel;
  };
  const auto compute = [](void* kernel, TF_OpKernelContext* context) {
    Guarded([&] { (*static_cast<const Kernel<T>*>(kernel))(context); },
            [&](TF_Status* error) { TF_OpKernelContext_Failure(context, error); });
  };
  const auto destroy = [](void* kernel) { delete static_cast<Kernel<T>*>(kernel); };
  Status status;
  TF_KernelBuilder* builder = TF_NewKernelBuilder(op, "CPU", create, compute, destroy);
  TF_KernelBuilder_TypeConstraint(builder, "T", kType<T>, status);
  TF_RegisterKernelBuilder(op, builder, status);
}

}  // namespace fastkeras::tensorflow

#endif  // FASTKERAS_DOORS_TENSORFLOW_H_
