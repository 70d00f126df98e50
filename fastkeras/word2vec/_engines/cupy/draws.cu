// Random numbers that depend only on where they are used, as in training/sampling.py, and the words
// of a slice that stay.

using Bits = unsigned long long;
constexpr Bits kGolden = 0x9e3779b97f4a7c15u;

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
__device__ inline Bits Mix(Bits z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

__device__ inline Bits BitsAt(int64_t key, int64_t position) {
  return Mix(Bits(key) + (Bits(position) + 1) * kGolden);
}

// The word drawn as number `number` at a position with these bits, by the alias method.
__device__ inline int DrawNoise(Bits bits, int number, const unsigned* noise, int num_words) {
  const Bits drawn = Mix(bits + (Bits(number) + 1) * kGolden);
  const int word = int(((drawn >> 32) * Bits(num_words)) >> 32);
  return unsigned(drawn) < noise[2 * int64_t(word)] ? word : int(noise[2 * int64_t(word) + 1]);
}

// An item is a word that stays. Items are collected in their order by three kernels: each block
// counts those of its positions, their numbers are added up, and each block writes its own.
constexpr int kCountThreads = 256, kRows = 4;  // a warp reads so many rows of 32 positions
constexpr int kTile = kCountThreads * kRows;   // positions of a block

struct Counted {
  int items, ends;
};

struct Slice {
  const int* ids;
  int64_t from;  // its first position in the corpus
  int size;
  const unsigned* keep;
  int num_words;
  int64_t key;

  __device__ int PositionOf(int row) const {
    return int(blockIdx.x) * kTile + int(threadIdx.x) / 32 * (32 * kRows) + row * 32 +
           int(threadIdx.x) % 32;
  }
  __device__ int WordAt(int position) const { return position < size ? ids[from + position] : 0; }
  __device__ bool IsEnd(int position, int word) const {
    return position < size && (word < 0 || word >= num_words);
  }
  __device__ bool Stays(int position, int word) const {
    return position < size && !IsEnd(position, word) &&
           (BitsAt(key, from + position) >> 32) <= keep[word];
  }
};

extern "C" __global__ void __launch_bounds__(kCountThreads)
    count_items(const int* ids, int64_t from, int size, const unsigned* keep, int num_words,
                int64_t key, Counted* counted) {
  FASTKERAS_SHARED(Counted, of_warps, kCountThreads / 32);
  const Slice slice = {ids, from, size, keep, num_words, key};
  Counted own = {0, 0};
  for (int row = 0; row < kRows; ++row) {
    const int position = slice.PositionOf(row), word = slice.WordAt(position);
    own.items += __popc(__ballot_sync(kAllLanes, slice.Stays(position, word)));
    own.ends += __popc(__ballot_sync(kAllLanes, slice.IsEnd(position, word)));
  }
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < kCountThreads / 32; ++warp) {
    own.items += of_warps[warp].items;
    own.ends += of_warps[warp].ends;
  }
  counted[blockIdx.x] = own;
}
FASTKERAS_KERNEL(count_items);

// Replaces the counts of tiles by those of all tiles before; the last entry becomes that of all.
extern "C" __global__ void __launch_bounds__(kCountThreads)
    sum_counts(Counted* counted, int tiles) {
  FASTKERAS_SHARED(Counted, of_threads, kCountThreads);
  const int share = (tiles + kCountThreads - 1) / kCountThreads;
  const int begin = int(threadIdx.x) * share, end = begin + share < tiles ? begin + share : tiles;
  Counted sum = {0, 0};
  for (int tile = begin; tile < end; ++tile) {
    sum.items += counted[tile].items;
    sum.ends += counted[tile].ends;
  }
  of_threads[threadIdx.x] = sum;
  __syncthreads();
  Counted before = {0, 0};
  for (int thread = 0; thread < int(threadIdx.x); ++thread) {
    before.items += of_threads[thread].items;
    before.ends += of_threads[thread].ends;
  }
  for (int tile = begin; tile < end; ++tile) {
    const Counted own = counted[tile];
    counted[tile] = before;
    before.items += own.items;
    before.ends += own.ends;
  }
  if (threadIdx.x == kCountThreads - 1) counted[tiles] = before;
}
FASTKERAS_KERNEL(sum_counts);

// Writes for each item its word, its position in the slice, and the number of its sentence.
extern "C" __global__ void __launch_bounds__(kCountThreads)
    write_items(const int* ids, int64_t from, int size, const unsigned* keep, int num_words,
                int64_t key, const Counted* counted, int* words, int* positions, int* sentences) {
  FASTKERAS_SHARED(Counted, of_warps, kCountThreads / 32);
  const Slice slice = {ids, from, size, keep, num_words, key};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned before_lane = (1u << lane) - 1;
  unsigned stays[kRows], is_end[kRows];
  Counted own = {0, 0};
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int position = slice.PositionOf(row), word = slice.WordAt(position);
    stays[row] = __ballot_sync(kAllLanes, slice.Stays(position, word));
    is_end[row] = __ballot_sync(kAllLanes, slice.IsEnd(position, word));
    own.items += __popc(stays[row]);
    own.ends += __popc(is_end[row]);
  }
  if (lane == 0) of_warps[warp] = own;
  __syncthreads();
  Counted before = counted[blockIdx.x];
  for (int w = 0; w < warp; ++w) {
    before.items += of_warps[w].items;
    before.ends += of_warps[w].ends;
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (stays[row] >> lane & 1) {
      const int item = before.items + __popc(stays[row] & before_lane);
      const int position = slice.PositionOf(row);
      words[item] = slice.WordAt(position);
      positions[item] = position;
      sentences[item] = before.ends + __popc(is_end[row] & before_lane);
    }
    before.items += __popc(stays[row]);
    before.ends += __popc(is_end[row]);
  }
}
FASTKERAS_KERNEL(write_items);
