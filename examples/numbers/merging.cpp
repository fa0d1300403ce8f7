#include "numbers/merging.hpp"

#include <mole/core/error.hpp>

namespace numbers {

Composition composition(const MergeOptions& merging, std::size_t n_experts) {
  Composition how{merging.method, {}};
  if (merging.method == "mean") how.method = "normalised";
  if (merging.method == "pems") how.method = "pems_add";
  how.options.seed = merging.seed;
  how.options.density = merging.density;
  how.options.rank = merging.rank;
  // TIES weighs by itself; the others' sum of all experts would be as wrong as eq. 1.
  for (const char* summing : {"svd", "magnitude_prune", "dare_linear"})
    if (how.method.starts_with(summing)) how.options.weights = mole::mean_weights(n_experts);
  return how;
}

bool chooses_weights(const MergeOptions& merging) {
  return merging.tuned || merging.method == "pems" || merging.method == "lorahub";
}

std::string merging_name(const MergeOptions& merging) {
  auto name = merging.method;
  if (merging.rank) {
    name += *merging.rank == mole::full_rank ? ", full rank" : ", rank " + std::to_string(*merging.rank);
  }
  return name + (merging.tuned ? ", tuned" : "");
}

void check_merging(const MergeOptions& merging, const std::vector<mole::LoraSet>& experts) {
  if (merging.method == "lorahub") check_search();
  auto how = composition(merging, experts.size());
  if (chooses_weights(merging)) how.options.weights = mole::mean_weights(experts.size());
  const auto merged = mole::compose(how.method, experts, how.options);
  // Ranks that do not fit show when a slot is asked for.
  for (const auto& slot : merged.slots) merged.factors(slot);
}

}  // namespace numbers
