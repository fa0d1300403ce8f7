#pragma once
// What a compose run does beside its model: its checks, its fingerprint, its pictures.

#include <string>
#include <vector>

#include <mole/nn/lora.hpp>

#include "numbers/commands.hpp"

namespace numbers {

/// All that the gates depend on. The checkpoint of a run with another one is refused.
std::string fingerprint(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts);

/// Before any work: flatten pooling has the length that the tasks' longest input needs, of those to be used.
/// Throws mole::ArgumentError naming it.
void check_length(const ComposeOptions& options);

/// What each task is judged by: held-out numbers, or with --validation some of the training numbers.
std::vector<std::vector<Example>> judging_examples(const ComposeOptions& options);

}  // namespace numbers
