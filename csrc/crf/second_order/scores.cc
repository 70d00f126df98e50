#include "crf/second_order/scores.h"

#include <algorithm>
#include <cmath>

#include "crf/kernels.h"

namespace fastkeras::crf {
namespace {

// The largest and the lowest of some numbers, neither of them NaN.
class Range {
 public:
  static constexpr int kChains = 4;  // that wait for each other less than one

  void Add(int chain, double x) {
    high_[chain] = x > high_[chain] ? x : high_[chain];
    low_[chain] = x < low_[chain] ? x : low_[chain];
  }
  double largest() const { return *std::max_element(high_, high_ + kChains); }
  double lowest() const { return *std::min_element(low_, low_ + kChains); }

 private:
  double high_[kChains] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  double low_[kChains] = {INFINITY, INFINITY, INFINITY, INFINITY};
};

}  // namespace

template <typename T>
TripleScores<T>::TripleScores(const Planner<T>& planner, const T* triples, bool exponentials)
    : num_tags(planner.plan.chains.num_tags),
      nothing(exponentials ? 0 : -std::numeric_limits<T>::infinity()),
      first(num_tags * num_tags, nothing),
      all(num_tags * num_tags * num_tags, nothing),
      first_peak(0),
      peak(0),
      spread_first(false),
      spread(false) {
  const Chains<T>& chains = planner.plan.chains;
  const T* const transitions = chains.transitions;
  const int64_t area = num_tags * num_tags;
  // The triples by their first two tags, without those of which no triple can begin.
  std::vector<Row> rows, rows_of_first;
  for (int64_t i = 0; i < num_tags; ++i) {
    rows_of_first.push_back({transitions + i * num_tags, nullptr, first.data() + i * num_tags});
    for (int64_t j = 0; j < num_tags; ++j) {
      if (transitions[i * num_tags + j] == -std::numeric_limits<T>::infinity()) continue;
      const int64_t at = i * area + j * num_tags;
      rows.push_back({triples + at, transitions + j * num_tags, all.data() + at});
    }
  }
  if (!exponentials) {
    std::copy_n(transitions, area, first.begin());
    for (const Row& row : rows) {
      for (int64_t k = 0; k < num_tags; ++k) row.into[k] = row.scores[k] + row.more[k];
    }
    FindPairs(rows);
    return;
  }
  const double range_of_first =
      TakeExponentials(planner, rows_of_first, &first_peak, &spread_first);
  const double range = TakeExponentials(planner, rows, &peak, &spread);
  FindPairs(rows);
  ChooseFloors(std::max(range, range_of_first), chains.steps);
}

// Scores below the largest, exponentiated; what is forbidden becomes 0. Returns their range.
template <typename T>
double TripleScores<T>::TakeExponentials(const Planner<T>& planner, const std::vector<Row>& rows,
                                         double* below, bool* is_spread) {
  constexpr T kSoft = sizeof(T) == 4 ? 70 : 600;  // kTripleSoft of forward.h
  const int64_t size = num_tags;
  const auto sum = [](const Row& row, int64_t k) {
    return row.more ? static_cast<double>(row.scores[k]) + row.more[k]
                    : static_cast<double>(row.scores[k]);
  };
  Range range;
  for (const Row& row : rows) {
    int64_t k = 0;
    for (; k + Range::kChains <= size; k += Range::kChains) {
      for (int chain = 0; chain < Range::kChains; ++chain) range.Add(chain, sum(row, k + chain));
    }
    for (; k < size; ++k) range.Add(0, sum(row, k));
  }
  const double largest = std::isfinite(range.largest()) ? range.largest() : 0;
  for (const Row& row : rows) {
    T* const into = row.into;
    int any_is_low = 0;
    for (int64_t k = 0; k < size; ++k) {
      const T x = static_cast<T>(sum(row, k) - largest);
      any_is_low |= (x < -kSoft) & (x >= std::numeric_limits<T>::lowest());
      into[k] = x;
    }
    for (int64_t k = 0; any_is_low && k < size; ++k) {
      if (!(into[k] < -kSoft) || into[k] < std::numeric_limits<T>::lowest()) continue;
      if (into[k] >= -kForbidden<T>) {
        *is_spread = true;
      } else {
        forbidden_gap = std::min(forbidden_gap, -into[k]);
        into[k] = -std::numeric_limits<T>::infinity();
      }
    }
    planner.kernels.exponentials(into, size);
  }
  *below = largest;
  return std::max(0.0, largest - range.lowest());
}

template <typename T>
void TripleScores<T>::FindPairs(const std::vector<Row>& rows) {
  const T no_score = nothing;
  may_precede.resize(num_tags * num_tags);
  may_follow.resize(num_tags * num_tags);
  for (const Row& row : rows) {
    const int64_t pair = (row.into - all.data()) / num_tags, i = pair / num_tags;
    const int64_t j = pair - i * num_tags;
    uint8_t* const follow = may_follow.data() + j * num_tags;
    int any = 0;
    for (int64_t k = 0; k < num_tags; ++k) {
      const uint8_t possible = row.into[k] != no_score;
      follow[k] |= possible;
      any |= possible;
    }
    may_precede[j * num_tags + i] = static_cast<uint8_t>(any);
  }
}

// A pair whose share of all prefixes is below r, because its emissions are low, has at most r K^2
// exp(2 R) of all paths, where R is the range of the triples' scores: its suffixes differ from
// those of another by two triples. An emission underflows exp(R) below a step's sum at most. So
// nothing need be watched where all such pairs of all steps together cannot be seen (docs/crf.md).
// Otherwise a pair that some triple leads to must not fall below its floor.
template <typename T>
void TripleScores<T>::ChooseFloors(double range, int64_t most_steps) {
  const double smallest = std::numeric_limits<T>::min();
  const double epsilon = std::numeric_limits<T>::epsilon();
  const double pairs = static_cast<double>(num_tags) * static_cast<double>(num_tags);
  const double steps = static_cast<double>(std::max<int64_t>(1, most_steps));
  const double span = std::log(epsilon / 8) - std::log(smallest) - std::log(pairs * pairs * steps);
  if (3 * range <= span) return;
  const T safe = static_cast<T>(smallest / epsilon * pairs);
  const int64_t area = num_tags * num_tags;
  first_floors.resize(area);
  floors.resize(area);
  for (int64_t k = 0; k < area; ++k) {
    first_floors[k] = first[k] > 0 ? safe : T(0);
    floors[k] = may_follow[k] ? safe : T(0);
  }
}

template struct TripleScores<float>;
template struct TripleScores<double>;

}  // namespace fastkeras::crf
