#pragma once
// What a compose run does beside its model: its checks, its fingerprint, its pictures.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <mole/compose/composition.hpp>
#include <mole/nn/lora.hpp>

#include "numbers/commands.hpp"
#include "numbers/plots.hpp"

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

/// The share of elements that pruning methods keep here.
inline constexpr double pruning_density = 0.2;

/// How a merging method of mole::composition_methods() is called where methods are compared: with equal
/// weights, which sum to 1 where it adds up what it has pruned or cut.
mole::ComposeOptions merging_options(const std::string& method, std::size_t n_experts, std::uint64_t seed);

/// Throws mole::ArgumentError for a method that is unknown or needs more than experts to be called.
void check_methods(const std::vector<std::string>& methods);

/// What each task is judged by: held-out numbers, or with --validation some of the training numbers.
std::vector<std::vector<Example>> judging_examples(const ComposeOptions& options);

/// What the table calls a router's mixture: "MoLE block, token gate".
std::string method_name(const std::string& router, const mole::GateOptions& gates);

/// Draws the pictures of a run, and says where they lie or why there are none.
void draw(const ComposeOptions& options, const GateHeat& heat, const ExpertLoads& loads,
          const Curves& curves);

}  // namespace numbers
