#include "crf/second_order/layout.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastkeras::crf {
namespace {

constexpr int kThreads = 2;  // for which sums are cut: not those there are, or bits would differ

// Calls fn(first, width) for the tiles that InTiles (sweeps/lanes.h) makes.
template <typename Function>
void ForTiles(int size, int most, const Function& fn) {
  const int tiles = (size + most - 1) / most;
  for (int first = 0, tile = 0; tile < tiles; ++tile) {
    const int width = (size - first + tiles - tile - 1) / (tiles - tile);
    fn(first, width);
    first += width;
  }
}

}  // namespace

template <typename T>
TripleLayout<T>::TripleLayout(const Planner<T>& planner, const T* triples, TripleUse use,
                              T* workspace, uint8_t* inexact)
    : plan{},
      planner_(planner),
      num_tags_(planner.plan.chains.num_tags),
      scores_(planner, triples, use != TripleUse::kViterbi) {
  const Chains<T>& chains = planner.plan.chains;
  sound_triples = planner.kernels.all_sound(triples, num_tags_ * num_tags_ * num_tags_);
  const Plan<T>& of_chains = planner.plan;
  for (int64_t k = 0; k < chains.batch; ++k) {
    const int64_t b = of_chains.order[k];
    inexact[b] = of_chains.counts[b] > 1 &&
                 (!of_chains.sound_ends || !of_chains.sound_transitions || scores_.spread_first ||
                  (of_chains.counts[b] > 2 && (!sound_triples || scores_.spread)));
    if (of_chains.counts[b] > 1 && !inexact[b]) order_.push_back(b);
  }
  plan.plan = &planner.plan;
  plan.num_tags = static_cast<int>(num_tags_);
  plan.order = order_.data();
  plan.scores = scores_.all.data();
  plan.first_peak = scores_.first_peak;
  plan.peak = scores_.peak;
  plan.forbidden_gap = scores_.forbidden_gap;
  plan.workspace = workspace;
  plan.inexact = inexact;
  ChooseSections(use == TripleUse::kGradient ? kThreads : planner.num_threads);
  CutIntoBlocks(use == TripleUse::kMarginals || use == TripleUse::kGradient);
  ListReached();
  const auto cut = [&](const std::vector<T>& matrix, T padding, std::unique_ptr<Buffer<T>>& into) {
    into = std::make_unique<Buffer<T>>(AreaOf(plan, planner.kernels.width));
    CutByRows(matrix, padding, *into);
    return into->data;
  };
  plan.first = cut(scores_.first, scores_.nothing, first_rows_);
  if (scores_.floors.empty()) return;
  plan.first_floors = cut(scores_.first_floors, 0, first_floor_rows_);
  plan.floors = cut(scores_.floors, 0, floor_rows_);
}

template <typename T>
int64_t TripleLayout<T>::last(int64_t group) const {
  return std::min(num_sequences(), (group + 1) * plan.lanes);
}

template <typename T>
std::vector<int32_t> TripleLayout<T>::Beside(bool before, int vectors, int vector) const {
  const uint8_t* const of_tags = before ? scores_.may_precede.data() : scores_.may_follow.data();
  std::vector<uint8_t> any(num_tags_);
  for (int64_t j = vector; j < num_tags_; j += vectors) {
    for (int64_t tag = 0; tag < num_tags_; ++tag) any[tag] |= of_tags[j * num_tags_ + tag];
  }
  std::vector<int32_t> tags;
  for (int64_t tag = 0; tag < num_tags_; ++tag) {
    if (any[tag]) tags.push_back(static_cast<int32_t>(tag));
  }
  return tags;
}

template <typename T>
int64_t TripleLayout<T>::Work(int vectors) const {
  int64_t work = 0;
  for (int v = 0; v < vectors; ++v) {
    work +=
        static_cast<int64_t>(Beside(true, vectors, v).size() * Beside(false, vectors, v).size());
  }
  return work;
}

// A lane for each sequence wastes nothing where there are many; sections of tags let few sequences
// fill the vectors, but have an entry for each, which has to be read, and are transposed at each
// step. Results of single sequences do not depend on it; sums do.
template <typename T>
void TripleLayout<T>::ChooseSections(int threads) {
  const int width = planner_.kernels.width;
  const int64_t sequences = std::max<int64_t>(1, num_sequences());
  double least = INFINITY;
  for (int sections = 1; sections <= width; sections *= 2) {
    const int lanes = width / sections;
    const int vectors = static_cast<int>((num_tags_ + sections - 1) / sections);
    const double work = static_cast<double>(Work(vectors));
    const double bytes = work * static_cast<double>(sizeof(T) * sections);
    const double loads = sections == 1 || bytes < (1 << 15) ? 1 : bytes < (1 << 20) ? 1.6 : 4;
    double shuffles = 0;
    for (int s = sections; s > 1; s /= 2) shuffles += double{1} * vectors * vectors * sections;
    const double step = work * (3 * loads + 1) + 3 * shuffles + 12.0 * vectors * num_tags_;
    const int64_t groups = (sequences + lanes - 1) / lanes;
    const int64_t rounds = (groups + threads - 1) / threads;
    if (step * static_cast<double>(rounds) >= least) continue;
    least = step * static_cast<double>(rounds);
    plan.sections = sections;
    plan.lanes = lanes;
    plan.vectors = vectors;
    plan.rows = vectors * sections;
  }
}

