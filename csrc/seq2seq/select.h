// The best continuations of one sentence. One pass over the logits of a hypothesis finds the
// largest of each block, a second one sums the exponentials; then only blocks whose largest can be
// among the best are looked at. Scores are double, and rounded once. Include after math.h.

#ifndef FASTKERAS_SEQ2SEQ_SELECT_H_
#define FASTKERAS_SEQ2SEQ_SELECT_H_

#include "machine/math.h"
#include "machine/simd.h"
#include "seq2seq/seq2seq.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The best so far, in order.
struct Best {
  FASTKERAS_INLINE bool IsFull() const { return size == capacity; }
  FASTKERAS_INLINE double Worst() const { return IsFull() ? list[size - 1].score : -kInfinity; }

  FASTKERAS_INLINE static bool Precedes(const seq2seq::Candidate& a, const seq2seq::Candidate& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
  }

  FASTKERAS_INLINE void Offer(const seq2seq::Candidate& candidate) {
    if (candidate.score == -kInfinity) return;
    if (IsFull() && !Precedes(candidate, list[size - 1])) return;
    int64_t at = IsFull() ? size - 1 : size++;
    for (; at > 0 && Precedes(candidate, list[at - 1]); --at) list[at] = list[at - 1];
    list[at] = candidate;
  }

  seq2seq::Candidate* list;
  int64_t capacity, size;
};

// A vector of the logits from `j` on; -inf past the end.
template <typename T>
FASTKERAS_INLINE Vec<T> LoadLogits(const T* logits, int64_t j, int64_t vocabulary) {
  constexpr int kWidth = Simd<T>::kWidth;
  if (j + kWidth <= vocabulary) return Load(logits + j);
  T padded[kWidth];
  for (int k = 0; k < kWidth; ++k) {
    padded[k] = j + k < vocabulary ? logits[j + k] : -std::numeric_limits<T>::infinity();
  }
  return Load(padded);
}

// Writes the largest logits of each block, one for each lane, since to reduce a vector takes longer
// than to read the block; and returns the largest of all. A NaN may hide larger ones.
template <typename T>
FASTKERAS_INLINE T PeaksOfBlocks(const T* logits, int64_t vocabulary, T* peaks) {
  Vec<T> of_all = Broadcast<T>(-std::numeric_limits<T>::infinity());
  for (int64_t from = 0; from < vocabulary; from += seq2seq::kBlock) {
    Vec<T> largest = LoadLogits(logits, from, vocabulary);
    for (int64_t j = Simd<T>::kWidth; j < seq2seq::kBlock; j += Simd<T>::kWidth) {
      largest = Max(largest, LoadLogits(logits, from + j, vocabulary));
    }
    Store(peaks, largest);
    peaks += Simd<T>::kWidth;
    of_all = Max(of_all, largest);
  }
  return Largest(of_all);
}

// sum exp(logit - peak), to a few ulp, since the lanes are added up in double every now and then.
// NaN if any logit is NaN or +inf.
template <typename T>
FASTKERAS_INLINE double SumOfExponentials(const T* logits, int64_t vocabulary, T peak) {
  constexpr int64_t kWidth = Simd<T>::kWidth, kRun = 16 * kWidth;
  double sum = 0;
  for (int64_t from = 0; from < vocabulary; from += kRun) {
    const int64_t end = from + kRun < vocabulary ? from + kRun : vocabulary;
    Vec<T> even = {}, odd = {};
    for (int64_t j = from; j < end; j += 2 * kWidth) {
      even += Exp<T>(LoadLogits(logits, j, vocabulary) - peak);
      odd += Exp<T>(LoadLogits(logits, j + kWidth, vocabulary) - peak);
    }
    sum += static_cast<double>(Sum(even + odd));
  }
  return sum;
}

// How many tokens a row of the history has.
FASTKERAS_INLINE int64_t LengthOf(const int32_t* history, int64_t steps) {
  int64_t length = 0;
  while (length < steps && history[length] >= 0) ++length;
  return length;
}

// Marks tokens of the history with 1, and with 2 those that would repeat n tokens of it.
FASTKERAS_INLINE void Mark(const int32_t* history, int64_t length, int64_t n, uint8_t* marks) {
  for (int64_t i = 0; i < length; ++i) marks[history[i]] = 1;
  if (n == 0) return;
  const int32_t* const last = history + length - (n - 1);
  for (int64_t i = 0; i < length - (n - 1); ++i) {
    int64_t same = 0;
    while (same < n - 1 && history[i + same] == last[same]) ++same;
    if (same == n - 1) marks[history[i + n - 1]] = 2;
  }
}

