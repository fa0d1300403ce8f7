#pragma once
// What a compose run does beside its model: its checks, its fingerprint, its pictures.

#include <string>
#include <vector>

#include <mole/nn/lora.hpp>

#include "common/plots.hpp"
#include "numbers/commands.hpp"

namespace numbers {

/// The router that the options name, as a model attaches it. Throws mole::ArgumentError for an unknown name.
mole::RouterOptions router_of(const ComposeOptions& options);

/// Whether the router's gates are shares of one, for which alone there is a balance loss.
bool has_shares(const ComposeOptions& options);

/// All that the gates depend on. The checkpoint of a run with another one is refused.
std::string fingerprint(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts);

/// Before any work: flatten pooling has the length that the tasks' longest input needs, of those to be used.
/// Throws mole::ArgumentError naming it.
void check_length(const ComposeOptions& options);

/// How the methods of --methods merge. Throws mole::ArgumentError, before any work, for one that cannot merge
/// these experts.
std::vector<MergeOptions> mergings(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts);

/// What each task is judged by: held-out numbers, or with --validation some of the training numbers.
std::vector<std::vector<Example>> judging_examples(const ComposeOptions& options);

/// What the table calls a router's mixture: "MoLE block, token gate".
std::string method_name(const std::string& router, const mole::GateOptions& gates);

/// Draws the pictures of a run, and says where they lie or why there are none.
void draw(const ComposeOptions& options, const common::GateHeat& heat, const common::ExpertLoads& loads,
          const mole::Curves& curves);

}  // namespace numbers
