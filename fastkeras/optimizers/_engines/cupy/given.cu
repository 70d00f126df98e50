// Numbers of the variables that only the device knows, as those of a compiled program, or of a
// Keras variable on a GPU. Null where the host knows them, and the table has them.

struct OfVariables {
  const void* coefficients;  // those of the rule, for one variable after the other
  const void* decays;
  const void* rates;
  const bool* frozen;
  const int* seeds;
  int is_wide;  // whether the first three are float64, and not float32
  int num_variables;
};

struct Given {
  OfVariables of[1];

  __device__ bool IsFrozen(int variable) const {
    return of->frozen != nullptr && of->frozen[variable];
  }
  __device__ double Number(const void* numbers, int place, double known) const {
    if (numbers == nullptr) return known;
    return of->is_wide ? static_cast<const double*>(numbers)[place]
                       : static_cast<double>(static_cast<const float*>(numbers)[place]);
  }
};
