// The update rules, one number at a time: each returns the change of the parameter, and updates the
// slots. p is the parameter after its decay. The coefficients are those of
// fastkeras/optimizers/rules/; as csrc/optimizers/sweeps/rules.h.

__device__ inline float Sqrt(float x) { return sqrtf(x); }
__device__ inline double Sqrt(double x) { return sqrt(x); }

// 1 where both have the same sign, or else 0, also where one is 0 or NaN.
__device__ inline Real Agrees(Real x, Real y) {
  constexpr Real kNothing = Real(1.2e-38);  // below it are denormals, which some threads flush
  return ((x > kNothing) && (y > kNothing)) || ((x < -kNothing) && (y < -kNothing)) ? Real(1)
                                                                                    : Real(0);
}

#define FASTKERAS_DEFINE(Name, slots, ...)                                                \
  struct Name {                                                                           \
    static constexpr int kSlots = slots;                                                  \
    Real __VA_ARGS__;                                                                     \
    __device__ Real Change(Real p, Real g, Real& a, Real& b, Real& c) const;              \
  };                                                                                      \
  __device__ inline Real Name::Change([[maybe_unused]] Real p, [[maybe_unused]] Real g,   \
                                      [[maybe_unused]] Real& a, [[maybe_unused]] Real& b, \
                                      [[maybe_unused]] Real& c) const

FASTKERAS_DEFINE(Sgd, 0, rate) { return -g * rate; }

FASTKERAS_DEFINE(Momentum, 1, rate, mu) {
  a = a * mu - g * rate;
  return a;
}

FASTKERAS_DEFINE(Nesterov, 1, rate, mu) {
  a = a * mu - g * rate;
  return a * mu - g * rate;
}

FASTKERAS_DEFINE(Adam, 2, rate, rest_1, rest_2, epsilon) {
  a += (g - a) * rest_1;
  b += (g * g - b) * rest_2;
  return -a * rate / (Sqrt(b) + epsilon);
}

FASTKERAS_DEFINE(Amsgrad, 3, rate, rest_1, rest_2, epsilon) {
  a += (g - a) * rest_1;
  b += (g * g - b) * rest_2;
  c = c > b || c != c ? c : b;  // NaN stays
  return -a * rate / (Sqrt(c) + epsilon);
}

FASTKERAS_DEFINE(Nadam, 2, of_momentum, of_gradient, rest_1, rest_2, unbias_2, epsilon) {
  a += (g - a) * rest_1;
  b += (g * g - b) * rest_2;
  return -(a * of_momentum + g * of_gradient) / (Sqrt(b * unbias_2) + epsilon);
}

FASTKERAS_DEFINE(Lion, 1, rate, beta_1, rest_1, beta_2, rest_2) {
  const Real x = a * beta_1 + g * rest_1;
  a = a * beta_2 + g * rest_2;
  return -rate * (x > 0 ? Real(1) : x < 0 ? Real(-1) : x);  // of NaN it is NaN
}

FASTKERAS_DEFINE(Rmsprop, 1, rate, rho, rest, epsilon) {
  a = a * rho + g * g * rest;
  return -rate * g / Sqrt(a + epsilon);
}

FASTKERAS_DEFINE(RmspropMomentum, 2, rate, rho, rest, epsilon, mu) {
  a = a * rho + g * g * rest;
  b = b * mu + rate * g / Sqrt(a + epsilon);
  return -b;
}

FASTKERAS_DEFINE(CenteredRmsprop, 2, rate, rho, rest, epsilon) {
  a = a * rho + g * g * rest;
  b = b * rho + g * rest;
  return -rate * g / Sqrt(a - b * b + epsilon);
}

FASTKERAS_DEFINE(CenteredRmspropMomentum, 3, rate, rho, rest, epsilon, mu) {
  a = a * rho + g * g * rest;
  c = c * rho + g * rest;
  b = b * mu + rate * g / Sqrt(a - c * c + epsilon);
  return -b;
}

FASTKERAS_DEFINE(Adagrad, 1, rate, epsilon) {
  a += g * g;
  return -rate * g / Sqrt(a + epsilon);
}

FASTKERAS_DEFINE(Lamb, 2, rate, rest_1, rest_2, unbias_1, unbias_2, epsilon) {
  a += (g - a) * rest_1;
  b += (g * g - b) * rest_2;
  return -rate * (a * unbias_1 / (Sqrt(b * unbias_2) + epsilon));
}

FASTKERAS_DEFINE(Ademamix, 3, of_fast, of_slow, rest_1, rest_2, rest_3, epsilon) {
  a += (g - a) * rest_1;
  b += (g - b) * rest_3;
  c += (g * g - c) * rest_2;
  return -(a * of_fast + b * of_slow) / (Sqrt(c) + epsilon);
}

FASTKERAS_DEFINE(ScheduleFreeSgd, 1, rate, of_step, weight) {
  const Real step = -g * rate, change = step * of_step + (a - p) * weight;
  a += step;
  return change;
}

FASTKERAS_DEFINE(ScheduleFreeAdamw, 2, rate, of_step, weight, rest_2, unbias_2, epsilon) {
  b += (g * g - b) * rest_2;
  const Real step = -g * rate / (Sqrt(b * unbias_2) + epsilon);
  const Real change = step * of_step + (a - p) * weight;
  a += step;
  return change;
}

// The factor, not a choice, so that NaN stays.
FASTKERAS_DEFINE(CautiousAdam, 2, rate, rest_1, rest_2, epsilon) {
  const Real change = Adam{rate, rest_1, rest_2, epsilon}.Change(p, g, a, b, c);
  return change * Agrees(a, g);
}

FASTKERAS_DEFINE(CautiousLion, 1, rate, beta_1, rest_1, beta_2, rest_2) {
  const Real agrees = Agrees(a * beta_1 + g * rest_1, g);
  return Lion{rate, beta_1, rest_1, beta_2, rest_2}.Change(p, g, a, b, c) * agrees;
}

// The decay is a part of the step, which is clipped as a whole.
FASTKERAS_DEFINE(StableAdamw, 2, rate, rest_1, rest_2, unbias_2, epsilon, decay) {
  a += (g - a) * rest_1;
  b += (g * g - b) * rest_2;
  return -(a * rate / (Sqrt(b * unbias_2) + epsilon) + p * decay);
}

#undef FASTKERAS_DEFINE

// What is summed over a variable before it changes, for the scaling of a rule. The slots are old.
__device__ inline Real Measure(const CautiousAdam& rule, Real g, Real a, Real) {
  return Agrees(a + (g - a) * rule.rest_1, g);
}

__device__ inline Real Measure(const CautiousLion& rule, Real g, Real a, Real) {
  return Agrees(a * rule.beta_1 + g * rule.rest_1, g);
}

__device__ inline Real Measure(const StableAdamw& rule, Real g, Real, Real b) {
  const Real root = Sqrt((b + (g * g - b) * rule.rest_2) * rule.unbias_2);
  const Real size = g / (root < rule.epsilon ? rule.epsilon : root);
  return size * size;
}

// Of all other rules the change is measured.
template <typename Any>
__device__ inline Real Measure(const Any&, Real, Real, Real) {
  return 0;
}

using Rule = FASTKERAS_RULE;
constexpr int kCoefficients = sizeof(Rule) / sizeof(Real);
