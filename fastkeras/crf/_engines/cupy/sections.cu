// Long chains of few sequences: sections of a chain are swept at the same time.
//
// With M_s = W diag(E_s), the product P of the matrices of a section leads from the alpha before it
// to its last alpha, and from its last beta to the beta before it:
//   alpha_last = alpha_before P,   beta_before = P beta_last.
// `products_of_sections` computes P for all sections at once, `borders_of_sections` goes from one
// section to the next, and `sweeps` starts each section at its border.
//
// Row i of P has its own power of two. What row i loses to underflow is small against its largest
// element, so alpha_before[i] times it is small against the largest element of the alpha at that
// step. The sweep computes that alpha again, and from the border before: so if P has lost something
// that matters, `watch` finds an element of alpha below what is safe. What alpha has not lost is
// not lost in alpha P beta either.

constexpr int kProductWarps = 4;   // rows of P in a block
constexpr int kNone = -(1 << 30);  // in place of the exponent of zero

// x 2^exponent, for any exponent.
__device__ inline Real Scaled(Real x, int exponent) {
  const int half = ClippedExponent(exponent / 2);
  return x * PowerOfTwo(half) * PowerOfTwo(ClippedExponent(exponent - half));
}

__device__ inline int LargestOfWarp(int x) {
  constexpr unsigned kSign = 1u << 31;  // the order of integers as one of unsigned numbers
  return int(__reduce_max_sync(kAllLanes, unsigned(x) ^ kSign) ^ kSign);
}

// One warp for each row of each P. `products` (batch, sections, 2, num_tags, num_tags) are P and P
// transposed, P[i] times 2^levels[i] is the product; levels is (batch, sections, num_tags). Also
// sums the peaks of each section, (batch, sections). What only beta needs is left out unless
// `backward`; the last section is then not computed.
extern "C" __global__ void __launch_bounds__(32 * kProductWarps, 1)
    products_of_sections(const int* counts, const int* step_index, int steps, int num_tags,
                         const Real* weights, const Real* exponentials, const Real* peaks,
                         int sections, int steps_of_section, int backward, Real* products,
                         int* levels, double* peaks_of_sections) {
  FASTKERAS_SHARED(Pack, of_rows, kProductWarps * 2 * kRoom / kPack);
  const int b = blockIdx.x / sections, section = blockIdx.x % sections, count = counts[b];
  const int lane = threadIdx.x % 32, i = blockIdx.y * kProductWarps + threadIdx.x / 32;
  const int64_t first = int64_t(section) * steps_of_section, first_step = int64_t(b) * steps;
  if (first >= count || i >= num_tags) return;
  const int end = first + steps_of_section < count ? int(first) + steps_of_section : count;
  if (end == count && (section == 0 || !backward)) return;
  if (i == 0) {
    double sum = 0;
    for (int s = int(first) + lane; s < end; s += 32) sum += peaks[first_step + s];
    sum = OfWarp<Sum>(sum);
    if (lane == 0) peaks_of_sections[int64_t(b) * sections + section] = sum;
  }
  Real of_thread[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    of_thread[k] = k < num_tags && lane < num_tags ? weights[k * num_tags + lane] : Real(0);
  }
  const auto exponential = [&](int s) {
    if (s >= end || lane >= num_tags) return Real(0);
    return exponentials[(first_step + StepAt(step_index, first_step, s)) * num_tags + lane];
  };
  const Pack* const row = of_rows + threadIdx.x / 32 * 2 * kRoom / kPack;
  Real* const elements = of_rows[threadIdx.x / 32 * 2 * kRoom / kPack].of;  // two rows, alternately
  Real value = lane == i ? 1 : 0, scale = 1;
  int exponent = 0, level = 0;
  const int begin = section == 0 ? 1 : int(first);  // no step leads to alpha_0
  elements[(begin + 1) % 2 * kRoom + lane] = value;
  __syncwarp();
  Real next[kAhead], now[kAhead];
#pragma unroll
  for (int k = 0; k < kAhead; ++k) next[k] = exponential(begin + k);
  for (int stage = begin; stage < end; stage += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) now[k] = next[k];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) next[k] = exponential(stage + kAhead + k);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int s = stage + k;
      if (s >= end) break;
      Real sums[4];
      Product(row + (s + 1) % 2 * kRoom / kPack, of_thread, sums);
      value = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale * now[k];
      level += exponent;
      elements[s % 2 * kRoom + lane] = value;
      exponent = ExponentOf(__reduce_max_sync(kAllLanes, UpperBits(value)));
      scale = PowerOfTwo(-exponent);
      __syncwarp();
    }
  }
  const bool is_zero = __reduce_max_sync(kAllLanes, UpperBits(value)) == 0;
  const int64_t place = int64_t(b) * sections + section;
  products += place * 2 * num_tags * num_tags;
  if (lane < num_tags) {
    products[i * num_tags + lane] = value * scale;
    products[(num_tags + lane) * num_tags + i] = value * scale;
  }
  if (lane == 0) levels[place * num_tags + i] = is_zero ? kNone : level + exponent;
}
FASTKERAS_KERNEL(products_of_sections);

