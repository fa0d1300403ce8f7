#include "mole/examples.hpp"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/random.hpp>
#include <mole/io/json.hpp>

#include "mole/text_metrics.hpp"

namespace program {

namespace {

using mole::Json;

/// A text of an object, or null where it has none of that name.
const std::string* text_field(const Json& object, const char* name, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return nullptr;
  MOLE_CHECK_FORMAT(found->is_string(), where, '"' + std::string(name) + '"', "should be a text");
  return &found->get_ref<const std::string&>();
}

void read_messages(const Json& messages, const std::string& where, TextExample& example) {
  MOLE_CHECK_FORMAT(messages.is_array() && !messages.empty(), where,
                    "\"messages\" should be a list of turns");
  for (const auto& message : messages) {
    MOLE_CHECK_FORMAT(message.is_object(), where, "a message should be an object with role and content");
    const auto *role = text_field(message, "role", where), *content = text_field(message, "content", where);
    MOLE_CHECK_FORMAT(role && content, where, "a message lacks its role or its content");
    MOLE_CHECK_FORMAT(*role == "system" || *role == "user" || *role == "assistant", where,
                      "a message's role is", '"' + *role + "\"; system, user and assistant are known");
    example.turns.push_back({*role, *content});
  }
  if (example.turns.back().role == "assistant") {
    example.answer = example.turns.back().content;
    example.turns.pop_back();
  }
  MOLE_CHECK_FORMAT(!example.turns.empty() && example.turns.back().role == "user", where,
                    "the messages should end in a user's turn and the assistant's answer to it");
  example.prompt = example.turns.back().content;
  // A single question is no conversation.
  if (example.turns.size() == 1) example.turns.clear();
}

TextExample read_example(const Json& object, const std::string& where) {
  TextExample example;
  example.where = where;
  const auto take = [&](const char* prompt, const char* answer) {
    example.prompt = *text_field(object, prompt, where);
    if (const auto* text = text_field(object, answer, where)) example.answer = *text;
  };
  if (object.contains("messages")) {
    read_messages(object.at("messages"), where, example);
  } else if (text_field(object, "prompt", where)) {
    take("prompt", "answer");
  } else if (text_field(object, "instruction", where)) {
    take("instruction", "output");
    const auto* input = text_field(object, "input", where);
    if (input && !trimmed(*input).empty()) example.prompt += "\n\n" + *input;
  } else if (text_field(object, "input", where)) {
    take("input", "output");
  } else {
    throw mole::FormatError(
        mole::message(where,
                      "there is no prompt: expected \"prompt\" and \"answer\", \"input\" and \"output\", "
                      "\"instruction\", \"input\" and \"output\", or \"messages\""));
  }
  const auto* task = text_field(object, "task", where);
  example.task = task && !task->empty() ? *task : "all";
  if (const auto* gates = text_field(object, "gates", where)) example.gates = *gates;
  return example;
}

/// A drawn order of 0 .. n - 1.
std::vector<std::size_t> shuffled(std::size_t n, mole::RandomStream stream) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = n; i > 1; --i) {
    const double u = mole::uniform(stream, static_cast<mole::Index>(i));
    std::swap(order[i - 1], order[std::min(i - 1, static_cast<std::size_t>(u * static_cast<double>(i)))]);
  }
  return order;
}

/// The examples of a task, by number.
struct Task {
  std::string name;
  std::vector<std::size_t> examples;
};

/// The tasks in the order in which they first occur. A file may have as many as lines.
std::vector<Task> by_task(const std::vector<TextExample>& examples) {
  std::vector<Task> tasks;
  std::unordered_map<std::string_view, std::size_t> places;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const auto [place, is_new] = places.try_emplace(examples[i].task, tasks.size());
    if (is_new) tasks.push_back({examples[i].task, {}});
    tasks[place->second].examples.push_back(i);
  }
  return tasks;
}

/// Streams of random numbers are told apart by what they are for.
constexpr std::uint64_t epoch_streams = 1, tenth_streams = std::uint64_t{1} << 40;

}  // namespace

void each_json_line(const std::filesystem::path& path,
                    const std::function<void(const Json& object, const std::string& where)>& f) {
  const mole::detail::MappedFile file(path);
  const auto bytes = file.bytes();
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  mole::detail::check_no_lfs_pointer(text, mole::message(path) + ":");
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == line.npos) continue;
    const auto where = mole::message(path) + ": line " + std::to_string(number) + ":";
    const auto object = mole::detail::parse_json(line, where);
    MOLE_CHECK_FORMAT(object.is_object(), where, "expected a JSON object");
    f(object, where);
  }
}

