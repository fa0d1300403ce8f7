#pragma once
// The model side of the example on any backend B: batches as tensors, base and experts from disk, and exact
// match.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include <mole/models/generate.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <mole/models/t5/model.hpp>

#include "numbers/split.hpp"
#include "numbers/tasks.hpp"

namespace numbers {

using Scalar = float;
template <class B>
using Model = mole::T5<Scalar, B>;
template <class B>
using Values = mole::Tensor<Scalar, B>;
template <class B>
using Pass = mole::MolePass<Scalar, B>;

/// The examples as `model`'s batch. Where its gates read all tokens (flatten pooling), inputs have their one
/// length; an input that is longer is a mole::ArgumentError.
template <class B>
mole::T5Batch<Scalar, B> batch_for(const mole::T5<Scalar, B>& model, const std::vector<Example>& examples) {
  const auto& mixer = model.layers().mixer;
  const bool flatten = mixer && mixer->policies().pooling == mole::Pooling::flatten;
  const auto batch = make_batch(examples, 8, flatten ? mixer->policies().length : 0);
  const mole::Shape source{batch.size, batch.source_length}, target{batch.size, batch.target_length};
  const std::vector<Scalar> mask(batch.attention_mask.begin(), batch.attention_mask.end());
  return {mole::Tensor<Index, B>::from(source, batch.input_ids), Values<B>::from(source, mask),
          mole::Tensor<Index, B>::from(target, batch.labels)};
}

/// A base in Hugging Face's T5 format. Prints warnings about NaN or infinite weights.
/// Throws mole::FormatError for damaged files, mole::ArgumentError for a vocabulary other than the
/// tokenizer's.
template <class B>
Model<B> load_base(const std::filesystem::path& folder) {
  std::vector<std::string> warnings;
  auto model = mole::load_t5<Scalar, B>(folder, &warnings);
  for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
  MOLE_CHECK_ARG(model.config().vocab_size >= vocabulary_size - 1, "base", folder.string(),
                 "has a vocabulary of", model.config().vocab_size, "tokens; this example's bytes need",
                 vocabulary_size - 1, "(make one with `numbers train-base`)");
  return model;
}

/// The longest target of the nine languages has 55 bytes; one token more ends it.
inline constexpr Index longest_answer = 56;

/// The text of at most `longest` bytes and their end that a model answers to each prompt such as "en>fr two
/// hundred six". `pass` holds the gates used.
template <class B>
std::vector<std::string> translate(const mole::T5<Scalar, B>& model, const std::vector<std::string>& prompts,
                                   mole::MolePass<Scalar, B>& pass, Index beams = 1,
                                   Index longest = longest_answer) {
  std::vector<Example> examples;
  for (const auto& prompt : prompts) examples.push_back({{}, 0, prompt, ""});
  const auto batch = batch_for(model, examples);
  pass = {};
  const auto tokens = mole::generate(model, batch.input(), pass, {.max_new_tokens = longest, .beams = beams});
  std::vector<std::string> answers;
  for (const auto& sequence : tokens) answers.push_back(decode({sequence.begin() + 1, sequence.end()}));
  return answers;
}

/// Sequences decoded together: enough to fill two cores, few enough to stay in their caches.
inline constexpr std::size_t decode_batch = 100;

/// Called after each batch of an evaluation with the number of examples done.
using Tick = std::function<void(Index)>;

/// The share of each set's examples that the model translates without a single wrong byte.
template <class B>
std::vector<double> exact_match(const mole::T5<Scalar, B>& model,
                                const std::vector<std::vector<Example>>& sets, const Tick& tick) {
  std::vector<double> rates;
  Index done = 0;
  for (const auto& examples : sets) {
    Index right = 0;
    for (std::size_t first = 0; first < examples.size(); first += decode_batch) {
      const auto last = std::min(examples.size(), first + decode_batch);
      std::vector<std::string> prompts;
      // An answer that goes on beyond the longest target and its end is wrong already.
      std::size_t longest = 0;
      for (auto i = first; i < last; ++i) {
        prompts.push_back(examples[i].input);
        longest = std::max(longest, examples[i].target.size() + 1);
      }
      Pass<B> pass;
      const auto answers = translate(model, prompts, pass, 1, static_cast<Index>(longest));
      for (auto i = first; i < last; ++i) right += answers[i - first] == examples[i].target;
      tick(done += static_cast<Index>(last - first));
    }
    rates.push_back(static_cast<double>(right) / static_cast<double>(examples.size()));
  }
  return rates;
}

}  // namespace numbers
