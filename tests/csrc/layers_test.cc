// Runs the kernels of the Keras layers under the sanitizers, on every instruction set that this
// processor has, against plain loops in double.
//
// All arrays have exactly the size needed, so that the sanitizer detects an access beyond them.

#include "word2vec/layers/layers.h"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "machine/instruction_set.h"
#include "machine/parallel.h"

using namespace fastkeras;
using namespace fastkeras::word2vec::layers;

namespace {

constexpr int kRounds = 60;
std::mt19937 generator(20240229);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s (%s)\n", what, InstructionSet());
}

template <typename T>
void ExpectNear(const std::vector<T>& found, const std::vector<double>& expected, double scale,
                const char* what) {
  bool is_near = found.size() == expected.size();
  for (size_t i = 0; is_near && i < found.size(); ++i) {
    const double error = std::abs(static_cast<double>(found[i]) - expected[i]);
    is_near = error <= (sizeof(T) == 4 ? 1e-5 : 1e-13) * (scale + std::abs(expected[i]));
  }
  Expect(is_near, what);
}

template <typename T>
std::vector<T> Normal(int64_t size) {
  std::vector<T> values(static_cast<size_t>(size));
  for (T& value : values) value = static_cast<T>(std::normal_distribution<double>()(generator));
  return values;
}

struct Grouped {
  std::vector<int32_t> rows, places, order, starts;

  Grouped(const std::vector<int32_t>& ids, int num_ids) : places(ids.size()), order(ids.size()) {
    const int64_t size = static_cast<int64_t>(ids.size());
    std::vector<int32_t> counts(static_cast<size_t>(num_ids));
    rows.resize(static_cast<size_t>(Count(ids.data(), size, num_ids, counts.data())));
    starts.resize(rows.size() + 1);
    Group(ids.data(), size, num_ids, counts.data(), rows.data(), places.data(), order.data(),
          starts.data());
    bool is_right = true;
    for (size_t i = 0; i < ids.size(); ++i) {
      is_right &= ids[i] < 0 ? places[i] == -1 : rows[static_cast<size_t>(places[i])] == ids[i];
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      is_right &= r == 0 || rows[r - 1] < rows[r];
      for (int32_t p = starts[r]; p < starts[r + 1]; ++p) {
        is_right &= ids[static_cast<size_t>(order[static_cast<size_t>(p)])] == rows[r];
      }
    }
    Expect(is_right, "Group finds each word where it is");
  }
};

template <typename T>
void CheckSums(int threads) {
  const int examples = Pick(0, 40), contexts = Pick(1, 12), size = Pick(1, 200), words = 30;
  std::vector<int32_t> ids;
  for (int i = 0; i < examples * contexts; ++i) ids.push_back(Pick(-3, words - 1));
  const Grouped groups(ids, words);
  const int64_t num_rows = static_cast<int64_t>(groups.rows.size());
  const auto rows = Normal<T>(num_rows * size), weights = Normal<T>(examples * contexts);
  const auto upstream = Normal<T>(examples * size);
  const bool weighted = Pick(0, 1);
  std::vector<double> sums(static_cast<size_t>(examples * size)), d_rows(rows.size());
  std::vector<double> of_factors(static_cast<size_t>(num_rows));
  for (int p = 0; p < examples * contexts; ++p) {
    const int32_t row = groups.places[static_cast<size_t>(p)];
    if (row < 0) continue;
    const double weight = weighted ? static_cast<double>(weights[static_cast<size_t>(p)]) : 1;
    of_factors[static_cast<size_t>(row)] += weight;
    for (int s = 0; s < size; ++s) {
      const size_t at = static_cast<size_t>(p / contexts * size + s);
      const size_t from = static_cast<size_t>(row * size + s);
      sums[at] += weight * static_cast<double>(rows[from]);
      d_rows[from] += weight * static_cast<double>(upstream[at]);
    }
  }
  std::vector<T> out(sums.size()), d_out(rows.size()), factors(of_factors.size());
  const T* const given = weighted ? weights.data() : nullptr;
  Run(Pool<T>{rows.data(), groups.places.data(), given, size, contexts, out.data()}, examples,
      threads);
  ExpectNear(out, sums, contexts, "sums of rows");
  Run(Spread<T>{upstream.data(), given, groups.order.data(), groups.starts.data(), size, contexts,
                d_out.data(), factors.data()},
      num_rows, threads);
  ExpectNear(d_out, d_rows, contexts * examples, "the gradient of sums");
  ExpectNear(factors, of_factors, contexts * examples, "the sums of factors");
}

