// Sums over gradients, for their norms: a number for each block, added up by factors.cu.

constexpr int kNumbers = 8192;  // of a block

// In the order of the numbers in plan.py.
enum SumKind { kSquares, kMagnitudes, kDefects };  // the last is 0, or NaN if one is not finite

struct Record {
  const Gradient::Stored* gradient;
  const Parameter::Stored* parameter;  // null if no step needs it
  const Real* remainder;
  const long long* rows;
  long long size;  // of the gradient
  double scale;
  int first_block;
  int row_size, num_rows;  // of the parameter
  int variable;
  int round;
  int first_step, end_step;
  int kind;
  int first_sum;  // the place of that of its first block
};

struct Records {
  Record of[FASTKERAS_RECORDS];
};

template <typename Place>
__device__ inline double SumOf(const Record& record, const Steps& steps, const Factors& factors,
                               Place place, Place of_gradient) {
  Real gradient[Place::kCount], parameter[Place::kCount] = {};
  of_gradient.template Read<Gradient>(record.gradient, gradient);
  if (record.parameter != nullptr) {
    place.template Read<Parameter>(record.parameter, parameter);
    if (Parameter::kIsHalf && record.remainder != nullptr) {
      Real rest[Place::kCount];
      place.template Read<Plain>(record.remainder, rest);
#pragma unroll
      for (int i = 0; i < Place::kCount; ++i) parameter[i] += rest[i];
    }
  }
  Transform(steps, record.first_step, record.end_step, factors, record.variable, parameter,
            gradient);
  double sum = 0;
#pragma unroll
  for (int i = 0; i < Place::kCount; ++i) {
    const double g = gradient[i];
    sum += record.kind == kSquares ? g * g : record.kind == kMagnitudes ? fabs(g) : g - g;
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    sums(FASTKERAS_TABLE(Records) records, FASTKERAS_TABLE(Steps) steps, int count,
         FASTKERAS_TABLE(Given) given, const double* of_earlier_launches, double* results) {
  FASTKERAS_SHARED(double, shared, kWarps);
  const Record& record = records.of[Find(records.of, count, blockIdx.x)];
  const Factors factors = {of_earlier_launches, given.of->num_variables};
  const long long begin = static_cast<long long>(blockIdx.x - record.first_block) * kNumbers;
  const long long left = record.size - begin;
  int size = left < kNumbers ? static_cast<int>(left) : kNumbers;
  if (given.IsFrozen(record.variable)) size = 0;  // it does not count
  const bool whole = record.rows == nullptr && IsAligned(record.gradient) &&
                     IsAligned(record.parameter) && IsAligned(record.remainder);
  const int stretches = whole ? size / kStretch : 0;
  double sum = 0;
  for (int s = threadIdx.x / 32; s < stretches; s += kWarps) {
    const Whole place{begin + s * kStretch};
    sum += SumOf(record, steps, factors, place, place);
  }
  for (int i = stretches * kStretch + threadIdx.x; i < size; i += kThreads) {
    const One of_gradient{begin + i};
    const One place{record.rows == nullptr ? begin + i : PlaceOf(record, begin + i)};
    if (place.place >= 0) sum += SumOf(record, steps, factors, place, of_gradient);
  }
  sum = OfBlock<Sum, kThreads>(sum, shared);
  const double scale = record.scale * factors.Of(record.round, record.variable);
  if (threadIdx.x == 0) {  // the sums are those of the scaled gradient
    results[record.first_sum + static_cast<int>(blockIdx.x) - record.first_block] =
        size == 0 ? 0 : sum * (record.kind == kSquares ? scale * scale : fabs(scale));
  }
}
FASTKERAS_KERNEL(sums);
