// The fixed split of the numbers and the samplers.

#include "numbers/split.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>

namespace numbers {
namespace {

// Changing it moves test numbers into training: every shipped model would have to be trained anew.
constexpr std::uint64_t split_seed = 20240422;

using ByLength = std::array<std::vector<Index>, 4>;

std::vector<Index>& of_length(ByLength& lists, Index number) {
  return lists[static_cast<std::size_t>(digits(number) - 1)];
}

ByLength grouped(const std::vector<Index>& values) {
  ByLength lists;
  for (const Index number : values) of_length(lists, number).push_back(number);
  return lists;
}

// Spreads each length evenly over a cycle of 20; the turn of an exhausted length goes to the next longer one.
std::vector<Index> interleaved(const ByLength& lists, Index count) {
  const Index cycle = std::accumulate(length_shares.begin(), length_shares.end(), Index{0});
  std::array<Index, 4> debt{}, taken{};
  std::vector<Index> order;
  while (static_cast<Index>(order.size()) < count) {
    for (std::size_t i = 0; i < 4; ++i) debt[i] += length_shares[i];
    const auto due = static_cast<std::size_t>(std::ranges::max_element(debt) - debt.begin());
    debt[due] -= cycle;
    for (std::size_t step = 0; step < 4; ++step) {
      const std::size_t length = (due + step) % 4;
      if (taken[length] == static_cast<Index>(lists[length].size())) continue;
      order.push_back(lists[length][static_cast<std::size_t>(taken[length]++)]);
      break;
    }
  }
  return order;
}

std::pair<std::vector<Index>, std::vector<Index>> make_split() {
  std::vector<Index> all(static_cast<std::size_t>(number_count));
  std::iota(all.begin(), all.end(), Index{0});
  Stream stream(split_seed, 0);
  stream.shuffle(all);
  ByLength lists = grouped(all);
  std::vector<Index> test;
  for (std::vector<Index>& list : lists) {
    const auto tenth = static_cast<std::ptrdiff_t>(list.size() / 10);
    test.insert(test.end(), list.end() - tenth, list.end());
    list.erase(list.end() - tenth, list.end());
  }
  stream.shuffle(test);
  return {interleaved(lists, number_count - static_cast<Index>(test.size())), test};
}

const std::pair<std::vector<Index>, std::vector<Index>>& the_split() {
  static const auto split = make_split();
  return split;
}

std::vector<Index> first(const std::vector<Index>& values, Index count, const char* what) {
  const auto available = static_cast<Index>(values.size());
  MOLE_CHECK_ARG(count >= 1 && count <= available, what, "numbers: expected 1 to", available, "of them, got",
                 count);
  return {values.begin(), values.begin() + count};
}

std::uint64_t hashed(std::string_view text) {
  return mole::Fingerprint().add(std::as_bytes(std::span(text))).state;
}

}  // namespace

Index Stream::below(Index bound) {
  MOLE_CHECK_ARG(bound >= 1, "Stream::below: expected a bound >= 1, got", bound);
  const auto range = static_cast<std::uint64_t>(bound);
  const std::uint64_t unbiased = ~std::uint64_t{0} - ~std::uint64_t{0} % range;
  for (;;) {
    const std::uint64_t bits = next();
    if (bits < unbiased) return static_cast<Index>(bits % range);
  }
}

void Stream::shuffle(std::vector<Index>& values) {
  for (std::size_t last = values.size(); last > 1; --last) {
    std::swap(values[last - 1], values[static_cast<std::size_t>(below(static_cast<Index>(last)))]);
  }
}

const std::vector<Index>& Split::train() { return the_split().first; }
const std::vector<Index>& Split::test() { return the_split().second; }

std::vector<Index> train_numbers(Index count) { return first(Split::train(), count, "training"); }
std::vector<Index> test_numbers(Index count) { return first(Split::test(), count, "test"); }

Sampler::Sampler(std::vector<Task> tasks, const std::vector<Index>& pool, std::uint64_t seed)
    : tasks_(std::move(tasks)), by_length_(grouped(pool)), seed_(seed) {
  MOLE_CHECK_ARG(!tasks_.empty(), "Sampler: expected at least one task, got none");
  MOLE_CHECK_ARG(!pool.empty(), "Sampler: expected at least one number, got none");
}

std::vector<Example> Sampler::batch(Index step, Index size) const {
  std::array<Index, 4> shares = length_shares;
  for (std::size_t i = 0; i < 4; ++i) {
    if (by_length_[i].empty()) shares[i] = 0;
  }
  const Index total = std::accumulate(shares.begin(), shares.end(), Index{0});
  Stream stream(seed_, static_cast<std::uint64_t>(step));
  std::vector<Example> examples;
  for (Index i = 0; i < size; ++i) {
    const Task& task = tasks_[static_cast<std::size_t>(stream.below(static_cast<Index>(tasks_.size())))];
    std::size_t length = 0;
    for (Index mark = stream.below(total); mark >= shares[length]; ++length) mark -= shares[length];
    const std::vector<Index>& list = by_length_[length];
    examples.push_back(
        make_example(task, list[static_cast<std::size_t>(stream.below(static_cast<Index>(list.size())))]));
  }
  return examples;
}

namespace {

/// The training numbers in the order in which few-shot examples of `task` are taken: uniform, as the held-out
/// numbers are.
std::vector<Index> few_shot_order(const Task& task, std::uint64_t seed) {
  std::vector<Index> pool = Split::train();
  Stream(seed, hashed(task.name())).shuffle(pool);
  return pool;
}

}  // namespace

std::vector<Example> few_shot_examples(const std::vector<Task>& tasks, Index per_task, std::uint64_t seed) {
  const auto available = static_cast<Index>(Split::train().size());
  MOLE_CHECK_ARG(per_task >= 1 && per_task <= available, "few-shot examples a task: expected 1 to", available,
                 ", got", per_task);
  std::vector<Example> examples;
  for (const Task& task : tasks) {
    const auto order = few_shot_order(task, seed);
    for (auto number = order.begin(); number != order.begin() + per_task; ++number)
      examples.push_back(make_example(task, *number));
  }
  return examples;
}

std::vector<Example> validation_examples(const Task& task, Index count, std::uint64_t seed) {
  MOLE_CHECK_ARG(count >= 1 && count <= 1000, "validation numbers: expected 1 to 1000, got", count);
  const auto order = few_shot_order(task, seed);
  std::vector<Example> examples;
  for (auto number = order.rbegin(); number != order.rbegin() + count; ++number)
    examples.push_back(make_example(task, *number));
  return examples;
}

std::vector<Index> epoch_batch(Index count, Index size, Index step, std::uint64_t seed) {
  MOLE_CHECK_ARG(count >= 1 && size >= 1 && step >= 0,
                 "epoch_batch: expected count, size >= 1 and step >= 0, got", count, size, step);
  std::vector<Index> positions, epoch;
  Index shuffled = -1;
  for (Index place = step * size; place < (step + 1) * size; ++place) {
    if (place / count != shuffled) {
      shuffled = place / count;
      epoch.resize(static_cast<std::size_t>(count));
      std::iota(epoch.begin(), epoch.end(), Index{0});
      Stream(seed, static_cast<std::uint64_t>(shuffled)).shuffle(epoch);
    }
    positions.push_back(epoch[static_cast<std::size_t>(place % count)]);
  }
  return positions;
}

std::vector<Example> held_out_examples(const Task& task, Index count) {
  std::vector<Example> examples;
  for (const Index number : test_numbers(count)) examples.push_back(make_example(task, number));
  return examples;
}

}  // namespace numbers
