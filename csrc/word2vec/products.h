// Products of a few rows with a few rows, in registers. Compiled once for each instruction set.

#ifndef FASTKERAS_WORD2VEC_PRODUCTS_H_
#define FASTKERAS_WORD2VEC_PRODUCTS_H_

#include "machine/simd.h"
#include "word2vec/losses.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// How many rows a tile has, so that its sums stay in registers: AVX-512 has 32 of them, others 16.
#if defined(FASTKERAS_AVX512)
constexpr int kDotInputs = 4, kDotOutputs = 6, kUpdateOutputs = 6, kSlices = 2;
#else
constexpr int kDotInputs = 4, kDotOutputs = 3, kUpdateOutputs = 6, kSlices = 1;
#endif

typedef float Four __attribute__((vector_size(16)));

// The four sums of four vectors. (Masks of ones: gcc warns of its own unmasked intrinsics.)
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE Four SumFour(const Vec<float>* v) {
  const Vec<float> first =
      _mm512_maskz_unpacklo_ps(0xffff, v[0], v[1]) + _mm512_maskz_unpackhi_ps(0xffff, v[0], v[1]);
  const Vec<float> second =
      _mm512_maskz_unpacklo_ps(0xffff, v[2], v[3]) + _mm512_maskz_unpackhi_ps(0xffff, v[2], v[3]);
  const Vec<float> lanes = _mm512_maskz_shuffle_ps(0xffff, first, second, 0x44) +
                           _mm512_maskz_shuffle_ps(0xffff, first, second, 0xee);
  const __m256 half =
      _mm512_maskz_extractf32x8_ps(0xff, lanes, 0) + _mm512_maskz_extractf32x8_ps(0xff, lanes, 1);
  return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
}
#elif defined(FASTKERAS_AVX2)
FASTKERAS_INLINE Four SumFour(const Vec<float>* v) {
  const __m256 first = _mm256_unpacklo_ps(v[0], v[1]) + _mm256_unpackhi_ps(v[0], v[1]);
  const __m256 second = _mm256_unpacklo_ps(v[2], v[3]) + _mm256_unpackhi_ps(v[2], v[3]);
  const __m256 lanes =
      _mm256_shuffle_ps(first, second, 0x44) + _mm256_shuffle_ps(first, second, 0xee);
  return _mm256_castps256_ps128(lanes) + _mm256_extractf128_ps(lanes, 1);
}
#else
FASTKERAS_INLINE Four SumFour(const Vec<float>* v) {
  return Four{Sum(v[0]), Sum(v[1]), Sum(v[2]), Sum(v[3])};
}
#endif

FASTKERAS_INLINE void StoreFour(float* to, Four v) { std::memcpy(to, &v, sizeof(v)); }

// dots[i * row_length + j] = inputs[i] . outputs[j].
template <int I, int J>
void DotTile(const float* const* inputs, const float* const* outputs, int64_t stride, float* dots,
             int64_t row_length) {
  constexpr int kSums = (I * J + 3) / 4 * 4;
  Vec<float> sums[kSums] = {};
  for (int64_t s = 0; s < stride; s += Simd<float>::kWidth) {
    Vec<float> output[J];
    for (int j = 0; j < J; ++j) output[j] = Load(outputs[j] + s);
    for (int i = 0; i < I; ++i) {
      const Vec<float> input = Load(inputs[i] + s);
      for (int j = 0; j < J; ++j) sums[i * J + j] += input * output[j];
    }
  }
  if (J == row_length || I == 1) {
#pragma GCC unroll 8
    for (int k = 0; k + 4 <= I * J; k += 4) StoreFour(dots + k, SumFour(sums + k));
    const Four rest = SumFour(sums + kSums - 4);
    if (I * J % 4 != 0) std::memcpy(dots + I * J / 4 * 4, &rest, I * J % 4 * sizeof(float));
    return;
  }
  float values[kSums];
#pragma GCC unroll 8
  for (int k = 0; k < kSums; k += 4) StoreFour(values + k, SumFour(sums + k));
  for (int i = 0; i < I; ++i) {
    for (int j = 0; j < J; ++j) dots[i * row_length + j] = values[i * J + j];
  }
}

// The same for a tile of at most kDotOutputs outputs and any number of inputs.
template <int J>
void DotColumns(const float* const* inputs, int num_inputs, const float* const* outputs,
                int64_t stride, float* dots, int64_t row_length) {
  int i = 0;
  for (; i + kDotInputs <= num_inputs; i += kDotInputs) {
    DotTile<kDotInputs, J>(inputs + i, outputs, stride, dots + i * row_length, row_length);
  }
  static_assert(kDotInputs == 4);
  switch (num_inputs - i) {
    case 1:
      return DotTile<1, J>(inputs + i, outputs, stride, dots + i * row_length, row_length);
    case 2:
      return DotTile<2, J>(inputs + i, outputs, stride, dots + i * row_length, row_length);
    case 3:
      return DotTile<3, J>(inputs + i, outputs, stride, dots + i * row_length, row_length);
  }
}

