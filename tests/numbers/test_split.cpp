// The fixed split of the numbers, and samplers that depend on their arguments alone.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

#include "numbers/split.hpp"

using numbers::Index;
using numbers::Split;

namespace {

std::array<Index, 4> lengths(const std::vector<Index>& values) {
  std::array<Index, 4> counts{};
  for (const Index number : values) ++counts[static_cast<std::size_t>(numbers::digits(number) - 1)];
  return counts;
}

std::vector<Index> numbers_of(const std::vector<numbers::Example>& examples) {
  std::vector<Index> values;
  for (const auto& example : examples) values.push_back(example.number);
  return values;
}

std::string text_of(const std::vector<numbers::Example>& examples) {
  std::string text;
  for (const auto& example : examples) text += example.input + "=" + example.target + "\n";
  return text;
}

}  // namespace

TEST_CASE("Training and test numbers are disjoint and together all of 0..9999") {
  std::set<Index> all(Split::train().begin(), Split::train().end());
  CHECK(all.size() == 9000);
  for (const Index number : Split::test()) CHECK(all.insert(number).second);
  CHECK(all.size() == 10000);
  CHECK(*all.begin() == 0);
  CHECK(*all.rbegin() == 9999);
  CHECK(lengths(Split::test()) == std::array<Index, 4>{1, 9, 90, 900});
}

TEST_CASE("The split is the one the shipped models were trained on") {
  const std::vector<Index> test = numbers::test_numbers(6), train = numbers::train_numbers(6);
  CHECK(test == std::vector<Index>{4634, 8094, 7776, 4577, 1486, 4021});
  CHECK(train == std::vector<Index>{2819, 612, 5934, 17, 192, 5680});
}

TEST_CASE("Any first part of the training numbers holds numbers of all lengths") {
  CHECK(lengths(numbers::train_numbers(20)) == numbers::length_shares);
  CHECK(lengths(numbers::train_numbers(100)) == std::array<Index, 4>{5, 15, 30, 50});
  const auto base = lengths(numbers::train_numbers(600));
  CHECK(base[0] == 9);
  CHECK(base[1] == 81);
  CHECK(base[2] > 150);
  CHECK(base[3] > 250);
  CHECK(numbers::train_numbers(9000) == Split::train());
}

TEST_CASE("More numbers than there are, or none, are refused") {
  CHECK_THROWS_WITH_AS(numbers::train_numbers(9001), "training numbers: expected 1 to 9000 of them, got 9001",
                       mole::ArgumentError);
  CHECK_THROWS_AS(numbers::test_numbers(1001), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::test_numbers(0), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::few_shot_examples(numbers::paper_tasks(), 0, 1), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::Sampler({}, {1}, 0), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::Sampler(numbers::paper_tasks(), {}, 0), mole::ArgumentError);
}

TEST_CASE("Random numbers are the same on every machine") {
  numbers::Stream a(1, 2), b(1, 2), other_step(1, 3), other_seed(2, 2);
  const std::uint64_t first = a.next();
  CHECK(first == 0x8c647d4bc9d6b599u);
  CHECK(first == b.next());
  CHECK(first != other_step.next());
  CHECK(first != other_seed.next());
}

TEST_CASE("Bounded draws stay within the bound and reach all of it evenly") {
  numbers::Stream stream(7, 0);
  std::array<Index, 6> counts{};
  for (int i = 0; i < 6000; ++i) {
    const Index drawn = stream.below(6);
    REQUIRE(drawn >= 0);
    REQUIRE(drawn < 6);
    ++counts[static_cast<std::size_t>(drawn)];
  }
  CHECK(std::ranges::min(counts) > 900);
  CHECK(std::ranges::max(counts) < 1100);
  CHECK(stream.below(1) == 0);
  CHECK_THROWS_AS(stream.below(0), mole::ArgumentError);
}

TEST_CASE("Batch t depends on the seed and t alone") {
  const numbers::Sampler sampler(numbers::base_tasks(), numbers::train_numbers(600), 5);
  const numbers::Sampler again(numbers::base_tasks(), numbers::train_numbers(600), 5);
  const numbers::Sampler other(numbers::base_tasks(), numbers::train_numbers(600), 6);
  const std::string late = text_of(sampler.batch(100, 16));
  CHECK(text_of(sampler.batch(0, 16)) != late);
  CHECK(text_of(again.batch(100, 16)) == late);
  CHECK(text_of(other.batch(100, 16)) != late);
}

