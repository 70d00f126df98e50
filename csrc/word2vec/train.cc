// Divides the work: threads without locks, or rounds of blocks whose changes are added in order.

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "machine/instruction_set.h"
#include "machine/memory.h"
#include "machine/parallel.h"
#include "word2vec/kernels.h"

namespace fastkeras::word2vec {

FASTKERAS_CURRENT_KERNELS(float)

namespace {

constexpr int64_t kTask = 8 * kChunk;  // some milliseconds

Tally Sum(const std::vector<Tally>& tallies) {
  Tally sum;
  for (const Tally& tally : tallies) {
    sum.loss += tally.loss;
    sum.predictions += tally.predictions;
    sum.words += tally.words;
  }
  return sum;
}

Tally TrainWithoutLocks(const Problem& problem, int64_t begin, int64_t end, int num_threads) {
  const auto train = CurrentKernels<float>().train;
  const Model& model = problem.model;
  const Place place = {model.input, model.output, model.documents, nullptr, nullptr, nullptr};
  const int64_t first = begin / kTask, tasks = (end + kTask - 1) / kTask - first;
  std::vector<Tally> tallies(static_cast<size_t>(tasks));
  ParallelFor(tasks, num_threads, [&](int64_t task) {
    const int64_t from = std::max(begin, (first + task) * kTask);
    const int64_t to = std::min(end, (first + task + 1) * kTask);
    train(problem, place, from, to, &tallies[static_cast<size_t>(task)]);
  });
  return Sum(tallies);
}

// A matrix as one block sees it, and afterwards the changes that the block has made.
class Changes {
 public:
  Changes(float* matrix, int64_t num_rows, int64_t stride, int64_t most_rows)
      : matrix_(matrix),
        copies_(std::min(num_rows, most_rows) * stride),
        rows_(std::min(num_rows, most_rows)),
        slots_(num_rows) {
    std::fill_n(slots_.data, num_rows, -1);
    overlay = {matrix, copies_.data, rows_.data, slots_.data, stride, 0};
  }

  void Subtract() {
    for (int32_t k = 0; k < overlay.count; ++k) {
      const float* row = matrix_ + rows_.data[k] * overlay.stride;
      float* copy = copies_.data + k * overlay.stride;
      for (int64_t s = 0; s < overlay.stride; ++s) copy[s] -= row[s];
    }
  }

  // Adds the changes to the matrix, for the rows of one of `parts` parts.
  void Apply(int64_t part, int64_t parts) {
    for (int32_t k = 0; k < overlay.count; ++k) {
      if (rows_.data[k] % parts != part) continue;
      float* row = matrix_ + rows_.data[k] * overlay.stride;
      const float* change = copies_.data + k * overlay.stride;
      for (int64_t s = 0; s < overlay.stride; ++s) row[s] += change[s];
    }
  }

  void Forget() {
    for (int32_t k = 0; k < overlay.count; ++k) slots_.data[rows_.data[k]] = -1;
    overlay.count = 0;
  }

  Overlay overlay;

 private:
  float* matrix_;
  Buffer<float> copies_;
  Buffer<int32_t> rows_, slots_;
};

struct Block {
  Changes input, output, documents;

  explicit Block(const Problem& problem)
      : input(problem.model.input, problem.model.input_rows, problem.model.stride,
              kDeterministicBlock * 2 * problem.reach * std::max(problem.tables.longest_bag, 1)),
        output(problem.model.output, problem.model.output_rows, problem.model.stride,
               kDeterministicBlock * problem.MaxOutputs(problem.MaxInputs())),
        documents(problem.model.documents, problem.model.document_rows, problem.model.stride,
                  kDeterministicBlock) {}

  Place At(const Problem& problem) {
    return {input.overlay.copies,     output.overlay.copies,
            documents.overlay.copies, &input.overlay,
            &output.overlay,          problem.HasDocuments() ? &documents.overlay : nullptr};
  }

  std::array<Changes*, 3> All() { return {&input, &output, &documents}; }
};

Tally TrainInRounds(const Problem& problem, int64_t begin, int64_t end, int num_threads) {
  constexpr int64_t kRound = kDeterministicBlock * kBlocksInRound;
  const auto train = CurrentKernels<float>().train;
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t b = 0; b < kBlocksInRound; ++b) blocks.push_back(std::make_unique<Block>(problem));
  Tally sum;
  for (int64_t round = begin / kRound; round * kRound < end; ++round) {
    std::vector<Tally> tallies(kBlocksInRound);
    ParallelFor(kBlocksInRound, num_threads, [&](int64_t b) {
      const int64_t at = round * kRound + b * kDeterministicBlock;
      const int64_t from = std::max(begin, at), to = std::min(end, at + kDeterministicBlock);
      if (from >= to) return;
      Block& block = *blocks[static_cast<size_t>(b)];
      train(problem, block.At(problem), from, to, &tallies[static_cast<size_t>(b)]);
      for (Changes* changes : block.All()) changes->Subtract();
    });
    ParallelFor(kBlocksInRound, num_threads, [&](int64_t part) {
      for (const auto& block : blocks) {
        for (Changes* changes : block->All()) changes->Apply(part, kBlocksInRound);
      }
    });
    for (const auto& block : blocks) {
      for (Changes* changes : block->All()) changes->Forget();
    }
    tallies.push_back(sum);
    sum = Sum(tallies);
  }
  return sum;
}

}  // namespace

int Reach(const Problem& problem, int64_t begin, int64_t end) {
  const int64_t window = problem.settings.window;
  if (window <= kChunk) return static_cast<int>(window);  // saves too little to look at sentences
  const int32_t* const ids = problem.corpus.ids;
  const int64_t first = std::max<int64_t>(0, begin - window);
  const int64_t last = std::min(problem.corpus.size, end + window);
  int64_t from = begin, longest = 1, length = 0;
  while (from > first && ids[from - 1] >= 0) --from;
  for (int64_t p = from; p < last && (p < end || length > 0); ++p) {
    length = ids[p] >= 0 ? length + 1 : 0;
    longest = std::max(longest, length);
  }
  return static_cast<int>(std::clamp<int64_t>(longest - 1, 1, window));
}

Tally Train(const Problem& problem, int64_t begin, int64_t end, int num_threads,
            bool deterministic) {
  if (begin >= end) return {};
  Problem sized = problem;
  sized.reach = Reach(problem, begin, end);
  return deterministic ? TrainInRounds(sized, begin, end, num_threads)
                       : TrainWithoutLocks(sized, begin, end, num_threads);
}

}  // namespace fastkeras::word2vec
