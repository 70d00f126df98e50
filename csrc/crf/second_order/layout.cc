#include "crf/second_order/layout.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastkeras::crf {
namespace {

constexpr int kTile = 8;     // kTripleTile of products.h
constexpr int kThreads = 2;  // for which sums are cut: not those there are, or bits would differ

// Calls fn(first, width) for the tiles that InTiles (sweeps/lanes.h) makes.
template <typename Function>
void ForTiles(int size, const Function& fn) {
  const int tiles = (size + kTile - 1) / kTile;
  for (int first = 0, tile = 0; tile < tiles; ++tile) {
    const int width = (size - first + tiles - tile - 1) / (tiles - tile);
    fn(first, width);
    first += width;
  }
}

}  // namespace

template <typename T>
TripleLayout<T>::TripleLayout(const Planner<T>& planner, const T* triples, bool exponentials,
                              bool for_sums, T* workspace, uint8_t* inexact)
    : plan{},
      planner_(planner),
      num_tags_(planner.plan.chains.num_tags),
      nothing_(exponentials ? 0 : -std::numeric_limits<T>::infinity()) {
  const Chains<T>& chains = planner.plan.chains;
  const int64_t area = num_tags_ * num_tags_;
  sound_triples = planner.kernels.all_sound(triples, area * num_tags_);
  first_.resize(area);
  scores_.resize(area * num_tags_);
  exponentials ? TakeExponentials(chains.transitions, triples)
               : TakeScores(chains.transitions, triples);
  may_precede_.resize(area);
  may_follow_.resize(area);
  for (int64_t i = 0; i < num_tags_; ++i) {
    for (int64_t j = 0; j < num_tags_; ++j) {
      for (int64_t k = 0; k < num_tags_; ++k) {
        const bool possible = scores_[i * area + j * num_tags_ + k] != nothing_;
        may_precede_[i * num_tags_ + j] |= possible;
        may_follow_[j * num_tags_ + k] |= possible;
      }
    }
  }
  const Plan<T>& of_chains = planner.plan;
  for (int64_t k = 0; k < chains.batch; ++k) {
    const int64_t b = of_chains.order[k];
    inexact[b] = of_chains.counts[b] > 1 &&
                 (!of_chains.sound_ends || !of_chains.sound_transitions || spread_first_ ||
                  (of_chains.counts[b] > 2 && (!sound_triples || spread_)));
    if (of_chains.counts[b] > 1 && !inexact[b]) order_.push_back(b);
  }
  plan.plan = &planner.plan;
  plan.num_tags = static_cast<int>(num_tags_);
  plan.order = order_.data();
  plan.scores = scores_.data();
  plan.workspace = workspace;
  plan.inexact = inexact;
  ChooseSections(for_sums ? kThreads : planner.num_threads);
  CutIntoBlocks();
  CutByRows(first_, nothing_,
            *(first_rows_ = std::make_unique<Buffer<T>>(AreaOf(plan, planner.kernels.width))));
  plan.first = first_rows_->data;
  if (!watched_) return;
  const int64_t rows = AreaOf(plan, planner.kernels.width);
  CutByRows(first_floors_, T(0), *(first_floor_rows_ = std::make_unique<Buffer<T>>(rows)));
  CutByRows(floors_, T(0), *(floor_rows_ = std::make_unique<Buffer<T>>(rows)));
  plan.first_floors = first_floor_rows_->data;
  plan.floors = floor_rows_->data;
}

template <typename T>
int64_t TripleLayout<T>::last(int64_t group) const {
  return std::min(num_sequences(), (group + 1) * plan.lanes);
}

// The scores below the largest, exponentiated; what is forbidden becomes 0.
template <typename T>
void TripleLayout<T>::TakeExponentials(const T* transitions, const T* triples) {
  constexpr double kSoft = sizeof(T) == 4 ? 70 : 600;  // kTripleSoft of forward.h
  const int64_t area = num_tags_ * num_tags_;
  plan.forbidden_gap = std::numeric_limits<T>::infinity();
  std::vector<double> sums(scores_.size());
  for (int64_t i = 0; i < num_tags_; ++i) {
    for (int64_t k = 0; k < area; ++k) {
      sums[i * area + k] = static_cast<double>(triples[i * area + k]) + transitions[k];
    }
  }
  const auto take = [&](std::vector<T>& into, const auto* scores, double* peak, double* range,
                        bool* spread) {
    const int64_t size = static_cast<int64_t>(into.size());
    double largest = -INFINITY;
    for (int64_t k = 0; k < size; ++k) {
      largest = std::max(largest, static_cast<double>(scores[k]));
    }
    if (!std::isfinite(largest)) largest = 0;
    *range = 0;
    for (int64_t k = 0; k < size; ++k) {
      const double below = largest - static_cast<double>(scores[k]);
      *range = std::max(*range, below);
      into[k] = static_cast<T>(-below);
      if (!(below > kSoft) || below == INFINITY) continue;
      if (below <= kForbidden<T>) *spread = true;
      if (below > kForbidden<T>) {
        plan.forbidden_gap = std::min(plan.forbidden_gap, static_cast<T>(below));
        into[k] = -std::numeric_limits<T>::infinity();
      }
    }
    planner_.kernels.exponentials(into.data(), size);
    *peak = largest;
  };
  double range_of_first, range;
  take(first_, transitions, &plan.first_peak, &range_of_first, &spread_first_);
  take(scores_, sums.data(), &plan.peak, &range, &spread_);
  ChooseWatch(range, range_of_first);
}

