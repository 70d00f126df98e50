// Kernels as XLA's custom calls on the CPU. It needs only the header of XLA's foreign-function
// interface, and links neither TensorFlow nor XLA.

#ifndef FASTKERAS_DOORS_XLA_CALL_H_
#define FASTKERAS_DOORS_XLA_CALL_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <vector>

#include "doors/tensorflow.h"
#include "machine/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace fastkeras::xla_call {

namespace ffi = ::xla::ffi;
using tensorflow::Error;
using tensorflow::InvalidArgument;
using tensorflow::Tensor;

// A running call, as `Input` and `Output` of a kernel see it. Where transformations of JAX have
// given all arrays leading axes, it is that of one element along these. In an input they may have
// size 1.
struct Call {
  ffi::RemainingArgs inputs;
  ffi::RemainingRets outputs;
  std::vector<int64_t> leading = {};
  int64_t element = 0;  // its number in row-major order
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

// The element's part of an array.
inline Tensor Borrowed(const Call* call, ffi::AnyBuffer buffer) {
  const TF_DataType type = TypeOf(buffer);
  const auto sizes = buffer.dimensions();
  const size_t leading = call->leading.size();
  if (sizes.size() < leading) {
    InvalidArgument("an array has ", sizes.size(), " axes, fewer than the ", leading, " in front");
  }
  const std::vector<int64_t> shape(sizes.begin() + leading, sizes.end());
  if (leading == 0) return {shape, buffer.untyped_data(), nullptr, type};
  int64_t bytes = static_cast<int64_t>(ffi::ByteWidth(buffer.element_type()));
  for (const int64_t size : shape) bytes *= size;
  int64_t offset = 0;
  for (int64_t axis = leading, rest = call->element; axis-- > 0;) {
    const int64_t size = call->leading[axis], own = sizes[axis];
    if (own != size && own != 1) InvalidArgument("an axis in front is ", own, " and not ", size);
    if (own == size) offset += rest % size * bytes;
    rest /= size;
    bytes *= own;
  }
  return {shape, static_cast<char*>(buffer.untyped_data()) + offset, nullptr, type};
}

template <typename Value, typename Found>
Value Expected(Found found) {
  if (!found.has_value()) InvalidArgument(found.error().message());
  return *found;
}

inline Tensor Input(const Call* call, int index) {
  return Borrowed(call, Expected<ffi::AnyBuffer>(call->inputs.get<ffi::AnyBuffer>(index)));
}

template <typename T>
Tensor Output(const Call* call, int index, const std::vector<int64_t>& shape) {
  using Buffer = ffi::Result<ffi::AnyBuffer>;
  const Tensor output = Borrowed(call, *Expected<Buffer>(call->outputs.get<ffi::AnyBuffer>(index)));
  ExpectShape("an output", output, shape);
  return output;
}

// XLA decides where outputs are.
template <typename T>
Tensor OutputInPlaceOf(const Call* call, int, int index, const std::vector<int64_t>& shape) {
  return Output<T>(call, index, shape);
}

// What a kernel is constructed from when it is called.
struct CallAttributes {
  ffi::Dictionary attributes;
};

inline int32_t IntAttribute(const CallAttributes* call, const char* name) {
  return Expected<int32_t>(call->attributes.get<int32_t>(name));
}

inline bool BoolAttribute(const CallAttributes* call, const char* name) {
  return Expected<bool>(call->attributes.get<bool>(name));
}

// Turns what `body` throws into the error of a call.
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

// The sizes of a call's leading axes, read from its first output. There are as many as the first
// input has axes beyond the attribute "rank"; none without that attribute.
inline std::vector<int64_t> LeadingAxes(const Call& call, const CallAttributes& source) {
  if (!source.attributes.contains("rank")) return {};
  const auto input = Expected<ffi::AnyBuffer>(call.inputs.get<ffi::AnyBuffer>(0)).dimensions();
  const int64_t count = static_cast<int64_t>(input.size()) - IntAttribute(&source, "rank");
  const auto output =
      (*Expected<ffi::Result<ffi::AnyBuffer>>(call.outputs.get<ffi::AnyBuffer>(0))).dimensions();
  if (count < 0 || count > static_cast<int64_t>(output.size())) {
    InvalidArgument("the first array has ", input.size(), " axes, ", count, " more than its own");
  }
  return {output.begin(), output.begin() + count};
}

// Shares out the elements of a call among threads; each gives the same bits as alone. The first
// one is timed to choose how many threads pay off.
template <typename Kernel>
void RunElements(const Call& call, const Kernel& kernel) {
  int64_t elements = 1;
  for (const int64_t size : call.leading) elements *= size;
  const auto run = [&](const Kernel& runs, int64_t element) {
    Call one = call;
    one.element = element;
    runs(&one);
  };
  Kernel alone = kernel;
  alone.num_threads = 1;
  const int all = NumThreads(kernel.num_threads);
  if (elements < 2 * all) {  // too few to share out
    for (int64_t element = 0; element < elements; ++element) run(kernel, element);
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  run(alone, 0);
  const std::chrono::duration<double, std::nano> once = std::chrono::steady_clock::now() - start;
  const int num_threads = ThreadsThatPay(once.count() * (elements - 1), all);
  ParallelFor(elements - 1, num_threads, [&](int64_t task) { run(alone, task + 1); });
}

template <typename Kernel>
ffi::Error Run(ffi::RemainingArgs inputs, ffi::RemainingRets outputs, ffi::Dictionary attributes) {
  return Caught([&] {
    const CallAttributes source{attributes};
    Call call{inputs, outputs};
    const Kernel kernel(&source);
    call.leading = LeadingAxes(call, source);
    if (call.leading.empty()) {
      kernel(&call);
    } else {
      RunElements(call, kernel);
    }
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

#endif  // FASTKERAS_DOORS_XLA_CALL_H_
