#pragma once
// Measures one cell of a study: makes the experts that are missing, combines them, trains what trains, and
// judges. What takes long is kept in the output folder: experts/ (PEFT adapters), gates/ (training
// checkpoints), cells/ (results).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/compose.hpp>

#include "numbers/compose.hpp"
#include "numbers/pretrain.hpp"
#include "numbers/tables/cells.hpp"
#include "numbers/tables/search.hpp"

namespace numbers {

/// A frozen base with experts at hand.
template <class B>
class Lab {
 public:
  /// Reads the base and prepares the output folder. Throws as load_base and prepare_folder.
  explicit Lab(const TablesOptions& options)
      : options_(options),
        model_(load_base<B>(options.base)),
        base_("base " + base_digest(options.base)),
        shipped_(std::filesystem::exists(shipped_base()) && base_ == "base " + base_digest(shipped_base())) {
    for (const auto* part : {"experts", "gates", "cells"}) prepare_folder(options.run.out / part);
  }

  /// The result of a cell, from the disk if it was measured before; `title` stands in front of the progress
  /// bar. Throws as the commands train_expert and compose do.
  Measured measure(const Cell& cell, const std::string& title) {
    const auto sets = experts(cell.experts);
    auto key = description(cell, options_) + "\n" + base_;
    for (const auto& set : sets) key += "\n" + set.name + "=" + set.digest;
    if (pruned(cell.method)) key += mole::message("\ndensity", pruning_density);
    if (!merging_options(cell.method, 1, 1).weights.empty()) key += "\nof the mean";
    const auto examples = cell.trained_on.size() * static_cast<std::size_t>(options_.examples);
    if (searched(cell.method) && examples > searched_examples)
      key += mole::message("\nof the examples", searched_examples);
    const auto folder = options_.run.out / "cells";
    if (auto known = load_cell(folder, key)) return *known;
    std::cerr << title << "\n";
    auto measured = judge(cell, sets);
    model_.detach();
    if (cell.averaged) {
      const auto n = static_cast<double>(measured.rates.size());
      measured.rates = {std::accumulate(measured.rates.begin(), measured.rates.end(), 0.0) / n};
    }
    save_cell(folder, key, measured);
    return measured;
  }

 private:
  using Sets = std::vector<mole::LoraSet>;

  /// The tasks' experts: shipped ones on the shipped base, else trained here once.
  Sets experts(const std::vector<Task>& tasks) {
    Sets sets;
    for (const auto& task : tasks) {
      auto found = experts_.find(task.name());
      if (found == experts_.end()) {
        const bool ready = shipped_ && std::filesystem::exists(shipped_experts() / folder_name(task));
        const auto folder = ready ? shipped_experts() / folder_name(task) : trained_expert(task);
        if (!ready && !std::filesystem::exists(folder / "adapter_model.safetensors"))
          make_expert(task, folder);
        auto set = mole::lora_set(mole::load_adapter(folder, task.name()));
        found = experts_.emplace(task.name(), std::move(set)).first;
      }
      sets.push_back(found->second);
    }
    return sets;
  }

  /// Where a task's expert of this base and training is, or will be.
  std::filesystem::path trained_expert(const Task& task) const {
    const auto training = mole::message(base_, "steps", options_.expert.steps, "batch", options_.expert.batch,
                                        "rate", options_.expert.rate, "seed", options_.expert.seed);
    return options_.run.out / "experts" / (folder_name(task) + "-" + short_name(training).substr(0, 8));
  }

  void make_expert(const Task& task, const std::filesystem::path& folder) const {
    TrainExpertOptions training{.run = options_.expert, .base = options_.base, .task = task.name()};
    training.run.out = folder;
    training.run.checkpoint = folder.string() + ".checkpoint";
    training.run.resume = std::filesystem::exists(training.run.checkpoint);
    train_expert<B>(training);
    std::filesystem::remove(training.run.checkpoint);
  }

  static bool pruned(const std::string& method) {
    return method.starts_with("magnitude_prune") || method.starts_with("ties") || method.starts_with("dare");
  }
  /// Examples that a search reads, at most.
  static constexpr std::size_t searched_examples = 800;
  static bool searched(const std::string& method) {
    return method == "pems" || method.starts_with("lorahub");
  }

  Measured judge(const Cell& cell, const Sets& sets) {
    if (cell.method == "mole" || cell.method == "hidden" || cell.method == "arrow" || cell.method == "xlora")
      return judge_router(cell, sets);
    if (cell.count > 0 || cell.method == "lorahub-each") return {judge_each(cell, sets), {}, {}};
    if (cell.method == "lorahub") {
      merge_found(sets, few_shot_examples(cell.trained_on, options_.examples, cell.seed), cell.seed);
    } else if (cell.method == "pems") {
      merge_pems(sets, few_shot_examples(cell.trained_on, options_.examples, cell.seed));
    } else if (cell.method != "base") {
      merge(cell.method, sets, merging_options(cell.method, sets.size(), cell.seed));
    }
    return {rates(cell, cell.judged), {}, {}};
  }

  /// Each judged task with a combination of its own.
  std::vector<double> judge_each(const Cell& cell, const Sets& sets) {
    std::vector<double> all;
    Progress bar("test", cell.test * static_cast<Index>(cell.judged.size()));
    for (const auto& task : cell.judged) {
      if (cell.method == "lorahub-each") {
        merge_found(sets, few_shot_examples({task}, options_.examples, cell.seed), cell.seed);
      } else {
        merge(cell.method, chosen(cell, sets, task));
      }
      const auto before = cell.test * static_cast<Index>(all.size());
      all.push_back(
          exact_match(model_, tests(cell, {task}), [&](Index done) { bar.update(before + done); }).front());
    }
    return all;
  }

