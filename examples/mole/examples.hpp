#pragma once
// Examples of tasks as JSONL files: one JSON object a line.
//
//   {"prompt": .., "answer": ..}                 the plain form
//   {"input": .., "output": ..}
//   {"instruction": .., "input": .., "output": ..}    the prompt is the instruction, a blank line and the input
//   {"messages": [{"role": .., "content": ..}, ..]}   the last turn, the assistant's, is the answer
//
// Each may have a "task", a column of the tables, and "gates", the set of gates that answers it (generate). Other
// fields are left alone. Blank lines, a byte order mark and CRLF are allowed.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/json.hpp>

namespace program {

/// One turn of a conversation.
struct Turn {
  std::string role, content;
};

/// A prompt and the answer that is wanted.
struct TextExample {
  std::string prompt = {};
  std::string answer = {};       ///< empty where none is given
  std::string task = {};         ///< "all" where none is given
  std::string gates = {};        ///< the name of a set of gates; empty where none is given
  std::vector<Turn> turns = {};  ///< of a conversation, without the answer; then `prompt` is the last of them
  std::string where = {};        ///< "FILE: line 12", for errors
};

/// Whether examples must have answers: they do to train and to test.
enum class Answers { needed, optional };

/// f(object, where) for each line of a JSONL file; `where` is "FILE: line 12:", for errors. Throws mole::FormatError, naming
/// file and line, for a line that is no JSON object; mole::Error where the file cannot be read.
void each_json_line(const std::filesystem::path& path,
                    const std::function<void(const mole::Json& object, const std::string& where)>& f);

/// The examples of a file, in order. Throws mole::FormatError, naming file and line, for a line that is no JSON object
/// of one of the forms, text that is not UTF-8, an empty prompt or an answer that is missing or empty, and for a file
/// without examples; mole::Error where it cannot be read.
std::vector<TextExample> read_examples(const std::filesystem::path& path, Answers answers = Answers::needed);

/// The tasks of examples, in the order in which they first occur.
std::vector<std::string> tasks_of(const std::vector<TextExample>& examples);

/// The examples of each task, in the order of tasks_of().
std::vector<std::pair<std::string, std::vector<TextExample>>> examples_by_task(
    const std::vector<TextExample>& examples);

/// The examples of one task. Throws mole::ArgumentError, naming the tasks that there are, for none.
std::vector<TextExample> of_task(const std::vector<TextExample>& examples, const std::string& task);

/// About a tenth of each task's examples, at least one, drawn by the seed, and the rest: {rest, tenth}. Throws
/// mole::ArgumentError for a task with a single example.
std::pair<std::vector<TextExample>, std::vector<TextExample>> set_a_tenth_aside(
    const std::vector<TextExample>& examples, std::uint64_t seed);

/// Which examples a training step takes together.
enum class Batches {
  alike,  ///< texts of like length, so that little is padded: of every few batches' examples the shortest
  mixed   ///< as they are drawn: a batch has a bit of every task, whatever the length of its texts
};

/// The numbers of the examples of step 0, 1, .. of a training run. Each epoch takes every example once, in an order
/// drawn by the seed. `lengths` are the examples' in tokens.
std::vector<std::size_t> batch_of_step(const std::vector<std::size_t>& lengths, std::size_t batch,
                                       std::size_t step, std::uint64_t seed,
                                       Batches batches = Batches::alike);

}  // namespace program
