// The bits of a float32, and random bits for rounding it up or down: a hash of a seed and of the
// place of a number in its variable, and so the same for any number of threads, as in
// fastkeras/optimizers/rounding.py. Compiled once for each instruction set.

#ifndef FASTKERAS_OPTIMIZERS_SWEEPS_BITS_H_
#define FASTKERAS_OPTIMIZERS_SWEEPS_BITS_H_

#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

FASTKERAS_INLINE float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
FASTKERAS_INLINE uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

constexpr int32_t kLargestBfloat16 = 0x7f7f0000;  // the bits of the largest finite one, 3.39e38

constexpr uint32_t kOfElements = 0x9e3779b9u;

// A hash of a number, or of each lane, given `number ^ number >> 16`.
template <typename Bits>
FASTKERAS_INLINE Bits HashOf(Bits mixed) {
  mixed *= 0x85ebca6bu;
  return (mixed ^ mixed >> 13) * 0xc2b2ae35u;
}

// 16 random bits for an element.
FASTKERAS_INLINE uint32_t DitherBits(uint32_t seed, uint32_t element) {
  const uint32_t bits = element * kOfElements ^ seed;
  return HashOf(bits ^ bits >> 16) >> 16;
}

// The seed of the hash for a slot: the upper 16 bits are for it if its number is even, and else the
// lower ones. Those of the parameter are of the seed itself.
FASTKERAS_INLINE uint32_t SeedOfSlots(int slot, uint32_t seed) {
  return seed ^ (static_cast<uint32_t>(slot / 2) + 1) * 0xc2b2ae3du;
}

// 32 random bits for each element of one vector after the other, from a place on.
struct Places {
  alignas(64) uint32_t products[16];
};
constexpr Places kPlaces = [] {
  Places places = {};
  for (uint32_t k = 0; k < 16; ++k) places.products[k] = k * kOfElements;
  return places;
}();

using Floats = Vec<float>;
using Ints = Simd<float>::Int;
using Bits = Simd<float>::Bits;
constexpr int kFloats = Simd<float>::kWidth;

FASTKERAS_INLINE Ints BitsOf(Floats x) { return reinterpret_cast<Ints>(x); }

class RandomBits {
 public:
  FASTKERAS_INLINE RandomBits(uint32_t seed, int64_t first)
      : seed_(seed ^ seed >> 16),
        products_(*reinterpret_cast<const Bits*>(kPlaces.products) +
                  static_cast<uint32_t>(first) * kOfElements) {}

  FASTKERAS_INLINE Bits Next() {
    const Bits random = HashOf(products_ ^ products_ >> 16 ^ seed_);
    products_ += Simd<float>::kWidth * kOfElements;
    return random;
  }

 private:
  const uint32_t seed_;
  Bits products_;
};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_OPTIMIZERS_SWEEPS_BITS_H_