  /// The task's own expert and the next count - 1 of a round that starts elsewhere for each seed.
  Sets chosen(const Cell& cell, const Sets& sets, const Task& task) const {
    const auto own =
        std::find_if(sets.begin(), sets.end(), [&](const auto& s) { return s.name == task.name(); });
    MOLE_CHECK_ARG(own != sets.end(), "tables: no expert is called", task.name());
    const auto at = static_cast<std::size_t>(own - sets.begin());
    Sets few{*own};
    for (std::size_t i = 0; few.size() < cell.count; ++i) {
      const auto other = (at + 1 + (cell.seed - 1 + i) % (sets.size() - 1)) % sets.size();
      few.push_back(sets[other]);
    }
    for (auto& set : few)
      std::erase_if(set.slots, [&](const std::string& slot) { return !slot.starts_with(cell.part); });
    return few;
  }

  Measured judge_router(const Cell& cell, const Sets& sets) {
    ComposeOptions compose;
    compose.base = options_.base;
    compose.tasks = cell.trained_on;
    compose.router = cell.method;
    compose.gates = cell.gates;
    compose.alpha = cell.alpha;
    compose.examples = options_.examples;
    compose.run = options_.run;
    compose.run.rate = cell.rate;
    compose.run.seed = cell.seed;
    compose.run.checkpoint =
        options_.run.out / "gates" / (short_name(fingerprint(compose, sets)) + ".safetensors");
    compose.run.resume = std::filesystem::exists(compose.run.checkpoint);
    attach(model_, sets, compose);
    const auto curves = train_gates(model_, compose, sets);
    Measured measured;
    measured.entropy.assign(curves.step.size(), 0);
    double gates = 0;
    for (const auto& [name, series] : curves.series) {
      if (!name.starts_with("entropy ")) continue;
      gates += 1;
      for (std::size_t i = 0; i < series.size(); ++i) measured.entropy[i] += series[i];
    }
    for (double& value : measured.entropy) value /= gates;
    if (!cell.masked.empty()) {
      std::vector<bool> keep;
      for (const auto& name : model_.mixer().names()) keep.push_back(name != cell.masked);
      model_.mixer().set_mask(keep);
    }
    measured.rates = rates(cell, cell.judged);
    measured.heat = judged_gates(model_, model_.mixer(), cell.judged, tests(cell, cell.judged)).heat;
    return measured;
  }

  void merge(const std::string& method, const Sets& sets, const mole::ComposeOptions& options = {}) {
    mole::merge(model_.layers().table, method == "mean" ? "normalised" : method, sets, options);
  }

  /// LoRAHub's weights for these examples.
  void merge_found(const Sets& sets, const std::vector<Example>& examples, std::uint64_t seed) {
    Progress bar("search", search_budget);
    Index done = 0;
    const auto weights = search_weights(
        sets.size(),
        [&](const std::vector<double>& trial) {
          merge("lorahub", sets, {.weights = trial});
          const double value = mean_loss(examples);
          bar.update(++done, value);
          return value;
        },
        seed);
    merge("lorahub", sets, {.weights = weights});
  }

  /// PEMs' addition with the lambda, of a grid, that has the least loss on the examples.
  void merge_pems(const Sets& sets, const std::vector<Example>& examples) {
    static constexpr double grid[] = {0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1};
    double best = 0, least = HUGE_VAL;
    Progress bar("lambda", std::ssize(grid));
    Index done = 0;
    for (const double lambda : grid) {
      merge("pems_add", sets, {.weights = std::vector<double>(sets.size(), lambda)});
      const double loss = mean_loss(examples);
      if (loss < least) least = loss, best = lambda;
      bar.update(++done, loss);
    }
    merge("pems_add", sets, {.weights = std::vector<double>(sets.size(), best)});
  }

  /// The loss over the examples, a mean over batches of one size but the last. Searches ask for it dozens of
  /// times: of very many, every n-th is read, about as many of each task.
  double mean_loss(const std::vector<Example>& examples) const {
    const std::size_t stride = (examples.size() + searched_examples - 1) / searched_examples;
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
             static_cast<double>(model_.loss(batch_for(model_, some), pass).item());
    }
    return sum / static_cast<double>(read.size());
  }

  /// Held-out numbers: each seed has its own.
  std::vector<std::vector<Example>> tests(const Cell& cell, const std::vector<Task>& tasks) const {
    std::vector<std::vector<Example>> sets;
    const auto skipped = static_cast<std::ptrdiff_t>(cell.seed - 1) * cell.test;
    for (const auto& task : tasks) {
      auto examples = held_out_examples(task, static_cast<Index>(cell.seed) * cell.test);
      examples.erase(examples.begin(), examples.begin() + skipped);
      sets.push_back(std::move(examples));
    }
    return sets;
  }

  std::vector<double> rates(const Cell& cell, const std::vector<Task>& tasks) const {
    Progress bar("test", cell.test * static_cast<Index>(tasks.size()));
    return exact_match(model_, tests(cell, tasks), [&](Index done) { bar.update(done); });
  }

  TablesOptions options_;
  Model<B> model_;
  std::string base_;
  bool shipped_;
  std::map<std::string, mole::LoraSet> experts_;
};

}  // namespace numbers
