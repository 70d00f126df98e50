// Ten faults, one per kernel, which the emulation has to find (test_emulation.py).
// Compiled as a program; its arguments are the name of the kernel and the seed of the order.
#include <cstdio>

__global__ void sound(float* out) {  // correct; each of the others breaks this pattern
  FASTKERAS_SHARED(float, values, 64);
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  float sum = values[63 - threadIdx.x];
  for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  if (threadIdx.x % 32 == 0) out[2 * blockIdx.x + threadIdx.x / 32] = sum;
}
FASTKERAS_KERNEL(sound);

__global__ void divergent_barrier(float* out) {
  out += blockDim.x * blockIdx.x;
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] = 1;
  if (threadIdx.x >= 40) return;
  __syncthreads();
}
FASTKERAS_KERNEL(divergent_barrier);

__global__ void divergent_shuffle(float* out) {
  out += blockDim.x * blockIdx.x;
  if (threadIdx.x % 32 < 8) out[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
}
FASTKERAS_KERNEL(divergent_shuffle);

__global__ void shuffle_from_no_one(float* out) {
  out += blockDim.x * blockIdx.x;
  if (threadIdx.x % 32 < 8) out[threadIdx.x] = __shfl_xor_sync(0xFFu, 1.0f, 16);
}
FASTKERAS_KERNEL(shuffle_from_no_one);

__global__ void out_of_bounds(float* out) {
  out += blockDim.x * blockIdx.x;
  FASTKERAS_SHARED(float, values, 64);
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}
FASTKERAS_KERNEL(out_of_bounds);

__global__ void missing_syncwarp(float* out) {
  out += blockDim.x * blockIdx.x;
  FASTKERAS_SHARED(float, values, 64);
  values[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}
FASTKERAS_KERNEL(missing_syncwarp);

__global__ void missing_syncthreads(float* out) {
  out += blockDim.x * blockIdx.x;
  FASTKERAS_SHARED(float, values, 64);
  values[threadIdx.x] = threadIdx.x;
  __syncwarp();
  out[threadIdx.x] = values[63 - threadIdx.x];
}
FASTKERAS_KERNEL(missing_syncthreads);

__global__ void add_without_atomic(float* out) { out[blockIdx.x] += threadIdx.x; }
FASTKERAS_KERNEL(add_without_atomic);

__global__ void two_blocks_at_one_place(float* out) {
  if (threadIdx.x == 0) out[0] = blockIdx.x;
}
FASTKERAS_KERNEL(two_blocks_at_one_place);

__global__ void shared_memory_never_written(float* out) {
  out += blockDim.x * blockIdx.x;
  FASTKERAS_SHARED(float, values, 64);
  if (threadIdx.x != 5) values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}
FASTKERAS_KERNEL(shared_memory_never_written);

__global__ void out_of_a_local_array(float* out) {  // after a switch to other threads, and back
  float local[4] = {1, 2, 3, 4};
  __syncthreads();
  float* volatile values = local;  // UBSan does not know what it points to
  values[4 + threadIdx.x / 64] = 5;
  out[threadIdx.x] = values[1];
}
FASTKERAS_KERNEL(out_of_a_local_array);

// Prints what two blocks of 64 threads wrote; returns 1 if the emulation found a fault.
int main(int, char** arguments) {
  float* out = static_cast<float*>(std::calloc(128, sizeof(float)));
  void* args[] = {&out};
  const unsigned sizes[] = {2, 1, 1, 64, 1, 1};
  const char* error =
      launch_on_cpu(arguments[1], sizes, static_cast<unsigned>(std::atoi(arguments[2])), args);
  if (error) std::fprintf(stderr, "%s\n", error);
  for (int i = 0; i < 128; ++i) std::printf("%g ", out[i]);
  std::free(out);
  return error != nullptr;
}
