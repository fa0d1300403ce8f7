#pragma once
// Experts merged into the model without a router, by the methods of common/merging.hpp.

#include <cstddef>
#include <vector>

#include <mole/compose/compose.hpp>

#include "common/merging.hpp"
#include "numbers/model.hpp"

namespace numbers {

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

/// Merges experts by any method; one that chooses its weights does so by the loss on `examples`, with a
/// progress bar. Throws as common::check_merging() and mole::merge().
template <class B>
void merge_by(Model<B>& model, const common::MergeOptions& merging, const std::vector<mole::LoraSet>& experts,
              const std::vector<Example>& examples) {
  const auto merge = [&](const common::Composition& how) {
    mole::merge(model.layers().table, how.method, experts, how.options);
  };
  merge(common::chosen_composition(merging, experts.size(), [&](const common::Composition& how) {
    merge(how);
    return mean_loss(model, examples);
  }));
}

}  // namespace numbers