std::vector<TextExample> read_examples(const std::filesystem::path& path, Answers answers) {
  std::vector<TextExample> examples;
  each_json_line(path, [&](const Json& object, const std::string& where) {
    auto example = read_example(object, where);
    MOLE_CHECK_FORMAT(!trimmed(example.prompt).empty(), where, "the prompt is empty");
    MOLE_CHECK_FORMAT(answers == Answers::optional || !trimmed(example.answer).empty(), where,
                      "the answer is missing or empty");
    examples.push_back(std::move(example));
  });
  MOLE_CHECK_FORMAT(!examples.empty(), mole::message(path) + ":", "the file holds no examples");
  return examples;
}

std::vector<std::string> tasks_of(const std::vector<TextExample>& examples) {
  std::vector<std::string> names;
  for (auto& task : by_task(examples)) names.push_back(std::move(task.name));
  return names;
}

std::vector<std::pair<std::string, std::vector<TextExample>>> examples_by_task(
    const std::vector<TextExample>& examples) {
  std::vector<std::pair<std::string, std::vector<TextExample>>> tasks;
  for (auto& task : by_task(examples)) {
    auto& own = tasks.emplace_back(std::move(task.name), std::vector<TextExample>()).second;
    for (const auto i : task.examples) own.push_back(examples[i]);
  }
  return tasks;
}

std::vector<TextExample> of_task(const std::vector<TextExample>& examples, const std::string& task) {
  std::vector<TextExample> chosen;
  std::copy_if(examples.begin(), examples.end(), std::back_inserter(chosen),
               [&](const auto& example) { return example.task == task; });
  if (!chosen.empty()) return chosen;
  std::string known;
  for (const auto& name : tasks_of(examples)) known += (known.empty() ? "" : ", ") + name;
  throw mole::ArgumentError(mole::message("--task", task + ": the file has no such examples; its tasks are",
                                          mole::shortened(known, 1000)));
}

std::pair<std::vector<TextExample>, std::vector<TextExample>> set_a_tenth_aside(
    const std::vector<TextExample>& examples, std::uint64_t seed) {
  std::pair<std::vector<TextExample>, std::vector<TextExample>> parts;
  std::vector<bool> aside(examples.size());
  const auto tasks = by_task(examples);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const auto& own = tasks[t].examples;
    MOLE_CHECK_ARG(own.size() > 1, "the task", tasks[t].name,
                   "has one example, of which none can be set aside to test by; give more, or --test FILE");
    const auto order = shuffled(own.size(), {seed, tenth_streams + t});
    for (std::size_t i = 0; i < std::max<std::size_t>(1, own.size() / 10); ++i) aside[own[order[i]]] = true;
  }
  for (std::size_t i = 0; i < examples.size(); ++i)
    (aside[i] ? parts.second : parts.first).push_back(examples[i]);
  return parts;
}

std::vector<std::size_t> batch_of_step(const std::vector<std::size_t>& lengths, std::size_t batch,
                                       std::size_t step, std::uint64_t seed, Batches batches) {
  MOLE_CHECK_ARG(!lengths.empty() && batch > 0, "batch_of_step: expected examples and a batch of 1 or more");
  // Sorting all of an epoch would put a task's examples, which are often alike, into batches of their own.
  constexpr std::size_t together = 4;
  const std::size_t per_epoch = (lengths.size() + batch - 1) / batch, epoch = step / per_epoch;
  auto order = shuffled(lengths.size(), {seed, epoch_streams + 2 * epoch});
  for (std::size_t first = 0; batches == Batches::alike && first < order.size(); first += together * batch) {
    const auto begin = order.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end =
        order.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), first + together * batch));
    std::stable_sort(begin, end, [&](std::size_t a, std::size_t b) { return lengths[a] < lengths[b]; });
  }
  const auto number = shuffled(per_epoch, {seed, epoch_streams + 2 * epoch + 1})[step % per_epoch];
  const auto begin = order.begin() + static_cast<std::ptrdiff_t>(number * batch);
  return {begin, order.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), (number + 1) * batch))};
}

}  // namespace program
