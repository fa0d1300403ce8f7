#pragma once
// `numbers compose`: train gates over trained LoRAs and compare with the usual ways of combining them.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/io/gate_csv.hpp>
#include <mole/io/gates.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/data_parallel.hpp>
#include <mole/train/replayed.hpp>

#include "common/files.hpp"
#include "common/gate_training.hpp"
#include "common/progress.hpp"
#include "common/run_plots.hpp"
#include "common/table.hpp"
#include "common/training.hpp"
#include "numbers/assets.hpp"
#include "numbers/commands.hpp"
#include "numbers/compose_run.hpp"
#include "numbers/diagnosis.hpp"
#include "numbers/gates.hpp"
#include "numbers/merging.hpp"

namespace numbers {

/// Attaches experts to a model by the router that the options name.
template <class B>
void attach(Model<B>& model, const std::vector<mole::LoraSet>& experts, const ComposeOptions& options) {
  model.attach(experts, common::router_of(options));
}

/// Means and deviations need no more examples than this.
inline constexpr std::size_t standardise_examples = 4800;

/// Measures what the gates read on the examples that they are to be trained on, or on evenly spread ones of them, where
/// their input is standardised. `shown`: with a progress bar.
template <class B>
void standardise(Model<B>& model, const std::vector<Example>& examples, bool shown) {
  if (model.mixer().policies().input_scale == mole::InputScale::unit) return;
  const std::size_t every = (examples.size() + standardise_examples - 1) / standardise_examples;
  std::vector<std::vector<Example>> batches;
  for (std::size_t i = 0, taken = 0; i < examples.size(); i += every, ++taken) {
    if (taken % static_cast<std::size_t>(decode_batch) == 0) batches.emplace_back();
    batches.back().push_back(examples[i]);
  }
  std::optional<common::Progress> bar;
  if (shown) bar.emplace("input", static_cast<Index>(batches.size()));
  Index done = 0;
  model.mixer().standardise(batches, [&](const std::vector<Example>& batch, Pass<B>& pass) {
    model.logits(batch_for(model, batch), pass);
    if (bar) bar->update(++done);
  });
}

/// The examples of batch `step`, the same on every rank.
inline std::vector<Example> batch_of(const std::vector<Example>& examples, const ComposeOptions& options,
                                     Index step) {
  const auto count = static_cast<Index>(examples.size());
  std::vector<Example> chosen;
  for (const Index i : epoch_batch(count, std::min(options.run.batch, count), step, options.run.seed))
    chosen.push_back(examples[static_cast<std::size_t>(i)]);
  return chosen;
}

/// Trains the gates of a model with its experts attached; nothing where the router has none to train.
template <class B>
mole::Curves train_gates(Model<B>& model, const ComposeOptions& options,
                         const std::vector<mole::LoraSet>& experts) {
  const auto parameters = model.mixer().parameters();
  if (parameters.empty()) return {};
  const auto examples = few_shot_examples(options.tasks, options.examples, options.run.seed);
  standardise(model, examples, options.ranks.first());
  auto training = common::training_options(options.run, "gates");
  training.clip = 0;
  // Where there is none, a balance loss that is asked for all the same says why.
  const bool balanced = common::has_shares(options) || options.alpha != 0;
  mole::AdamW<Scalar, B> optimizer(parameters, {.weight_decay = options.weight_decay});
  const auto checkpoints = common::checkpoints_of(options.run, fingerprint(options, experts));
  if (options.ranks.in_shares()) {
    mole::DataParallel<Scalar, B> ranks(
        options.ranks.group, model.mixer(),
        {.balanced = balanced, .alpha = options.alpha, .fixed_shards = options.ranks.fixed_shards});
    const auto step = [&](Index number) {
      return common::step_in_shares(ranks, model, batch_of(examples, options, number),
                                    [&](const std::vector<Example>& some, Pass<B>& pass) {
                                      const auto batch = batch_for(model, some);
                                      const auto task = model.loss(batch, pass);
                                      return std::pair(task, mole::counted_labels(batch.labels));
                                    });
    };
    return common::train(optimizer, training, checkpoints, step, ranks);
  }
  const auto gate_step = [&](const mole::T5Batch<Scalar, B>& batch) {
    Pass<B> pass;
    const auto task = model.loss(batch, pass);
    return common::gate_step(model, task, pass, balanced, options.alpha);
  };
  mole::Replayed<Scalar, B, mole::T5Batch<Scalar, B>, common::GateStep<Scalar, B>> gradients(
      parameters, gate_step, {.notice = common::report_uncaptured});
  return common::train(optimizer, training, checkpoints, [&](Index step) {
    return common::step_result(gradients({batch_for(model, batch_of(examples, options, step))}));
  });
}

/// What the gates make of training examples, as many as the model is judged by, and of those.
template <class B>
std::vector<Diagnosis> diagnoses(const Model<B>& model, const ComposeOptions& options,
                                 const std::vector<std::vector<Example>>& judged_by) {
  std::vector<std::vector<Example>> trained_on;
  for (const auto& task : options.tasks)
    trained_on.push_back(
        few_shot_examples({task}, std::min(options.test, options.examples), options.run.seed));
  std::vector<Diagnosis> found;
  found.push_back(diagnose_gates(model, options.tasks, "training examples", std::move(trained_on)));
  found.push_back(
      diagnose_gates(model, options.tasks, options.validation ? "set aside" : "held out", judged_by));
  return found;
}

/// See commands.hpp.
template <class B>
void compose(const ComposeOptions& options) {
  check_length(options);
  auto model = load_base<B>(options.base);
  const auto experts = load_experts(options.experts, shipped_experts());
  auto merging = options.merging;
  merging.seed = options.run.seed;
  const auto merged = common::mergings(options.methods, merging, experts);
  attach(model, experts, options);
  const bool first = options.ranks.first();
  std::optional<common::OutputFolder> out;
  if (first) out.emplace(options.run.out);

  // Gates come before the rows to compare with: a checkpoint that does not fit is refused at once, and the
  // gates are on the disk before minutes of testing.
  const auto curves = train_gates(model, options, experts);
  if (!first) return;
  const auto gates_path = options.run.out / "gates.safetensors";
  mole::save_gates(gates_path, model.mixer());

  std::vector<std::string> columns;
  for (const auto& task : options.tasks) columns.push_back(task.name());
  common::ResultTable table(columns);
  const auto judged_by = judging_examples(options);
  const auto tests = options.test * static_cast<Index>(options.tasks.size());
  const auto rows = options.only_mole ? 1 : std::ssize(experts) + std::ssize(merged) + 4;
  common::Progress bar("test", rows * tests);
  Index before = 0;
  auto rates = [&] {
    auto row = exact_match(model, judged_by, [&](Index done) { bar.update(before + done); });
    before += tests;
    return row;
  };
  const auto mole_rates = rates();
  const auto gates = judged_gates(model, model.mixer(), options.tasks, judged_by);
  {
    std::ostringstream statistics;
    mole::write_statistics(statistics, gates.statistics, gates.heat.experts);
    common::write_text(options.run.out / "gate_statistics.csv", statistics.str());
  }
  std::vector<Diagnosis> limits;
  if (options.diagnose) limits = diagnoses(model, options, judged_by);
  model.detach();
  for (auto& found : limits) diagnose_experts(found, model, options.tasks, experts);
  if (!options.only_mole) {
    const auto examples = few_shot_examples(options.tasks, options.examples, options.run.seed);
    table.add("base", rates());
    auto& layers = model.layers().table;
    auto add_row = [&](const std::string& name, const std::vector<mole::LoraSet>& sets,
                       const std::vector<double>& weights) {
      mole::merge(layers, sets, weights);
      table.add(name, rates());
    };
    for (const auto& expert : experts) add_row("expert " + expert.name, {expert}, {1.0});
    add_row("sum (eq. 1)", experts, mole::sum_weights(experts.size()));
    add_row("mean (eq. 2)", experts, mole::mean_weights(experts.size()));
    for (const auto& how : merged) {
      merge_by(model, how, experts, examples);
      table.add(common::merging_name(how), rates());
    }
  }
  bar.finish();
  table.add(common::method_name(options.router, options.gates), mole_rates);

  table.write_csv(options.run.out / "table.csv");
  std::cout << "\nExact match in per cent, " << options.test
            << (options.validation ? " training numbers set aside" : " held-out numbers") << " a task:\n\n"
            << table.text();
  for (const auto& found : limits) std::cout << "\n" << text_of(found, options.tasks);
  std::cout << "\nGates, table and pictures:\n  " << gates_path.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n  "
            << (options.run.out / "gate_statistics.csv").string() << "  (load, q, entropy, variation)\n";
  for (const auto& plot : common::plot_run(options.run.out, gates.heat, gates.loads, curves)) report(plot);
}

}  // namespace numbers
