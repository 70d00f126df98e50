// The table of variables that a launch gets by value, and the transforms of their gradients.

// In the order of the numbers in plan.py. Norms are known: they are factors.
enum StepKind { kScale, kZero, kClip, kAddParameter };

struct Step {
  double operand;
  int kind;
  int round;  // of the factor that multiplies the operand, or -1
};

struct Steps {
  Step of[FASTKERAS_STEPS];
};

// Numbers that earlier launches of the same step computed, one for each variable and round.
struct Factors {
  const double* all;
  int num_variables;

  __device__ double Of(int round, int variable) const {
    return round < 0 ? 1.0 : all[static_cast<long long>(round) * num_variables + variable];
  }
};

// The variable that a block works on: the last one whose first block is not after it.
template <typename Record, int kCount>
__device__ inline int Find(const Record (&records)[kCount], int count, int block) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (records[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The place of a number of the parameter, from that in a gradient of some rows; or -1, if the
// number of the row is not one of the parameter.
template <typename Record>
__device__ inline long long PlaceOf(const Record& record, long long of_gradient) {
  const long long row = of_gradient / record.row_size, found = record.rows[row];
  const bool is_one = found >= 0 && found < record.num_rows;
  return is_one ? of_gradient + (found - row) * record.row_size : -1;
}

template <int kCount>
__device__ inline void Transform(const Steps& steps, int begin, int end, const Factors& factors,
                                 int variable, const Real (&parameter)[kCount],
                                 Real (&gradient)[kCount]) {
  for (int s = begin; s < end; ++s) {
    const Step& step = steps.of[s];
    const Real operand = static_cast<Real>(step.operand * factors.Of(step.round, variable));
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Real g = gradient[i];
      switch (step.kind) {
        case kScale:
          gradient[i] = g * operand;
          break;
        case kZero:
          gradient[i] = 0;
          break;
        case kClip:  // NaN stays NaN
          gradient[i] = g < -operand ? -operand : g > operand ? operand : g;
          break;
        case kAddParameter:
          gradient[i] = g + parameter[i] * operand;
          break;
      }
    }
  }
}
