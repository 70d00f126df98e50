// Runs a plan: the launches of CUDA kernels that fastkeras/_ops/cuda_plan.py has recorded, as one
// custom call of XLA. The kernels are compiled, and loaded, by Python, which registers them here.
// CUDA is not linked: its driver is opened at the first call.
//
// Attributes of a call:
//   plan     int64 array, see Program
//   kernels  the names of the kernels, each followed by a line feed
//   rank     that of the first input; axes in front of it were added by transformations of JAX,
//            and the plan then runs for each of their elements
// The buffers of a plan are the inputs, then the outputs, all of the shapes for one element.

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "doors/jax.h"

namespace fastkeras::cuda {
namespace {

using tensorflow::Error;
using tensorflow::InvalidArgument;
using xla_call::Caught;
using xla_call::Expected;
namespace ffi = ::xla::ffi;

// The functions of CUDA's driver, by the types of its C interface; 0 stands for success.
struct Driver {
  int (*launch_kernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                       void* stream, void** arguments, void** extra) = nullptr;
  int (*memset_async)(uint64_t address, unsigned char value, size_t bytes, void* stream) = nullptr;
  int (*get_context)(void** context) = nullptr;
  int (*set_context)(void* context) = nullptr;
  int (*get_device)(int* device, int ordinal) = nullptr;
  int (*retain_context)(void** context, int device) = nullptr;
  int (*name_of_error)(int error, const char** name) = nullptr;
};

std::mutex mutex;
Driver given;                                            // by tests
std::map<std::pair<std::string, int>, void*> functions;  // by the name and the GPU's number

template <typename Function>
void Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (!*function) InvalidArgument("libcuda.so.1 has no ", name);
}

Driver Opened() {
  Driver driver;
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) InvalidArgument("CUDA's driver cannot be opened: ", dlerror());
  Find(library, "cuLaunchKernel", &driver.launch_kernel);
  Find(library, "cuMemsetD8Async", &driver.memset_async);
  Find(library, "cuCtxGetCurrent", &driver.get_context);
  Find(library, "cuCtxSetCurrent", &driver.set_context);
  Find(library, "cuDeviceGet", &driver.get_device);
  Find(library, "cuDevicePrimaryCtxRetain", &driver.retain_context);
  Find(library, "cuGetErrorName", &driver.name_of_error);
  return driver;
}

const Driver& TheDriver() {
  if (given.launch_kernel) return given;
  static const Driver driver = Opened();
  return driver;
}

void Check(const Driver& driver, int error, const char* what) {
  if (error == 0) return;
  const char* name = "an unknown error";
  if (driver.name_of_error) driver.name_of_error(error, &name);
  InvalidArgument(what, ": ", name, " (", error, ") of CUDA");
}

// XLA's own threads have the context of the GPU; any other gets it here.
void EnsureContext(const Driver& driver, int ordinal) {
  if (!driver.get_context) return;
  void* context = nullptr;
  Check(driver, driver.get_context(&context), "cuCtxGetCurrent");
  if (context) return;
  int device = 0;
  Check(driver, driver.get_device(&device, ordinal), "cuDeviceGet");
  Check(driver, driver.retain_context(&context, device), "cuDevicePrimaryCtxRetain");
  Check(driver, driver.set_context(context), "cuCtxSetCurrent");
}

struct Buffer {
  char* data;
  int64_t bytes;                 // of one element
  std::vector<int64_t> strides;  // in bytes, of the axes in front; 0 for those of size 1
};

Buffer BufferOf(ffi::AnyBuffer buffer, const std::vector<int64_t>& leading) {
  const auto sizes = buffer.dimensions();
  if (sizes.size() < leading.size()) InvalidArgument("an array has too few axes in front");
  Buffer found{static_cast<char*>(buffer.untyped_data()),
               static_cast<int64_t>(ffi::ByteWidth(buffer.element_type())),
               {}};
  for (size_t axis = leading.size(); axis < sizes.size(); ++axis) found.bytes *= sizes[axis];
  int64_t stride = found.bytes;
  found.strides.resize(leading.size());
  for (size_t axis = leading.size(); axis-- > 0;) {
    if (sizes[axis] != leading[axis] && sizes[axis] != 1) {
      InvalidArgument("an axis in front is ", sizes[axis], " and not ", leading[axis]);
    }
    found.strides[axis] = sizes[axis] == 1 ? 0 : stride;
    stride *= sizes[axis];
  }
  return found;
}

// Reads a plan. Whatever its numbers are, no index leaves the buffers or the plan.
//
// A plan is kVersion, and then operations:
//   kMemset, place              fills with zeros
//   kLaunch, kernel, grid (3), threads, arguments, and then these:
//     kNothing                  a null pointer
//     kPlace, place             a pointer
//     kNumber, bits             a number of up to 8 bytes
//     kBytes, size, fix-ups, the bytes in whole words, and then the fix-ups:
//       offset, place           a pointer that is written into the bytes
// A place is a buffer's number, an offset in it and the number of bytes there.
class Program {
 public:
  Program(ffi::Span<const int64_t> words, const std::vector<void*>& kernels,
          const std::vector<Buffer>& buffers, const Driver& driver, void* stream)
      : words_(words), kernels_(kernels), buffers_(buffers), driver_(driver), stream_(stream) {}

