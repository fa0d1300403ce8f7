#pragma once
// Examples in tokens: as batches, and as what a run's result depends on.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <mole/models/causal/examples.hpp>

#include "common/training.hpp"
#include "mole/examples.hpp"

namespace program {

using mole::Index;
using TokenExamples = std::vector<mole::CausalExample>;

/// All examples in batches of at most `size`, texts of like length together, the longest first.
std::vector<TokenExamples> in_batches(const TokenExamples& examples, Index size);

/// The examples of step 0, 1, .. of a run, see batch_of_step(). The examples must outlive it.
std::function<TokenExamples(Index step)> step_batches(const TokenExamples& examples,
                                                      const common::RunOptions& run,
                                                      Batches batches = Batches::alike);

/// 16 hex digits over all tokens in their order.
std::string digest_of(const TokenExamples& examples);

}  // namespace program
