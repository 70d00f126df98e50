#include "machine/multiply_adds.h"

#include "machine/instruction_set.h"

namespace fastkeras {

namespace {

constexpr int kChains =
    12;  // more than the units of a core have under way, and fewer than registers

typedef float Vec4 __attribute__((vector_size(16)));
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));

template <typename Vec>
inline __attribute__((always_inline)) int64_t InRegisters(int64_t times) {
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Vec{} - static_cast<float>(i);  // not all alike
  const Vec factor = Vec{} + 0.5f, term = Vec{} + 1.0f;
  for (int64_t n = 0; n < times; ++n) {
    for (Vec& sum : sums) sum = sum * factor + term;
  }
  for (Vec& sum : sums) {  // or the compiler would leave the work out
    volatile float used = sum[0];
    static_cast<void>(used);
  }
  return 2 * kChains * static_cast<int64_t>(sizeof(Vec) / sizeof(float)) * times;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t Avx512(int64_t times) {
  return InRegisters<Vec16>(times);
}
__attribute__((target("avx2,fma"))) int64_t Avx2(int64_t times) { return InRegisters<Vec8>(times); }
#endif

}  // namespace

int64_t MultiplyAdds(int64_t times) {
#if defined(__x86_64__)
  if (CurrentInstructionSet() == kAvx512) return Avx512(times);
  if (CurrentInstructionSet() == kAvx2) return Avx2(times);
#endif
  return InRegisters<Vec4>(times);
}

}  // namespace fastkeras