  // Runs it for the element at these offsets, in bytes, of the buffers; or if `dry` only checks it.
  void Run(const std::vector<int64_t>& offsets, bool dry) {
    position_ = 0;
    offsets_ = &offsets;
    if (Next() != kVersion) InvalidArgument("the plan is of another version of fastkeras");
    while (position_ < words_.size()) {
      const int64_t operation = Next();
      if (operation == kMemset) {
        const auto [address, bytes] = Place();
        if (!dry && bytes > 0) {
          Check(driver_, driver_.memset_async(address, 0, bytes, stream_), "cuMemsetD8Async");
        }
      } else if (operation == kLaunch) {
        Launch(dry);
      } else {
        Wrong("operation", operation);
      }
    }
  }

 private:
  enum { kVersion = 1 };
  enum { kMemset, kLaunch };
  enum { kNothing, kPlace, kNumber, kBytes };
  static constexpr int64_t kMostBytes = 32764;  // of all arguments of a launch

  [[noreturn]] static void Wrong(const char* what, int64_t value) {
    InvalidArgument("the plan is damaged: ", what, " ", value);
  }

  int64_t Next() {
    if (position_ >= words_.size()) InvalidArgument("the plan is damaged: it ends too soon");
    return words_[position_++];
  }

  int64_t NextUpTo(int64_t least, int64_t most, const char* what) {
    const int64_t value = Next();
    if (value < least || value > most) Wrong(what, value);
    return value;
  }

  std::pair<uint64_t, int64_t> Place() {
    const int64_t number = NextUpTo(0, static_cast<int64_t>(buffers_.size()) - 1, "buffer");
    const Buffer& buffer = buffers_[number];
    const int64_t offset = NextUpTo(0, buffer.bytes, "offset");
    const int64_t bytes = NextUpTo(0, buffer.bytes - offset, "size");
    return {reinterpret_cast<uint64_t>(buffer.data) + (*offsets_)[number] + offset, bytes};
  }

  void Launch(bool dry) {
    const int64_t kernel = NextUpTo(0, static_cast<int64_t>(kernels_.size()) - 1, "kernel");
    unsigned grid[3];
    for (unsigned& size : grid) size = static_cast<unsigned>(NextUpTo(1, 0x7fffffff, "grid"));
    const unsigned threads = static_cast<unsigned>(NextUpTo(1, 1024, "threads"));
    const int64_t count = NextUpTo(0, 4096, "count of arguments");
    std::vector<uint64_t> values;  // of all arguments, each at the beginning of a word
    std::vector<size_t> starts;
    for (int64_t i = 0; i < count; ++i) {
      starts.push_back(values.size());
      Argument(&values);
      if (static_cast<int64_t>(values.size()) * 8 > kMostBytes + 8 * count) {
        Wrong("arguments of bytes", static_cast<int64_t>(values.size()) * 8);
      }
    }
    if (dry) return;
    std::vector<void*> addresses;
    for (const size_t start : starts) addresses.push_back(&values[start]);
    Check(driver_,
          driver_.launch_kernel(kernels_[kernel], grid[0], grid[1], grid[2], threads, 1, 1, 0,
                                stream_, addresses.data(), nullptr),
          "cuLaunchKernel");
  }

  void Argument(std::vector<uint64_t>* values) {
    const int64_t kind = Next();
    if (kind == kNothing) {
      values->push_back(0);
    } else if (kind == kPlace) {
      values->push_back(Place().first);
    } else if (kind == kNumber) {
      values->push_back(static_cast<uint64_t>(Next()));  // little-endian: it begins where it is
    } else if (kind == kBytes) {
      const int64_t size = NextUpTo(1, kMostBytes, "bytes"), words = (size + 7) / 8;
      const int64_t fixes = NextUpTo(0, size / 8, "count of fix-ups");
      const size_t start = values->size();
      for (int64_t i = 0; i < words; ++i) values->push_back(static_cast<uint64_t>(Next()));
      for (int64_t i = 0; i < fixes; ++i) {
        const int64_t offset = NextUpTo(0, size - 8, "fix-up");
        const uint64_t address = Place().first;
        std::memcpy(reinterpret_cast<char*>(values->data() + start) + offset, &address, 8);
      }
    } else {
      Wrong("argument", kind);
    }
  }

  const ffi::Span<const int64_t> words_;
  const std::vector<void*>& kernels_;
  const std::vector<Buffer>& buffers_;
  const Driver& driver_;
  void* const stream_;
  size_t position_ = 0;
  const std::vector<int64_t>* offsets_ = nullptr;
};

