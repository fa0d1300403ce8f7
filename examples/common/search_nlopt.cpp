#include <utility>

#include <mole/compose/lorahub.hpp>

#include "common/search.hpp"

void common::check_search() {}

std::vector<double> common::search_weights(std::size_t n,
                                           std::function<double(const std::vector<double>&)> loss,
                                           std::uint64_t seed) {
  mole::LorahubOptions options;
  options.budget = search_budget;
  options.seed = seed;
  return mole::lorahub_search(n, std::move(loss), options).weights;
}