// Offers the continuations of a hypothesis; false if they have no order.
template <typename T>
FASTKERAS_INLINE bool OfferContinuations(const seq2seq::Step<T>& step, int64_t sentence,
                                         int32_t beam, const seq2seq::Room<T>& room, Best& best) {
  const int64_t vocabulary = step.vocabulary, row = sentence * step.beams + beam;
  const T* const logits = step.logits + row * vocabulary;
  const double score = static_cast<double>(step.scores[row]);
  if (score == -kInfinity) return true;
  if (!(score < kInfinity)) return false;
  const T largest = PeaksOfBlocks(logits, vocabulary, room.peaks);
  const bool is_possible = largest > -std::numeric_limits<T>::infinity();
  const T peak = is_possible ? largest : T(0);
  const double sum = SumOfExponentials(logits, vocabulary, peak);
  if (!(sum < kInfinity)) return false;
  if (!is_possible) return true;
  const double log_sum = std::log(sum);
  const auto log_p = [&](int64_t token) FASTKERAS_LAMBDA_INLINE {
    return (static_cast<double>(logits[token]) - static_cast<double>(peak)) - log_sum;
  };
  const bool* const allowed =
      step.allowed == nullptr
          ? nullptr
          : step.allowed + sentence * step.allowed_stride + beam * step.allowed_stride_of_beam;
  const auto offer = [&](int64_t token, double of_token) FASTKERAS_LAMBDA_INLINE {
    if (allowed != nullptr && !allowed[token]) return;
    best.Offer({score + of_token, beam, static_cast<int32_t>(token)});
  };

  // Tokens of the history are offered here, and skipped below.
  const int32_t* const history = step.history + (room.marks == nullptr ? 0 : row * step.steps);
  const int64_t length = room.marks == nullptr ? 0 : LengthOf(history, step.steps);
  if (length > 0) Mark(history, length, step.no_repeat_ngram, room.marks);
  for (int64_t i = 0; i < length; ++i) {
    const int32_t token = history[i];
    if (room.marks[token] == 1) offer(token, step.repetition_penalty * log_p(token));
    room.marks[token] = 2;
  }

  // A logit below `least` cannot be among the best; the slack exceeds all rounding errors.
  constexpr T infinity = std::numeric_limits<T>::infinity();
  constexpr double kTiny = std::numeric_limits<T>::min();  // where slack is 0, as all the rest
  T least = 0;
  const auto raise = [&]() FASTKERAS_LAMBDA_INLINE {
    const double offset = static_cast<double>(peak) + log_sum - score,
                 bound = best.Worst() + offset;
    const double slack = (std::abs(offset) + std::abs(static_cast<double>(peak)) + std::abs(score) +
                          std::abs(bound)) *
                         (4 * static_cast<double>(std::numeric_limits<T>::epsilon()));
    least = best.IsFull() ? static_cast<T>(bound - slack - kTiny) : -infinity;
  };
  raise();
  constexpr int64_t kWidth = Simd<T>::kWidth;
  for (int64_t from = 0; from < vocabulary; from += seq2seq::kBlock) {
    const Vec<T> limit = Broadcast<T>(least);
    if (!AnyLess(limit, Load(room.peaks + from / seq2seq::kBlock * kWidth))) continue;
    for (int64_t j = from; j < from + seq2seq::kBlock && j < vocabulary; j += kWidth) {
      if (!AnyLess(limit, LoadLogits(logits, j, vocabulary))) continue;
      for (int64_t k = j; k < j + kWidth && k < vocabulary; ++k) {
        if (logits[k] < least || (length > 0 && room.marks[k] != 0)) continue;
        offer(k, log_p(k));
      }
    }
    raise();
  }
  for (int64_t i = 0; i < length; ++i) room.marks[history[i]] = 0;
  return true;
}

template <typename T>
void SelectOfSentence(const seq2seq::Step<T>& step, int64_t sentence,
                      const seq2seq::Candidates<T>& candidates, const seq2seq::Room<T>& room) {
  const int64_t number = candidates.number, all = step.beams * step.vocabulary;
  T* const scores = candidates.scores + sentence * number;
  int32_t *const tokens = candidates.tokens + sentence * number, *const parents =
                                                                     candidates.parents +
                                                                     sentence * number;
  Best best = {room.best, number < all ? number : all, 0};
  T rest = -std::numeric_limits<T>::infinity();
  for (int32_t beam = 0; beam < step.beams; ++beam) {
    if (OfferContinuations(step, sentence, beam, room, best)) continue;
    best.size = 0;
    rest = std::numeric_limits<T>::quiet_NaN();
    break;
  }
  for (int64_t i = 0; i < number; ++i) {
    const bool is_one = i < best.size;
    scores[i] = is_one ? static_cast<T>(best.list[i].score) : rest;
    tokens[i] = is_one ? best.list[i].token : 0;
    parents[i] = is_one ? best.list[i].parent : 0;
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_SEQ2SEQ_SELECT_H_
