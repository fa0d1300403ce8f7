// Tasks by name, their texts, and tokens.

#include "numbers/tasks.hpp"

#include <algorithm>

#include <mole/core/error.hpp>

namespace numbers {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

Index rounded_up(Index length, Index multiple) { return (length + multiple - 1) / multiple * multiple; }

}  // namespace

Task parse_task(std::string_view name) {
  const std::string_view text = trimmed(name);
  const auto arrow = text.find('>');
  MOLE_CHECK_ARG(arrow != std::string_view::npos, "task '" + std::string(name) + "':",
                 "expected SOURCE>TARGET, two language codes such as en>fr (quoted: '>' is the shell's)");
  const Task task{std::string(text.substr(0, arrow)), std::string(text.substr(arrow + 1))};
  for (const std::string& language : {task.source, task.target}) {
    MOLE_CHECK_ARG(knows_language(language), "task '" + std::string(name) + "':", unknown_language(language));
  }
  MOLE_CHECK_ARG(task.source != task.target, "task '" + std::string(name) + "':",
                 "source and target are the same language; name two different ones, such as en>fr");
  return task;
}

std::vector<Task> parse_tasks(std::string_view names) {
  std::vector<Task> tasks;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(',', begin), names.size());
    const Task task = parse_task(names.substr(begin, end - begin));
    MOLE_CHECK_ARG(std::ranges::find(tasks, task) == tasks.end(), "task '" + task.name() + "'",
                   "is named twice in '" + std::string(names) + "'; name each once");
    tasks.push_back(task);
    begin = end + 1;
  }
  return tasks;
}

std::pair<Task, std::string> parse_prompt(std::string_view prompt) {
  const std::string_view text = trimmed(prompt);
  const auto space = text.find_first_of(" \t\r\n");
  const Task task = parse_task(text.substr(0, space));
  MOLE_CHECK_ARG(space != std::string_view::npos, "prompt '" + std::string(prompt) + "':",
                 "expected text after the task, such as \"en>fr two hundred six\"");
  return {task, std::string(trimmed(text.substr(space)))};
}

const std::vector<Task>& paper_tasks() {
  static const std::vector<Task> tasks = {{"en", "fr"}, {"fr", "en"}, {"en", "de"},
                                          {"de", "en"}, {"en", "ro"}, {"ro", "en"}};
  return tasks;
}

const std::vector<std::string>& base_languages() {
  static const std::vector<std::string> codes = {"en", "fr", "de", "ro", "es", "it", "pt", "nl", "sv"};
  return codes;
}

const std::vector<Task>& base_tasks() {
  static const std::vector<Task> tasks = [] {
    std::vector<Task> pairs;
    for (const std::string& source : base_languages()) {
      for (const std::string& target : base_languages()) {
        if (source != target) pairs.push_back({source, target});
      }
    }
    return pairs;
  }();
  return tasks;
}

Example make_example(const Task& task, Index number) {
  return {task, number, task.name() + " " + spell(task.source, number), spell(task.target, number)};
}

std::vector<std::int64_t> encode(std::string_view text) {
  std::vector<std::int64_t> tokens;
  tokens.reserve(text.size() + 1);
  for (const char byte : text) tokens.push_back(first_byte_token + static_cast<unsigned char>(byte));
  tokens.push_back(end_token);
  return tokens;
}

std::string decode(const std::vector<std::int64_t>& tokens) {
  std::string text;
  for (const std::int64_t token : tokens) {
    if (token == end_token) break;
    const std::int64_t byte = token - first_byte_token;
    if (byte >= 0 && byte < 256) text.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  }
  return text;
}

Batch make_batch(const std::vector<Example>& examples, Index multiple, Index source_length) {
  MOLE_CHECK_ARG(!examples.empty(), "make_batch: expected at least one example, got none");
  MOLE_CHECK_ARG(multiple >= 1, "make_batch: expected a multiple >= 1 to round lengths to, got", multiple);
  Batch batch;
  batch.size = static_cast<Index>(examples.size());
  for (const Example& example : examples) {
    batch.source_length = std::max(batch.source_length, static_cast<Index>(example.input.size()) + 1);
    batch.target_length = std::max(batch.target_length, static_cast<Index>(example.target.size()) + 1);
  }
  MOLE_CHECK_ARG(source_length == 0 || batch.source_length <= source_length, "an input has",
                 batch.source_length, "tokens, one a byte and its end, where flatten pooling reads",
                 std::to_string(source_length) + "; shorten it, or train gates with a larger --length");
  batch.source_length = source_length > 0 ? source_length : rounded_up(batch.source_length, multiple);
  batch.target_length = rounded_up(batch.target_length, multiple);
  const auto sources = static_cast<std::size_t>(batch.size * batch.source_length);
  batch.input_ids.assign(sources, pad_token);
  batch.attention_mask.assign(sources, 0);
  batch.labels.assign(static_cast<std::size_t>(batch.size * batch.target_length), ignored_label);
  for (Index row = 0; row < batch.size; ++row) {
    const Example& example = examples[static_cast<std::size_t>(row)];
    const std::vector<std::int64_t> source = encode(example.input), target = encode(example.target);
    std::ranges::copy(source, batch.input_ids.begin() + row * batch.source_length);
    std::fill_n(batch.attention_mask.begin() + row * batch.source_length, source.size(), 1);
    std::ranges::copy(target, batch.labels.begin() + row * batch.target_length);
  }
  return batch;
}

}  // namespace numbers
