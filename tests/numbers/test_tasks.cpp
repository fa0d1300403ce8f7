// Tasks by name, the byte tokenizer, and batches.

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

#include "numbers/tasks.hpp"

using numbers::Index;
using Tokens = std::vector<std::int64_t>;

namespace {

std::string error_of(auto&& call) {
  try {
    call();
  } catch (const mole::ArgumentError& error) {
    return error.what();
  }
  return "no error";
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("A task is read from its name and back") {
  for (const numbers::Task& task : numbers::paper_tasks()) CHECK(numbers::parse_task(task.name()) == task);
  CHECK(numbers::parse_task(" en>fr ") == numbers::Task{"en", "fr"});
  std::string order;
  for (const numbers::Task& task : numbers::paper_tasks()) order += task.name() + " ";
  CHECK(order == "en>fr fr>en en>de de>en en>ro ro>en ");
}

TEST_CASE("The base learns all 72 ordered pairs of nine languages, the paper's six among them") {
  CHECK(numbers::base_languages().size() == 9);
  CHECK(numbers::base_tasks().size() == 72);
  for (const numbers::Task& task : numbers::paper_tasks()) {
    CHECK(std::ranges::count(numbers::base_tasks(), task) == 1);
  }
}

TEST_CASE("A task that cannot be is refused with what to write instead") {
  CHECK(says(error_of([] { numbers::parse_task("enfr"); }), "'enfr'"));
  CHECK(says(error_of([] { numbers::parse_task("enfr"); }), "such as en>fr"));
  CHECK(says(error_of([] { numbers::parse_task("en>xx"); }), "unknown language 'xx'"));
  CHECK(says(error_of([] { numbers::parse_task("en>"); }), "unknown language ''"));
  CHECK(says(error_of([] { numbers::parse_task("en>fr>de"); }), "unknown language 'fr>de'"));
  CHECK(says(error_of([] { numbers::parse_task("en>en"); }), "same language"));
  CHECK(says(error_of([] { numbers::parse_task(""); }), "expected SOURCE>TARGET"));
}

TEST_CASE("Lists of tasks keep their order and refuse a repeated or empty one") {
  const auto tasks = numbers::parse_tasks("ro>en, en>fr");
  REQUIRE(tasks.size() == 2);
  CHECK(tasks[0].name() == "ro>en");
  CHECK(tasks[1].name() == "en>fr");
  CHECK(says(error_of([] { numbers::parse_tasks("en>fr,en>fr"); }), "twice"));
  CHECK(says(error_of([] { numbers::parse_tasks("en>fr,"); }), "expected SOURCE>TARGET"));
}

TEST_CASE("A prompt is taken apart into its task and its text") {
  const auto [task, text] = numbers::parse_prompt("  en>fr two hundred six ");
  CHECK(task.name() == "en>fr");
  CHECK(text == "two hundred six");
  CHECK(says(error_of([] { numbers::parse_prompt("en>fr"); }), "expected text after the task"));
  CHECK(says(error_of([] { numbers::parse_prompt("en>fr  "); }), "expected text after the task"));
  CHECK(says(error_of([] { numbers::parse_prompt("two hundred six"); }), "task 'two'"));
}

TEST_CASE("An example is the task and the number in words of both languages") {
  const numbers::Example example = numbers::make_example({"en", "fr"}, 206);
  CHECK(example.input == "en>fr two hundred six");
  CHECK(example.target == "deux cent six");
  CHECK(example.number == 206);
}

TEST_CASE("Bytes are tokens three up, with an end") {
  CHECK(numbers::encode("az") == Tokens{100, 125, 1});
  CHECK(numbers::encode("") == Tokens{1});
  CHECK(numbers::encode("é") == Tokens{0xc3 + 3, 0xa9 + 3, 1});
}

TEST_CASE("Decoding gives back any text, UTF-8 and all byte values too") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  for (const std::string& text : {std::string("deux cent six"), std::string("două sute şase €"), all}) {
    CHECK(numbers::decode(numbers::encode(text)) == text);
  }
}

TEST_CASE("Decoding stops at the end token and skips what is no byte") {
  CHECK(numbers::decode({0, 100, 0, 2, 259, 125, 1, 100}) == "az");
  CHECK(numbers::decode({-100, 300, 100}) == "a");
}

TEST_CASE("Every token is a row of the vocabulary") {
  for (const std::int64_t token : numbers::encode("\xff\x01")) {
    CHECK(token >= 1);
    CHECK(token < numbers::vocabulary_size);
  }
}

TEST_CASE("A batch pads inputs, mask and labels to its longest texts") {
  const std::vector<numbers::Example> examples = {numbers::make_example({"en", "fr"}, 7),
                                                  numbers::make_example({"fr", "en"}, 1)};
  const numbers::Batch batch = numbers::make_batch(examples, 1);
  CHECK(batch.size == 2);
  CHECK(batch.source_length == 12);  // "en>fr seven" and the end
  CHECK(batch.target_length == 5);   // "sept" and the end
  CHECK(batch.attention_mask ==
        Tokens{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0});
  CHECK(batch.labels == Tokens{'s' + 3, 'e' + 3, 'p' + 3, 't' + 3, 1, 'o' + 3, 'n' + 3, 'e' + 3, 1, -100});
  const Tokens second(batch.input_ids.begin() + 12, batch.input_ids.end());
  CHECK(numbers::decode(second) == "fr>en un");
  CHECK(second[8] == numbers::end_token);
  CHECK(second[11] == numbers::pad_token);
}

TEST_CASE("Batch lengths are multiples of what is asked and never grow beyond need") {
  std::vector<numbers::Example> examples = {numbers::make_example({"en", "fr"}, 7)};
  CHECK(numbers::make_batch(examples).source_length == 16);
  CHECK(numbers::make_batch(examples).target_length == 8);
  CHECK(numbers::make_batch(examples, 12).source_length == 12);
  CHECK_THROWS_AS(numbers::make_batch({}), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::make_batch(examples, 0), mole::ArgumentError);
}