template <typename T>
void CheckLoss(int threads) {
  const int examples = Pick(0, 20), n = Pick(1, 40), size = Pick(1, 200), words = 30;
  const auto hidden = Normal<T>(examples * size), rows = Normal<T>(words * size);
  const auto bias = Normal<T>(words), offset = Normal<T>(words);
  std::vector<int32_t> places;
  for (int i = 0; i < examples * n; ++i) places.push_back(Pick(0, words - 1));
  std::vector<T> losses(static_cast<size_t>(examples)), hits(losses.size());
  std::vector<T> errors(places.size()), d_hidden(hidden.size());
  Examples<T> batch = {};
  batch.loss = Pick(0, 1) ? Loss::kSampledSoftmax : Loss::kNegativeSampling;
  batch.hidden = hidden.data();
  batch.rows = rows.data();
  batch.bias = Pick(0, 1) ? bias.data() : nullptr;
  batch.offset = Pick(0, 1) ? offset.data() : nullptr;
  batch.places = places.data();
  batch.size = size;
  batch.candidates = n;
  batch.losses = losses.data();
  batch.hits = hits.data();
  batch.errors = errors.data();
  batch.d_hidden = d_hidden.data();
  Run(batch, examples, threads);

  std::vector<double> loss(losses.size()), of_errors(errors.size()), of_hidden(hidden.size());
  for (int i = 0; i < examples; ++i) {
    std::vector<double> x;
    double partition = 0;
    for (int j = 0; j < n; ++j) {
      const int row = places[static_cast<size_t>(i * n + j)];
      double logit = batch.bias ? static_cast<double>(bias[static_cast<size_t>(row)]) : 0;
      if (j > 0 && batch.offset) logit += static_cast<double>(offset[static_cast<size_t>(row)]);
      for (int s = 0; s < size; ++s) {
        logit += static_cast<double>(hidden[static_cast<size_t>(i * size + s)]) *
                 static_cast<double>(rows[static_cast<size_t>(row * size + s)]);
      }
      x.push_back(j > 0 && row == places[static_cast<size_t>(i * n)] ? -1e30 : logit);
      partition += std::exp(x[static_cast<size_t>(j)] - x[0]);
    }
    for (int j = 0; j < n; ++j) {
      const double y = j == 0 ? -x[0] : x[static_cast<size_t>(j)];
      double& error = of_errors[static_cast<size_t>(i * n + j)];
      if (batch.loss == Loss::kSampledSoftmax) {
        error = std::exp(x[static_cast<size_t>(j)] - x[0]) / partition - (j == 0);
      } else {
        error = (j == 0 ? -1 : 1) / (1 + std::exp(-y));
        loss[static_cast<size_t>(i)] +=
            y > 0 ? y + std::log1p(std::exp(-y)) : std::log1p(std::exp(y));
      }
      const int row = places[static_cast<size_t>(i * n + j)];
      for (int s = 0; s < size; ++s) {
        of_hidden[static_cast<size_t>(i * size + s)] +=
            error * static_cast<double>(rows[static_cast<size_t>(row * size + s)]);
      }
    }
    if (batch.loss == Loss::kSampledSoftmax) loss[static_cast<size_t>(i)] = std::log(partition);
  }
  const double scale = 60;  // of a logit
  ExpectNear(losses, loss, scale * n, "losses");
  ExpectNear(errors, of_errors, scale, "errors");
  ExpectNear(d_hidden, of_hidden, scale * n, "gradients of hidden vectors");
}

}  // namespace

int main() {
  SetWorthAThread(0);
  for (const char* set : {"portable", "avx2", "avx512"}) {
    if (!SetInstructionSet(set)) continue;
    for (int round = 0; round < kRounds; ++round) {
      const int threads = Pick(1, 4);
      CheckSums<float>(threads);
      CheckSums<double>(threads);
      CheckLoss<float>(threads);
      CheckLoss<double>(threads);
    }
  }
  if (failures == 0) std::printf("the kernels of the layers passed\n");
  return failures != 0;
}
