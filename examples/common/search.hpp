#pragma once
// LoRAHub's search, where this build has NLopt.

#include <cstdint>
#include <functional>
#include <vector>

#include <mole/core/shape.hpp>

namespace common {

/// Evaluations of the loss in one search, LoRAHub's budget.
inline constexpr mole::Index search_budget = 40;

/// Throws mole::ArgumentError in a build without NLopt: better before hours of measuring than then.
void check_search();

/// The weights of n experts that mole::lorahub_search() finds with LoRAHub's budget and bounds.
/// Throws as check_search, and what `loss` throws.
std::vector<double> search_weights(std::size_t n, std::function<double(const std::vector<double>&)> loss,
                                   std::uint64_t seed);

}  // namespace common
