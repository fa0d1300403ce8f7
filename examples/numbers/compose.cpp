// `numbers compose`: train gates over trained LoRAs and compare with the usual ways of combining them.

#include <algorithm>
#include <iostream>

#include <mole/compose/linear.hpp>
#include <mole/io/attach.hpp>
#include <mole/loss/total.hpp>

#include "numbers/commands.hpp"
#include "numbers/files.hpp"
#include "numbers/gates.hpp"
#include "numbers/plots.hpp"
#include "numbers/progress.hpp"
#include "numbers/spell.hpp"
#include "numbers/split.hpp"
#include "numbers/table.hpp"
#include "numbers/training.hpp"

namespace numbers {

namespace {

/// All that the gates depend on. The checkpoint of a run with another one is refused.
std::string fingerprint(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts) {
  std::vector<std::string> languages;
  for (const auto& task : options.tasks) languages.insert(languages.end(), {task.source, task.target});
  const auto& g = options.gates;
  auto text = mole::message(
      "compose scope", to_string(g.scope), "input", to_string(g.input), "pooling", to_string(g.pooling),
      "length", g.length, "top-k", g.top_k, "temperature", g.temperature, "alpha", options.alpha, "examples",
      options.examples, "steps", options.run.steps, "batch", options.run.batch, "rate", options.run.rate,
      "seed", options.run.seed, "base", base_digest(options.base), "spelling", spelling_digest(languages));
  for (const auto& task : options.tasks) text += " " + task.name();
  for (const auto& expert : experts) text += " " + expert.name + "=" + expert.digest;
  return text;
}

/// Before any work: flatten pooling has the length that the tasks' longest input needs, of those to be used.
void check_length(const ComposeOptions& options) {
  if (options.gates.pooling != mole::Pooling::flatten) {
    MOLE_CHECK_ARG(options.gates.length == 0, "--length is for --pooling flatten alone; leave it out");
    return;
  }
  std::size_t longest = 0;
  auto look = [&](const std::vector<Example>& examples) {
    for (const auto& example : examples) longest = std::max(longest, example.input.size() + 1);
  };
  look(few_shot_examples(options.tasks, options.examples, options.run.seed));
  for (const auto& task : options.tasks) look(held_out_examples(task, options.test));
  MOLE_CHECK_ARG(options.gates.length >= static_cast<Index>(longest),
                 "--pooling flatten reads inputs of one length: give --length of", longest,
                 "tokens or more, which the longest input of these tasks has; got", options.gates.length);
}

Curves train_gates(Model& model, const ComposeOptions& options, const std::vector<mole::LoraSet>& experts) {
  const auto examples = few_shot_examples(options.tasks, options.examples, options.run.seed);
  TrainingOptions training;
  training.label = "gates";
  training.steps = options.run.steps;
  training.rate = options.run.rate;
  training.clip = 0;
  training.checkpoint = options.run.checkpoint;
  training.resume = options.run.resume;
  training.fingerprint = fingerprint(options, experts);
  const auto count = static_cast<Index>(examples.size());
  return train(model.mixer().parameters(), training, [&](Index step) {
    std::vector<Example> chosen;
    for (const Index i : epoch_batch(count, std::min(options.run.batch, count), step, options.run.seed))
      chosen.push_back(examples[static_cast<std::size_t>(i)]);
    Pass pass;
    const auto task_loss = model.loss(batch_for(model, chosen), pass);
    const auto balance = model.balance(pass);
    Measures measures{{"task", static_cast<double>(task_loss.item())},
                      {"balance", static_cast<double>(balance.item())}};
    const auto entropies = gate_entropies(model, pass);
    const auto records = model.mixer().records(pass);
    for (std::size_t i = 0; i < records.size(); ++i)
      measures.emplace_back("entropy " + records[i].name, entropies[i]);
    return std::pair{mole::total_loss(task_loss, balance, static_cast<Scalar>(options.alpha)), measures};
  });
}

/// Draws the pictures of a run, and says where they lie or why there are none.
void draw(const ComposeOptions& options, const GateHeat& heat, const Curves& curves) {
  Curves losses{curves.step, {}}, entropies{curves.step, {}};
  const std::string prefix = "entropy ";
  for (const auto& [name, series] : curves.series) {
    if (name.starts_with(prefix))
      entropies.series.emplace_back(name.substr(prefix.size()), series);
    else
      losses.series.emplace_back(name == "loss" ? "total" : name, series);
  }
  const auto experts = static_cast<int>(heat.experts.size());
  for (const auto& plot : {plot_gates(options.run.out, "gates", heat),
                           plot_entropy(options.run.out, "entropy", entropies, experts),
                           plot_loss(options.run.out, "loss", losses, experts)})
    std::cout << "  "
              << (plot.picture.empty() ? plot.csv.string() + "  (" + plot.note + ")" : plot.picture.string())
              << "\n";
}

}  // namespace

void compose(const ComposeOptions& options) {
  check_length(options);
  auto model = load_base(options.base);
  const auto experts = load_experts(options.experts, shipped_experts());
  model.attach(experts, options.gates);
  prepare_folder(options.run.out);

  // Gates come before the rows to compare with: a checkpoint that does not fit is refused at once, and the
  // gates are on the disk before minutes of testing.
  const auto curves = train_gates(model, options, experts);
  const auto gates_path = options.run.out / "gates.safetensors";
  mole::save_gates(gates_path, model.mixer());

  std::vector<std::string> columns;
  for (const auto& task : options.tasks) columns.push_back(task.name());
  ResultTable table(columns);
  const auto tests = options.test * static_cast<Index>(options.tasks.size());
  const auto rows = options.only_mole ? 1 : static_cast<Index>(experts.size()) + 4;
  Progress bar("test", rows * tests);
  Index before = 0;
  auto rates = [&] {
    auto row =
        exact_match(model, options.tasks, options.test, [&](Index done) { bar.update(before + done); });
    before += tests;
    return row;
  };
  const auto mole_rates = rates();
  const auto heat = gate_heat(model, options.tasks, options.test);
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
  std::string method = std::string("MoLE ") + to_string(options.gates.scope);
  if (options.gates.pooling != mole::Pooling::mean)
    method += std::string(", ") + to_string(options.gates.pooling) + " gate";
  if (options.gates.input == mole::GateInput::hidden) method += ", hidden input";
  table.add(method, mole_rates);

  table.write_csv(options.run.out / "table.csv");
  std::cout << "\nExact match in per cent, " << options.test << " held-out numbers a task:\n\n"
            << table.text() << "\nGates, table and pictures:\n  " << gates_path.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n";
  draw(options, heat, curves);
}

}  // namespace numbers
