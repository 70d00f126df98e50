// The step of all variables of one launch. They may differ in everything but the rule, and how they
// are stored.

// The slots are stored as FASTKERAS_SLOTS says: Plain numbers, Bfloat16 or Codes.
struct Codes {
  using Stored = unsigned char;
};
using Slot = FASTKERAS_SLOTS;
template <typename, typename>
constexpr bool kAreSame = false;
template <typename T>
constexpr bool kAreSame<T, T> = true;
constexpr bool kQuantized = kAreSame<Slot, Codes>, kHalved = kAreSame<Slot, Bfloat16>;
template <int kSlot>
constexpr bool kHasSign = FASTKERAS_SIGNS >> kSlot & 1;
constexpr int kPointers = Rule::kSlots == 0 ? 1 : Rule::kSlots * (kQuantized ? 2 : 1);
constexpr int kNumbers = 4096;  // of a block
// Blocks that a multiprocessor is to hold at once, and so how many registers a thread may use.
constexpr int kResident =
    kQuantized || Parameter::kIsHalf || sizeof(Real) == 8 || Rule::kSlots == 3 ? 2 : 3;

struct Record {  // of a variable, as in tables.py
  Parameter::Stored* parameter;
  const Gradient::Stored* gradient;
  void* slots[kPointers];  // if quantized, codes and scales in turn
  Real* remainder;         // what a half parameter cannot hold of its value; null if that is lost
  const long long* rows;   // of the parameter that the gradient has; null for all
  long long size;          // of the gradient
  double scale;            // of the gradient after the steps, beside its factor
  Real coefficients[kCoefficients];
  Real decay;  // the parameter loses this fraction
  int first_block;
  int row_size, num_rows;  // of the parameter
  int variable;
  int round;           // of the factor of the gradient, or -1
  int round_of_ratio;  // of the factor of the change, or -1
  int first_step, end_step;
  int dithered;  // a bfloat16 parameter is rounded at random, by ...
  int seed;      // ... this, which narrow slots are too
};

struct Records {
  Record of[FASTKERAS_RECORDS];
};

struct Halves {  // as they are
  using Stored = unsigned short;
  __device__ static unsigned short Narrow(unsigned short x) { return x; }
};

template <int kCount>
struct Numbers {
  Real parameter[kCount], gradient[kCount], slots[3][kCount];
};

__device__ inline bool IsAligned(const Record& record) {
  bool aligned = IsAligned(record.parameter) && IsAligned(record.gradient);
  if (Parameter::kIsHalf) aligned = aligned && IsAligned(record.remainder);
#pragma unroll
  for (int s = 0; s < Rule::kSlots; ++s) {
    aligned =
        aligned && IsAligned(static_cast<Slot::Stored*>(record.slots[kQuantized ? 2 * s : s]));
  }
  return aligned;
}

// Calls fn(place, place in the gradient) for all numbers of a block.
template <typename Function>
__device__ inline void ForEach(const Record& record, Function fn) {
  const long long begin = static_cast<long long>(blockIdx.x - record.first_block) * kNumbers;
  const long long left = record.size - begin;
  const int count = left < kNumbers ? static_cast<int>(left) : kNumbers;
  const bool whole = record.rows == nullptr && IsAligned(record);
  const int stretches = whole ? count / kStretch : 0, done = stretches * kStretch;
  const int warp = threadIdx.x / 32;
  for (int s = warp; s < stretches; s += kWarps) {
    const Whole place{begin + s * kStretch};
    fn(place, place);
  }
  if constexpr (kQuantized) {
    for (int first = done + warp * kStretch; first < count; first += kThreads / 32 * kStretch) {
      const Some place{begin + first, count - first};
      fn(place, place);
    }
  } else {
    for (int i = done + threadIdx.x; i < count; i += kThreads) {
      const One of_gradient{begin + i};
      const One place{record.rows == nullptr ? begin + i : PlaceOf(record, begin + i)};
      if (place.place >= 0) fn(place, of_gradient);
    }
  }
}

template <int kSlot, typename Place>
__device__ inline void ReadSlot(const Record& record, Place place, Numbers<Place::kCount>& to) {
  if constexpr (kSlot < Rule::kSlots) {
    ReadCodes<kHasSign<kSlot>>(static_cast<const unsigned char*>(record.slots[2 * kSlot]),
                               static_cast<const float*>(record.slots[2 * kSlot + 1]), place,
                               to.slots[kSlot]);
  }
}

