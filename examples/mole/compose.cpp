// `mole compose`: train gates over trained LoRAs, and say what they are worth.

#include <iostream>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>

#include <mole/io/gate_csv.hpp>

#include "common/files.hpp"
#include "common/progress.hpp"
#include "common/run_plots.hpp"
#include "mole/commands.hpp"
#include "mole/estimate.hpp"
#include "mole/experts.hpp"
#include "mole/gate_pictures.hpp"
#include "mole/judging.hpp"
#include "mole/session.hpp"
#include "mole/token_examples.hpp"

namespace program {

namespace {

/// All that the gates depend on. The checkpoint of a run with another one is refused.
std::string fingerprint(const ComposeOptions& options, const ModelFiles& files, const PromptTemplate& form,
                        const std::vector<mole::LoraSet>& experts, const TokenExamples& examples) {
  const auto& g = options.gates;
  auto text = mole::message(
      "mole compose router", options.router, "scope", to_string(g.scope), "input", to_string(g.input),
      "pooling", to_string(g.pooling), "top-k", g.top_k, "temperature", g.temperature, "input scale",
      to_string(g.input_scale), "alpha", options.alpha, "steps", options.run.steps, "batch",
      options.run.batch, "rate", options.run.rate, "weight decay", options.weight_decay,
      options.batches == Batches::mixed ? "mixed" : "alike", "seed", options.run.seed, "base", files.digest,
      "examples", digest_of(examples), common::own_options(options));
  if (options.ranks.fixed_shards > 0) text += " fixed shards " + std::to_string(options.ranks.fixed_shards);
  if (options.model.bf16) text += " in bf16";
  text += "\n" + form.fingerprint();
  for (const auto& expert : experts) text += "\n" + expert.name + "=" + expert.digest;
  return text;
}

struct Examples {
  std::vector<TextExample> train, test;
  bool set_aside = false;  ///< the test examples are a part of those that were given to train on
};

Examples read(const ComposeOptions& options) {
  Examples examples{read_examples(options.train), {}};
  if (options.test.empty()) {
    std::tie(examples.train, examples.test) = set_a_tenth_aside(examples.train, options.run.seed);
    examples.set_aside = true;
  } else {
    examples.test = read_examples(options.test);
  }
  return examples;
}

mole::Curves train(LanguageModel& model, const ComposeOptions& options, const TokenExamples& examples,
                   const std::string& fingerprint) {
  const auto batches = in_batches(examples, options.test_batch);
  {
    common::Progress bar("measure", static_cast<Index>(batches.size()));
    model.standardise(batches, [&](Index done) { bar.update(done); });
  }
  Training training;
  training.run = options.run;
  training.label = "gates";
  training.fingerprint = fingerprint;
  training.weight_decay = options.weight_decay;
  training.alpha = options.alpha;
  // Where there is none, a balance loss that is asked for all the same says why.
  training.balanced = common::has_shares(options) || options.alpha != 0;
  training.batch = step_batches(examples, options.run, options.batches);
  training.ranks = options.ranks;
  return model.train_gates(training);
}

}  // namespace

void compose(ComposeOptions options) {
  const common::QuietRank quiet(options.ranks);
  MOLE_CHECK_ARG(
      options.gates.pooling != mole::Pooling::flatten,
      "--pooling flatten reads texts of one length, which prompts do not have; choose mean or token");
  MOLE_CHECK_ARG(!(options.model.bf16 && options.ranks.in_shares()), shares_in_bf16);
  const bool quantised = options.model.quantised;
  MOLE_CHECK_ARG(
      !quantised || options.methods.empty(),
      "--methods merge into weights, and --quantised keeps none that they could be merged into; leave "
      "one of the two out");
  const auto paths = expert_paths(options.experts);
  MOLE_CHECK_ARG(options.gates.top_k <= static_cast<Index>(paths.size()), "--top-k", options.gates.top_k,
                 "is more than the", paths.size(), "experts");
  const auto texts = read(options);
  const auto experts = load_experts(paths);
  options.merging.seed = options.xlora.seed = options.run.seed;
  const auto merged = common::mergings(options.methods, options.merging, experts);
  const auto files = read_model_files(options.model.base);
  const auto form = prompt_template(options.model.form, options.model.system);
  const auto coder = text_coder(files, options.model, form);
  const auto examples = coder.examples(texts.train);
  const auto tests = test_sets(coder, texts.test);
  const auto singles = options.no_single_experts ? 0 : experts.size();
  const auto rows = options.only_mole ? Index{1}
                    : quantised       ? Index{2}
                                      : static_cast<Index>(singles + merged.size()) + 4;

  const auto gates_path = options.run.out / "gates.safetensors";
  const auto notes = gate_notes(gates_path, options.model, files.digest, paths, form);
  warn_without_end(files);

  const Workload work{files, experts, examples, tests, rows};
  std::cout << description(work);
  if (texts.set_aside)
    std::cout << "         a tenth of " << options.train.string()
              << " was set aside to test by; --test FILE gives other examples\n";
  if (quantised && !options.only_mole)
    std::cout << "         the base alone is compared with: nothing can be merged into quantised weights\n";
  check_start(options.model, options.run);
  if (options.dry_run) {
    std::cout << estimate(work, options);
    return;
  }
  std::optional<common::OutputFolder> out;
  if (options.ranks.first()) out.emplace(options.run.out);
  const auto model = load(files, options.model);
  model->attach(experts, common::router_of(options));

  // Gates come before the rows to compare with: a checkpoint that does not fit is refused at once, and the gates are
  // on the disk before minutes of testing.
  const auto curves = train(*model, options, examples, fingerprint(options, files, form, experts, examples));
  if (!options.ranks.first()) return;
  model->save_gates(gates_path, notes);

  std::vector<std::string> columns;
  Index n_tests = 0;
  for (const auto& set : tests) {
    columns.push_back(set.task);
    n_tests += static_cast<Index>(set.texts.size());
  }
  Scoreboard table(columns);
  const JudgeOptions how{options.test_batch, options.max_new_tokens};
  common::Progress bar("test", rows * n_tests);
  Index before = 0;
  const auto judged = [&] {
    auto row = judge(*model, coder, tests, how, [&](Index done) { bar.update(before + done); });
    before += n_tests;
    return row;
  };
  const auto mole_row = judged();
  const auto gates = judge_gates(*model, tests, options.test_batch);
  {
    std::ostringstream statistics;
    mole::write_statistics(statistics, gates.statistics, gates.heat.experts);
    common::write_text(options.run.out / "gate_statistics.csv", statistics.str());
  }
  model->detach();
  if (!options.only_mole) {
    table.add("base", judged());
  }
  if (!options.only_mole && !quantised) {
    for (std::size_t i = 0; i < singles; ++i) {
      model->merge("sum", {experts[i]}, {});
      table.add("expert " + experts[i].name, judged());
    }
    model->merge("sum", experts, {});
    table.add("sum (eq. 1)", judged());
    model->merge("normalised", experts, {});
    table.add("mean (eq. 2)", judged());
    for (const auto& merging : merged) {
      const auto choice =
          common::chosen_composition(merging, experts.size(), [&](const common::Composition& one) {
            model->merge(one.method, experts, one.options);
            return mean_loss(*model, examples, options.test_batch);
          });
      model->merge(choice.method, experts, choice.options);
      table.add(common::merging_name(merging), judged());
    }
  }
  bar.finish();
  table.add(common::method_name(options.router, options.gates), mole_row);

  common::write_text(options.run.out / "table.csv", table.csv());
  std::cout << "\n"
            << table.text() << "\nGates, table and pictures:\n  " << gates_path.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n  "
            << (options.run.out / "gate_statistics.csv").string() << "  (load, q, entropy, variation)\n";
  for (const auto& plot : common::plot_run(options.run.out, gates.heat, gates.loads, curves)) report(plot);
}

}  // namespace program
