#pragma once
// Measures one cell of a study: makes the experts that are missing, combines them, trains what trains, and
// judges. What takes long is kept in the output folder: experts/ (PEFT adapters), gates/ (training
// checkpoints), cells/ (results).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/lora_set.hpp>

#include "numbers/compose.hpp"
#include "numbers/merging.hpp"
#include "numbers/pretrain.hpp"
#include "numbers/tables/cells.hpp"

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
    for (const auto* part : {"experts", "gates", "cells"}) common::prepare_folder(options.run.out / part);
  }

  /// The result of a cell, from the disk if it was measured before; `title` stands in front of the progress
  /// bar. Throws as the commands train_expert and compose do.
  Measured measure(const Cell& cell, const std::string& title) {
    const auto sets = experts(cell.experts);
    auto key = description(cell, options_) + "\n" + base_;
    for (const auto& set : sets) key += "\n" + set.name + "=" + set.digest;
    const auto how = merging(cell);
    if (pruned(cell.method)) key += mole::message("\ndensity", how.density);
    if (!common::composition(how, 1).options.weights.empty()) key += "\nof the mean";
    const auto examples = cell.trained_on.size() * static_cast<std::size_t>(options_.examples);
    if (common::chooses_weights(how) && examples > examples_read)
      key += mole::message("\nof the examples", examples_read);
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
  static MergeOptions merging(const Cell& cell) {
    MergeOptions how{.method = cell.method == "lorahub-each" ? "lorahub" : cell.method, .tuned = cell.tuned};
    if (cell.full_rank) how.rank = mole::full_rank;
    how.seed = cell.seed;
    return how;
  }

  Measured judge(const Cell& cell, const Sets& sets) {
    if (cell.method == "mole" || cell.method == "hidden" || cell.method == "arrow" || cell.method == "xlora")
      return judge_router(cell, sets);
    if (cell.count > 0 || cell.method == "lorahub-each") return {judge_each(cell, sets), {}, {}};
    if (cell.method != "base") merge_by(model_, merging(cell), sets, few_shot(cell, cell.trained_on));
    return {rates(cell, cell.judged), {}, {}};
  }

  std::vector<Example> few_shot(const Cell& cell, const std::vector<Task>& tasks) const {
    return few_shot_examples(tasks, options_.examples, cell.seed);
  }

  /// Each judged task with a combination of its own.
  std::vector<double> judge_each(const Cell& cell, const Sets& sets) {
    std::vector<double> all;
    common::Progress bar("test", cell.test * static_cast<Index>(cell.judged.size()));
    for (const auto& task : cell.judged) {
      merge_by(model_, merging(cell), cell.count > 0 ? chosen(cell, sets, task) : sets,
               few_shot(cell, {task}));
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
    compose.examples = cell.examples > 0 ? cell.examples : options_.examples;
    compose.weight_decay = cell.decay;
    compose.run = options_.run;
    compose.run.steps = std::llround(static_cast<double>(options_.run.steps) * cell.longer);
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
    common::Progress bar("test", cell.test * static_cast<Index>(tasks.size()));
    return exact_match(model_, tests(cell, tasks), [&](Index done) { bar.update(done); });
  }

  TablesOptions options_;
  Model<B> model_;
  std::string base_;
  bool shipped_;
  std::map<std::string, mole::LoraSet> experts_;
};

}  // namespace numbers
