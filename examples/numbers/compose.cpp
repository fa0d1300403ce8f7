// `numbers compose`: train gates over trained LoRAs and compare with the usual ways of combining them.

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
  const auto& g = options.gates;
  auto text =
      mole::message("compose scope", to_string(g.scope), "input", to_string(g.input), "pooling",
                    to_string(g.pooling), "length", g.length, "top-k", g.top_k, "temperature", g.temperature,
                    "alpha", options.alpha, "examples", options.examples, "steps", options.run.steps, "batch",
                    options.run.batch, "rate", options.run.rate, "seed", options.run.seed);
  for (const auto& task : options.tasks) text += " " + task.name();
  for (const auto& expert : experts) text += " " + expert.name + "=" + expert.digest;
  return text;
}

/// The batch at one length for all steps, which flatten pooling asks for; 0 elsewhere.
Batch padded_batch(const std::vector<Example>& examples, Index length) {
  auto batch = make_batch(examples);
  if (length == 0 || batch.source_length == length) return batch;
  MOLE_CHECK_ARG(batch.source_length < length, "flatten pooling was set up for", length,
                 "tokens, but a batch needs", batch.source_length, "; raise --length");
  Batch wide = batch;
  wide.source_length = length;
  wide.input_ids.assign(static_cast<std::size_t>(batch.size * length), pad_token);
  wide.attention_mask.assign(static_cast<std::size_t>(batch.size * length), 0);
  for (Index s = 0; s < batch.size; ++s)
    for (Index l = 0; l < batch.source_length; ++l) {
      const auto from = static_cast<std::size_t>(s * batch.source_length + l);
      const auto to = static_cast<std::size_t>(s * length + l);
      wide.input_ids[to] = batch.input_ids[from];
      wide.attention_mask[to] = batch.attention_mask[from];
    }
  return wide;
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
    const auto task_loss = model.loss(to_tensors(padded_batch(chosen, options.gates.length)), pass);
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
void draw(const ComposeOptions& options, const Model& model, const Curves& curves) {
  Curves losses{curves.step, {}}, entropies{curves.step, {}};
  const std::string prefix = "entropy ";
  for (const auto& [name, series] : curves.series) {
    if (name.starts_with(prefix))
      entropies.series.emplace_back(name.substr(prefix.size()), series);
    else
      losses.series.emplace_back(name == "loss" ? "total" : name, series);
  }
  const auto experts = static_cast<int>(model.layers().mixer->n_experts());
  std::vector<Plot> plots{
      plot_gates(options.run.out, "gates", gate_heat(model, options.tasks, options.test))};
  if (!curves.step.empty()) {
    plots.push_back(plot_entropy(options.run.out, "entropy", entropies, experts));
    plots.push_back(plot_loss(options.run.out, "loss", losses, experts));
  }
  for (const auto& plot : plots)
    std::cout << "  "
              << (plot.picture.empty() ? plot.csv.string() + "  (" + plot.note + ")" : plot.picture.string())
              << "\n";
}

}  // namespace

void compose(ComposeOptions options) {
  prepare_folder(options.run.out);
  auto model = load_base(options.base);
  const auto experts = load_experts(options.experts, shipped_experts());
  // Before an hour of work: the experts fit, and the policies are possible.
  model.attach(experts, options.gates);
  model.detach();

  std::vector<std::string> columns;
  for (const auto& task : options.tasks) columns.push_back(task.name());
  ResultTable table(columns);
  auto& layers = model.layers().table;
  const auto tests = options.test * static_cast<Index>(options.tasks.size());
  const std::string method = std::string("MoLE ") + to_string(options.gates.scope) +
                             (options.gates.pooling == mole::Pooling::mean
                                  ? ""
                                  : std::string(", ") + to_string(options.gates.pooling) + " gate");
  if (!options.only_mole) {
    const auto rows = static_cast<Index>(experts.size()) + 3;
    Progress bar("compare", rows * tests);
    Index before = 0;
    auto add_row = [&](const std::string& name, const std::vector<mole::LoraSet>& sets,
                       const std::vector<double>& weights) {
      if (sets.empty())
        layers.reset();
      else
        mole::merge(layers, sets, weights);
      table.add(name, exact_match(model, options.tasks, options.test,
                                  [&](Index done) { bar.update(before + done); }));
      before += tests;
    };
    add_row("base", {}, {});
    for (const auto& expert : experts) add_row("expert " + expert.name, {expert}, {1.0});
    add_row("sum (eq. 1)", experts, mole::sum_weights(experts.size()));
    add_row("mean (eq. 2)", experts, mole::mean_weights(experts.size()));
  }

  model.attach(experts, options.gates);
  const auto curves = train_gates(model, options, experts);
  const auto gates_path = options.run.out / "gates.safetensors";
  mole::save_gates(gates_path, model.mixer());
  {
    Progress bar("test MoLE", tests);
    table.add(method, exact_match(model, options.tasks, options.test, [&](Index done) { bar.update(done); }));
  }
  table.write_csv(options.run.out / "table.csv");
  std::cout << "\nExact match in per cent, " << options.test << " held-out numbers a task:\n\n"
            << table.text() << "\nGates, table and pictures:\n  " << gates_path.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n";
  draw(options, model, curves);
}

}  // namespace numbers
