// From sums over blocks to the factors of gradients and of changes: a block for each factor, which
// adds up all sums that it needs, always in the same order.

constexpr int kThreads = 512;
constexpr double kSmallestShare = 1e-3;  // as SMALLEST_SHARE in rules/updates.py

// In the order of the numbers in plan.py.
enum NormKind { kClipBySum, kClipByNorm, kNormalize, kSanitize };

struct Record {
  double operand;
  double scale;  // of the gradient before, beside its factor
  int begin, end;
  int variable;
  int round;  // of the factor before, or -1
  int kind;
};

struct Records {
  Record of[FASTKERAS_RECORDS];
};

__device__ inline double SumOf(const double* values, int begin, int end, double* shared) {
  double sum = 0;
#pragma unroll 4
  for (int i = begin + threadIdx.x; i < end; i += kThreads) sum += values[i];
  return OfBlock<Sum, kThreads>(sum, shared);
}

__device__ inline double Clipping(double norm, double largest) {
  if (!(norm - norm == 0)) return NAN;
  return norm > largest ? largest / norm : 1.0;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    factors(FASTKERAS_TABLE(Records) records, FASTKERAS_TABLE(Given) given, const double* sums,
            int round, double* of_variables, int* not_finite) {
  FASTKERAS_SHARED(double, shared, kThreads / 32);
  const Record& record = records.of[blockIdx.x];
  const double sum = SumOf(sums, record.begin, record.end, shared);
  if (threadIdx.x != 0) return;
  if (record.kind == kSanitize) {
    if (!(sum - sum == 0)) atomicOr(not_finite, 1);
    return;
  }
  double factor = record.scale;
  const auto place = [&](int of) {
    return static_cast<long long>(of) * given.of->num_variables + record.variable;
  };
  if (record.round >= 0) factor *= of_variables[place(record.round)];
  if (record.kind == kClipBySum) factor *= Clipping(sum, record.operand);
  if (record.kind == kClipByNorm) factor *= Clipping(sqrt(sum), record.operand);
  if (record.kind == kNormalize) factor *= sum > 0 ? 1 / sqrt(sum) : 0 * sum;
  of_variables[place(round)] = factor;
}
FASTKERAS_KERNEL(factors);

// In the order of SCALINGS in tables.py.
enum Scaling { kByLength, kByAgreement, kClipped };

struct Lengths {
  double rate, decay;
  double size;  // of the parameter
  int begin, end;
  int variable;
};

struct AllLengths {
  Lengths of[FASTKERAS_RECORDS];
};

// What makes a change as long as its parameter times the rate, or what the rule scales it by.
extern "C" __global__ void __launch_bounds__(kThreads)
    ratios(FASTKERAS_TABLE(AllLengths) all, FASTKERAS_TABLE(Given) given,
           const double* of_parameters, const double* of_changes, int round, int scaling,
           double* of_variables) {
  FASTKERAS_SHARED(double, shared, kThreads / 32);
  const Lengths& record = all.of[blockIdx.x];
  const double squares = SumOf(of_parameters, record.begin, record.end, shared);
  const double of_changes_sum = SumOf(of_changes, record.begin, record.end, shared);
  const double of_change = sqrt(of_changes_sum), mean = of_changes_sum / record.size;
  const double kept = 1 - given.Number(given.of->decays, record.variable, record.decay);
  const double of_parameter = sqrt(squares * kept * kept);
  if (threadIdx.x != 0) return;
  const bool is_nothing = of_parameter == 0 || of_change == 0;  // NaN goes on
  const double rate = given.Number(given.of->rates, record.variable, record.rate);
  double ratio = is_nothing ? 1.0 : rate * of_parameter / of_change;
  if (scaling == kByAgreement) ratio = 1 / (mean > kSmallestShare ? mean : kSmallestShare);
  if (scaling == kClipped) ratio = mean <= 1 ? 1.0 : 1 / sqrt(mean);
  of_variables[static_cast<long long>(round) * given.of->num_variables + record.variable] = ratio;
}
FASTKERAS_KERNEL(ratios);
