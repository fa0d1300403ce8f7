#pragma once
// Texts as batches: prompts padded on the left for generate(), prompts with answers padded on the right for the
// loss.

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/order.hpp>
#include <mole/models/causal/batch.hpp>

namespace mole {

/// A prompt and what should follow it, the end token included. The two were made into tokens apart, so that the
/// border between them stands.
struct CausalExample {
  std::vector<Index> prompt, answer;

  std::size_t length() const { return prompt.size() + answer.size(); }
};

/// Prompts as generate() reads them: padding first.    Throws ArgumentError without a prompt or for an empty one.
template <class T, class B>
TokenBatch<T, B> pad_left(const std::vector<std::vector<Index>>& prompts, Index pad) {
  MOLE_CHECK_ARG(!prompts.empty(), "pad_left: expected at least one prompt");
  std::size_t longest = 0;
  bool even = true;
  for (const auto& prompt : prompts) {
    MOLE_CHECK_ARG(!prompt.empty(), "pad_left: a prompt has at least one token");
    even = even && prompt.size() == prompts.front().size();
    longest = std::max(longest, prompt.size());
  }
  std::vector<Index> ids;
  std::vector<T> mask;
  for (const auto& prompt : prompts) {
    ids.insert(ids.end(), longest - prompt.size(), pad);
    mask.insert(mask.end(), longest - prompt.size(), T(0));
    ids.insert(ids.end(), prompt.begin(), prompt.end());
    mask.insert(mask.end(), prompt.size(), T(1));
  }
  const Shape shape{static_cast<Index>(prompts.size()), static_cast<Index>(longest)};
  return {Tensor<Index, B>::from(shape, ids), even ? Tensor<T, B>() : Tensor<T, B>::from(shape, mask)};
}

/// Prompts and answers as the loss reads them: padding last, labels on the answers alone, and the prompts' mask.
/// With a length, every batch has it, as a captured step needs; 0 takes the longest text.
/// Throws ArgumentError without an example, or for one without a prompt or longer than the length.
template <class T, class B>
CausalBatch<T, B> causal_batch(const std::vector<CausalExample>& examples, Index pad, Index length = 0) {
  MOLE_CHECK_ARG(!examples.empty(), "causal_batch: expected at least one example");
  std::size_t longest = static_cast<std::size_t>(length);
  for (const auto& example : examples) {
    MOLE_CHECK_ARG(!example.prompt.empty(), "causal_batch: a prompt has at least one token");
    MOLE_CHECK_ARG(length == 0 || example.length() <= static_cast<std::size_t>(length),
                   "causal_batch: a text of", example.length(), "tokens does not fit into", length);
    longest = std::max(longest, example.length());
  }
  std::vector<Index> ids, labels;
  std::vector<T> mask, prompt;
  for (const auto& example : examples) {
    const std::size_t p = example.prompt.size(), a = example.answer.size(), rest = longest - p - a;
    ids.insert(ids.end(), example.prompt.begin(), example.prompt.end());
    ids.insert(ids.end(), example.answer.begin(), example.answer.end());
    ids.insert(ids.end(), rest, pad);
    mask.insert(mask.end(), p + a, T(1));
    mask.insert(mask.end(), rest, T(0));
    prompt.insert(prompt.end(), p, T(1));
    prompt.insert(prompt.end(), a + rest, T(0));
    labels.insert(labels.end(), p, Index{-100});
    labels.insert(labels.end(), example.answer.begin(), example.answer.end());
    labels.insert(labels.end(), rest, Index{-100});
  }
  const Shape shape{static_cast<Index>(examples.size()), static_cast<Index>(longest)};
  return {Tensor<Index, B>::from(shape, ids), Tensor<T, B>::from(shape, mask),
          Tensor<T, B>::from(shape, prompt), Tensor<Index, B>::from(shape, labels)};
}

/// The numbers of the examples in batches of at most `size`, texts of like length together: little is padded.
/// The longest come first, so that memory that does not suffice shows at once.
inline std::vector<std::vector<std::size_t>> batches_by_length(const std::vector<CausalExample>& examples,
                                                               Index size) {
  MOLE_CHECK_ARG(size > 0, "batches_by_length: expected a size above 0, got", size);
  std::vector<double> keys;
  for (const auto& example : examples) keys.push_back(-static_cast<double>(example.length()));
  const auto order = ascending(keys);
  std::vector<std::vector<std::size_t>> batches;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i % static_cast<std::size_t>(size) == 0) batches.emplace_back();
    batches.back().push_back(order[i]);
  }
  return batches;
}

}  // namespace mole
