// One warp of a block plans windows two steps ahead of the others, which train them: which rows a
// window takes from the matrices, and which it gives back.

enum Objective { kWindow, kPairs, kMeans };  // negatives for a window, for each pair; CBOW
constexpr Objective kObjective = Objective(FASTKERAS_OBJECTIVE);

struct Items {
  const int* words;
  const int* positions;
  const int* sentences;
  int64_t from;  // the position of the slice in the corpus
  int count;
};

struct Drawing {
  const unsigned* noise;
  const float* logit_offsets;  // null without the sampled softmax
  const int64_t* path_starts;  // null without the hierarchical softmax
  const int* path_nodes;
  const float* path_signs;
  int num_words, negative, window, shrink;
  int64_t key;
  double learning_rate, slope;
};

constexpr int kChunk = 1024;  // positions that share a learning rate
enum Head {
  kContexts,
  kTotal,
  kLeaves,  // a place, or -1
  kLeavingRow,
  kEnters,
  kEnteringRow,
  kIsHere,   // whether the entering row is here already, and only refreshed
  kOutputs,  // of a set
  kRate,
  kRepeated,
  kHead
};

// A window: its contexts as places of rows in the block's memory, each place once and how often, or
// for kPairs in their order; and for each set the rows of the output matrix, or -1 for a draw that
// was the center itself.
struct Plan {
  int* head;
  int* places;
  int* times;
  int* rows;
  int* firsts;  // the first draw of the set that has the same row
  int* terms;   // the offset of a logit of the softmax, or else the sign of a logit in its loss

  __device__ Plan(int* memory, int reach, int outputs) {
    const int most = 2 * reach, sets = kObjective == kPairs ? most : 1;
    head = memory;
    places = head + kHead;
    times = places + most;
    rows = times + most;
    firsts = rows + sets * outputs;
    terms = firsts + sets * outputs;
  }
};

// The rows of the input matrix that a block holds: those of all words in the reach of its window,
// a row for each word, however often it occurs there.
struct Planner {
  const Items& items;
  const Drawing& drawing;
  const int reach, span;
  int low, high;  // of the items that this block reads
  int first;      // of the items that it predicts
  int* words;     // by place: the word, or -1
  int* uses;      // by place: how many items in reach
  int* counts;    // by place: how many contexts of this window,
  int* earliest;  // and which item is the first of them
  int* place_of;  // by item % span
  int* sentence_of;

