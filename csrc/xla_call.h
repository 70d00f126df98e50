// Kernels as XLA's custom calls on the CPU, by the header of XLA's foreign-function interface
// alone: neither TensorFlow nor XLA is linked.

#ifndef FASTKERAS_XLA_CALL_H_
#define FASTKERAS_XLA_CALL_H_

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <vector>

#include "tensorflow.h"
#include "xla/ffi/api/ffi.h"

namespace fastkeras::xla_call {

namespace ffi = ::xla::ffi;
using tensorflow::Error;
using tensorflow::InvalidArgument;
using tensorflow::Tensor;

// A call while it runs, as `Input` and `Output` of a kernel see it.
struct Call {
  ffi::RemainingArgs inputs;
  ffi::RemainingRets outputs;
};

inline TF_DataType TypeOf(ffi::AnyBuffer buffer) {
  switch (buffer.element_type()) {
    case ffi::DataType::F32:
      return TF_FLOAT;
    case ffi::DataType::F64:
      return TF_DOUBLE;
    case ffi::DataType::S32:
      return TF_INT32;
    case ffi::DataType::PRED:
      return TF_BOOL;
    default:
      InvalidArgument("the kernels read float32, float64, int32 and bool, got XLA's type number ",
                      static_cast<int>(buffer.element_type()));
  }
}

inline Tensor Borrowed(ffi::AnyBuffer buffer) {
  const auto dimensions = buffer.dimensions();
  const std::vector<int64_t> shape(dimensions.begin(), dimensions.end());
  return {shape, buffer.untyped_data(), nullptr, TypeOf(buffer)};
}

template <typename Value, typename Found>
Value Expected(Found found) {
  if (!found.has_value()) InvalidArgument(found.error().message());
  return *found;
}

inline Tensor Input(const Call* call, int index) {
  return Borrowed(Expected<ffi::AnyBuffer>(call->inputs.get<ffi::AnyBuffer>(index)));
}

template <typename T>
Tensor Output(const Call* call, int index, const std::vector<int64_t>& shape) {
  using Buffer = ffi::Result<ffi::AnyBuffer>;
  const Tensor output = Borrowed(*Expected<Buffer>(call->outputs.get<ffi::AnyBuffer>(index)));
  ExpectShape("an output", output, shape);
  return output;
}

// What a kernel is made from when it is called.
struct CallAttributes {
  ffi::Dictionary attributes;
};

inline int32_t IntAttribute(const CallAttributes* call, const char* name) {
  return Expected<int32_t>(call->attributes.get<int32_t>(name));
}

inline bool BoolAttribute(const CallAttributes* call, const char* name) {
  return Expected<bool>(call->attributes.get<bool>(name));
}

// What `body` throws is the error of a call.
template <typename Body>
ffi::Error Caught(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return ffi::Error::InvalidArgument(error.message);
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
  return ffi::Error::Success();
}

template <typename Kernel>
ffi::Error Run(ffi::RemainingArgs inputs, ffi::RemainingRets outputs, ffi::Dictionary attributes) {
  return Caught([&] {
    const CallAttributes source{attributes};
    const Call call{inputs, outputs};
    const Kernel kernel(&source);
    kernel(&call);
  });
}

// The function that XLA calls.
template <typename Kernel>
XLA_FFI_Error* Handle(XLA_FFI_CallFrame* frame) {
  static const auto* handler =
      ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(&Run<Kernel>).release();
  return handler->Call(frame);
}

}  // namespace fastkeras::xla_call

#endif  // FASTKERAS_XLA_CALL_H_
