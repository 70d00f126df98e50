// Moments in 8 bits: each stretch of 256 numbers is codes times its largest magnitude. The codes
// are explained in csrc/optimizers/quantize.h, of which this is the same for the threads of a warp.

constexpr int kDecades = 7;

// By decade; the last entry is for the codes of 0 and 1.
struct CodeTables {
  float begin[8];       // the first number that is nearer to it than to the decade below
  float per_number[8];  // steps for each 1
  float offset[8];      // number = offset + slope * code
  float slope[8];
  float largest_below_one;  // from here on 1 is nearest
};

constexpr double PowerOfTen(int n) { return n == 0 ? 1 : PowerOfTen(n + 1) / 10; }  // n <= 0

constexpr CodeTables MakeTables(bool has_sign) {
  CodeTables tables = {};
  double below = 0;  // the last number of the decade below
  for (int i = 0; i < kDecades; ++i) {
    const double steps = static_cast<double>(1 << (has_sign ? i : i + 1));
    const double end = PowerOfTen(i - kDecades + 1), step = 0.9 * end / steps;
    const double first = has_sign ? steps : steps - 1;  // code of the first step
    tables.offset[i] = static_cast<float>(0.1 * end + step * (0.5 - first));
    tables.slope[i] = static_cast<float>(step);
    tables.per_number[i] = static_cast<float>(1 / step);
    tables.begin[i] = static_cast<float>(0.5 * (0.1 * end + 0.5 * step + below));
    tables.largest_below_one = static_cast<float>(1 - 0.25 * step);
    below = end - 0.5 * step;
  }
  return tables;
}

__constant__ const CodeTables kCodeTables[2] = {MakeTables(false), MakeTables(true)};

template <bool kSigned, int kDecade>
constexpr float kBegin = MakeTables(kSigned).begin[kDecade];
template <bool kSigned>
constexpr float kLargestBelowOne = MakeTables(kSigned).largest_below_one;

// The tables in shared memory, where eight entries never conflict. Comes before a barrier.
constexpr int kTableSize = 8, kTablesSize = 6 * kTableSize;

__device__ inline void FillTables(float* shared) {
  const int i = threadIdx.x % kTableSize, has_sign = threadIdx.x / kTableSize;
  if (has_sign > 1) return;
  float* const tables = shared + has_sign * 3 * kTableSize;
  tables[i] = kCodeTables[has_sign].offset[i];
  tables[kTableSize + i] = kCodeTables[has_sign].slope[i];
  tables[2 * kTableSize + i] = kCodeTables[has_sign].per_number[i];
}

template <bool kSigned>
__device__ inline float Decode(int code, const float* shared) {
  const float* const tables = shared + kSigned * 3 * kTableSize;
  const int magnitude = kSigned ? code & 127 : code;
  // The place of the highest bit; -1, and so the last entry, for code 0.
  const int decade = (kSigned ? 31 - __clz(magnitude) : 30 - __clz(magnitude + 1)) & 7;
  const float number = tables[decade] + tables[kTableSize + decade] * static_cast<float>(magnitude);
  if (kSigned) return code == 128 ? 1.0f : magnitude == 0 ? 0.0f : code > 128 ? -number : number;
  return code == 255 ? 1.0f : magnitude == 0 ? 0.0f : number;
}

// The nearest code of |x| <= 1. Without a sign, a number other than 0 never gets code 0: with a
// second moment of 0 the next step would divide by epsilon alone.
template <bool kSigned>
__device__ inline int Encode(float number, float inverse, const float* shared) {
  const float* const tables = shared + kSigned * 3 * kTableSize;
  const float x = number * inverse, size = kSigned ? fabsf(x) : x;
  int decade = 0;
  decade += size >= kBegin<kSigned, 1>;
  decade += size >= kBegin<kSigned, 2>;
  decade += size >= kBegin<kSigned, 3>;
  decade += size >= kBegin<kSigned, 4>;
  decade += size >= kBegin<kSigned, 5>;
  decade += size >= kBegin<kSigned, 6>;
  const int first = kSigned ? 1 << decade : (2 << decade) - 1;
  const int last = kSigned ? first * 2 - 1 : first * 2;
  const float code = (size - tables[decade]) * tables[2 * kTableSize + decade];
  int found = static_cast<int>(code + 0.5f);
  found = found < first ? first : found > last ? last : found;
  if (!kSigned) return x >= kLargestBelowOne<false> ? 255 : number == 0 ? 0 : found;
  if (x >= kLargestBelowOne<true>) return 128;
  if (size < kBegin<true, 0>) return 0;
  return x < 0 ? found | 128 : found;
}

// The number of the largest magnitude of a stretch, with its sign, so that its code is exactly 1;
// NaN if one is not finite. A positive number comes before a negative one.
template <int kCount>
__device__ inline float ScaleOf(const float (&numbers)[kCount]) {
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const unsigned bits = ToBits(numbers[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  largest = __reduce_max_sync(kAllLanes, largest);
  const float magnitude = FromBits(largest);
  bool is_positive = false;
#pragma unroll
  for (int i = 0; i < kCount; ++i) is_positive |= numbers[i] == magnitude;
  is_positive = __ballot_sync(kAllLanes, is_positive) != 0;
  return largest >= 0x7f800000u ? NAN : is_positive ? magnitude : -magnitude;
}

// The inverse of the smallest scales would be infinite, and its product with 0 NaN.
__device__ inline float InverseOf(float scale) {
  constexpr float kSmallest = 3e-39f;
  const bool is_small = scale > -kSmallest && scale < kSmallest;
  return !is_small ? 1 / scale : (scale > 0 ? 1.0f : scale < 0 ? -1.0f : 0.0f) / kSmallest;
}

template <bool kSigned, typename Place>
__device__ inline void ReadCodes(const unsigned char* codes, const float* scales,
                                 const float* tables, Place place, float (&to)[Place::kCount]) {
  int read[Place::kCount];
  place.template Read<Byte>(codes, read);
  const float scale = scales[place.first / kStretch];
#pragma unroll
  for (int i = 0; i < Place::kCount; ++i) to[i] = Decode<kSigned>(read[i], tables) * scale;
}

template <bool kSigned, typename Place>
__device__ inline void WriteCodes(const float (&from)[Place::kCount], const float* tables,
                                  Place place, unsigned char* codes, float* scales) {
  const float scale = ScaleOf(from), inverse = InverseOf(scale);
  int written[Place::kCount];
#pragma unroll
  for (int i = 0; i < Place::kCount; ++i) written[i] = Encode<kSigned>(from[i], inverse, tables);
  place.template Write<Byte>(written, codes);
  __syncwarp();  // all lanes have read the scale that was
  if (threadIdx.x % 32 == 0) scales[place.first / kStretch] = scale;
}