template <typename Place>
__device__ inline void Read(const Record& record, const Steps& steps, const Factors& factors,
                            Place place, Place of_gradient, Numbers<Place::kCount>& to) {
  of_gradient.template Read<Gradient>(record.gradient, to.gradient);
  place.template Read<Parameter>(record.parameter, to.parameter);
#pragma unroll
  for (int s = 0; s < 3; ++s) {
    if (s >= Rule::kSlots) {
#pragma unroll
      for (int i = 0; i < Place::kCount; ++i) to.slots[s][i] = 0;
    } else if constexpr (!kQuantized) {
      place.template Read<Slot>(static_cast<const Slot::Stored*>(record.slots[s]), to.slots[s]);
    }
  }
  if constexpr (kQuantized) {
    ReadSlot<0>(record, place, to);
    ReadSlot<1>(record, place, to);
    ReadSlot<2>(record, place, to);
  }
  if constexpr (Parameter::kIsHalf) {
    if (record.remainder != nullptr) {
      Real rest[Place::kCount];
      place.template Read<Plain>(record.remainder, rest);
#pragma unroll
      for (int i = 0; i < Place::kCount; ++i) to.parameter[i] += rest[i];
    }
  }
  Transform(steps, record.first_step, record.end_step, factors, record.variable, to.parameter,
            to.gradient);
}

// The upper half of a number, rounded by 16 random bits. What is larger than the largest bfloat16
// is cut off, so that it does not become infinite; what is not finite stays so.
__device__ inline unsigned short Dithered(float number, unsigned random) {
  const unsigned bits = ToBits(number);
  const bool is_rounded = (bits & 0x7fff0000u) < 0x7f7f0000u;
  const unsigned half = (bits + (is_rounded ? random : 0u)) >> 16;
  return static_cast<unsigned short>(number != number ? 0x7fc0u : half);
}

template <typename Place>
__device__ inline void WriteParameter(const Real (&from)[Place::kCount], const Record& record,
                                      int seed, Place place) {
  if constexpr (!Parameter::kIsHalf) {
    place.template Write<Parameter>(from, record.parameter);
  } else {
    unsigned short halves[Place::kCount];
    const bool dithered = record.dithered;  // only if it is a bfloat16
    Real rest[Place::kCount];
#pragma unroll
    for (int i = 0; i < Place::kCount; ++i) {
      halves[i] = dithered ? Dithered(from[i], DitherBits(seed, place.Number(i)))
                           : Parameter::Narrow(from[i]);
      rest[i] = from[i] - Parameter::Wide(halves[i]);
      if (!(rest[i] - rest[i] == 0)) rest[i] = 0;  // where it is infinite nothing remains
    }
    place.template Write<Halves>(halves, record.parameter);
    if (record.remainder != nullptr && !dithered) {
      place.template Write<Plain>(rest, record.remainder);
    }
  }
}

template <int kSlot, typename Place>
__device__ inline void WriteSlot(const Numbers<Place::kCount>& from, const Record& record, int seed,
                                 Place place) {
  if constexpr (kSlot < Rule::kSlots && kHalved) {
    unsigned short halves[Place::kCount];
#pragma unroll
    for (int i = 0; i < Place::kCount; ++i) {
      const unsigned random = DitherBitsOfSlot<kSlot>(seed, place.Number(i));
      halves[i] = Dithered(from.slots[kSlot][i], random);
    }
    place.template Write<Halves>(halves, static_cast<unsigned short*>(record.slots[kSlot]));
  } else if constexpr (kSlot < Rule::kSlots) {
    WriteCodes<kHasSign<kSlot>, kSlot>(from.slots[kSlot], seed, place,
                                       static_cast<unsigned char*>(record.slots[2 * kSlot]),
                                       static_cast<float*>(record.slots[2 * kSlot + 1]));
  }
}

template <typename Place>
__device__ inline void WriteSlots(const Numbers<Place::kCount>& from, const Record& record,
                                  int seed, Place place) {
  if constexpr (kQuantized || kHalved) {
    WriteSlot<0>(from, record, seed, place);
    WriteSlot<1>(from, record, seed, place);
    WriteSlot<2>(from, record, seed, place);
  } else {
#pragma unroll
    for (int s = 0; s < Rule::kSlots; ++s) {
      place.template Write<Plain>(from.slots[s], static_cast<Real*>(record.slots[s]));
    }
  }
}