// The loaded kernels of these names on a GPU.
std::vector<void*> KernelsOf(std::string_view names, int ordinal) {
  std::vector<void*> found;
  const std::lock_guard<std::mutex> lock(mutex);
  while (!names.empty()) {
    const size_t end = names.find('\n');
    if (end == names.npos) InvalidArgument("the plan is damaged: names of kernels");
    const std::string name(names.substr(0, end));
    const auto kernel = functions.find({name, ordinal});
    if (kernel == functions.end()) {
      InvalidArgument("the CUDA kernel ", name, " of fastkeras is not loaded in this process on ",
                      "GPU ", ordinal, ": this program was compiled in another process, or for ",
                      "another version of fastkeras; call the same function of fastkeras here ",
                      "once, on arrays of these shapes");
    }
    found.push_back(kernel->second);
    names.remove_prefix(end + 1);
  }
  return found;
}

ffi::Error Run(void* stream, int32_t ordinal, ffi::RemainingArgs inputs, ffi::RemainingRets outputs,
               ffi::Dictionary attributes) {
  return Caught([&] {
    const auto words =
        Expected<ffi::Span<const int64_t>>(attributes.get<ffi::Span<const int64_t>>("plan"));
    const auto names = Expected<std::string_view>(attributes.get<std::string_view>("kernels"));
    const std::vector<int64_t> leading = xla_call::LeadingAxes({inputs, outputs}, {attributes});
    std::vector<Buffer> buffers;
    for (size_t i = 0; i < inputs.size(); ++i) {
      buffers.push_back(BufferOf(Expected<ffi::AnyBuffer>(inputs.get<ffi::AnyBuffer>(i)), leading));
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      using Result = ffi::Result<ffi::AnyBuffer>;
      buffers.push_back(BufferOf(*Expected<Result>(outputs.get<ffi::AnyBuffer>(i)), leading));
    }
    const std::vector<void*> kernels = KernelsOf(names, ordinal);
    const Driver& driver = TheDriver();
    EnsureContext(driver, ordinal);
    Program program(words, kernels, buffers, driver, stream);
    std::vector<int64_t> offsets(buffers.size(), 0);
    program.Run(offsets, true);
    int64_t elements = 1;
    for (const int64_t size : leading) elements *= size;
    for (int64_t element = 0; element < elements; ++element) {
      for (size_t i = 0; i < buffers.size(); ++i) {
        offsets[i] = 0;
        for (int64_t axis = leading.size(), rest = element; axis-- > 0; rest /= leading[axis]) {
          offsets[i] += rest % leading[axis] * buffers[i].strides[axis];
        }
      }
      program.Run(offsets, false);
    }
  });
}

ffi::Error RunWithoutGpu(ffi::RemainingArgs inputs, ffi::RemainingRets outputs,
                         ffi::Dictionary attributes) {
  return Run(nullptr, 0, inputs, outputs, attributes);
}

}  // namespace
}  // namespace fastkeras::cuda

// It only launches kernels, in the memory that it is given, so that XLA may record it.
FASTKERAS_VISIBLE XLA_FFI_Error* fastkeras_cuda_plan(XLA_FFI_CallFrame* frame) {
  using namespace xla::ffi;
  static const auto* handler = Ffi::Bind()
                                   .Ctx<PlatformStream<void*>>()
                                   .Ctx<DeviceOrdinal>()
                                   .RemainingArgs()
                                   .RemainingRets()
                                   .Attrs()
                                   .To(&fastkeras::cuda::Run, {Traits::kCmdBufferCompatible})
                                   .release();
  return handler->Call(frame);
}

// The same on the CPU, for tests, with the driver below.
FASTKERAS_VISIBLE XLA_FFI_Error* fastkeras_cuda_plan_on_cpu(XLA_FFI_CallFrame* frame) {
  static const auto* handler = xla::ffi::Ffi::Bind()
                                   .RemainingArgs()
                                   .RemainingRets()
                                   .Attrs()
                                   .To(&fastkeras::cuda::RunWithoutGpu)
                                   .release();
  return handler->Call(frame);
}

// Lets plans launch by these functions, which have the types of cuLaunchKernel and cuMemsetD8Async.
FASTKERAS_VISIBLE void fastkeras_cuda_set_driver(void* launch_kernel, void* memset_async) {
  using fastkeras::cuda::Driver;
  Driver driver;
  driver.launch_kernel = reinterpret_cast<decltype(driver.launch_kernel)>(launch_kernel);
  driver.memset_async = reinterpret_cast<decltype(driver.memset_async)>(memset_async);
  fastkeras::cuda::given = driver;
}

// Makes a loaded kernel, a CUfunction, known under a name for the GPU of this number.
FASTKERAS_VISIBLE void fastkeras_cuda_register(const char* name, int ordinal, void* function) {
  const std::lock_guard<std::mutex> lock(fastkeras::cuda::mutex);
  fastkeras::cuda::functions[{name, ordinal}] = function;
}
