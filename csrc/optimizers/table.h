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

template <typename T>
constexpr optimizers::Kernels<T> kStepKernels = {
    {ApplyRule<T, Sgd>, ApplyRule<T, Momentum>, ApplyRule<T, Nesterov>, ApplyRule<T, Adam>,
     ApplyRule<T, Amsgrad>, ApplyRule<T, Nadam>, ApplyRule<T, Lion>, ApplyRule<T, Rmsprop>,
     ApplyRule<T, RmspropMomentum>, ApplyRule<T, CenteredRmsprop>,
     ApplyRule<T, CenteredRmspropMomentum>, ApplyRule<T, Adagrad>, ApplyRule<T, Lamb>},
    Add<T>,
    Transform<T>,
    SumOfSquares<T>,
    SumOfMagnitudes<T>,
    LoadAs<T>,
    StoreAs<T>,
    Dither<T>,
    DequantizeOf<T>(),
    QuantizeOf<T>()};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::optimizers {

#define FASTKERAS_NAME_OF(set, type) FASTKERAS_JOIN(set, type)
#define FASTKERAS_JOIN(set, type) set##_##type
const Kernels<float>* FASTKERAS_NAME_OF(FASTKERAS_ISA, float)() {
  return &FASTKERAS_ISA::kStepKernels<float>;
}
const Kernels<double>* FASTKERAS_NAME_OF(FASTKERAS_ISA, double)() {
  return &FASTKERAS_ISA::kStepKernels<double>;
}

}  // namespace fastkeras::optimizers
