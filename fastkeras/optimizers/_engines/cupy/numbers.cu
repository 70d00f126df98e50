// How numbers are stored, and how the threads read and write them.
//
// FASTKERAS_PARAMETER and FASTKERAS_GRADIENT are among the four structs below. What is computed is
// float64 if the parameter is, and else float32.

__device__ inline float FromBits(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }
__device__ inline unsigned ToBits(float x) { return static_cast<unsigned>(__float_as_int(x)); }

struct Float32 {
  using Stored = float;
  using Real = float;
  static constexpr bool kIsHalf = false;
  __device__ static float Wide(float x) { return x; }
  __device__ static float Narrow(float x) { return x; }
};

struct Float64 {
  using Stored = double;
  using Real = double;
  static constexpr bool kIsHalf = false;
  __device__ static double Wide(double x) { return x; }
  __device__ static double Narrow(double x) { return x; }
};

// Halves by their bits: without the header of their types, and with the same code on a CPU.
struct Bfloat16 {
  using Stored = unsigned short;
  using Real = float;
  static constexpr bool kIsHalf = true;
  __device__ static float Wide(unsigned short half) { return FromBits(unsigned{half} << 16); }
  __device__ static unsigned short Narrow(float x) {  // ties to even; NaN stays NaN
    const unsigned bits = ToBits(x);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return static_cast<unsigned short>(x != x ? 0x7fc0u : rounded);
  }
};

struct Float16 {
  using Stored = unsigned short;
  using Real = float;
  static constexpr bool kIsHalf = true;
  __device__ static float Wide(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    const unsigned finite = (magnitude << 13) + (112u << 23);  // the exponent of 1 is 15, or 127
    const unsigned bits = magnitude >= 0x7c00u  ? magnitude << 13 | 0x7f800000u
                          : magnitude < 0x0400u ? ToBits(static_cast<float>(magnitude) * 0x1p-24f)
                                                : finite;
    return FromBits(bits | sign);
  }
  __device__ static unsigned short Narrow(float x) {  // ties to even; NaN stays NaN
    const unsigned bits = ToBits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    // Adding this rounds to the multiples of a half's ulp: 2^-24 below 2^-14, where it is constant.
    const unsigned exponent = magnitude & 0x7f800000u;
    const float grid = FromBits((exponent < 113u << 23 ? 113u << 23 : exponent) + (13u << 23));
    const float rounded = (FromBits(magnitude) + grid) - grid;
    const unsigned half = magnitude > 0x7f800000u    ? 0x7e00u
                          : magnitude >= 0x477ff000u ? 0x7c00u
                          : rounded < 0x1p-14f       ? static_cast<unsigned>(rounded * 0x1p24f)
                                                     : (ToBits(rounded) - (112u << 23)) >> 13;
    return static_cast<unsigned short>(half | sign);
  }
};

using Parameter = FASTKERAS_PARAMETER;
using Gradient = FASTKERAS_GRADIENT;
using Real = Parameter::Real;

struct Plain {  // slots that are no codes, and remainders
  using Stored = Real;
  __device__ static Real Wide(Real x) { return x; }
  __device__ static Real Narrow(Real x) { return x; }
};

struct Byte {
  using Stored = unsigned char;
  __device__ static int Wide(unsigned char x) { return x; }
  __device__ static unsigned char Narrow(int x) { return static_cast<unsigned char>(x); }
};

constexpr int kThreads = 256;
constexpr int kUnit = 4;                       // 16 bytes of float32
constexpr int kUnits = 2;                      // that a thread reads before it computes
constexpr int kStretch = 32 * kUnit * kUnits;  // numbers of a warp; as many share a scale
constexpr int kWarps = kThreads / 32;

template <typename Stored>
struct alignas(sizeof(Stored) * kUnit < 16 ? sizeof(Stored) * kUnit : 16) Unit {
  Stored of[kUnit];
};

template <typename Stored>
__device__ inline bool IsAligned(const Stored* array) {
  return reinterpret_cast<unsigned long long>(array) % alignof(Unit<Stored>) == 0;
}

// The next three say which numbers of an array a thread reads and writes, for any array.

// Of a whole stretch, in aligned units.
struct Whole {
  static constexpr int kCount = kUnit * kUnits;
  long long first;  // of the stretch

  __device__ unsigned Number(int i) const {
    return static_cast<unsigned>(first) + Place(i / kUnit) * kUnit + i % kUnit;
  }
  __device__ static int Place(int unit) { return unit * 32 + threadIdx.x % 32; }

  template <typename Format, typename Value>
  __device__ void Read(const typename Format::Stored* array, Value (&to)[kCount]) const {
    using Of = Unit<typename Format::Stored>;
    const Of* const units = reinterpret_cast<const Of*>(array + first);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const Of unit = units[Place(u)];
#pragma unroll
      for (int i = 0; i < kUnit; ++i) to[u * kUnit + i] = Format::Wide(unit.of[i]);
    }
  }
  template <typename Format, typename Value>
  __device__ void Write(const Value (&from)[kCount], typename Format::Stored* array) const {
    using Of = Unit<typename Format::Stored>;
    Of* const units = reinterpret_cast<Of*>(array + first);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      Of unit;
#pragma unroll
      for (int i = 0; i < kUnit; ++i) unit.of[i] = Format::Narrow(from[u * kUnit + i]);
      units[Place(u)] = unit;
    }
  }
};

// Of the first `count` numbers of a stretch. The others are 0.
struct Some {
  static constexpr int kCount = kUnit * kUnits;
  long long first;
  int count;

  __device__ static int Place(int i) { return i * 32 + threadIdx.x % 32; }
  __device__ unsigned Number(int i) const { return static_cast<unsigned>(first) + Place(i); }

  template <typename Format, typename Value>
  __device__ void Read(const typename Format::Stored* array, Value (&to)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[i] = Place(i) < count ? Format::Wide(array[first + Place(i)]) : Value{};
    }
  }
  template <typename Format, typename Value>
  __device__ void Write(const Value (&from)[kCount], typename Format::Stored* array) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (Place(i) < count) array[first + Place(i)] = Format::Narrow(from[i]);
    }
  }
};

// A single number, wherever it is.
struct One {
  static constexpr int kCount = 1;
  long long place;

  __device__ unsigned Number(int) const { return static_cast<unsigned>(place); }

  template <typename Format, typename Value>
  __device__ void Read(const typename Format::Stored* array, Value (&to)[1]) const {
    to[0] = Format::Wide(array[place]);
  }
  template <typename Format, typename Value>
  __device__ void Write(const Value (&from)[1], typename Format::Stored* array) const {
    array[place] = Format::Narrow(from[0]);
  }
};
