// Which of the compiled kernels answer: those of the widest instruction set that this processor
// has.

#ifndef FASTKERAS_MACHINE_INSTRUCTION_SET_H_
#define FASTKERAS_MACHINE_INSTRUCTION_SET_H_

namespace fastkeras {

// "avx512", "avx2" or "portable". SetInstructionSet lets a test take a lesser one; it returns
// false, and changes nothing, if this processor has no such set.
const char* InstructionSet();
bool SetInstructionSet(const char* name);

// Of the kernels of three instruction sets, the current one's; on another processor than x86-64
// only the first exists.
enum InstructionSetIndex { kPortable, kAvx2, kAvx512 };
InstructionSetIndex CurrentInstructionSet();

// Defines a domain's CurrentKernels<T>, which answers with what its kernels_<set>.cc export
// (FASTKERAS_EXPORT in simd.h).
#if defined(__x86_64__)
#define FASTKERAS_CURRENT_KERNELS(T)                                                \
  const Kernels<T>* portable_##T();                                                 \
  const Kernels<T>* avx2_##T();                                                     \
  const Kernels<T>* avx512_##T();                                                   \
  template <>                                                                       \
  const Kernels<T>& CurrentKernels<T>() {                                           \
    constexpr const Kernels<T>* (*sets[])() = {portable_##T, avx2_##T, avx512_##T}; \
    return *sets[CurrentInstructionSet()]();                                        \
  }
#else
#define FASTKERAS_CURRENT_KERNELS(T)      \
  const Kernels<T>* portable_##T();       \
  template <>                             \
  const Kernels<T>& CurrentKernels<T>() { \
    return *portable_##T();               \
  }
#endif

}  // namespace fastkeras

#endif  // FASTKERAS_MACHINE_INSTRUCTION_SET_H_