  __device__ int Find(int word) const {
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < span; base += 32) {
      const unsigned found =
          __ballot_sync(kAllLanes, base + lane < span && words[base + lane] == word);
      if (found) return base + __popc((found & (0u - found)) - 1);
    }
    return -1;
  }

  __device__ void Begin() {
    for (int place = threadIdx.x % 32; place < span; place += 32) {
      words[place] = -1;
      uses[place] = 0;
    }
    __syncwarp();
  }

  // Plans the step in which item i is the center, in two halves: which rows come and go, and the
  // contexts; and then what is drawn. Before the first center, rows only enter.
  __device__ void PlanRows(int i, const Plan& plan) const {
    const int lane = threadIdx.x % 32;
    const int entering = i + reach, leaving = i - reach - 1;  // a span apart
    const int here = (entering < 0 ? 0 : entering) % span;
    const bool enters = entering >= low && entering < high;
    const int word = enters ? items.words[entering] : -1;
    int left = -1, left_row = -1, entered = -1;
    bool is_here = false;
    if (leaving >= low && leaving < high) {
      const int place = place_of[here], uses_left = uses[place] - 1, of_place = words[place];
      __syncwarp();
      if (uses_left == 0 && of_place != word) {
        left = place;
        left_row = of_place;
      }
      if (lane == 0) {
        uses[place] = uses_left;
        if (left >= 0) words[place] = -1;
      }
      __syncwarp();
    }
    if (enters) {
      // A word that occurs again is refreshed: else a frequent one would stay here for ever.
      entered = Find(word);
      is_here = entered >= 0;
      if (!is_here) entered = Find(-1);
      __syncwarp();
      if (lane == 0) {
        words[entered] = word;
        ++uses[entered];
        place_of[here] = entered;
        sentence_of[here] = items.sentences[entering];
      }
      __syncwarp();
    }
    int count = 0, total = 0;
    if (i >= first) FindContexts(i, plan, &count, &total);
    if (lane == 0) {
      plan.head[kContexts] = count;
      plan.head[kTotal] = total;
      plan.head[kLeaves] = left;
      plan.head[kLeavingRow] = left_row;
      plan.head[kEnters] = entered;
      plan.head[kEnteringRow] = word;
      plan.head[kIsHere] = is_here;
    }
    __syncwarp();
  }

  __device__ void PlanDraws(int i, const Plan& plan) const {
    const int total = plan.head[kTotal];
    if (total == 0) return;
    const int64_t position = items.from + items.positions[i];
    const int center = words[place_of[i % span]];
    bool repeated = false;
    int outputs = drawing.negative + 1;
    if (drawing.path_starts) {
      outputs = TakePath(center, plan);
    } else {
      repeated = Draw(center, BitsAt(drawing.key, position), total, plan);
    }
    if (threadIdx.x % 32 != 0) return;
    plan.head[kOutputs] = outputs;
    const double rated = double(position / kChunk * int64_t(kChunk));
    plan.head[kRate] = __float_as_int(float(drawing.learning_rate + drawing.slope * rated));
    plan.head[kRepeated] = repeated;
  }

  __device__ void FindContexts(int i, const Plan& plan, int* count, int* total) const {
    const int lane = threadIdx.x % 32;
    const unsigned before_lane = (1u << lane) - 1;
    int width = drawing.window;
    const Bits bits = BitsAt(drawing.key, items.from + items.positions[i]);
    if (drawing.shrink) width = 1 + int(((bits & 0xffffffffu) * Bits(drawing.window)) >> 32);
    if (width > reach) width = reach;
    const int begin = i - width > low ? i - width : low;
    const int end = i + width + 1 < high ? i + width + 1 : high;
    const int sentence = sentence_of[i % span];
    if (kObjective != kPairs) {
      for (int place = lane; place < span; place += 32) {
        counts[place] = 0;
        earliest[place] = end;
      }
      __syncwarp();
    }
    for (int at = begin; at < end; at += 32) {
      const int item = at + lane;
      const bool is_context = item < end && item != i && sentence_of[item % span] == sentence;
      const unsigned found = __ballot_sync(kAllLanes, is_context);
      if (is_context) {
        const int place = place_of[item % span];
        if (kObjective == kPairs) {
          plan.places[*total + __popc(found & before_lane)] = place;
        } else {
          atomicAdd(&counts[place], 1);
          atomicMin(&earliest[place], item);
        }
      }
      *total += __popc(found);
    }
    if (kObjective == kPairs) {
      *count = *total;
      return;
    }
    __syncwarp();
    // In the order of the text, so that sums do not depend on how places were given.
    for (int at = begin; at < end; at += 32) {
      const int item = at + lane, place = item < end ? place_of[item % span] : 0;
      const bool is_first = item < end && earliest[place] == item;
      const unsigned found = __ballot_sync(kAllLanes, is_first);
      if (is_first) {
        plan.places[*count + __popc(found & before_lane)] = place;
        plan.times[*count + __popc(found & before_lane)] = counts[place];
      }
      *count += __popc(found);
    }
  }

  // The one set of a window: the inner nodes on the way to its center. Returns how many.
  __device__ int TakePath(int center, const Plan& plan) const {
    const int64_t begin = drawing.path_starts[center];
    const int count = int(drawing.path_starts[center + 1] - begin);
    for (int j = threadIdx.x % 32; j < count; j += 32) {
      plan.rows[j] = drawing.path_nodes[begin + j];
      plan.terms[j] = __float_as_int(drawing.path_signs[begin + j]);
    }
    return count;
  }

  // Draws the sets of a window; returns whether an output is repeated in one of them.
  __device__ bool Draw(int center, Bits bits, int total, const Plan& plan) const {
    const int lane = threadIdx.x % 32, outputs = drawing.negative + 1;
    const int draws = (kObjective == kPairs ? total : 1) * outputs;
    for (int draw = lane; draw < draws; draw += 32) {
      const int set = draw / outputs, j = draw % outputs;
      int row = center;
      if (j > 0) {
        const int number = set * drawing.negative + j - 1;
        row = DrawNoise(bits, number, drawing.noise, drawing.num_words);
        if (row == center) row = -1;
      }
      plan.rows[draw] = row;
      float term = j == 0 ? -1.0f : 1.0f;
      if (drawing.logit_offsets) term = j > 0 && row >= 0 ? drawing.logit_offsets[row] : 0.0f;
      plan.terms[draw] = __float_as_int(term);
    }
    if (kObjective == kWindow || drawing.logit_offsets) return false;
    __syncwarp();
    bool repeated = false;
    for (int draw = lane; draw < draws; draw += 32) {
      const int begin = draw / outputs * outputs;
      int same = begin;
      while (plan.rows[same] != plan.rows[draw]) ++same;
      plan.firsts[draw] = same - begin;
      repeated |= same != draw && plan.rows[draw] >= 0;
    }
    return __ballot_sync(kAllLanes, repeated) != 0;
  }
};
