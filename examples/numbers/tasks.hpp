#pragma once
// Translation tasks between spelled numbers, their texts, and the batches of bytes a model reads.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "numbers/spell.hpp"

namespace numbers {

/// From one language to another.
struct Task {
  std::string source, target;

  /// "en>fr", as it stands in front of every input text.
  std::string name() const { return source + ">" + target; }
  bool operator==(const Task&) const = default;
};

/// The task named "en>fr". Throws mole::ArgumentError when there is no '>', a language has no spelling rules,
/// or both are the same; the message shows what to write instead.
Task parse_task(std::string_view name);

/// Tasks separated by commas, "en>fr,fr>en"; spaces around a name are allowed. Throws as parse_task, and for
/// a task named twice.
std::vector<Task> parse_tasks(std::string_view names);

/// "en>fr two hundred six" taken apart: the task, and the text in its source language.
/// Throws mole::ArgumentError as parse_task, and where no text follows the task.
std::pair<Task, std::string> parse_prompt(std::string_view prompt);

/// The six tasks of the paper's Table 3, in its order: en>fr fr>en en>de de>en en>ro ro>en.
const std::vector<Task>& paper_tasks();

/// The nine languages of the base model: those of the six tasks, and the nearest relatives of each (es, it,
/// pt; nl, sv), so that the base meets the tasks' words and word order without being good at them. All nine
/// are written in Latin letters (short byte strings) and spelled correctly and unambiguously by ICU in
/// 0..9999, which e.g. its Czech ("jedna tisíc") and Slovene rules are not.
const std::vector<std::string>& base_languages();

/// All 72 ordered pairs of `base_languages()`: what the base is pre-trained on.
const std::vector<Task>& base_tasks();

/// One number of one task, as text.
struct Example {
  Task task;
  Index number = 0;
  std::string input;   ///< "en>fr two hundred six"
  std::string target;  ///< "deux cent six"
};

/// The texts of `number` for `task`. Throws as spell.
Example make_example(const Task& task, Index number);

/// The token of padding; also the one a decoder starts from.
inline constexpr std::int64_t pad_token = 0;
/// The token that ends an input and a target.
inline constexpr std::int64_t end_token = 1;
/// The token of byte 0; byte b is token b + first_byte_token.
inline constexpr std::int64_t first_byte_token = 3;
/// Rows of a model's embedding: tokens 0..258, and one spare that makes a multiple of four.
inline constexpr Index vocabulary_size = 260;
/// The label of a padded position, ignored by the loss.
inline constexpr std::int64_t ignored_label = -100;

/// The bytes of `text`, each + 3, then the end token.
std::vector<std::int64_t> encode(std::string_view text);

/// The text of `tokens` up to the first end token. Tokens that are no bytes are skipped: a model may emit
/// any.
std::string decode(const std::vector<std::int64_t>& tokens);

/// Examples as padded tokens, row-major.
struct Batch {
  Index size = 0;                            ///< S, examples
  Index source_length = 0;                   ///< L, tokens of the longest input, rounded up
  Index target_length = 0;                   ///< T, tokens of the longest target, rounded up
  std::vector<std::int64_t> input_ids;       ///< [S, L], padded with pad_token
  std::vector<std::int64_t> attention_mask;  ///< [S, L], 1 on tokens, 0 on padding
  std::vector<std::int64_t> labels;          ///< [S, T], padded with ignored_label
};

/// `examples` as one batch. Lengths are rounded up to a multiple of `multiple`: few different shapes let a
/// training loop find its buffers again. With `source_length` > 0 the inputs are padded to that length, as
/// flatten pooling needs. Throws mole::ArgumentError for no examples, multiple < 1 or a longer input.
Batch make_batch(const std::vector<Example>& examples, Index multiple = 8, Index source_length = 0);

}  // namespace numbers
