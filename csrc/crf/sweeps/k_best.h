// The k best paths, lazily. After the sweep of Viterbi the best prefix to every tag is known. Next
// best ones are looked for only along a path that was found, one more at each of its steps (Huang &
// Chiang 2005, algorithm 3): num_tags comparisons a step and path.

#ifndef FASTKERAS_CRF_SWEEPS_K_BEST_H_
#define FASTKERAS_CRF_SWEEPS_K_BEST_H_

#include "crf/sweeps/viterbi.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int32_t kNone = -1;

// A path up to a tag, in the list of those to this tag at this step, best first.
template <typename T>
struct Prefix {
  T score;
  T following;     // score of the next prefix through the same tag before; -inf: not known yet
  int32_t before;  // the tag at the step before
  int32_t origin;  // what it continues, in the lists of that step; kNone: the best to that tag
  int32_t next;    // in this list, kNone if nobody has asked for more
};

template <typename T>
struct Node {  // a tag at a step, with its list
  int32_t tag, first, last;
  // The best prefix that is not in the list, apart from the one that follows the list's last.
  struct {
    bool known;
    T score;
    int32_t before, origin;
  } other;
};

// The lists of one sequence. Level s in 1..steps-1 belongs to step s, and level `steps` holds one
// node behind the end, whose list is the result. Each path that is looked for adds to each level at
// most one prefix, and one node with its first prefix.
template <typename T>
struct PathLists {
  static constexpr T kImpossible = -std::numeric_limits<T>::infinity();

  const crf::Plan<T>& plan;
  const T* transposed;  // one matrix, or one for each of the sequence's steps but the first
  const Row<T> shape;
  const int64_t prefix_room, node_room;  // of a level
  const Buffer<Prefix<T>> prefixes;
  const Buffer<Node<T>> nodes;
  const Buffer<int32_t> counts;   // of a level, its nodes and its prefixes
  const Buffer<int32_t> visited;  // the node of each level that is being extended
  const Buffer<T> scores;
  const Buffer<int32_t> on_path;  // a tag and a prefix of each path
  int64_t sequence = 0, steps = 0;
  const T *best = nullptr, *subtracted = nullptr;  // of the trellis

  PathLists(const crf::Plan<T>& plan, const T* transposed, int64_t longest, int64_t k)
      : plan(plan),
        transposed(transposed),
        shape(plan.chains.num_tags),
        prefix_room(2 * k),
        node_room(k < shape.num_tags ? k : shape.num_tags),
        prefixes((longest + 1) * prefix_room),
        nodes((longest + 1) * node_room),
        counts((longest + 1) * 2),
        visited(longest + 1),
        scores(shape.num_tags),
        on_path(2 * k) {}

  Prefix<T>& PrefixAt(int64_t s, int32_t i) const { return prefixes.data[s * prefix_room + i]; }
  Node<T>& NodeAt(int64_t s, int32_t i) const { return nodes.data[s * node_room + i]; }
  const T* BestBefore(int64_t s) const { return best + (s - 1) * shape.num_tags; }
  const T* Into(int64_t s, int32_t tag) const {
    if (s == steps) return plan.chains.end_transitions;
    const int64_t matrix = plan.chains.varies ? s - 1 : 0;
    return transposed + (matrix * shape.num_tags + tag) * shape.num_tags;
  }

  FASTKERAS_INLINE int32_t Append(int64_t s, const Prefix<T>& prefix) const {
    const int32_t i = counts.data[2 * s + 1]++;
    PrefixAt(s, i) = prefix;
    return i;
  }

  // The node of a tag, made if there is none yet.
  FASTKERAS_INLINE int32_t Find(int64_t s, int32_t tag) const {
    int32_t& count = counts.data[2 * s];
    for (int32_t i = 0; i < count; ++i) {
      if (NodeAt(s, i).tag == tag) return i;
    }
    const T *row = BestBefore(s), *into = Into(s, tag);
    const int32_t before = FirstBest(shape, row, into);
    const T score = s == steps ? row[before] + into[before] : best[s * shape.num_tags + tag];
    const int32_t first = Append(s, {score, kImpossible, before, kNone, kNone});
    NodeAt(s, count) = {tag, first, first, {}};
    return count++;
  }

  FASTKERAS_INLINE void FindOther(int64_t s, Node<T>& node) const {
    const T *row = BestBefore(s), *into = Into(s, node.tag);
    for (int v = 0; v < shape.vectors; ++v) {
      shape.StoreVector(scores.data, v, shape.LoadVector(row, v) + shape.LoadVector(into, v));
    }
    for (int32_t i = node.first; i != kNone; i = PrefixAt(s, i).next) {
      scores.data[PrefixAt(s, i).before] = PrefixAt(s, i).following;
    }
    const int32_t before = FirstBest(shape, scores.data);
    int32_t origin = kNone;
    for (int32_t i = node.first; i != kNone; i = PrefixAt(s, i).next) {
      const Prefix<T>& prefix = PrefixAt(s, i);
      if (prefix.before == before && prefix.origin != kNone) {
        origin = PrefixAt(s - 1, prefix.origin).next;
      }
    }
    node.other = {true, scores.data[before], before, origin};
  }