// One warp for each sequence, forward (blockIdx.y 0) or backward (1). `borders` is (batch, 2,
// sections, num_tags): the alpha before each section but the first, which times 2^its element of
// levels_of_borders (batch, sections) has the scale of alpha_0; and the last beta of each section
// but the last, in a scale of its own.
extern "C" __global__ void __launch_bounds__(32, 1)
    borders_of_sections(const int* counts, const int* step_index, int steps, int num_tags,
                        const Real* exponentials, const Real* products, const int* levels,
                        int sections, int steps_of_section, Real* borders, int* levels_of_borders) {
  FASTKERAS_SHARED(Pack, of_rows, 2 * kRoom / kPack);
  Real* const elements = of_rows[0].of;
  const int b = blockIdx.x, lane = threadIdx.x, count = counts[b];
  const bool backward = blockIdx.y == 1, owns = lane < num_tags;
  const int64_t first_step = int64_t(b) * steps, area = int64_t(num_tags) * num_tags;
  const int used = int((int64_t(count) + steps_of_section - 1) / steps_of_section);
  borders += (int64_t(b) * 2 + backward) * sections * num_tags;
  levels += int64_t(b) * sections * num_tags;
  levels_of_borders += int64_t(b) * sections;
  products += (int64_t(b) * sections * 2 + backward) * area;
  const auto section_of = [&](int n) { return backward ? used - 1 - n : n; };
  Real of_next[kRows], of_thread[kRows];
  int level_of_next = kNone;
  const auto load = [&](int n) {
    if (n + 1 >= used || !owns) return;
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (k < num_tags) of_next[k] = products[section_of(n) * 2 * area + k * num_tags + lane];
    }
    level_of_next = levels[int64_t(section_of(n)) * num_tags + lane];
  };
#pragma unroll
  for (int k = 0; k < kRows; ++k) of_next[k] = 0;
  load(0);
  Real border = 0;
  if (used > 1 && owns) {
    const int t = StepAt(step_index, first_step, 0);
    border = backward ? Real(1) : exponentials[(first_step + t) * num_tags + lane];
  }
  int level_of_border = 0;
  for (int n = 0; n + 1 < used; ++n) {
    const int level = level_of_next;
#pragma unroll
    for (int k = 0; k < kRows; ++k) of_thread[k] = of_next[k];
    load(n + 1);
    // Brings the rows of P to one scale, in which the largest is near 1.
    const auto rescaled = [&](Real x) {
      const unsigned bits = UpperBits(x);
      const int top = bits > 0 && level > kNone ? ExponentOf(bits) + level : kNone;
      const int largest = LargestOfWarp(top);
      if (largest == kNone) return Real(0);
      level_of_border += largest;
      return Scaled(x, level - largest);
    };
    if (!backward) border = rescaled(border);
    elements[n % 2 * kRoom + lane] = border;
    __syncwarp();
    Real sums[4];
    Product(of_rows + n % 2 * kRoom / kPack, of_thread, sums);
    border = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if (backward) border = rescaled(border);
    const int place = backward ? used - 2 - n : n + 1;
    if (owns) borders[int64_t(place) * num_tags + lane] = border;
    if (!backward && lane == 0) levels_of_borders[place] = level_of_border;
  }
}
FASTKERAS_KERNEL(borders_of_sections);
