// Random numbers that depend only on where they are used; fastkeras/word2vec/training/sampling.py
// draws the same. Compiled once for each instruction set.

#ifndef FASTKERAS_WORD2VEC_SAMPLING_H_
#define FASTKERAS_WORD2VEC_SAMPLING_H_

#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
FASTKERAS_INLINE uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The 64 bits of a position: the upper half decides whether its word stays, the lower half how wide
// its window is, and all of them seed what is drawn there.
FASTKERAS_INLINE uint64_t BitsAt(uint64_t key, int64_t position) {
  return Mix(key + (static_cast<uint64_t>(position) + 1) * kGolden);
}

FASTKERAS_INLINE bool Stays(uint64_t bits, uint32_t keep) { return (bits >> 32) <= keep; }

FASTKERAS_INLINE int WindowOf(uint64_t bits, int window) {
  return 1 + static_cast<int>(((bits & 0xffffffffu) * static_cast<uint64_t>(window)) >> 32);
}

// The words number first..first+count-1 drawn at a position, by the alias method (Walker 1977): the
// upper half of the bits chooses a word, the lower half chooses it or its alias.
FASTKERAS_INLINE void DrawNoise(uint64_t bits, int first, int count, const uint32_t* noise,
                                int64_t num_words, int32_t* words) {
  for (int i = 0; i < count; ++i) {
    const uint64_t drawn = Mix(bits + (static_cast<uint64_t>(first + i) + 1) * kGolden);
    const int64_t word =
        static_cast<int64_t>(((drawn >> 32) * static_cast<uint64_t>(num_words)) >> 32);
    const uint32_t* const entry = noise + 2 * word;
    const uint32_t alias = entry[1], own = static_cast<uint32_t>(word);
    // Without a branch, since none could be predicted.
    const uint32_t other = -static_cast<uint32_t>(static_cast<uint32_t>(drawn) >= entry[0]);
    words[i] = static_cast<int32_t>(own ^ ((own ^ alias) & other));
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_WORD2VEC_SAMPLING_H_
