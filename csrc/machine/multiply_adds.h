// The limit of arithmetic: what the kernels' speed is measured against.

#ifndef FASTKERAS_MACHINE_MULTIPLY_ADDS_H_
#define FASTKERAS_MACHINE_MULTIPLY_ADDS_H_

#include <cstdint>

namespace fastkeras {

// Multiplies and adds float32 numbers in the registers of the current instruction set, so many
// times in each, as fast as this core can; returns the number of operations.
int64_t MultiplyAdds(int64_t times);

}  // namespace fastkeras

#endif  // FASTKERAS_MACHINE_MULTIPLY_ADDS_H_