template <typename T>
void TripleLayout<T>::TakeScores(const T* transitions, const T* triples) {
  const int64_t area = num_tags_ * num_tags_;
  first_.assign(transitions, transitions + area);
  for (int64_t i = 0; i < num_tags_; ++i) {
    for (int64_t k = 0; k < area; ++k)
      scores_[i * area + k] = triples[i * area + k] + transitions[k];
  }
}

// A pair whose share of all prefixes is below r, because its emissions are low, has at most r K^2
// exp(2 R) of all paths, where R is the range of the triples' scores: its suffixes differ from
// those of another by two triples. An emission underflows exp(R) below a step's sum at most. So
// nothing need be watched where all such pairs of all steps together cannot be seen (docs/crf.md).
// Otherwise a pair that some triple leads to must not fall below its floor.
template <typename T>
void TripleLayout<T>::ChooseWatch(double range, double range_of_first) {
  const double smallest = std::numeric_limits<T>::min();
  const double epsilon = std::numeric_limits<T>::epsilon();
  const double pairs = static_cast<double>(num_tags_) * static_cast<double>(num_tags_);
  const double steps = static_cast<double>(std::max<int64_t>(1, planner_.plan.chains.steps));
  const double span = std::log(epsilon / 8) - std::log(smallest) - std::log(pairs * pairs * steps);
  watched_ = !(3 * std::max(range, range_of_first) <= span);
  if (!watched_) return;
  const T safe = static_cast<T>(smallest / epsilon * pairs);
  const int64_t area = num_tags_ * num_tags_;
  first_floors_.resize(area);
  floors_.assign(area, T(0));
  for (int64_t k = 0; k < area; ++k) first_floors_[k] = first_[k] > 0 ? safe : T(0);
  for (int64_t i = 0; i < num_tags_; ++i) {
    for (int64_t k = 0; k < area; ++k) {
      if (scores_[i * area + k] > 0) floors_[k] = safe;
    }
  }
}

template <typename T>
std::vector<int32_t> TripleLayout<T>::Beside(bool before, int vectors, int vector) const {
  std::vector<int32_t> tags;
  for (int64_t tag = 0; tag < num_tags_; ++tag) {
    bool any = false;
    for (int64_t j = vector; j < num_tags_; j += vectors) {
      any |= before ? may_precede_[tag * num_tags_ + j] : may_follow_[j * num_tags_ + tag];
    }
    if (any) tags.push_back(static_cast<int32_t>(tag));
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
    const double bytes = work * static_cast<double>(sections == 1 ? sizeof(T) : sizeof(T) * width);
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
void TripleLayout<T>::CutIntoBlocks() {
  const int width = planner_.kernels.width, vectors = plan.vectors, sections = plan.sections;
  const int64_t area = num_tags_ * num_tags_;
  std::vector<std::vector<int32_t>> before(vectors), after(vectors);
  int64_t offsets = 0, triples = 0;
  for (int v = 0; v < vectors; ++v) {
    before[v] = Beside(true, vectors, v);
    after[v] = Beside(false, vectors, v);
    offsets += static_cast<int64_t>(before[v].size() + after[v].size());
    triples += static_cast<int64_t>(before[v].size() * after[v].size());
  }
  const int64_t entry = sections == 1 ? 1 : width;
  offsets_.reserve(offsets);
  entries_ = std::make_unique<Buffer<T>>(2 * triples * entry + 1);
  T* to = entries_->data;
  const auto write = [&](int64_t i, int v, int64_t k) {
    for (int64_t lane = 0; lane < entry; ++lane) {
      const int64_t j = lane / plan.lanes * vectors + v;
      *to++ = j < num_tags_ ? scores_[i * area + j * num_tags_ + k] : nothing_;
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
    ForTiles(block.num_after, [&](int first, int tile) {
      for (int32_t i : sources) {
        for (int n = 0; n < tile; ++n) write(i, v, targets[first + n]);
      }
    });
    block.backward = to;
    ForTiles(block.num_before, [&](int first, int tile) {
      for (int32_t k : targets) {
        for (int n = 0; n < tile; ++n) write(sources[first + n], v, k);
      }
    });
    blocks_.push_back(block);
  }
  plan.blocks = blocks_.data();
}

template <typename T>
void TripleLayout<T>::CutByRows(const std::vector<T>& matrix, T padding, Buffer<T>& into) const {
  const int width = planner_.kernels.width;
  std::fill_n(into.data, AreaOf(plan, width), padding);
  for (int64_t i = 0; i < num_tags_; ++i) {
    for (int64_t k = 0; k < num_tags_; ++k) {
      T* const to =
          into.data + (i * plan.vectors + k % plan.vectors) * width + k / plan.vectors * plan.lanes;
      std::fill_n(to, plan.lanes, matrix[i * num_tags_ + k]);
    }
  }
}

template struct TripleLayout<float>;
template struct TripleLayout<double>;

}  // namespace fastkeras::crf