FASTKERAS_INLINE void Dots(const float* const* inputs, int num_inputs, const float* const* outputs,
                           int num_outputs, int64_t stride, float* dots) {
  static constexpr decltype(&DotColumns<1>) kColumns[] = {
      DotColumns<1>, DotColumns<2>, DotColumns<3>,
#if defined(FASTKERAS_AVX512)
      DotColumns<4>, DotColumns<5>, DotColumns<6>,
#endif
  };
  for (int j = 0; j < num_outputs; j += kDotOutputs) {
    const int columns = num_outputs - j < kDotOutputs ? num_outputs - j : kDotOutputs;
    kColumns[columns - 1](inputs, num_inputs, outputs + j, stride, dots + j, num_outputs);
  }
}

// The update of a tile of outputs: outputs[j] += sum_i g[i, j] inputs[i], and
// results[i] = partial[i] + sum_j g[i, j] outputs[j], both from the values before. An input may be
// its own partial sum and result.
template <int J, int S>
FASTKERAS_INLINE void UpdateSlices(const float* const* inputs, const float* const* partial,
                                   float* const* results, int num_inputs, float* const* outputs,
                                   const float* g, int64_t row_length, int64_t s) {
  constexpr int kWidth = Simd<float>::kWidth;
  Vec<float> output[S][J], changed[S][J];
  for (int k = 0; k < S; ++k) {
    for (int j = 0; j < J; ++j) changed[k][j] = output[k][j] = Load(outputs[j] + s + k * kWidth);
  }
  for (int i = 0; i < num_inputs; ++i) {
    Vec<float> input[S], sum[S];
    for (int k = 0; k < S; ++k) {
      input[k] = Load(inputs[i] + s + k * kWidth);
      sum[k] = Load(partial[i] + s + k * kWidth);
    }
    for (int j = 0; j < J; ++j) {
      const Vec<float> factor = Broadcast(g[i * row_length + j]);
      for (int k = 0; k < S; ++k) {
        sum[k] += factor * output[k][j];
        changed[k][j] += factor * input[k];
      }
    }
    for (int k = 0; k < S; ++k) Store(results[i] + s + k * kWidth, sum[k]);
  }
  for (int k = 0; k < S; ++k) {
    for (int j = 0; j < J; ++j) Store(outputs[j] + s + k * kWidth, changed[k][j]);
  }
}

template <int J>
void UpdateTile(const float* const* inputs, const float* const* partial, float* const* results,
                int num_inputs, float* const* outputs, const float* g, int64_t row_length,
                int64_t stride) {
  constexpr int64_t kWidth = Simd<float>::kWidth;
  int64_t s = 0;
  for (; s + kSlices * kWidth <= stride; s += kSlices * kWidth) {
    UpdateSlices<J, kSlices>(inputs, partial, results, num_inputs, outputs, g, row_length, s);
  }
  for (; s < stride; s += kWidth) {
    UpdateSlices<J, 1>(inputs, partial, results, num_inputs, outputs, g, row_length, s);
  }
}

// The same for one input, whose factors stay in registers.
template <int J>
FASTKERAS_INLINE void UpdateTileOfOne(const float* input, const float* partial, float* result,
                                      float* const* outputs, const float* g, int64_t stride) {
  Vec<float> factor[J];
  for (int j = 0; j < J; ++j) factor[j] = Broadcast(g[j]);
  for (int64_t s = 0; s < stride; s += Simd<float>::kWidth) {
    const Vec<float> in = Load(input + s);
    Vec<float> sum = Load(partial + s);
    for (int j = 0; j < J; ++j) {
      const Vec<float> output = Load(outputs[j] + s);
      sum += factor[j] * output;
      Store(outputs[j] + s, output + factor[j] * in);
    }
    Store(result + s, sum);
  }
}

// Outputs in a tile of one input: at most the lanes of a vector.
constexpr int kOutputsOfOne = Simd<float>::kWidth < 8 ? Simd<float>::kWidth : 8;

// A vector of which these are the first lanes.
FASTKERAS_INLINE Vec<float> FromFours(Four low, Four high) {
#if defined(FASTKERAS_AVX512)
  return _mm512_maskz_broadcast_f32x8(0xff, _mm256_set_m128(high, low));
#elif defined(FASTKERAS_AVX2)
  return _mm256_set_m128(high, low);
#else
  (void)high;
  return low;
#endif
}

// One input with a tile of outputs under the logistic loss: logits, errors and both updates, all in
// registers.
template <int J>
void LogisticTile(const float* input, const float* partial, float* result, float* const* outputs,
                  const float* signs, float rate, int64_t stride, SoftplusSum& loss) {
  constexpr int kWidth = Simd<float>::kWidth;
  Vec<float> sums[8] = {};
  for (int64_t s = 0; s < stride; s += kWidth) {
    const Vec<float> in = Load(input + s);
    for (int j = 0; j < J; ++j) sums[j] += in * Load(outputs[j] + s);
  }
  const Vec<float> x = FromFours(SumFour(sums), J > 4 ? SumFour(sums + 4) : Four{});
  const Vec<float> sign = LoadFirst(signs, J);
  float g[kWidth];
  Store(g, sign * -rate * Sigmoid(FirstLogits(sign * x, J), loss));
  UpdateTileOfOne<J>(input, partial, result, outputs, g, stride);
}

