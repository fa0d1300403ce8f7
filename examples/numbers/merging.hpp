#pragma once
// The merging methods that routers are compared with: how each is called, and the weights that some of them
// choose by a few examples.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>

#include "common/progress.hpp"
#include "numbers/commands.hpp"
#include "numbers/model.hpp"
#include "numbers/search.hpp"

namespace numbers {

/// What mole::compose() is called with.
struct Composition {
  std::string method;
  mole::ComposeOptions options;
};

/// The call without weights from examples: the method's own, and equal ones that sum to 1 where their sum is
/// what pruning or svd is of.
Composition composition(const MergeOptions& merging, std::size_t n_experts);

/// Whether its weights come from examples.
bool chooses_weights(const MergeOptions& merging);

/// The name of its row in a table: "ties_svd, full rank, tuned".
std::string merging_name(const MergeOptions& merging);

/// Before any work: that these experts can be merged so. Throws mole::ArgumentError for an unknown method,
/// the wrong number of experts, ranks that differ where they must not, or a search in a build without NLopt.
void check_merging(const MergeOptions& merging, const std::vector<mole::LoraSet>& experts);

/// Examples that a choice of weights reads, at most.
inline constexpr std::size_t examples_read = 800;

/// A model's loss over the examples, a mean over batches of one size but the last. It is asked for dozens of
/// times: of very many, every n-th is read, about as many of each task.
template <class B>
double mean_loss(const Model<B>& model, const std::vector<Example>& examples) {
  const std::size_t stride = (examples.size() + examples_read - 1) / examples_read;
  std::vector<Example> read;
  for (std::size_t i = 0; i < examples.size(); i += stride) read.push_back(examples[i]);
  const mole::NoGrad off;
  double sum = 0;
  for (std::size_t first = 0; first < read.size(); first += decode_batch) {
    const auto last = std::min(read.size(), first + decode_batch);
    Pass<B> pass;
    const std::vector<Example> some(read.begin() + static_cast<std::ptrdiff_t>(first),
                                    read.begin() + static_cast<std::ptrdiff_t>(last));
    sum += static_cast<double>(last - first) *
           static_cast<double>(model.loss(batch_for(model, some), pass).item());
  }
  return sum / static_cast<double>(read.size());
}

/// Merges experts into a model without a router. Throws as mole::merge().
template <class B>
void merge_by(Model<B>& model, const Composition& how, const std::vector<mole::LoraSet>& experts) {
  mole::merge(model.layers().table, how.method, experts, how.options);
}

/// Merges experts by any method; one that chooses its weights does so by the loss on `examples`, with a
/// progress bar. Throws as check_merging() and mole::merge().
template <class B>
void merge_by(Model<B>& model, const MergeOptions& merging, const std::vector<mole::LoraSet>& experts,
              const std::vector<Example>& examples) {
  auto how = composition(merging, experts.size());
  if (chooses_weights(merging)) {
    Index done = 0;
    const auto loss_of = [&](const std::vector<double>& weights, common::Progress& bar) {
      how.options.weights = weights;
      merge_by(model, how, experts);
      const double loss = mean_loss(model, examples);
      bar.update(++done, loss);
      return loss;
    };
    if (merging.method == "lorahub") {
      common::Progress bar("search", search_budget);
      how.options.weights = search_weights(
          experts.size(), [&](const std::vector<double>& weights) { return loss_of(weights, bar); },
          merging.seed);
    } else {
      static constexpr double grid[] = {0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1};
      std::vector<double> best(experts.size(), grid[0]);
      double least = HUGE_VAL;
      common::Progress bar("lambda", std::ssize(grid));
      for (const double lambda : grid) {
        const std::vector<double> weights(experts.size(), lambda);
        const double loss = loss_of(weights, bar);
        if (loss < least) least = loss, best = weights;
      }
      how.options.weights = best;
    }
  }
  merge_by(model, how, experts);
}

}  // namespace numbers
