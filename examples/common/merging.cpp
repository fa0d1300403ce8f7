#include "common/merging.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <mole/core/error.hpp>

#include "common/command_line.hpp"
#include "common/progress.hpp"
#include "common/search.hpp"

namespace common {

MergeArguments::MergeArguments(CLI::App& command, MergeOptions& merging, const std::string& group)
    : merging_(merging) {
  command.add_option("--merge-density", merging.density, "share of elements that pruning methods keep")
      ->capture_default_str()
      ->check(number(1e-6, 1, "1e-6..1"))
      ->group(group);
  command
      .add_option("--merge-rank", rank_,
                  "rank that svd and *_svd cut to, or full: nothing is cut; the experts' if not given")
      ->group(group);
  command
      .add_flag("--merge-tuned", merging.tuned,
                "one weight for all experts, that of a grid which the few-shot examples like best;\n"
                "pems and lorahub always choose by them")
      ->group(group);
}

void MergeArguments::read() {
  merging_.rank = {};
  if (rank_.empty()) return;
  if (rank_ == "full") {
    merging_.rank = mole::full_rank;
    return;
  }
  Index rank = 0;
  MOLE_CHECK_ARG(CLI::detail::lexical_cast(rank_, rank) && rank >= 1, "--merge-rank",
                 rank_ + ": expected a number of 1 or more, or full");
  merging_.rank = rank;
}

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

std::vector<MergeOptions> mergings(const std::vector<std::string>& methods, const MergeOptions& merging,
                                   const std::vector<mole::LoraSet>& experts) {
  auto known = mole::composition_methods();
  known.insert(known.end(), {"mean", "pems"});
  std::string names;
  for (const auto& name : known) names += " " + name;
  std::vector<MergeOptions> list;
  for (const auto& method : methods) {
    MOLE_CHECK_ARG(std::find(known.begin(), known.end(), method) != known.end(), "--methods", method,
                   "is unknown; choose of" + names);
    auto own = merging;
    own.method = method;
    // Of an option that a method does not know its row says nothing.
    if (method != "svd" && !method.ends_with("_svd")) own.rank = {};
    for (const char* weighs_itself : {"pems", "lorahub", "mean", "normalised"})
      if (method == weighs_itself) own.tuned = false;
    check_merging(own, experts);
    list.push_back(own);
  }
  return list;
}

Composition chosen_composition(const MergeOptions& merging, std::size_t n_experts,
                               const std::function<double(const Composition& how)>& loss) {
  auto how = composition(merging, n_experts);
  if (!chooses_weights(merging)) return how;
  Index done = 0;
  const auto loss_of = [&](const std::vector<double>& weights, Progress& bar) {
    how.options.weights = weights;
    const double value = loss(how);
    bar.update(++done, value);
    return value;
  };
  if (merging.method == "lorahub") {
    Progress bar("search", search_budget);
    how.options.weights = search_weights(
        n_experts, [&](const std::vector<double>& weights) { return loss_of(weights, bar); }, merging.seed);
    return how;
  }
  static constexpr double grid[] = {0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1};
  std::vector<double> best(n_experts, grid[0]);
  double least = HUGE_VAL;
  Progress bar("lambda", std::ssize(grid));
  for (const double lambda : grid) {
    const std::vector<double> weights(n_experts, lambda);
    const double value = loss_of(weights, bar);
    if (value < least) least = value, best = weights;
  }
  how.options.weights = best;
  return how;
}

}  // namespace common