TEST_CASE("A sampler covers all tasks and lengths and stays within its numbers") {
  const std::vector<Index> pool = Split::train();
  const numbers::Sampler sampler(numbers::paper_tasks(), pool, 3);
  const std::vector<numbers::Example> examples = sampler.batch(0, 4000);
  std::map<std::string, int> tasks;
  for (const auto& example : examples) ++tasks[example.task.name()];
  CHECK(tasks.size() == 6);
  for (const auto& [name, count] : tasks) CHECK(count > 550);
  const auto counts = lengths(numbers_of(examples));
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(counts[i] - 200 * numbers::length_shares[i]) < 120);
  const std::set<Index> allowed(pool.begin(), pool.end());
  for (const Index number : numbers_of(examples)) REQUIRE(allowed.contains(number));
}

TEST_CASE("A sampler of few lengths draws only those") {
  const numbers::Sampler sampler({{"en", "fr"}}, {12, 34}, 1);
  const std::vector<Index> drawn = numbers_of(sampler.batch(0, 50));
  CHECK(std::ranges::count(drawn, 12) + std::ranges::count(drawn, 34) == 50);
  CHECK(std::ranges::count(drawn, 12) > 0);
  CHECK(std::ranges::count(drawn, 34) > 0);
}

TEST_CASE("Few-shot examples are training numbers, different within a task, and a task keeps its own") {
  const auto all = numbers::few_shot_examples(numbers::paper_tasks(), 100, 1);
  REQUIRE(all.size() == 600);
  const std::set<Index> training(Split::train().begin(), Split::train().end());
  for (std::size_t t = 0; t < 6; ++t) {
    const std::vector<numbers::Example> part(all.begin() + static_cast<std::ptrdiff_t>(100 * t),
                                             all.begin() + static_cast<std::ptrdiff_t>(100 * (t + 1)));
    const std::vector<Index> values = numbers_of(part);
    CHECK(std::set<Index>(values.begin(), values.end()).size() == 100);
    CHECK(std::ranges::all_of(values, [&](Index number) { return training.contains(number); }));
    CHECK(lengths(values)[3] >= 80);  // a uniform sample: nine in ten numbers have four digits
    CHECK(text_of(numbers::few_shot_examples({numbers::paper_tasks()[t]}, 100, 1)) == text_of(part));
  }
  CHECK(text_of(numbers::few_shot_examples(numbers::paper_tasks(), 100, 2)) != text_of(all));
}

TEST_CASE("Epochs bring every example equally often, from any step") {
  std::map<Index, int> seen;
  for (Index step = 0; step < 25; ++step) {
    for (const Index position : numbers::epoch_batch(30, 12, step, 9)) ++seen[position];
  }
  CHECK(seen.size() == 30);
  for (const auto& [position, count] : seen) CHECK(count == 10);
  CHECK(numbers::epoch_batch(30, 12, 7, 9) == numbers::epoch_batch(30, 12, 7, 9));
  CHECK(numbers::epoch_batch(30, 12, 7, 9) != numbers::epoch_batch(30, 12, 7, 8));
  CHECK(numbers::epoch_batch(3, 7, 0, 1).size() == 7);
  CHECK_THROWS_AS(numbers::epoch_batch(0, 1, 0, 1), mole::ArgumentError);
}

TEST_CASE("Held-out examples are the first test numbers") {
  const auto examples = numbers::held_out_examples({"ro", "en"}, 10);
  CHECK(numbers_of(examples) == numbers::test_numbers(10));
  CHECK(examples[0].input.starts_with("ro>en "));
}

TEST_CASE("Validation examples are training numbers that no few-shot set of this seed has") {
  const numbers::Task task{"en", "fr"};
  const auto validation = numbers::validation_examples(task, 200, 3);
  const auto taught = numbers::few_shot_examples({task}, 1000, 3);
  CHECK(validation.size() == 200);
  std::set<std::string> seen, held_out;
  for (const auto& example : taught) seen.insert(example.input);
  for (const auto& example : numbers::held_out_examples(task, 1000)) held_out.insert(example.input);
  for (const auto& example : validation) {
    CHECK(seen.count(example.input) == 0);
    CHECK(held_out.count(example.input) == 0);
    seen.insert(example.input);
  }
  CHECK_THROWS_AS(numbers::validation_examples(task, 1001, 3), mole::ArgumentError);
}
