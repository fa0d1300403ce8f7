#include "mole/examples.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include <mole/core/error.hpp>

#include "examples_common/folder.hpp"
#include "io/limits.hpp"

using namespace program;

namespace {

std::vector<TextExample> examples_in(const std::string& text, Answers answers = Answers::needed) {
  const common_test::Folder folder;
  const auto path = folder.path / "some.jsonl";
  std::ofstream(path, std::ios::binary) << text;
  return read_examples(path, answers);
}

std::string refusal(const std::string& text) {
  try {
    examples_in(text);
  } catch (const mole::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("Each form of a line gives prompt and answer") {
  const auto list = examples_in(
      "{\"prompt\": \"two\", \"answer\": \"deux\", \"task\": \"french\", \"id\": 7}\n"
      "{\"input\": \"three\", \"output\": \"trois\"}\n"
      "{\"instruction\": \"Translate.\", \"input\": \"four\", \"output\": \"quatre\"}\n"
      "{\"instruction\": \"Say five.\", \"input\": \"\", \"output\": \"cinq\"}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"six\"}, {\"role\": \"assistant\", \"content\": \"six!\"}]}\n"
      "{\"messages\": [{\"role\": \"system\", \"content\": \"be brief\"}, {\"role\": \"user\", \"content\": \"7\"}, "
      "{\"role\": \"assistant\", \"content\": \"sept\"}]}");
  REQUIRE(list.size() == 6);
  CHECK(list[0].prompt == "two");
  CHECK(list[0].answer == "deux");
  CHECK(list[0].task == "french");
  CHECK(list[1].prompt == "three");
  CHECK(list[1].task == "all");
  CHECK(list[2].prompt == "Translate.\n\nfour");
  CHECK(list[2].answer == "quatre");
  CHECK(list[3].prompt == "Say five.");
  CHECK(list[4].prompt == "six");
  CHECK(list[4].answer == "six!");
  CHECK(list[4].turns.empty());
  CHECK(list[5].turns.size() == 2);
  CHECK(list[5].answer == "sept");
  CHECK(tasks_of(list) == std::vector<std::string>{"french", "all"});
  CHECK(of_task(list, "french").size() == 1);
  CHECK_THROWS_WITH_AS(of_task(list, "german"), doctest::Contains("french, all"), mole::ArgumentError);
}

TEST_CASE("Blank lines, a byte order mark and CRLF are allowed, and lines keep their numbers") {
  const auto list = examples_in(
      "\xEF\xBB\xBF\r\n{\"prompt\": \"a\", \"answer\": \"b\"}\r\n  \r\n\n{\"prompt\": \"c\", "
      "\"answer\": \"d\"}");
  REQUIRE(list.size() == 2);
  CHECK(list[0].answer == "b");
  CHECK(list[1].where.find("line 5") != std::string::npos);
}

TEST_CASE("What is no example is refused by file and line") {
  struct Row {
    std::string text, part;
  };
  const std::string good = "{\"prompt\": \"a\", \"answer\": \"b\"}\n";
  for (const auto& row :
       std::vector<Row>{{"", "no examples"},
                        {" \n\n", "no examples"},
                        {good + "[1]", "line 2: expected a JSON object"},
                        {good + "{\"prompt\": \"a\"", "line 2: malformed JSON"},
                        {good + "{\"question\": \"a\"}", "line 2: there is no prompt"},
                        {good + "{\"prompt\": 3, \"answer\": \"b\"}", "\"prompt\" should be a text"},
                        {good + "{\"prompt\": \" \", \"answer\": \"b\"}", "the prompt is empty"},
                        {good + "{\"prompt\": \"a\"}", "the answer is missing or empty"},
                        {good + "{\"prompt\": \"a\", \"answer\": \"\"}", "the answer is missing or empty"},
                        {good + "{\"prompt\": \"a\xFF\", \"answer\": \"b\"}", "line 2"},
                        {good + "{\"messages\": []}", "\"messages\" should be a list"},
                        {good + "{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}",
                         "system, user and assistant"},
                        {good + "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}",
                         "should end in a user's turn"},
                        {good + "{\"messages\": [{\"role\": \"user\"}]}", "lacks its role or its content"}}) {
    CAPTURE(row.text);
    const auto text = refusal(row.text);
    CHECK(text.find(row.part) != std::string::npos);
    CHECK(text.find("some.jsonl") != std::string::npos);
  }
  CHECK_THROWS_AS(read_examples("/nonexistent.jsonl"), mole::Error);
  CHECK(examples_in("{\"prompt\": \"a\"}", Answers::optional).front().answer == "");
}

TEST_CASE("A tenth of each task is set aside, the same for the same seed") {
  std::vector<TextExample> all;
  for (int i = 0; i < 40; ++i)
    all.push_back({.prompt = std::to_string(i), .answer = "x", .task = i < 30 ? "a" : "b"});
  const auto [train, test] = set_a_tenth_aside(all, 3);
  CHECK(train.size() == 36);
  CHECK(of_task(test, "a").size() == 3);
  CHECK(of_task(test, "b").size() == 1);
  std::set<std::string> seen;
  for (const auto* part : {&train, &test})
    for (const auto& example : *part) seen.insert(example.prompt);
  CHECK(seen.size() == 40);
  CHECK(set_a_tenth_aside(all, 3).second.front().prompt == test.front().prompt);
  all.push_back({.prompt = "alone", .answer = "x", .task = "c"});
  CHECK_THROWS_WITH_AS(set_a_tenth_aside(all, 3), doctest::Contains("the task c"), mole::ArgumentError);
}

TEST_CASE("A file of as many tasks as lines is taken apart as quickly as one of a single task") {
  std::vector<TextExample> all;
  for (int round = 0; round < 2; ++round)
    for (int i = 0; i < 60'000; ++i)
      all.push_back({.prompt = "p", .answer = "x", .task = "task " + std::to_string(i)});
  // Quadratic time would take minutes.
  const auto parted = io_test::limited([&] {
    const auto tasks = tasks_of(all);
    const auto own = examples_by_task(all);
    const auto [train, test] = set_a_tenth_aside(all, 3);
    return tasks.at(59'999) + ", " + std::to_string(own.at(7).second.size()) + ", " +
           std::to_string(test.size());
  });
  CHECK(parted == "task 59999, 2, 60000");
  try {
    of_task(all, "other");
  } catch (const mole::ArgumentError& error) {
    CHECK(io_test::fit_to_print(error.what()));
  }
}

TEST_CASE("An epoch's batches hold every example once, texts of like length together") {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < 50; ++i) lengths.push_back(10 + i * 7 % 50);
  const auto padding = [&](const std::vector<std::size_t>& batch) {
    std::size_t longest = 0, real = 0;
    for (const auto i : batch) {
      longest = std::max(longest, lengths[i]);
      real += lengths[i];
    }
    return longest * batch.size() - real;
  };
  std::size_t as_they_come = 0;
  for (std::size_t first = 0; first < 50; first += 8) {
    std::vector<std::size_t> batch;
    for (std::size_t i = first; i < std::min<std::size_t>(50, first + 8); ++i) batch.push_back(i);
    as_they_come += padding(batch);
  }
  for (std::size_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<std::size_t> seen;
    std::size_t padded = 0;
    for (std::size_t step = 0; step < 7; ++step) {
      const auto batch = batch_of_step(lengths, 8, epoch * 7 + step, 1);
      padded += padding(batch);
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    std::sort(seen.begin(), seen.end());
    REQUIRE(seen.size() == 50);
    for (std::size_t i = 0; i < 50; ++i) CHECK(seen[i] == i);
    CHECK(2 * padded < as_they_come);
  }
  CHECK(batch_of_step(lengths, 8, 3, 1) == batch_of_step(lengths, 8, 3, 1));
  CHECK(batch_of_step(lengths, 8, 3, 1) != batch_of_step(lengths, 8, 3, 2));
  CHECK(batch_of_step({5}, 8, 9, 1) == std::vector<std::size_t>{0});
}

TEST_CASE("Mixed batches take every example of an epoch once and do not sort by length") {
  // Two tasks, whose texts are short and long.
  std::vector<std::size_t> lengths(64, 10);
  std::fill(lengths.begin() + 32, lengths.end(), 90);
  std::size_t of_both = 0;
  std::vector<std::size_t> seen;
  for (std::size_t step = 0; step < 8; ++step) {
    const auto batch = batch_of_step(lengths, 8, step, 1, Batches::mixed);
    const auto longs = std::count_if(batch.begin(), batch.end(), [](std::size_t i) { return i >= 32; });
    of_both += longs > 0 && longs < 8;
    seen.insert(seen.end(), batch.begin(), batch.end());
  }
  CHECK(of_both >= 7);
  std::sort(seen.begin(), seen.end());
  for (std::size_t i = 0; i < 64; ++i) CHECK(seen[i] == i);
  CHECK(batch_of_step(lengths, 8, 3, 1, Batches::mixed) == batch_of_step(lengths, 8, 3, 1, Batches::mixed));
  CHECK(batch_of_step(lengths, 8, 3, 1, Batches::mixed) != batch_of_step(lengths, 8, 3, 2, Batches::mixed));
}
