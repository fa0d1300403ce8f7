#include "mole/token_examples.hpp"

#include <cstdint>
#include <string_view>

#include <mole/core/fingerprint.hpp>

#include "mole/examples.hpp"

namespace program {

namespace {

TokenExamples chosen(const TokenExamples& examples, const std::vector<std::size_t>& numbers) {
  TokenExamples list;
  for (const auto i : numbers) list.push_back(examples[i]);
  return list;
}

}  // namespace

std::vector<TokenExamples> in_batches(const TokenExamples& examples, Index size) {
  std::vector<TokenExamples> batches;
  for (const auto& numbers : mole::batches_by_length(examples, size))
    batches.push_back(chosen(examples, numbers));
  return batches;
}

std::function<TokenExamples(Index step)> step_batches(const TokenExamples& examples,
                                                      const common::RunOptions& run, Batches batches) {
  std::vector<std::size_t> lengths;
  for (const auto& example : examples) lengths.push_back(example.length());
  return [&examples, lengths, batch = static_cast<std::size_t>(run.batch), seed = run.seed,
          batches](Index step) {
    return chosen(examples, batch_of_step(lengths, batch, static_cast<std::size_t>(step), seed, batches));
  };
}

std::string digest_of(const TokenExamples& examples) {
  mole::Fingerprint digest;
  for (const auto& example : examples)
    for (const auto* part : {&example.prompt, &example.answer}) {
      for (const Index token : *part) digest.add(static_cast<std::uint64_t>(token));
      digest.add(std::string_view("end"));
    }
  return digest.hex();
}

}  // namespace program
