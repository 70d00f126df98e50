// The table of the kernels as compiled for one instruction set. Included once by each
// kernels_<set>.cc.

#include "optimizers/sweeps/halves.h"
#include "optimizers/sweeps/quantize.h"
#include "optimizers/sweeps/rules.h"
#include "optimizers/sweeps/transforms.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
constexpr decltype(optimizers::Kernels<T>::dequantize) DequantizeOf() {
  if constexpr (sizeof(T) == 4) return Dequantize;
  return nullptr;
}

template <typename T, template <typename> class R, optimizers::Rule kRule>
constexpr auto QuantizedOf() -> std::decay_t<decltype(optimizers::Kernels<T>::quantized[0])> {
  if constexpr (sizeof(T) == 4 && CanBeNarrow(kRule)) return ApplyQuantized<R, kRule>;
  return nullptr;
}

template <typename T, template <typename> class R, optimizers::Rule kRule>
constexpr auto HalvedOf() -> std::decay_t<decltype(optimizers::Kernels<T>::halved[0])> {
  if constexpr (sizeof(T) == 4 && CanBeNarrow(kRule)) return ApplyHalved<R, kRule>;
  return nullptr;
}

template <typename T, template <typename> class R, optimizers::Rule kRule>
constexpr auto LengthsFor() -> std::decay_t<decltype(optimizers::Kernels<T>::lengths[0])> {
  if constexpr (ScalingOf(kRule) == optimizers::Scaling::kNone) {
    return LengthsOf<T, R>;
  } else {
    return MeasuresOf<T, R>;
  }
}

#define FASTKERAS_APPLY(Struct, ...) ApplyRule<T, Struct>,
#define FASTKERAS_LENGTHS(Struct, ...) LengthsFor<T, Struct, optimizers::Rule::k##Struct>(),
#define FASTKERAS_QUANTIZED(Struct, ...) QuantizedOf<T, Struct, optimizers::Rule::k##Struct>(),
#define FASTKERAS_HALVED(Struct, ...) HalvedOf<T, Struct, optimizers::Rule::k##Struct>(),
#define FASTKERAS_COUNT(Struct, ...) CountCoefficients<T, Struct>(),

template <typename T>
constexpr optimizers::Kernels<T> kStepKernels = {{FASTKERAS_OPTIMIZER_RULES(FASTKERAS_APPLY)},
                                                 {FASTKERAS_OPTIMIZER_RULES(FASTKERAS_LENGTHS)},
                                                 {FASTKERAS_OPTIMIZER_RULES(FASTKERAS_COUNT)},
                                                 Transform<T>,
                                                 SumOfSquares<T>,
                                                 SumOfMagnitudes<T>,
                                                 SumOfDefects<T>,
                                                 LoadAs<T>,
                                                 StoreAs<T>,
                                                 Dither<T>,
                                                 {FASTKERAS_OPTIMIZER_RULES(FASTKERAS_QUANTIZED)},
                                                 {FASTKERAS_OPTIMIZER_RULES(FASTKERAS_HALVED)},
                                                 DequantizeOf<T>()};

#undef FASTKERAS_APPLY
#undef FASTKERAS_LENGTHS
#undef FASTKERAS_QUANTIZED
#undef FASTKERAS_HALVED
#undef FASTKERAS_COUNT

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::optimizers {

FASTKERAS_EXPORT(float, kStepKernels<float>)
FASTKERAS_EXPORT(double, kStepKernels<double>)

}  // namespace fastkeras::optimizers
