#pragma once
// Which numbers are for training and which for testing, and which of them make up batch t of a run.
// Everything here is a pure function of its arguments, the same on any machine: a resumed run draws what the
// unbroken one would have drawn.

#include <array>
#include <cstdint>
#include <vector>

#include "numbers/tasks.hpp"

namespace numbers {

/// A stream of 64-bit random numbers (splitmix64) for one (seed, step): no state outlives the step.
class Stream {
 public:
  /// The stream of `step` in the run seeded `seed`.
  Stream(std::uint64_t seed, std::uint64_t step) : state_(mixed(mixed(seed + golden) ^ (step * golden))) {}

  /// The next 64 random bits.
  std::uint64_t next() { return mixed(state_ += golden); }
  /// A uniform number in [0, bound). Throws mole::ArgumentError for bound < 1.
  Index below(Index bound);
  /// Shuffles `values` (Fisher-Yates).
  void shuffle(std::vector<Index>& values);

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  std::uint64_t state_;
};

/// Of 20 training numbers, how many have 1, 2, 3 and 4 digits. Drawn uniformly from 0..9999, nine in ten
/// would have four digits and a model would hardly meet "seven" alone.
inline constexpr std::array<Index, 4> length_shares = {1, 3, 6, 10};

/// Digits of `number` in 0..9999, 1 to 4.
constexpr int digits(Index number) { return number < 10 ? 1 : number < 100 ? 2 : number < 1000 ? 3 : 4; }

/// 0..9999 in two disjoint parts, fixed once for all runs and independent of any seed: of the numbers of each
/// length a tenth is held out for testing (1, 9, 90 and 900 numbers).
struct Split {
  /// The 9000 training numbers. Lengths are interleaved by `length_shares` for as long as there are numbers
  /// of each, so any first part of the list is a fair smaller training set.
  static const std::vector<Index>& train();
  /// The 1000 test numbers, shuffled: any first part is a uniform sample of 0..9999.
  static const std::vector<Index>& test();
};

/// The first `count` training numbers. Throws mole::ArgumentError unless 1 <= count <= 9000.
std::vector<Index> train_numbers(Index count);

/// The first `count` test numbers. Throws mole::ArgumentError unless 1 <= count <= 1000.
std::vector<Index> test_numbers(Index count);

/// Draws batches without end from tasks and training numbers: a uniform task, a length by `length_shares` (of
/// the lengths that occur), a uniform number of that length.
class Sampler {
 public:
  /// Throws mole::ArgumentError for no tasks or no numbers.
  Sampler(std::vector<Task> tasks, const std::vector<Index>& pool, std::uint64_t seed);

  /// The `size` examples of batch `step`; depends on the constructor's arguments, `step` and `size` alone.
  std::vector<Example> batch(Index step, Index size) const;

 private:
  std::vector<Task> tasks_;
  std::array<std::vector<Index>, 4> by_length_;
  std::uint64_t seed_;
};

/// Few-shot training data: for each task its own `per_task` different training numbers, a uniform sample as
/// the held-out numbers are, chosen by `seed` and the task's name (a task keeps its examples when others join
/// or leave). Throws mole::ArgumentError unless 1 <= per_task <= 9000.
std::vector<Example> few_shot_examples(const std::vector<Task>& tasks, Index per_task, std::uint64_t seed);

/// The positions, in a list of `count` examples, of batch `step` of `size`: epochs of shuffled positions laid
/// end to end, so every example comes equally often. Throws mole::ArgumentError for count, size < 1 or step <
/// 0.
std::vector<Index> epoch_batch(Index count, Index size, Index step, std::uint64_t seed);

/// The first `count` test numbers of `task`, as examples. Throws as test_numbers.
std::vector<Example> held_out_examples(const Task& task, Index count);

/// `count` training numbers of `task`, apart from the first 8000 that few_shot_examples would take for this
/// seed: to choose options by, so that the held-out numbers stay unseen. Throws mole::ArgumentError unless
/// 1 <= count <= 1000.
std::vector<Example> validation_examples(const Task& task, Index count, std::uint64_t seed);

}  // namespace numbers
