// Variables cut into pieces for the threads, small ones together in one task.

#ifndef FASTKERAS_OPTIMIZERS_PIECES_H_
#define FASTKERAS_OPTIMIZERS_PIECES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "machine/parallel.h"
#include "optimizers/optimizers.h"

namespace fastkeras::optimizers {

// A stretch of a variable, and its place in the gradient if that has some rows only.
struct Piece {
  int variable;
  int64_t first, first_of_gradient, size;
};

class Pieces {
 public:
  static constexpr int64_t kSize = 16384;  // elements; sums over a piece are added in order

  void Add(int index, const Variable& variable) {
    if (variable.rows == nullptr) {
      Cut(index, 0, 0, variable.size);
      return;
    }
    for (int64_t r = 0; r < variable.num_rows; ++r) {
      const int64_t first = variable.rows[r] * variable.row_size;
      Cut(index, first, variable.gradient_has_all_rows ? first : r * variable.row_size,
          variable.row_size);
    }
  }

  const std::vector<Piece>& all() const { return pieces_; }

  // Calls fn(piece, its index) for all; the result may not depend on the order.
  template <typename Function>
  void ForEach(const Executor& executor, Function fn) const {
    const bool pays = ThreadsThatPay(kWork * static_cast<double>(total_), kTasks) > 1;
    const int64_t task_size =
        pays ? std::clamp(total_ / kTasks, kSmallestTask, kLargestTask) : total_;
    std::vector<int64_t> starts;  // of the tasks
    int64_t room = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      if (room < pieces_[i].size) {
        starts.push_back(static_cast<int64_t>(i));
        room = task_size;
      }
      room -= pieces_[i].size;
    }
    const int64_t tasks = static_cast<int64_t>(starts.size());
    if (tasks == 0) return;
    starts.push_back(static_cast<int64_t>(pieces_.size()));
    executor(tasks, [&](int64_t task) {
      for (int64_t i = starts[task]; i < starts[task + 1]; ++i) fn(pieces_[i], i);
    });
  }

 private:
  static constexpr double kWork =
      0.35;  // nanoseconds for an element, where several threads share memory
  static constexpr int64_t kTasks = 16;  // if all are large; long ones keep memory streaming
  static constexpr int64_t kSmallestTask = 2 * kSize, kLargestTask = 64 * kSize;

  void Cut(int index, int64_t first, int64_t first_of_gradient, int64_t size) {
    for (int64_t done = 0; done < size; done += kSize) {
      pieces_.push_back(
          {index, first + done, first_of_gradient + done, std::min(kSize, size - done)});
    }
    total_ += size;
  }

  std::vector<Piece> pieces_;
  int64_t total_ = 0;
};

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_PIECES_H_