__device__ inline Rule RuleOf(const Record& record, const Given& given) {
  Rule rule;
  Real* const to = reinterpret_cast<Real*>(&rule);
#pragma unroll
  for (int i = 0; i < kCoefficients; ++i) {
    to[i] = static_cast<Real>(given.Number(
        given.of->coefficients, record.variable * kCoefficients + i, record.coefficients[i]));
  }
  return rule;
}

extern "C" __global__ void __launch_bounds__(kThreads, kResident)
    step(FASTKERAS_TABLE(Records) records, FASTKERAS_TABLE(Steps) steps, int count,
         FASTKERAS_TABLE(Given) given, const double* of_earlier_launches, const int* not_finite) {
  if (not_finite != nullptr && *not_finite) return;
  const Record& record = records.of[Find(records.of, count, blockIdx.x)];
  if (given.IsFrozen(record.variable)) return;
  const Factors factors = {of_earlier_launches, given.of->num_variables};
  const Rule rule = RuleOf(record, given);
  const Real decay =
      static_cast<Real>(given.Number(given.of->decays, record.variable, record.decay));
  const int seed = given.of->seeds == nullptr ? record.seed : given.of->seeds[record.variable];
  const Real scale = static_cast<Real>(record.scale * factors.Of(record.round, record.variable));
  const Real ratio = static_cast<Real>(factors.Of(record.round_of_ratio, record.variable));
  ForEach(record, [&](auto place, auto of_gradient) {
    Numbers<decltype(place)::kCount> numbers;
    Read(record, steps, factors, place, of_gradient, numbers);
#pragma unroll
    for (int i = 0; i < decltype(place)::kCount; ++i) {
      Real& parameter = numbers.parameter[i];
      const Real lost = parameter * decay;
      const Real change =
          rule.Change(parameter - lost, numbers.gradient[i] * scale, numbers.slots[0][i],
                      numbers.slots[1][i], numbers.slots[2][i]);
      parameter += change * ratio - lost;  // rounded once
    }
    WriteSlots(numbers, record, seed, place);
    WriteParameter(numbers.parameter, record, seed, place);
  });
}
FASTKERAS_KERNEL(step);

// The squares of the parameter and of its change, summed over each block, or of a rule with a
// scaling of its own what that is made of; changes nothing.
extern "C" __global__ void __launch_bounds__(kThreads, kResident)
    lengths(FASTKERAS_TABLE(Records) records, FASTKERAS_TABLE(Steps) steps, int count,
            FASTKERAS_TABLE(Given) given, const double* of_earlier_launches, double* of_parameters,
            double* of_changes) {
  FASTKERAS_SHARED(double, shared, kWarps);
  const Record& record = records.of[Find(records.of, count, blockIdx.x)];
  const Factors factors = {of_earlier_launches, given.of->num_variables};
  const Rule rule = RuleOf(record, given);
  const Real scale = static_cast<Real>(record.scale * factors.Of(record.round, record.variable));
  double of_parameter = 0, of_change = 0;
  ForEach(record, [&](auto place, auto of_gradient) {
    Numbers<decltype(place)::kCount> numbers;
    Read(record, steps, factors, place, of_gradient, numbers);
#pragma unroll
    for (int i = 0; i < decltype(place)::kCount; ++i) {
      const Real gradient = numbers.gradient[i] * scale;
      if constexpr (FASTKERAS_SCALING != 0) {
        of_change += Measure(rule, gradient, numbers.slots[0][i], numbers.slots[1][i]);
        continue;
      }
      const double change = rule.Change(numbers.parameter[i], gradient, numbers.slots[0][i],
                                        numbers.slots[1][i], numbers.slots[2][i]);
      of_parameter += static_cast<double>(numbers.parameter[i]) * numbers.parameter[i];
      of_change += change * change;
    }
  });
  of_parameter = OfBlock<Sum, kThreads>(of_parameter, shared);
  of_change = OfBlock<Sum, kThreads>(of_change, shared);
  if (threadIdx.x != 0) return;
  of_parameters[blockIdx.x] = of_parameter;
  of_changes[blockIdx.x] = of_change;
}
FASTKERAS_KERNEL(lengths);
