#pragma once
// `numbers compose`: train gates over trained LoRAs and compare with the usual ways of combining them.

#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/io/attach.hpp>
#include <mole/io/xlora_file.hpp>
#include <mole/loss/total.hpp>

#include "numbers/assets.hpp"
#include "numbers/commands.hpp"
#include "numbers/compose_run.hpp"
#include "numbers/files.hpp"
#include "numbers/gates.hpp"
#include "numbers/progress.hpp"
#include "numbers/table.hpp"
#include "numbers/training.hpp"

namespace numbers {

/// Attaches experts to a model by the router that the options name.
template <class B>
void attach(Model<B>& model, const std::vector<mole::LoraSet>& experts, const ComposeOptions& options) {
  model.attach(experts, mole::router_named(options.router, options.gates));
}

/// Trains the gates of a model with its experts attached; nothing where the router has none to train.
template <class B>
Curves train_gates(Model<B>& model, const ComposeOptions& options,
                   const std::vector<mole::LoraSet>& experts) {
  const auto parameters = model.mixer().parameters();
  if (parameters.empty()) return {};
  const auto examples = few_shot_examples(options.tasks, options.examples, options.run.seed);
  TrainingOptions training;
  training.label = "gates";
  training.steps = options.run.steps;
  training.rate = options.run.rate;
  training.clip = 0;
  training.weight_decay = options.weight_decay;
  training.checkpoint = options.run.checkpoint;
  training.resume = options.run.resume;
  training.fingerprint = fingerprint(options, experts);
  const auto count = static_cast<Index>(examples.size());
  return train<B>(parameters, training, [&](Index step) {
    std::vector<Example> chosen;
    for (const Index i : epoch_batch(count, std::min(options.run.batch, count), step, options.run.seed))
      chosen.push_back(examples[static_cast<std::size_t>(i)]);
    Pass<B> pass;
    const auto task_loss = model.loss(batch_for(model, chosen), pass);
    const auto balance = model.balance(pass);
    Measures measures{{"task", static_cast<double>(task_loss.item())},
                      {"balance", static_cast<double>(balance.item())}};
    for (const auto& gate : mole::gate_statistics(model.mixer().records(pass)))
      measures.emplace_back("entropy " + gate.name, gate.entropy());
    return std::pair{mole::total_loss(task_loss, balance, static_cast<Scalar>(options.alpha)), measures};
  });
}

/// See commands.hpp.
template <class B>
void compose(const ComposeOptions& options) {
  check_length(options);
  auto model = load_base<B>(options.base);
  const auto experts = load_experts(options.experts, shipped_experts());
  attach(model, experts, options);
  prepare_folder(options.run.out);

  // Gates come before the rows to compare with: a checkpoint that does not fit is refused at once, and the
  // gates are on the disk before minutes of testing.
  const auto curves = train_gates(model, options, experts);
  std::filesystem::path gates_path;
  if (options.router == "xlora")
    mole::save_xlora(gates_path = options.run.out / "xlora.safetensors", model.mixer());
  else if (!model.mixer().parameters().empty())
    mole::save_gates(gates_path = options.run.out / "gates.safetensors", model.mixer());

  std::vector<std::string> columns;
  for (const auto& task : options.tasks) columns.push_back(task.name());
  ResultTable table(columns);
  const auto judged_by = judging_examples(options);
  const auto tests = options.test * static_cast<Index>(options.tasks.size());
  const auto rows = options.only_mole ? 1 : static_cast<Index>(experts.size()) + 4;
  Progress bar("test", rows * tests);
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
    write_text(options.run.out / "gate_statistics.csv", statistics.str());
  }
  model.detach();
  if (!options.only_mole) {
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
  }
  bar.finish();
  table.add(method_name(options.router, options.gates), mole_rates);

  table.write_csv(options.run.out / "table.csv");
  std::cout << "\nExact match in per cent, " << options.test
            << (options.validation ? " training numbers set aside" : " held-out numbers") << " a task:\n\n"
            << table.text() << "\nGates, table and pictures:\n  "
            << (gates_path.empty() ? "" : gates_path.string() + "\n  ")
            << (options.run.out / "table.csv").string() << "\n  "
            << (options.run.out / "gate_statistics.csv").string() << "  (load, entropy, variation)\n";
  draw(options, gates.heat, curves);
}

}  // namespace numbers