// Both updates for any number of outputs, which have to be different rows. The first tile reads
// `partial`, the last one writes `results`, each of which may be the inputs; between tiles the sums
// are in `scratch`, a row for each input.
FASTKERAS_INLINE void Update(float* const* inputs, int num_inputs, float* const* outputs,
                             int num_outputs, const float* g, int64_t row_length, int64_t stride,
                             float* const* scratch, float* const* partial, float* const* results) {
  static constexpr decltype(&UpdateTile<1>) kTiles[] = {
      UpdateTile<1>, UpdateTile<2>, UpdateTile<3>, UpdateTile<4>, UpdateTile<5>, UpdateTile<6>};
  for (int j = 0; j < num_outputs; j += kUpdateOutputs) {
    const int columns = num_outputs - j < kUpdateOutputs ? num_outputs - j : kUpdateOutputs;
    float* const* from = j == 0 ? partial : scratch;
    float* const* to = j + columns == num_outputs ? results : scratch;
    kTiles[columns - 1](inputs, from, to, num_inputs, outputs + j, g + j, row_length, stride);
  }
}

// The logistic loss of one input with any number of outputs. A tile has at most `tile` outputs,
// which have to be different rows; the next tile sees them updated, but the input as it was.
FASTKERAS_INLINE void UpdateLogistic(const float* input, float* partial, float* result,
                                     float* scratch, float* const* outputs, int num_outputs,
                                     int tile, const float* signs, float rate, int64_t stride,
                                     SoftplusSum& loss) {
  static constexpr decltype(&LogisticTile<1>) kTiles[] = {
      LogisticTile<1>, LogisticTile<2>, LogisticTile<3>, LogisticTile<4>,
#if defined(FASTKERAS_AVX512) || defined(FASTKERAS_AVX2)
      LogisticTile<5>, LogisticTile<6>, LogisticTile<7>, LogisticTile<8>,
#endif
  };
  for (int j = 0; j < num_outputs; j += tile) {
    const int columns = num_outputs - j < tile ? num_outputs - j : tile;
    kTiles[columns - 1](input, j == 0 ? partial : scratch,
                        j + columns == num_outputs ? result : scratch, outputs + j, signs + j, rate,
                        stride, loss);
  }
}

// Slices of a sum that stay in registers over all rows: with AVX-512 all of 100 floats.
template <int S>
FASTKERAS_INLINE void MeanOfSlices(const float* const* rows, int count, float share, float* mean,
                                   int64_t s) {
  constexpr int kWidth = Simd<float>::kWidth;
  Vec<float> sums[S] = {};
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < S; ++k) sums[k] += Load(rows[i] + s + k * kWidth);
  }
  for (int k = 0; k < S; ++k) Store(mean + s + k * kWidth, sums[k] * share);
}

template <int S>
FASTKERAS_INLINE void AddSlices(const float* change, float factor, float* const* rows, int count,
                                int64_t s) {
  constexpr int kWidth = Simd<float>::kWidth;
  Vec<float> changes[S];
  for (int k = 0; k < S; ++k) changes[k] = Load(change + s + k * kWidth) * factor;
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < S; ++k) {
      float* const to = rows[i] + s + k * kWidth;
      Store(to, Load(to) + changes[k]);
    }
  }
}

// The mean of rows; share is 1 / count.
FASTKERAS_INLINE void Mean(const float* const* rows, int count, int64_t stride, float share,
                           float* mean) {
  constexpr int64_t kWidth = Simd<float>::kWidth;
  int64_t s = 0;
  for (; s + 7 * kWidth <= stride; s += 7 * kWidth) MeanOfSlices<7>(rows, count, share, mean, s);
  for (; s + 4 * kWidth <= stride; s += 4 * kWidth) MeanOfSlices<4>(rows, count, share, mean, s);
  for (; s < stride; s += kWidth) MeanOfSlices<1>(rows, count, share, mean, s);
}

// rows[i] += factor * change, one after the other, since a row may occur twice.
FASTKERAS_INLINE void AddToEach(const float* change, float factor, int64_t stride,
                                float* const* rows, int count) {
  constexpr int64_t kWidth = Simd<float>::kWidth;
  int64_t s = 0;
  for (; s + 7 * kWidth <= stride; s += 7 * kWidth) AddSlices<7>(change, factor, rows, count, s);
  for (; s + 4 * kWidth <= stride; s += 4 * kWidth) AddSlices<4>(change, factor, rows, count, s);
  for (; s < stride; s += kWidth) AddSlices<1>(change, factor, rows, count, s);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_WORD2VEC_PRODUCTS_H_