template <typename T>
void TripleLayout<T>::CutIntoBlocks(bool for_way_back) {
  const int width = planner_.kernels.width, vectors = plan.vectors, sections = plan.sections;
  const int most = TripleTile(sections);
  const int64_t area = num_tags_ * num_tags_;
  std::vector<std::vector<int32_t>> before(vectors), after(vectors);
  int64_t offsets = 0, triples = 0;
  for (int v = 0; v < vectors; ++v) {
    before[v] = Beside(true, vectors, v);
    after[v] = Beside(false, vectors, v);
    offsets += static_cast<int64_t>(before[v].size() + after[v].size());
    triples += static_cast<int64_t>(before[v].size() * after[v].size());
  }
  offsets_.reserve(offsets);
  entries_ = std::make_unique<Buffer<T>>((for_way_back ? 2 : 1) * triples * sections);
  T* to = entries_->data;
  const T* const scores = scores_.all.data();
  const T nothing = scores_.nothing;
  const auto write = [&](int64_t i, int v, int64_t k) {
    const T* const from = scores + i * area + k;
    if (sections == 1) {
      *to++ = from[v * num_tags_];
      return;
    }
    for (int64_t s = 0, j = v; s < sections; ++s, j += vectors) {
      *to++ = j < num_tags_ ? from[j * num_tags_] : nothing;
    }
  };
  sums = 0;
  for (int v = 0; v < vectors; ++v) {
    const auto &sources = before[v], &targets = after[v];
    TripleBlock<T> block{};
    block.num_before = static_cast<int32_t>(sources.size());
    block.num_after = static_cast<int32_t>(targets.size());
    block.counts = sums;
    sums += sections * block.num_before * TilesOf(block.num_after, width) * width;
    block.before = offsets_.data() + offsets_.size();
    for (int32_t i : sources) offsets_.push_back((i * vectors + v) * width);
    block.after = offsets_.data() + offsets_.size();
    for (int32_t k : targets) offsets_.push_back((v * plan.rows + k) * width);
    block.forward = to;
    ForTiles(block.num_after, most, [&](int first, int tile) {
      for (int32_t i : sources) {
        for (int n = 0; n < tile; ++n) write(i, v, targets[first + n]);
      }
    });
    block.backward = to;
    ForTiles(for_way_back ? block.num_before : 0, most, [&](int first, int tile) {
      for (int32_t k : targets) {
        for (int n = 0; n < tile; ++n) write(sources[first + n], v, k);
      }
    });
    blocks_.push_back(block);
  }
  plan.blocks = blocks_.data();
}

template <typename T>
void TripleLayout<T>::ListReached() {
  for (int v = 0; v < plan.vectors; ++v) {
    reached_from_.push_back(static_cast<int32_t>(reached_.size()));
    for (int64_t row = 0; row < num_tags_; ++row) {
      bool any = false;
      for (int64_t k = v; k < num_tags_; k += plan.vectors)
        any |= scores_.may_follow[row * num_tags_ + k];
      if (any) reached_.push_back(static_cast<int32_t>(row));
    }
  }
  reached_from_.push_back(static_cast<int32_t>(reached_.size()));
  plan.reached = reached_.data();
  plan.reached_from = reached_from_.data();
}

template <typename T>
void TripleLayout<T>::CutByRows(const std::vector<T>& matrix, T padding, Buffer<T>& into) const {
  const int width = planner_.kernels.width;
  std::fill_n(into.data, AreaOf(plan, width), padding);
  for (int64_t i = 0; i < num_tags_; ++i) {
    const T* from = matrix.data() + i * num_tags_;
    for (int64_t section = 0; section < plan.sections; ++section) {
      for (int64_t v = 0; v < plan.vectors && section * plan.vectors + v < num_tags_; ++v, ++from) {
        T* const to = into.data + (i * plan.vectors + v) * width + section;
        for (int64_t lane = 0; lane < width; lane += plan.sections) to[lane] = *from;
      }
    }
  }
}

template struct TripleLayout<float>;
template struct TripleLayout<double>;

}  // namespace fastkeras::crf
