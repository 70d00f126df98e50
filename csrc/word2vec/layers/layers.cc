#include "word2vec/layers/layers.h"

#include <algorithm>

#include "machine/instruction_set.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::word2vec::layers {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

namespace {

constexpr int64_t kTask = 1 << 12;  // rows read, some hundred microseconds

// Nanoseconds to read one row and to compute with it.
double Work(int64_t size) { return 10 + 0.15 * static_cast<double>(size); }

// Tasks of some examples of `rows` rows each.
template <typename Function>
void OfExamples(int64_t examples, int64_t rows, int64_t size, int num_threads, Function&& run) {
  const int64_t step = std::max<int64_t>(1, kTask / std::max<int64_t>(1, rows));
  const double work = static_cast<double>(examples) * static_cast<double>(rows) * Work(size);
  ParallelFor((examples + step - 1) / step, ThreadsThatPay(work, num_threads),
              [&](int64_t task) { run(task * step, std::min(examples, (task + 1) * step)); });
}

}  // namespace

int64_t Count(const int32_t* ids, int64_t size, int64_t num_ids, int32_t* counts) {
  std::fill_n(counts, num_ids, 0);
  int64_t different = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (ids[i] >= 0) different += counts[ids[i]]++ == 0;
  }
  return different;
}

void Group(const int32_t* ids, int64_t size, int64_t num_ids, int32_t* counts, int32_t* rows,
           int32_t* places, int32_t* order, int32_t* starts) {
  int32_t row = 0, start = 0;
  for (int64_t id = 0; id < num_ids; ++id) {
    if (counts[id] == 0) continue;
    rows[row] = static_cast<int32_t>(id);
    starts[row] = start;
    start += counts[id];
    counts[id] = row++;
  }
  for (int64_t i = 0; i < size; ++i) {
    places[i] = ids[i] < 0 ? -1 : counts[ids[i]];
    if (places[i] >= 0) order[starts[places[i]]++] = static_cast<int32_t>(i);
  }
  for (int32_t r = row; r > 0; --r) starts[r] = starts[r - 1];  // each had advanced to its end
  starts[0] = 0;
  std::fill(order + start, order + size, -1);
}

template <typename T>
void Run(const Pool<T>& pool, int64_t examples, int num_threads) {
  const auto run = CurrentKernels<T>().pool;
  OfExamples(examples, pool.contexts, pool.size, num_threads,
             [&](int64_t begin, int64_t end) { run(pool, begin, end); });
}

// A frequent row has many positions, and one that does not occur still has to be written. So tasks
// are cut to equal sums of positions and rows.
template <typename T>
void Run(const Spread<T>& spread, int64_t rows, int num_threads) {
  const auto run = CurrentKernels<T>().spread;
  const int32_t* const starts = spread.starts;
  const int64_t all = starts[rows] + rows;
  const auto row_at = [&](int64_t place) {  // the first row with so many before it
    int64_t low = 0, high = rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (starts[middle] + middle < place) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  const int threads = ThreadsThatPay(static_cast<double>(all) * Work(spread.size), num_threads);
  ParallelFor((all + kTask - 1) / kTask, threads,
              [&](int64_t task) { run(spread, row_at(task * kTask), row_at((task + 1) * kTask)); });
}

template <typename T>
void Scatter(const Spread<T>& spread, const int32_t* ids, int64_t examples, int64_t num_words,
             int num_threads) {
  const int64_t positions = examples * spread.columns;
  const Buffer<int32_t> starts(num_words + 2), order(positions);
  std::fill_n(starts.data, num_words + 2, 0);
  int32_t* const next = starts.data + 1;  // where a word's positions begin, then where they end
  for (int64_t p = 0; p < positions; ++p) {
    if (ids[p] >= 0) ++next[ids[p] + 1];
  }
  for (int64_t word = 0; word < num_words; ++word) next[word + 1] += next[word];
  for (int64_t p = 0; p < positions; ++p) {
    if (ids[p] >= 0) order.data[next[ids[p]]++] = static_cast<int32_t>(p);
  }
  Spread<T> ordered = spread;
  ordered.order = order.data;
  ordered.starts = starts.data;
  Run(ordered, num_words, num_threads);
}

template <typename T>
void Run(const Examples<T>& batch, int64_t examples, int num_threads) {
  const auto run = CurrentKernels<T>().loss;
  OfExamples(examples, batch.candidates, batch.size, num_threads, [&](int64_t begin, int64_t end) {
    const Buffer<T> logits(batch.candidates + 16);  // whole vectors
    run(batch, begin, end, logits.data);
  });
}

#define FASTKERAS_RUN(T)                                                          \
  template void Run(const Pool<T>&, int64_t, int);                                \
  template void Run(const Spread<T>&, int64_t, int);                              \
  template void Scatter(const Spread<T>&, const int32_t*, int64_t, int64_t, int); \
  template void Run(const Examples<T>&, int64_t, int);
FASTKERAS_RUN(float)
FASTKERAS_RUN(double)

}  // namespace fastkeras::word2vec::layers
