// The table of the kernels that this file's instruction set was compiled to. Included once by each
// kernels_<set>.cc.

#include "optimizers/quantize.h"
#include "optimizers/rules.h"
#include "optimizers/transforms.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
constexpr decltype(optimizers::Kernels<T>::dequantize) DequantizeOf() {
  if constexpr (sizeof(T) == 4) return Dequantize;
  return nullptr;
}

template <typename T>
constexpr decltype(optimizers::Kernels<T>::quantize) QuantizeOf() {
  if constexpr (sizeof(T) == 4) return Quantize;
  return nullptr;
}

#define FASTKERAS_OF_EACH_RULE(Function) \
  {Function<T, Sgd>,                     \
   Function<T, Momentum>,                \
   Function<T, Nesterov>,                \
   Function<T, Adam>,                    \
   Function<T, Amsgrad>,                 \
   Function<T, Nadam>,                   \
   Function<T, Lion>,                    \
   Function<T, Rmsprop>,                 \
   Function<T, RmspropMomentum>,         \
   Function<T, CenteredRmsprop>,         \
   Function<T, CenteredRmspropMomentum>, \
   Function<T, Adagrad>,                 \
   Function<T, Lamb>}

template <typename T>
constexpr optimizers::Kernels<T> kStepKernels = {FASTKERAS_OF_EACH_RULE(ApplyRule),
                                                 FASTKERAS_OF_EACH_RULE(LengthsOf),
                                                 Transform<T>,
                                                 SumOfSquares<T>,
                                                 SumOfMagnitudes<T>,
                                                 LoadAs<T>,
                                                 StoreAs<T>,
                                                 Dither<T>,
                                                 DequantizeOf<T>(),
                                                 QuantizeOf<T>()};
#undef FASTKERAS_OF_EACH_RULE

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::optimizers {

FASTKERAS_EXPORT(float, kStepKernels<float>)
FASTKERAS_EXPORT(double, kStepKernels<double>)

}  // namespace fastkeras::optimizers
