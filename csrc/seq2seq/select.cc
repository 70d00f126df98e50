#include <algorithm>
#include <optional>

#include "machine/instruction_set.h"
#include "machine/memory.h"
#include "machine/parallel.h"
#include "seq2seq/seq2seq.h"

namespace fastkeras::seq2seq {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

template <typename T>
void Select(const Step<T>& step, const Candidates<T>& candidates, int num_threads) {
  const auto select = CurrentKernels<T>().select;
  const int64_t blocks = (step.vocabulary + kBlock - 1) / kBlock;
  const int64_t most = std::min(candidates.number, step.beams * step.vocabulary);
  const double work =
      static_cast<double>(step.batch * step.beams) * (0.3 * static_cast<double>(step.vocabulary));
  const int threads = ThreadsThatPay(work, num_threads);
  // Only a few tasks for each thread, since each allocates and clears memory.
  const int64_t tasks = std::min<int64_t>(step.batch, 4 * threads);
  ParallelFor(tasks, threads, [&](int64_t task) {
    const Buffer<Candidate> best(most);
    const Buffer<T> peaks(blocks * kWidestVector / static_cast<int64_t>(sizeof(T)));
    std::optional<Buffer<uint8_t>> marks;
    if (step.history != nullptr) {
      marks.emplace(step.vocabulary);
      std::fill_n(marks->data, step.vocabulary, uint8_t{0});
    }
    const Room<T> room = {best.data, peaks.data, marks ? marks->data : nullptr};
    for (int64_t b = step.batch * task / tasks; b < step.batch * (task + 1) / tasks; ++b) {
      select(step, b, candidates, room);
    }
  });
}

template void Select(const Step<float>&, const Candidates<float>&, int);
template void Select(const Step<double>&, const Candidates<double>&, int);

}  // namespace fastkeras::seq2seq
