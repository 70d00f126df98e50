// Moments in 8 bits: each stretch of 256 numbers is codes relative to its largest magnitude. The
// codes are explained in csrc/optimizers/sweeps/quantize.h, of which this is the same for the
// threads of a warp.

constexpr int kDropped = 21;                 // binary digits of a float32 that a code lacks
constexpr float kSmallestScale = 0x1p-124f;  // a smaller one would make 4 / scale infinite

__device__ inline unsigned HashOf(unsigned seed, unsigned element) {
  unsigned bits = (element * 0x9e3779b9u) ^ seed;
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  return (bits ^ bits >> 13) * 0xc2b2ae35u;
}

// 16 random bits for an element, as `dither_bits` in fastkeras/optimizers/rounding.py; and for one
// of a slot.
__device__ inline unsigned DitherBits(int seed, unsigned element) {
  return HashOf(static_cast<unsigned>(seed), element) >> 16;
}
template <int kSlot>
__device__ inline unsigned DitherBitsOfSlot(int seed, unsigned element) {
  constexpr unsigned kOfTwo = (kSlot / 2 + 1) * 0xc2b2ae3du;  // slots, which share a hash
  const unsigned bits = HashOf(static_cast<unsigned>(seed) ^ kOfTwo, element);
  return kSlot % 2 ? bits & 0xffffu : bits >> 16;
}

template <bool kSigned>
constexpr int kLast = kSigned ? 127 : 255;

// What is to be added to the bits of a code to get those of its float, if the last has these.
template <bool kSigned>
constexpr int OffsetOf(int bits_of_last) {
  return bits_of_last - (kLast<kSigned> << kDropped);
}
constexpr int kBitsOfOne = 127 << 23, kBitsOfFour = 129 << 23;

template <bool kSigned>
__device__ inline float Decode(int code) {
  const int magnitude = kSigned ? code & 127 : code;
  const int bits = (magnitude << kDropped) + OffsetOf<kSigned>(kBitsOfOne);
  const float size = kSigned && code == 0 ? 0.0f : FromBits(static_cast<unsigned>(bits));
  return kSigned && code > 127 ? -size : size;
}

// The code of a number, given 4 / scale, and 16 random bits.
template <bool kSigned>
__device__ inline int Encode(float number, float inverse, unsigned random) {
  const float size = fabsf(number);
  const int dither = static_cast<int>(random << (kDropped - 16)) + (1 << (kDropped - 17));
  const int bits = static_cast<int>(ToBits(size * inverse));
  int code = (bits - OffsetOf<kSigned>(kBitsOfFour) + dither) >> kDropped;
  code = code > kLast<kSigned> ? kLast<kSigned> : code;
  if (kSigned && number < 0) code |= 128;
  return code < 0 ? 0 : code;
}

// The largest magnitude of a stretch; NaN if a number is not finite: then all of it becomes NaN.
template <int kCount>
__device__ inline float ScaleOf(const float (&numbers)[kCount]) {
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const unsigned bits = ToBits(numbers[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  largest = __reduce_max_sync(kAllLanes, largest);
  const float scale = FromBits(largest);
  return largest >= 0x7f800000u                ? NAN
         : scale > 0 && scale < kSmallestScale ? kSmallestScale
                                               : scale;
}

template <bool kSigned, typename Place>
__device__ inline void ReadCodes(const unsigned char* codes, const float* scales, Place place,
                                 float (&to)[Place::kCount]) {
  int read[Place::kCount];
  place.template Read<Byte>(codes, read);
  const float scale = scales[place.first / kStretch];
#pragma unroll
  for (int i = 0; i < Place::kCount; ++i) to[i] = Decode<kSigned>(read[i]) * scale;
}

template <bool kSigned, int kSlot, typename Place>
__device__ inline void WriteCodes(const float (&from)[Place::kCount], int seed, Place place,
                                  unsigned char* codes, float* scales) {
  const float scale = ScaleOf(from), inverse = 4 / (scale == 0 ? kSmallestScale : scale);
  int written[Place::kCount];
#pragma unroll
  for (int i = 0; i < Place::kCount; ++i) {
    written[i] = Encode<kSigned>(from[i], inverse, DitherBitsOfSlot<kSlot>(seed, place.Number(i)));
  }
  place.template Write<Byte>(written, codes);
  __syncwarp();  // all lanes have read the scale that was
  if (threadIdx.x % 32 == 0) scales[place.first / kStretch] = scale;
}
