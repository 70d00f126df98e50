// Definitions for the kernels of every domain. Python puts this text before theirs (cupy.py), since
// NVRTC, which compiles them at run time, cannot include files. To run them on a CPU, the tests put
// cuda_on_cpu.h before both.
#if !defined(FASTKERAS_ON_CPU)
#define FASTKERAS_SHARED(type, name, count) __shared__ type name[count]
#define FASTKERAS_KERNEL(name) static_assert(true)
#define FASTKERAS_TABLE(type) const __grid_constant__ type  // an argument that is not copied
using int64_t = long long;
#define INFINITY __int_as_float(0x7f800000)  // NVRTC has no <cmath>
#define NAN __int_as_float(0x7fc00000)
#endif

constexpr unsigned kAllLanes = ~0u;

__device__ inline float Exp(float x) { return expf(x); }
__device__ inline double Exp(double x) { return exp(x); }

struct Sum {
  template <typename Value>
  __device__ static Value Of(Value a, Value b) {
    return a + b;
  }
};
struct Smallest {
  template <typename Value>
  __device__ static Value Of(Value a, Value b) {
    return b < a ? b : a;
  }
};
struct Largest {  // ignores NaN
  template <typename Value>
  __device__ static Value Of(Value a, Value b) {
    return b > a ? b : a;
  }
};

// Combines the values of a warp, into their sum for instance, and returns the result to all lanes.
// The order is always the same.
template <typename Combine, typename Value>
__device__ inline Value OfWarp(Value value) {
  for (int bits = 16; bits; bits /= 2) {
    value = Combine::Of(value, __shfl_xor_sync(kAllLanes, value, bits));
  }
  return value;
}

// The same for a block of kThreads threads; `shared` has room for one value per warp.
template <typename Combine, int kThreads, typename Value>
__device__ inline Value OfBlock(Value value, Value* shared) {
  value = OfWarp<Combine>(value);
  if (kThreads == 32) return value;
  __syncthreads();  // all threads have read what `shared` held before
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) value = Combine::Of(value, shared[warp]);
  return value;
}