  // Adds the next best path to the last list, or -inf if there is none. Walks back along the path
  // that was found last to a node whose next prefix is known, and from there forward again, filling
  // in the missing ones.
  FASTKERAS_INLINE void Extend() const {
    int64_t s = steps;
    int32_t at = 0;
    T following = kImpossible;
    for (;; --s) {
      visited.data[s] = at;
      Node<T>& node = NodeAt(s, at);
      if (!node.other.known) FindOther(s, node);
      if (s == 1) break;
      Prefix<T>& last = PrefixAt(s, node.last);
      at = Find(s - 1, last.before);
      if (last.origin == kNone) last.origin = NodeAt(s - 1, at).first;
      const int32_t next = PrefixAt(s - 1, last.origin).next;
      if (next != kNone) {
        following = PrefixAt(s - 1, next).score + Into(s, node.tag)[last.before];
        break;
      }
    }
    for (;; ++s) {
      Node<T>& node = NodeAt(s, visited.data[s]);
      Prefix<T>& last = PrefixAt(s, node.last);
      last.following = following;
      Prefix<T> added = {following, kImpossible, last.before, kNone, kNone};
      const auto& other = node.other;
      if (following > other.score || (following == other.score && last.before < other.before)) {
        if (s > 1) added.origin = PrefixAt(s - 1, last.origin).next;
      } else {
        added = {other.score, kImpossible, other.before, other.origin, kNone};
        node.other.known = false;
      }
      if (s < steps) {  // the same additions as in the trellis
        const int64_t row = sequence * plan.chains.steps + crf::StepAt(plan, sequence, s);
        added.score += plan.chains.emissions[row * shape.num_tags + node.tag];
        constexpr int64_t kPeriod = Trellis<T>::kPeriod;
        if (s % kPeriod == kPeriod - 1) added.score -= subtracted[s / kPeriod];
      }
      node.last = last.next = Append(s, added);
      if (s == steps) return;
      following = added.score + Into(s + 1, NodeAt(s + 1, visited.data[s + 1]).tag)[node.tag];
    }
  }

  // Writes tags (paths, chains.steps) of the first paths of the last list, all of them at once,
  // since each would wait for its own loads.
  void WritePaths(int64_t paths, int32_t* tags) const {
    int32_t *const tag = on_path.data, *const prefix = on_path.data + paths;
    int32_t i = NodeAt(steps, 0).first;
    for (int64_t r = 0; r < paths; ++r, i = PrefixAt(steps, i).next) prefix[r] = i;
    for (int64_t s = steps; s > 0; --s) {
      const int64_t t = crf::StepAt(plan, sequence, s - 1);
      for (int64_t r = 0; r < paths; ++r) {
        if (prefix[r] == kNone) {
          tag[r] = FirstBest(shape, BestBefore(s), Into(s, tag[r]));
        } else {
          tag[r] = PrefixAt(s, prefix[r]).before;
          prefix[r] = PrefixAt(s, prefix[r]).origin;
        }
        tags[r * plan.chains.steps + t] = tag[r];
      }
    }
  }

  // Writes the tags of the k best paths of sequence m of the trellis, and how many were found.
  void Search(const Trellis<T>& trellis, int m, int64_t k, int32_t* tags, int64_t* found) {
    sequence = trellis.sequence[m];
    steps = trellis.steps[m];
    best = trellis.best[m];
    subtracted = trellis.subtracted[m];
    for (int64_t i = 0; i < 2 * (steps + 1); ++i) counts.data[i] = 0;
    const int32_t end = Find(steps, 0);
    const Node<T>& results = NodeAt(steps, end);
    int64_t& paths = found[sequence];
    paths = 0;
    while (PrefixAt(steps, results.last).score > kImpossible) {
      const int64_t rank = paths++;
      if (rank == k - 1) break;
      Extend();
    }
    WritePaths(paths, tags + sequence * k * plan.chains.steps);
  }
};

// For the sorted sequences first..last-1, at most kMaxBlock of them.
template <typename T>
void KBest(const crf::Plan<T>& plan, const T* transposed, int64_t first, int64_t last, int64_t k,
           int32_t* tags, int64_t* found) {
  const Buffer<T> rows(TrellisSize(plan, first, last));
  const Trellis<T> trellis = FillTrellis(plan, first, last, rows.data);
  if (trellis.count == 0) return;
  TellUnsound(plan, trellis);
  PathLists<T> lists(plan, transposed, trellis.steps[0], k);
  for (int m = 0; m < trellis.count; ++m) {
    if (!plan.inexact[trellis.sequence[m]]) lists.Search(trellis, m, k, tags, found);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_K_BEST_H_
